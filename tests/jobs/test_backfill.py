"""Another encoder takes over: registered, backfilled beside the nights, promoted, and back again."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout

import pytest
from conftest import SMALL

from jobs import backfill
from samestyle import cli
from samestyle.encoder.export import export_late_fusion
from samestyle.encoder.promotion import read_coverage
from samestyle.encoder.registry import current_encoder
from samestyle.release.publish import current_release
from samestyle.release.store import open_store
from samestyle.tables import waves
from samestyle.tables.warehouse import Warehouse


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    """Folder of a second encoder: the same networks on photos of 160 pixels."""
    folder = tmp_path_factory.mktemp("encoders") / "late_fusion_160"
    export_late_fusion(folder, 160)
    return folder


def call(main, root, *words):
    """Exit code and everything that was printed."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main([*words, f"paths.root={root}"])
    return code, printed.getvalue()


def die(*_):
    raise KeyboardInterrupt


def take_over(spark, run_job, root, smaller, monkeypatch):
    """Register, backfill with a death in between, promote, and plan the next night; returns both encoders' ids."""
    store = open_store(root / "store")
    before = current_release(store)[1]
    new = json.loads((smaller / "encoder.json").read_text())["encoder_id"]
    old = before.encoder.encoder_id
    assert call(cli.main, root, "encoders", "register", str(smaller))[0] == 0

    code, printed = call(cli.main, root, "encoders", "promote", new[:6])
    assert code == 3
    assert f"run ./spark-submit.sh backfill --encoder {new}" in printed

    assert call(backfill.main, root, "--encoder", "0000", *SMALL)[0] == 2
    # The job dies after its first wave, and is started again.
    with monkeypatch.context() as patch:
        patch.setattr(waves, "check_transient", die)
        with pytest.raises(KeyboardInterrupt):
            call(backfill.main, root, "--encoder", new, *SMALL)
    table = Warehouse(spark, str(root), "delta")
    first = table.embeddings_of(new).count()
    assert 0 < first < table.embeddings_of(old).count()
    assert call(cli.main, root, "encoders", "promote", new)[0] == 3
    code, printed = call(backfill.main, root, "--encoder", new[:6], *SMALL)
    assert code == 0, printed
    coverage = read_coverage(store, new)
    assert table.embeddings_of(new).count() == table.embeddings_of(old).count()
    assert f"{table.embeddings_of(old).count() - first} attempted now" in printed
    served = table.items().read().where("content_key is not null").select("content_key").distinct().count()
    assert (coverage.finished, coverage.wanted, coverage.gone) == (served, served, 0)

    assert call(cli.main, root, "encoders", "promote", new) == (
        0,
        f"the next run uses encoder {new}, {old} before; it builds every shard anew\n",
    )
    plan = run_job("nightly", root, "--dry-run")
    assert f"the parent was made by {old}: every shard is built anew" in plan.text
    assert "embed       0 contents" in plan.text
    return new, old


def test_another_encoder_takes_over_at_no_cost(spark, run_job, copied, smaller, monkeypatch):
    take_over(spark, run_job, copied, smaller, monkeypatch)


@pytest.mark.soak  # a night that builds everything, as a first one does
def test_the_night_after_another_encoder_took_over_and_back(spark, run_job, copied, smaller, monkeypatch):
    root, store = copied, open_store(copied / "store")
    before = current_release(store)[1]
    new, old = take_over(spark, run_job, copied, smaller, monkeypatch)
    ended = run_job("nightly", root)
    assert ended.code == 0, ended.text
    after = current_release(store)[1]
    assert ended.summary["contents_embedded"] == 0
    assert (after.encoder.encoder_id, after.parent) == (new, before.release_id)
    assert after.module_items("search") == before.module_items("search")
    # But for the text view: both encoders have the same network for titles, and the same vectors give the same bytes.
    graphs = [{s.graph.sha256 for i in m.indexes if i.view != "text" for s in i.shards} for m in (before, after)]
    assert not graphs[0] & graphs[1]

    # The release of the old encoder serves again; the encoder may follow it, because it made that release.
    assert call(cli.main, root, "releases", "rollback")[0] == 0
    assert current_release(store)[1].encoder.encoder_id == old
    assert call(cli.main, root, "encoders", "promote", old)[0] == 0
    assert current_encoder(store) == old
