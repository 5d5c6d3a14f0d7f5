"""The worker's pipeline: every row is accounted for, stages overlap, nothing grows, and whatever fails ends cleanly."""

import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from samestyle.catalogue.fetch import FetchPolicy
from samestyle.catalogue.images import DecodeLimits, decode_image, image_digest
from samestyle.encoder.contents import Content, Outcome
from samestyle.encoder.pipeline import GROUP, HANDFUL, STAGES, THUMBNAIL, Embedded, Pipeline, in_order
from samestyle.encoder.runtime import Encoder
from samestyle.errors import SamestyleError
from samestyle.progress import Progress
from samestyle.tables.counter import Counter

BATCH = 2
SIZE = 8
PIXELS = np.zeros((SIZE, SIZE, 3), np.uint8)


class Lengths:
    """A model whose vectors say what came in: [title's length, sum of the pixels, 1]. It keeps the groups it saw."""

    dim, image_size, views = 3, SIZE, ("image", "text", "fused")

    def __init__(self) -> None:
        self.groups: list[int] = []

    def encode(
        self,
        titles: Sequence[str | None],
        images: Sequence[np.ndarray | None],
        views: Sequence[str] = views,
        batch_size: int = 32,
    ) -> dict[str, np.ndarray]:
        self.groups.append(len(titles))
        rows = [
            (len(title or ""), 0 if image is None else int(image.sum()), 1)
            for title, image in zip(titles, images, strict=True)
        ]
        return {view: np.array(rows, np.float32) for view in views}


class Refusing(Lengths):
    """Fails wherever one of these titles is among its rows, and on more than `most` rows."""

    def __init__(self, *titles: str, most: int = 1000) -> None:
        super().__init__()
        self.titles, self.most = titles, most

    def encode(self, titles, images, views=Lengths.views, batch_size=32):
        if len(titles) > self.most:
            raise MemoryError("too many rows")
        if set(self.titles) & set(titles):
            raise ValueError("no such word")
        return super().encode(titles, images, views, batch_size)


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    policy = FetchPolicy(("file",), (str(tmp_path),), str(tmp_path))
    return Pipeline(policy, DecodeLimits(), fetches=4, decodes=2, batch_size=BATCH)


def png(shade: int = 200) -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (shade, 0, 0)).save(body, "PNG")
    return body.getvalue()


def titled(count: int) -> Iterator[Content]:
    return (Content("t" * row, None, None, key=row) for row in range(1, count + 1))


def by_key(groups: Iterator[Embedded]) -> dict[object, tuple[Outcome, dict[str, np.ndarray]]]:
    return {
        content.key: (group.outcomes[row], {view: values[row] for view, values in group.vectors.items()})
        for group in groups
        for row, content in enumerate(group.contents)
    }


def threads_of_pipelines() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("fetch", "forward"))]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not threads_of_pipelines()


def test_every_content_comes_back_once_with_what_was_made_of_it(pipeline: Pipeline) -> None:
    found = by_key(pipeline.run(titled(50), Lengths()))
    assert sorted(found) == list(range(1, 51))
    assert [int(vectors["fused"][0]) for _, (_, vectors) in sorted(found.items())] == list(range(1, 51))


