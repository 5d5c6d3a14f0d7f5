"""A shop that has a release already is refused a bad night, and the release goes on serving."""

import json
import os

import pyarrow.parquet as pq
from conftest import SEARCH_ONLY

from samestyle.release.lease import NIGHTLY, Holder, Lease
from samestyle.release.store import open_store


def test_a_catalogue_that_shrank_by_half_stops_before_any_write(run_job, copied, tmp_path):
    demo = next((copied / "catalogue").glob("*/day-0001/catalogue.parquet"))
    half = tmp_path / "half.parquet"
    table = pq.read_table(demo)
    pq.write_table(table.slice(0, table.num_rows // 2), half)
    before = sorted((copied / "tables").rglob("*.parquet"))
    serving = (copied / "store" / "channels" / "current").read_bytes()
    ended = run_job("nightly", copied, f"catalogue.path={half}", f"catalogue.image_root={copied / 'catalogue'}")
    assert ended.code == 3
    assert "preflight refused, nothing was written" in ended.text
    assert "(50%) are missing from the catalogue, at most 30% may be" in ended.text
    assert sorted((copied / "tables").rglob("*.parquet")) == before
    assert (copied / "store" / "channels" / "current").read_bytes() == serving


def test_a_second_run_ends_with_four_and_names_the_holder(run_job, copied):
    with Lease.acquire(open_store(copied / "store"), NIGHTLY, Holder.of_this_process("the-first-run"), 60):
        ended = run_job("nightly", copied)
    assert ended.code == 4
    assert f"held by run the-first-run (process {os.getpid()} on " in ended.text
    assert ended.summary["outcome"] == "conflict"


def test_each_stage_runs_alone_and_a_poor_graph_is_refused_while_the_release_before_serves(run_job, copied):
    """Nothing is embedded, as the catalogue is the same; two links a node do not reach the recall that is asked for."""
    serving = (copied / "store" / "channels" / "current").read_bytes()
    poor = [
        "modules.search.m=2",
        "modules.search.ef_construction=4",
        "index.ef_search=[1]",
        "evaluation.k=1",
        *SEARCH_ONLY,
    ]
    for job in ("embed", "build_index", "evaluate_index", "neighbours"):
        ended = run_job(job, copied, *poor)
        assert ended.code == 0, f"{job}: {ended.text}"
    assert ended.record("embed")["attempted"] == ended.summary["contents_embedded"] == 0
    assert ended.summary["counts"]["fresh"] == 0
    ended = run_job("publish", copied, *poor)
    assert ended.code == 3, ended.text
    assert "the gate refused release" in ended.text
    assert "REFUSED: recall@1 of search" in ended.text
    assert (copied / "store" / "channels" / "current").read_bytes() == serving
    assert ended.summary["outcome"] == "refused"
    forced = run_job("publish", copied, *poor, "--run", ended.folder.name, "--force", "testing the force")
    assert forced.code == 0, forced.text
    manifest = json.loads((copied / "store" / "releases" / ended.folder.name / "manifest.json").read_text())
    assert manifest["forced"] == "testing the force"
    current = json.loads((copied / "store" / "channels" / "current").read_text())
    assert (current["release_id"], current["previous"]) == (ended.folder.name, json.loads(serving)["release_id"])
