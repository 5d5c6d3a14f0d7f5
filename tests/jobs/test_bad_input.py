"""Bad input is normal input: a clear error and an exit code, or a reject; never half a release."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def write(folder, rows, name="catalogue.parquet"):
    path = folder / name
    pq.write_table(pa.Table.from_pylist(rows), path)
    return f"catalogue.path={path}"


def offers(count, **columns):
    return [
        {"item_id": f"i{n}", "title": f"red mug number {n}", **{k: v(n) for k, v in columns.items()}}
        for n in range(count)
    ]


def releases(root):
    return sorted(p.name for p in (root / "store" / "releases").glob("*")) if (root / "store").exists() else []


def test_a_missing_column_names_its_neighbours(run_job, tmp_path):
    words = write(tmp_path, [{"item_idd": "a", "title": "b"}])
    ended = run_job("nightly", tmp_path / "out", words)
    assert ended.code == 2
    assert "column item_id is not in the source (catalogue.columns.item_id): did you mean item_idd" in ended.text


def test_a_mapped_column_that_is_not_there_is_named(run_job, tmp_path):
    words = write(tmp_path, offers(3))
    ended = run_job("nightly", tmp_path / "out", words, "catalogue.columns.title=titel")
    assert ended.code == 2
    assert "column titel is not in the source (catalogue.columns.title): did you mean title" in ended.text


def test_an_unknown_setting_ends_before_anything_starts(run_job, tmp_path):
    ended = run_job("nightly", tmp_path / "out", "modules.search.shard_row=3")
    assert ended.code == 2
    assert "did you mean modules.search.shard_rows" in ended.text
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there_is_unreadable_input(run_job, tmp_path):
    ended = run_job("nightly", tmp_path / "out", f"catalogue.path={tmp_path / 'nowhere'}")
    assert ended.code == 5
    assert f"cannot read parquet {tmp_path / 'nowhere'}" in ended.text


def test_an_empty_catalogue_is_refused(run_job, tmp_path):
    path = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"item_id": pa.array([], pa.string()), "title": pa.array([], pa.string())}), path)
    ended = run_job("nightly", tmp_path / "out", f"catalogue.path={path}")
    assert ended.code == 3
    assert "the catalogue is empty" in ended.text
    assert ended.summary["outcome"] == "refused"
    assert releases(tmp_path / "out") == []


def test_too_many_repeated_ids_stop_the_run(run_job, tmp_path):
    ended = run_job("embed", tmp_path / "out", write(tmp_path, offers(10) * 2))
    assert ended.code == 3
    assert "10 of 20 rows (50%) repeat an item_id, at most 10% may" in ended.text
    assert not (tmp_path / "out" / "tables").exists()


def test_a_catalogue_of_broken_photos_is_never_published(run_job, tmp_path):
    rows = [{"item_id": f"i{n}", "image": b"<html>not found</html>"} for n in range(20)]
    ended = run_job("nightly", tmp_path / "out", write(tmp_path, rows))
    assert ended.code == 3
    assert "there is nothing to publish: 20 of 20 catalogue rows are rejected" in ended.text
    assert releases(tmp_path / "out") == []


def test_broken_photos_and_a_repeated_id_cost_their_own_row_or_only_the_photo(spark, run_job, tmp_path):
    from samestyle.tables.warehouse import Warehouse

    (tmp_path / "good.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    rows = [*offers(20), {"item_id": "bare", "image_uri": "good.jpg"}, {"item_id": "page", "image_uri": "/etc/passwd"}]
    rows[0]["image_uri"] = "good.jpg"
    rows[1]["image_uri"] = "http://169.254.169.254/latest"
    rows.append({"item_id": "i7", "title": "another red mug"})
    ended = run_job("embed", tmp_path / "out", write(tmp_path, rows))
    assert ended.code == 0, ended.text
    assert ended.summary["counts"]["rejected"] == 3
    rows = Warehouse(spark, str(tmp_path / "out"), "delta").items().read().collect()
    items = {r["item_id"]: (r["state"], r["reason"]) for r in rows}
    assert sorted((r["state"], r["reason"]) for r in rows if r["item_id"] == "i7") == [
        ("fresh", None),
        ("rejected", "duplicate_id"),
    ]
    assert items["i0"][0] == "degraded"
    assert items["i1"] == ("degraded", "private_address")
    assert items["bare"][0] == "rejected"
    assert items["page"] == ("rejected", "outside_roots")
    assert items["i5"] == ("fresh", None)


def test_a_users_own_filter_that_fails_is_an_error_and_a_default_one_is_dropped(run_job, tmp_path):
    words = write(tmp_path, offers(30))
    assert run_job("embed", tmp_path / "out", words).code == 0
    ended = run_job("build_index", tmp_path / "out", words, "modules.homepage.where=colour = 'red'")
    assert ended.code == 2
    assert "modules.homepage.where is \"colour = 'red'\"" in ended.text
    ended = run_job("build_index", tmp_path / "out", words)
    assert ended.code == 0, ended.text
    assert "module homepage: default filter 'in_stock' dropped" in ended.text
    assert "module history skipped: it needs a click log" in ended.text
    assert "index search/image left out: no item has this view" in ended.text


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(run_job, tmp_path):
    tmp_path.chmod(0o500)
    ended = run_job("nightly", tmp_path / "out")
    tmp_path.chmod(0o700)
    assert ended.code == 2
    assert "cannot write to paths.root" in ended.text


def test_a_file_in_place_of_the_folder_is_named(run_job, tmp_path):
    (tmp_path / "out").write_text("not a folder")
    ended = run_job("nightly", tmp_path / "out")
    assert ended.code == 2
    assert f"cannot write to paths.root={tmp_path / 'out'}" in ended.text


def test_a_dead_image_server_stops_the_run_and_keeps_what_was_embedded(run_job, tmp_path):
    """Nothing listens there: every fetch is a refused connection, which is transient."""
    rows = offers(60, image_uri=lambda n: f"http://127.0.0.1:9/{n}.jpg" if n % 2 else None)
    words = [write(tmp_path, rows), "images.allow_private_networks=true", "images.retries=0"]
    ended = run_job("nightly", tmp_path / "out", *words)
    assert ended.code == 5
    assert "30 of 60 contents of a wave failed for a transient reason, at most 20% may" in ended.text
    assert releases(tmp_path / "out") == []
    assert not (tmp_path / "out" / "tables" / "items").exists()
    assert (tmp_path / "out" / "tables" / "embeddings").exists()