def test_rows_of_all_kinds_are_told_apart(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(png())
    known = image_digest(png())
    contents = [
        Content("mug", None, "red.png", key="both"),
        Content(None, png(), None, key="photo"),
        Content("mug", None, None, key="title"),
        Content("mug", None, "gone.png", key="degraded"),
        Content(None, b"<html>", None, key="page"),
        Content("mug", png(), None, known, key="unchanged"),
        Content(None, None, None, key="nothing"),
    ]
    found = by_key(pipeline.run(contents, Lengths()))
    assert {key: (outcome.outcome, outcome.reason) for key, (outcome, _) in found.items()} == {
        "both": ("embedded", None),
        "photo": ("embedded", None),
        "title": ("embedded", None),
        "degraded": ("degraded", "not_found"),
        "page": ("rejected", "not_an_image"),
        "unchanged": ("unchanged", None),
        "nothing": ("rejected", "nothing_to_embed"),
    }
    fused = {key: vectors["fused"].tolist() for key, (_, vectors) in found.items()}
    assert fused["both"] == [3, 200 * SIZE * SIZE, 1]
    assert fused["degraded"] == [3, 0, 1]
    assert fused["page"] == fused["unchanged"] == fused["nothing"] == [0, 0, 0]
    assert found["both"][0].image_digest == known


def test_a_failed_fetch_that_may_pass_rejects_for_now(pipeline: Pipeline) -> None:
    def short_of_memory(data: bytes) -> np.ndarray:
        raise MemoryError

    found = by_key(pipeline.run([Content("mug", png(), None, key=0)], Lengths(), decode=short_of_memory))
    assert (found[0][0].outcome, found[0][0].reason, found[0][0].transient) == ("rejected", "unexpected", True)


def test_groups_are_whole_however_the_rows_come(pipeline: Pipeline) -> None:
    model = Lengths()
    list(pipeline.run(titled(2 * GROUP * BATCH + 1), model))
    assert model.groups == [GROUP * BATCH, GROUP * BATCH, 1]


def test_photos_are_decoded_while_others_are_encoded(pipeline: Pipeline) -> None:
    """The model waits until more photos are decoded than it has got: without overlap it would wait in vain."""
    enough = threading.Event()
    decoded = [0]

    def decode(data: bytes) -> np.ndarray:
        decoded[0] += 1
        if decoded[0] > GROUP * BATCH + 1:
            enough.set()
        return PIXELS

    class Waiting(Lengths):
        def encode(self, *arguments, **named):
            assert enough.wait(60)
            return super().encode(*arguments, **named)

    contents = (Content(None, b"photo", None, key=row) for row in range(3 * GROUP * BATCH))
    assert len(by_key(pipeline.run(contents, Waiting(), decode=decode))) == 3 * GROUP * BATCH


def test_no_more_is_read_than_is_under_way(pipeline: Pipeline) -> None:
    read, most, done = [0], 0, 0

    def contents() -> Iterator[Content]:
        for content in titled(1000):
            read[0] += 1
            yield content

    for group in pipeline.run(contents(), Lengths()):
        done += len(group.contents)
        most = max(most, read[0] - done)
    # Two groups at the encoder, one that comes together, one that is fetched, and a handful a thread.
    assert most <= 4 * GROUP * BATCH + 4 * HANDFUL


def test_only_so_many_photos_are_decoded_at_once(pipeline: Pipeline) -> None:
    lock, at_once, most = threading.Lock(), [0], [0]

    def decode(data: bytes) -> np.ndarray:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        threading.Event().wait(0.002)
        with lock:
            at_once[0] -= 1
        return PIXELS

    list(pipeline.run([Content(None, b"photo", None) for _ in range(60)], Lengths(), decode=decode))
    assert most[0] == pipeline.decodes


def test_a_row_that_cannot_be_encoded_costs_itself(pipeline: Pipeline) -> None:
    found = by_key(pipeline.run(titled(40), Refusing("t" * 7, "t" * 30)))
    refused = {key for key, (outcome, _) in found.items() if outcome.reason == "not_encodable"}
    assert refused == {7, 30}
    assert "no such word" in str(found[7][0].detail)
    assert all(vectors["fused"].any() for key, (_, vectors) in found.items() if key not in refused)


def test_what_is_too_much_for_the_memory_is_encoded_in_parts(pipeline: Pipeline) -> None:
    model = Refusing(most=3)
    found = by_key(pipeline.run(titled(40), model))
    assert {outcome.outcome for outcome, _ in found.values()} == {"embedded"}
    assert max(model.groups) <= 3


def test_a_vector_that_is_none_is_refused(pipeline: Pipeline) -> None:
    class Broken(Lengths):
        def encode(self, *arguments, **named):
            vectors = super().encode(*arguments, **named)
            vectors["fused"][0] = np.nan
            for values in vectors.values():
                values[1] = 0
            vectors["text"][2] = 0
            return vectors

    found = by_key(pipeline.run(titled(4), Broken()))
    refused = dict.fromkeys((1, 2, 3), "not_encodable")
    assert {key: outcome.reason for key, (outcome, _) in found.items()} == refused | {4: None}
    assert not any(values.any() for key in refused for values in found[key][1].values())


def test_a_model_that_fails_on_everything_ends_the_task(pipeline: Pipeline) -> None:
    with pytest.raises(MemoryError, match="too many rows"):
        list(pipeline.run(titled(100), Refusing(most=0)))


def test_a_decoder_that_cannot_work_at_all_ends_the_task(pipeline: Pipeline) -> None:
    def decode(data: bytes) -> np.ndarray:
        raise SamestyleError("the child process does not start")

    with pytest.raises(SamestyleError, match="does not start"):
        list(pipeline.run([Content("mug", b"photo", None)] * 100, Lengths(), decode=decode))


def test_contents_that_cannot_be_read_end_the_task(pipeline: Pipeline) -> None:
    def contents() -> Iterator[Content]:
        yield from titled(20)
        raise ConnectionError("Spark is gone")

    with pytest.raises(ConnectionError, match="Spark is gone"):
        list(pipeline.run(contents(), Lengths()))


def test_closing_in_the_middle_ends_all_threads(pipeline: Pipeline) -> None:
    running = pipeline.run(titled(1000), Lengths())
    next(running)
    assert threads_of_pipelines()
    running.close()  # the fixture looks at what is left


def test_a_slow_server_holds_up_no_photo_of_another(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first photo is of a server that answers once all photos behind it are there."""
    arrived, rows = threading.Semaphore(0), 6

    def fetch(uri: str, policy: FetchPolicy) -> bytes:
        if "slow" in uri:
            assert all(arrived.acquire(timeout=60) for _ in range(rows))
        else:
            arrived.release()
        return b"photo"

    monkeypatch.setattr("samestyle.encoder.pipeline.fetch", fetch)
    hosts = ["slow", *["quick"] * rows]
    contents = [Content(None, None, f"http://{host}.example/{n}", key=n) for n, host in enumerate(hosts)]
    found = by_key(pipeline.run(contents, Lengths(), decode=lambda data: PIXELS))
    assert [outcome.outcome for outcome, _ in found.values()] == ["embedded"] * len(hosts)


def test_ending_early_waits_for_one_photo_and_not_for_a_handful(pipeline: Pipeline) -> None:
    decoding, decoded = threading.Event(), [0]

    def decode(data: bytes) -> np.ndarray:
        decoding.set()
        threading.Event().wait(0.05)
        decoded[0] += 1
        return PIXELS

    def contents() -> Iterator[Content]:
        yield from (Content(None, b"photo", None) for _ in range(HANDFUL))
        assert decoding.wait(60)
        raise ConnectionError("Spark is gone")

    with pytest.raises(ConnectionError):
        list(replace(pipeline, decodes=1).run(contents(), Lengths(), decode=decode))
    assert 0 < decoded[0] < HANDFUL


def test_bytes_of_a_photo_are_let_go_once_it_is_decoded(pipeline: Pipeline) -> None:
    contents = [Content(None, b"photo", None) for _ in range(5)]
    groups = list(pipeline.run(contents, Lengths(), decode=lambda data: PIXELS))
    assert [content.image for group in groups for content in group.contents] == [None] * 5


def test_counts_add_up_and_every_stage_is_timed(pipeline: Pipeline) -> None:
    told: list[tuple[int, int, dict[str, float]]] = []
    contents = [Content("mug", png(), None), Content(None, b"junk", None)] * 30
    list(pipeline.run(contents, Lengths(), lambda *counted: told.append(counted)))
    assert sum(rows for rows, _, _ in told) == 60
    assert sum(rejected for _, rejected, _ in told) == 30
    assert {tuple(busy) for _, _, busy in told} == {STAGES}
    assert all(sum(busy[stage] for _, _, busy in told) > 0 for stage in ("decode", "forward"))


def test_in_order_waits_for_what_is_early() -> None:
    ordered = in_order(iter([(1, "b"), (0, "a"), (3, "d"), (2, "c")]))
    assert next(ordered) == "a"
    assert list(ordered) == ["b", "c", "d"]


def test_vectors_are_those_of_the_encoder_alone(late_fusion: Path, pipeline: Pipeline) -> None:
    encoder = Encoder.load(late_fusion)
    photos = [png(shade) for shade in (10, 90, 250)]
    titles = ["red mug", None, "a much longer title of a mug, dishwasher safe"]
    contents = [Content(t, p, None, key=k) for k, (t, p) in enumerate(zip(titles, photos, strict=True))]
    found = by_key(pipeline.run(contents, encoder))
    decode = partial(decode_image, limits=pipeline.limits, size=encoder.image_size)
    expected = encoder.encode(titles, [decode(photo) for photo in photos])
    for view in encoder.views:
        ours = np.array([found[key][1][view] for key in range(3)])
        np.testing.assert_allclose(ours, expected[view], atol=1e-5)


def test_the_progress_line_says_what_limits() -> None:
    line = Progress("embed", 3000, lambda: (1200, 8), io.StringIO(), limit=lambda: "forward").line()
    assert line.startswith("samestyle: embed 1,200 of 3,000 · ")
    assert " · 8 rejected · limited by forward · " in line
    assert line.endswith(" left")


def test_the_stage_that_was_busy_for_longest_limits() -> None:
    counter = Counter(SimpleNamespace(accumulator=Sum), STAGES)
    assert counter.limit() is None
    counter.add(10, 1, {"fetch": 1.0, "forward": 3.0})
    counter.add(10, 0, {"fetch": 2.5, "forward": 0.25})
    assert counter.values() == (20, 1)
    assert counter.busy() == {"read": 0, "fetch": 3.5, "decode": 0, "forward": 3.25, "write": 0}
    assert counter.limit() == "fetch"


class Sum:
    """Adds as Spark's accumulators do."""

    def __init__(self, value: float) -> None:
        self.value = value

    def add(self, value: float) -> None:
        self.value += value


def test_thumbnails_are_small_jpegs_of_what_the_encoder_saw(pipeline: Pipeline) -> None:
    class Large(Lengths):
        image_size = 300

    contents = [Content("red", png(), None), Content("no photo", None, None), Content(None, b"broken", None)]
    wanted = replace(pipeline, thumbnails=True)
    found = {
        c.title: o
        for group in wanted.run(contents, Large())
        for c, o in zip(group.contents, group.outcomes, strict=True)
    }
    assert [found[title].thumbnail for title in ("no photo", None)] == [None, None]
    shown = Image.open(io.BytesIO(found["red"].thumbnail or b""))
    assert (shown.format, shown.size) == ("JPEG", (THUMBNAIL, THUMBNAIL))
    expected = np.array(Image.fromarray(decode_image(png(), DecodeLimits(), 300)).resize(shown.size), int)
    assert abs(np.array(shown, int) - expected).mean() < 3
    plain = [outcome for group in pipeline.run(contents, Large()) for outcome in group.outcomes]
    assert [outcome.thumbnail for outcome in plain] == [None] * 3
