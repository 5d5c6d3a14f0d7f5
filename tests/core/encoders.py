"""Encoder folders and stores of encoders for tests that store, list and compare encoders, and never run one."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from samestyle.encoder.card import Card, Part, Quality, TrainingSet
from samestyle.encoder.files import COMMON_FILES, write_manifest
from samestyle.evaluation.records import RESULTS

PREPROCESSING = {"image": {"size": 224}, "text": {"max_tokens": 64}}


def write_folder(folder: Path, number: int) -> str:
    """A folder with every file of a late_fusion encoder, and a picture; returns its id, which `number` decides."""
    folder.mkdir(parents=True)
    (folder / "golden").mkdir()
    identity = {"kind": "late_fusion", "dim": 256, "preprocessing": PREPROCESSING, "number": number}
    for name in (*COMMON_FILES, "golden/0.png"):
        (folder / name).write_text(f"{name} of encoder {number}")
    (folder / "card.md").write_text(card(identity).render())
    about = {"created_at": f"2026-01-0{number}T00:00:00+00:00", "fitted_on": "the catalogue of a drawn shop"}
    return write_manifest(folder, identity, about)


def card(identity: dict) -> Card:
    return Card(
        identity,
        [Part("image.onnx", "a network", "MIT")],
        [TrainingSet("drawn shop", "CC0-1.0", "3,000 offers")],
        "abc123",
        {"losses": {"margin": 0.2}, "seed": 0},
        [Quality("drawn shop", "held-out styles", {"m-m": {"recall@1": (0.5, 0.4, 0.6), "mrr": (0.6, None, None)}})],
    )


def evaluation(right: int, asked: int = 200) -> tuple[dict, bytes]:
    """What is recorded of m-m where `right` of `asked` queries find the right one first, the others second."""
    hits = np.arange(asked) < right
    metrics = {"mrr": np.where(hits, 1.0, 0.5), "recall@1": hits.astype(float)}
    metrics |= {f"recall@{k}": np.ones(asked) for k in (5, 10, 20)}
    rows = {"set": ["shop"] * asked, "direction": ["m-m"] * asked, "query_id": [f"q{n}" for n in range(asked)]}
    means = {name: float(values.mean()) for name, values in metrics.items()} | {"queries": asked, "pool": 2}
    target = io.BytesIO()
    pq.write_table(pa.table(rows | metrics, schema=RESULTS), target)
    return {"mean": {"m-m": means}}, target.getvalue()
