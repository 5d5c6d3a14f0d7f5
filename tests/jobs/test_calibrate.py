"""An encoder is calibrated on a shop's titles: a candidate beside the current one, and the same one again."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SMALL

from jobs import calibrate
from samestyle.encoder.registry import current_encoder, encoder_manifest, list_encoders
from samestyle.release.store import open_store


def call(root, *words):
    """Exit code, and everything that was printed."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = calibrate.main([f"paths.root={root}", *SMALL, *words])
    return code, printed.getvalue()


@pytest.fixture
def mugs(tmp_path):
    """Words for 500 titles, of which 400 are drawn, and no photo."""
    titles = [f"{colour} mug of {size} ml" for colour in ("red", "green") for size in range(250)]
    shop = pa.table({"item_id": [f"m{row}" for row in range(500)], "title": titles})
    pq.write_table(shop, tmp_path / "mugs.parquet")
    return f"catalogue.path={tmp_path / 'mugs.parquet'}", "calibrate.rows=400"


def test_calibration_registers_a_candidate_and_never_promotes_it(spark, copied, mugs):
    root, store = copied, open_store(copied / "store")
    current = current_encoder(store)
    code, printed = call(root, *mugs)
    assert code == 0, printed
    (folder,) = (path for path in (root / "workshop").glob("calibrate-*") if (path / "calibration.json").exists())
    record = json.loads((folder / "calibration.json").read_text())
    new = record["encoder_id"]
    assert (record["from"], record["contents"], record["fitted_on"]) == (current, 400, {"text": 400})
    assert sorted(list_encoders(store)) == sorted([current, new])
    assert current_encoder(store) == current
    assert new != current
    assert "photos keep their projection: 0 distinct samples were found" in printed
    assert f"evaluate_encoder --encoder {new} --against {current}" in printed
    assert f"backfill --encoder {new} and `samestyle encoders promote {new}`" in printed
    assert encoder_manifest(store, new)["fitted_on"].endswith("; mugs.parquet (your own): calibrated on 400 titles")


@pytest.mark.soak  # tests/core/test_calibration.py asks both of the fit alone
def test_too_small_a_sample_is_refused_and_the_same_one_gives_the_same_encoder(spark, copied, mugs):
    root, store = copied, open_store(copied / "store")
    current = current_encoder(store)
    code, printed = call(root, "calibrate.rows=20")
    assert code == 2
    assert "there is too little to calibrate on. image: " in printed
    assert "expected at least 640" in printed
    assert list_encoders(store) == [current]

    assert call(root, *mugs)[0] == 0
    (new,) = set(list_encoders(store)) - {current}
    code, printed = call(root, *mugs)
    assert code == 0, printed
    assert f"candidate {new}, fitted on 400 titles" in printed
    assert sorted(list_encoders(store)) == sorted([current, new])
