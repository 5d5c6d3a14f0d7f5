import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from releases import Catalogue, judged, make_manifest, publish_small, small_catalogue

from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.encoder.runtime import Encoder
from samestyle.errors import ImageError, IntegrityError, UsageError
from samestyle.release.manifest import EncoderEntry
from samestyle.release.publish import publish
from samestyle.release.store import LocalStore
from samestyle.serving import open_release
from samestyle.serving.query import QueryEncoder

TITLES = [
    "red enamel mug",
    "floor lamp with linen shade",
    "leather shoulder bag",
    "oak dining chair",
    "running shoe",
]


def photo(seed: int) -> bytes:
    """A coloured ellipse on white, as a PNG file."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1, 1, 300), np.linspace(-1, 1, 300))
    inside = (x / rng.uniform(0.2, 0.9)) ** 2 + (y / rng.uniform(0.2, 0.9)) ** 2 < 1
    pixels = np.where(inside[..., None], rng.integers(0, 256, 3), 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PHOTOS = [photo(seed) for seed in range(len(TITLES))]


@pytest.fixture(scope="module")
def encoder(unified):
    return Encoder.load(unified)


@pytest.fixture(scope="module")
def catalogue(encoder):
    """Five products with their fused vectors, as a nightly run would embed them."""
    images = [decode_image(data, DecodeLimits(), encoder.image_size) for data in PHOTOS]
    return Catalogue(encoder.encode(TITLES, images)["fused"], small_catalogue(len(TITLES)).rows)


@pytest.fixture(scope="module")
def released(tmp_path_factory, encoder, unified, catalogue):
    folder = tmp_path_factory.mktemp("query")
    store = LocalStore(folder / "store")
    entry = EncoderEntry(encoder.encoder_id, encoder.dim, store.put_folder(unified), {})
    publish_small(store, folder, catalogue=catalogue, shards=1, encoder=entry)
    return store, folder


@pytest.fixture(scope="module")
def searcher(released):
    store, folder = released
    return open_release(store.uri, "search", folder / "cache")


@pytest.fixture(scope="module")
def queries(searcher):
    return QueryEncoder.of(searcher)


def test_it_is_the_encoder_of_the_release(queries, searcher):
    assert queries.encoder_id == searcher.manifest.encoder.encoder_id


@pytest.mark.parametrize("product", range(len(TITLES)))
def test_a_product_finds_itself_by_photo_and_words(queries, searcher, catalogue, product):
    vector = queries.encode(PHOTOS[product], TITLES[product])
    assert vector @ catalogue.vectors[product] > 0.9999
    assert searcher.search(vector, 1)[0][0].node_key == f"node{product:05d}"


@pytest.mark.parametrize("product", range(len(TITLES)))
def test_photo_or_words_alone_find_it_as_well(queries, searcher, product):
    for query in (queries.encode(photo=PHOTOS[product]), queries.encode(words=TITLES[product])):
        assert np.linalg.norm(query) == pytest.approx(1.0, abs=1e-5)
        assert searcher.search(query, 1)[0][0].node_key == f"node{product:05d}"


def test_words_are_normalised_as_titles_are(queries):
    np.testing.assert_array_equal(queries.encode(words="  red\n mug "), queries.encode(words="red mug"))


def test_what_cannot_be_a_query_is_told(queries):
    with pytest.raises(UsageError, match="neither a photo nor words"):
        queries.encode()
    with pytest.raises(UsageError, match="neither a photo nor words"):
        queries.encode(words=" \n")
    with pytest.raises(ImageError, match="not_an_image"):
        queries.encode(photo=b"<html>404</html>")


def test_an_encoder_that_the_manifest_does_not_mean_is_refused(released, searcher):
    store, folder = released
    entry = dataclasses.replace(searcher.manifest.encoder, encoder_id="another")
    other = Catalogue(np.eye(5, entry.dim, dtype=np.float32), small_catalogue(5).rows)
    manifest = make_manifest(store, folder, "r2", catalogue=other, shards=1, encoder=entry)
    publish(store, judged(manifest), "candidate", None)
    wrong = open_release(store.uri, "search", folder / "cache", channel="candidate")
    with pytest.raises(IntegrityError, match="the manifest says another with 256"):
        QueryEncoder.of(wrong)


def test_the_release_carries_the_fusion(released, searcher, queries):
    _, folder = released
    assert {"fusion.onnx", "fusion.safetensors"} <= searcher.manifest.encoder.files.keys()
    assert (folder / "cache" / "encoders" / queries.encoder_id / "fusion.onnx").is_file()


def test_a_damaged_file_in_the_cache_is_put_right(released, searcher, queries):
    _, folder = released
    card = folder / "cache" / "encoders" / queries.encoder_id / "card.md"
    before = card.read_bytes()
    card.write_bytes(b"something else")
    QueryEncoder.of(searcher)
    assert card.read_bytes() == before
