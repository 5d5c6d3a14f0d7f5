"""Bad input is normal input: a clear error and an exit code, or a reject; never half a release."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SEARCH_ONLY

from samestyle.release.lease import NIGHTLY, Holder, Lease
from samestyle.release.store import open_store


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


def test_repeated_ids_are_rejected_and_too_many_stop_the_run(run_job, tmp_path):
    few = [*offers(40), {"item_id": "i0", "title": "another red mug"}]
    ended = run_job("embed", tmp_path / "few", write(tmp_path, few))
    assert ended.code == 0, ended.text
    assert ended.summary["counts"]["rejected"] == 1
    many = offers(10) * 2
    ended = run_job("embed", tmp_path / "many", write(tmp_path, many, "many.parquet"))
    assert ended.code == 3
    assert "10 of 20 rows (50%) repeat an item_id, at most 10% may" in ended.text
    assert not (tmp_path / "many" / "tables").exists()


def test_a_catalogue_of_broken_photos_is_never_published(run_job, tmp_path):
    rows = [{"item_id": f"i{n}", "image": b"<html>not found</html>"} for n in range(20)]
    ended = run_job("nightly", tmp_path / "out", write(tmp_path, rows))
    assert ended.code == 3
    assert "there is nothing to publish: 20 of 20 catalogue rows are rejected" in ended.text
    assert releases(tmp_path / "out") == []


def test_broken_photos_cost_their_own_row_or_only_the_photo(spark, run_job, tmp_path):
    from samestyle.tables.warehouse import Warehouse

    (tmp_path / "good.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    rows = [*offers(20), {"item_id": "bare", "image_uri": "good.jpg"}, {"item_id": "page", "image_uri": "/etc/passwd"}]
    rows[0]["image_uri"] = "good.jpg"
    rows[1]["image_uri"] = "http://169.254.169.254/latest"
    ended = run_job("embed", tmp_path / "out", write(tmp_path, rows))
    assert ended.code == 0, ended.text
    items = {
        r["item_id"]: (r["state"], r["reason"])
        for r in Warehouse(spark, str(tmp_path / "out"), "delta").items().read().collect()
    }
    assert items["i0"][0] == "degraded"
    assert items["i1"] == ("degraded", "private_address")
    assert items["bare"][0] == "rejected"
    assert items["page"] == ("rejected", "outside_roots")
    assert items["i5"] == ("fresh", None)


def test_a_catalogue_that_shrank_by_half_stops_before_any_write(run_job, night, tmp_path):
    root = tmp_path / "copied"
    shutil.copytree(night.root, root)
    demo = next((root / "catalogue").glob("*/day-0001/catalogue.parquet"))
    half = tmp_path / "half.parquet"
    table = pq.read_table(demo)
    pq.write_table(table.slice(0, table.num_rows // 2), half)
    before = sorted((root / "tables").rglob("*.parquet"))
    serving = (root / "store" / "channels" / "current").read_bytes()
    ended = run_job("nightly", root, f"catalogue.path={half}", f"catalogue.image_root={root / 'catalogue'}")
    assert ended.code == 3
    assert "preflight refused, nothing was written" in ended.text
    assert "(50%) are missing from the catalogue, at most 30% may be" in ended.text
    assert sorted((root / "tables").rglob("*.parquet")) == before
    assert (root / "store" / "channels" / "current").read_bytes() == serving


def test_a_second_run_ends_with_four_and_names_the_holder(run_job, night, tmp_path):
    root = tmp_path / "copied"
    shutil.copytree(night.root, root)
    with Lease.acquire(open_store(root / "store"), NIGHTLY, Holder.of_this_process("the-first-run"), 60):
        ended = run_job("nightly", root)
    assert ended.code == 4
    assert f"held by run the-first-run (process {os.getpid()} on " in ended.text
    assert ended.summary["outcome"] == "conflict"


def test_a_poor_graph_is_refused_and_the_release_before_keeps_serving(run_job, night, tmp_path):
    """A real index with two links a node and a short candidate list does not reach the recall that is asked for."""
    root = tmp_path / "copied"
    shutil.copytree(night.root, root)
    serving = (root / "store" / "channels" / "current").read_bytes()
    poor = [
        "modules.search.m=2",
        "modules.search.ef_construction=4",
        "index.ef_search=[1]",
        "evaluation.k=1",
        *SEARCH_ONLY,
    ]
    for job in ("embed", "build_index", "evaluate_index", "neighbours"):
        assert run_job(job, root, *poor).code == 0
    ended = run_job("publish", root, *poor)
    assert ended.code == 3, ended.text
    assert "the gate refused release" in ended.text
    assert "REFUSED: recall@1 of search" in ended.text
    assert (root / "store" / "channels" / "current").read_bytes() == serving
    assert ended.summary["outcome"] == "refused"
    forced = run_job("publish", root, *poor, "--run", ended.folder.name, "--force", "testing the force")
    assert forced.code == 0, forced.text
    manifest = json.loads((root / "store" / "releases" / ended.folder.name / "manifest.json").read_text())
    assert manifest["forced"] == "testing the force"


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
