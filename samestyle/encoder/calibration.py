"""Calibration without labels: an encoder's projection, fitted anew to a catalogue's own photos and titles."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samestyle.encoder.contents import batches
from samestyle.encoder.export import IMAGE_SIZE, MAX_TOKENS, export_late_fusion, export_unified, fitted_on
from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.graph_files import write_image_graph, write_text_graph
from samestyle.encoder.graphs import Graph
from samestyle.encoder.preprocessing import load_tokenizer
from samestyle.encoder.runtime import IMAGE_BATCH
from samestyle.encoder.sources import Sources
from samestyle.encoder.transform import SIDES, from_bytes, to_bytes
from samestyle.errors import UsageError

TITLE_BATCH = 64
NOUNS = {"image": "photos", "text": "titles"}


@dataclass(frozen=True)
class Calibration:
    """A fitted projection. data: as `transform.to_bytes`; counts: samples a side; kept: side to the reason why it keeps
    the projection that it had."""

    data: bytes
    counts: dict[str, int]
    kept: dict[str, str]


def feature_graphs(image_size: int = IMAGE_SIZE, threads: int = 1) -> dict[str, Graph]:
    """The packaged backbones alone, before any projection: `image` and `text`.

    Raises UsageError where the packaged weights are not installed.
    """
    from samestyle.encoder.backbones import ImageFeatures, TextFeatures

    sources = Sources.find()
    with tempfile.TemporaryDirectory() as scratch:
        image, text = (Path(scratch) / f"{side}.onnx" for side in SIDES)
        write_image_graph(ImageFeatures.load(sources.image_weights, image_size), image_size, image)
        write_text_graph(TextFeatures.load(sources.text_weights.parent), text)
        return {"image": Graph.load(image, threads), "text": Graph.load(text, threads)}


def pooled_features(
    rows: Iterable[tuple[str | None, np.ndarray | None]], image_size: int = IMAGE_SIZE, threads: int = 1
) -> dict[str, np.ndarray]:
    """Distinct features of the photos and titles of `rows`, sorted: (photos, 2224) and (titles, 384) float32.

    rows: title and photo as Encoder.encode takes them. A few photos are held at once; the features take 10 kB a row.
    """
    graphs = feature_graphs(image_size, threads)
    titles: set[str] = set()
    images = [graphs["image"].images([], IMAGE_BATCH).vector]
    for batch in batches(rows, IMAGE_BATCH):
        titles.update(title for title, _ in batch if title)
        photos = [photo for _, photo in batch if photo is not None]
        images.append(graphs["image"].images(photos, IMAGE_BATCH).vector)
    tokenizer = load_tokenizer(Sources.find().tokenizer, MAX_TOKENS)
    texts = graphs["text"].titles(sorted(titles), tokenizer, TITLE_BATCH).vector
    return {"image": np.unique(np.concatenate(images), axis=0), "text": np.unique(texts, axis=0)}


def fit_calibration(features: Mapping[str, np.ndarray], catalogue: str) -> Calibration:
    """The packaged projection, calibrated on the pooled features of each side. catalogue: its name, for the card.

    Raises UsageError where neither side has samples enough.
    """
    sources = Sources.find()
    transforms, kept = from_bytes(sources.transform.read_bytes()), {}
    for side in SIDES:
        try:
            transforms[side] = transforms[side].calibrated(features[side])
        except UsageError as error:
            kept[side] = str(error)
    if len(kept) == len(SIDES):
        reasons = "; ".join(f"{side}: {reason}" for side, reason in kept.items())
        raise UsageError(f"there is too little to calibrate on. {reasons}")
    counts = {side: len(features[side]) for side in SIDES if side not in kept}
    used = ", ".join(f"{count} {NOUNS[side]}" for side, count in counts.items())
    # One entry: with several, safetensors writes them in no fixed order, and the id is a digest of the bytes.
    about = {"fitted_on": f"{fitted_on(sources)}; {catalogue} (your own): calibrated on {used}"}
    return Calibration(to_bytes(transforms, about), counts, kept)


def check_calibratable(files: EncoderFiles) -> None:
    """Raises UsageError unless the encoder's projection is the packaged one, or that one calibrated before."""
    if files.kind == "dual_stream":
        raise UsageError(
            f"encoder {files.encoder_id} is of kind dual_stream, expected unified or late_fusion: its two networks "
            "were trained together and have no projection to calibrate"
        )
    sources = Sources.find()
    found, packaged = files.manifest["identity"]["sources"], sources.digests()
    foreign = sorted(name for name in packaged if name != "transform" and found.get(name) != packaged[name])
    told, own = str(files.manifest.get("fitted_on", "")), fitted_on(sources)
    if foreign or not (found.get("transform") == packaged["transform"] or told.startswith(f"{own}; ")):
        raise UsageError(
            f"encoder {files.encoder_id} has {', '.join(foreign) or 'a projection'} of its own, expected the packaged "
            "ones, which calibration starts from: calibrate late_fusion or a fusion that was trained over it"
        )


def export_calibrated(folder: Path, base: EncoderFiles, calibration: Calibration) -> str:
    """Write the encoder `base` with the calibrated projection to `folder` and return its encoder_id.

    Its fusion stays as it is; what was measured with the former projection is not told of the new encoder. Raises as
    `check_calibratable` and `export_unified` do.
    """
    check_calibratable(base)
    size = base.manifest["identity"]["preprocessing"]["image"]["size"]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "projection.safetensors"
        path.write_bytes(calibration.data)
        sources = Sources.find(path)
        if base.kind == "late_fusion":
            return export_late_fusion(folder, size, sources)
        from samestyle.encoder.weights import load_fusion

        fusion, about = load_fusion(base.path("fusion.safetensors"))
        told = {name: value for name, value in about.items() if name != "quality"}
        return export_unified(folder, fusion, told | {"calibrated_from": base.encoder_id}, None, sources, size)
