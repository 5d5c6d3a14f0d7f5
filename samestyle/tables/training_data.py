"""What an encoder is trained on: pairs of contents from the table `pairs`, and what workers make of these contents."""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from samestyle.encoder.files import EncoderFiles
from samestyle.encoder.registry import local_copy
from samestyle.errors import InputError, UsageError
from samestyle.progress import Progress, say
from samestyle.settings import Embed, Settings, Train
from samestyle.tables.changes import distinct_contents, with_contents, with_duplicates
from samestyle.tables.counter import Counter
from samestyle.tables.io import only_row
from samestyle.tables.placement import Placement
from samestyle.tables.policies import decode_limits, fetch_policy
from samestyle.tables.source import read_catalogue
from samestyle.tables.waves import tasks_of
from samestyle.tables.workshop import Workshop
from samestyle.training.cache import FEATURE_COLUMNS, PHOTO_COLUMNS, Widths, ddl, pack_features, pack_photos
from samestyle.training.folder import TrainingFolder
from samestyle.training.loop import NONE, Source, Validation
from samestyle.training.pairs import Pairs

SPLITS = ("train", "validation")
ENDS = ("trigger", "offer")
PAIR_COLUMNS = (*ENDS, "style_group")
VALIDATION_ROWS = 2000  # searched against each other at every look: a second
OTHERS = 1000  # contents of no pair for validation that are searched as well: encoding them is what a look costs
VARIANTS = 2  # of a photo: itself, and a changed one
GIB = 2**30
Makers = tuple[Callable[..., Any], Callable[..., Any]]


@dataclass(frozen=True)
class PairedContents:
    """contents: row, content_key, name (an item that shows it); pairs: by split, rows of contents; counts: what became
    of the table's pairs; digest: of all that training sees."""

    contents: DataFrame
    pairs: dict[str, Pairs]
    counts: dict[str, int]
    digest: str


def catalogue_contents(workshop: Workshop) -> DataFrame:
    """The rows of today's catalogue that can be embedded, one an item, with their contents."""
    source = read_catalogue(workshop.spark, workshop.settings.catalogue)
    rows = with_duplicates(with_contents(source.rows, workshop.settings.embed.max_title_chars))
    return rows.where("content_key is not null and not duplicate")


def prepare(workshop: Workshop, work: TrainingFolder, makers: Makers) -> dict[str, Any]:
    """Fill the training's folder, unless an interrupted run has done so from the same data; returns the record `data`.

    makers: udfs.features.feature_maker, photo_maker. Raises UsageError where there is nothing to learn from, and where
    the features would take more disk than train.features_max_gib.
    """
    settings, rows = workshop.settings, catalogue_contents(workshop)
    for other in set(work.path.parent.glob("train-*")) - {work.path}:
        TrainingFolder(other).clear()  # what died there will not go on any more
    found = paired_contents(workshop, rows, work.path / "scratch")
    former = workshop.run.read("data")
    if former and former["digest"] == found.digest:
        say(f"train: run {workshop.run.run_id} goes on, its data is as it was")
        return former
    if former:
        say(f"train: the data has changed since run {workshop.run.run_id} was interrupted; it begins again")
    for path in (work.checkpoint, work.trained):
        path.unlink(missing_ok=True)
    found.pairs["train"].check()
    tell(found, settings)
    source, made = make_inputs(workshop, work, found, contents_with_data(found.contents, rows), makers)
    pairs = {split: without_empty(pairs, source) for split, pairs in found.pairs.items()}
    pairs["train"].check()
    validation = validation_rows(pairs["validation"], pairs["train"], len(source.has_image), settings.train.seed)
    keep_names(work.path / "scratch" / "contents", work.contents)
    own = aligned_rows(source, pairs["validation"], settings.train)
    work.write_task(settings.train, settings.losses, pairs["train"], validation, own)
    shutil.rmtree(work.path / "scratch")
    record = {
        "digest": found.digest,
        **found.counts,
        **made,
        "train_pairs": len(pairs["train"]),
        "train_groups": len(np.unique(pairs["train"].group)),
        "own_contents": len(own),
        "validation_products": len(validation.asking),
        "pairs_without_input": sum(len(found.pairs[split]) - len(pairs[split]) for split in SPLITS),
    }
    workshop.run.write("data", record)
    return record


def paired_contents(workshop: Workshop, rows: DataFrame, scratch: Path) -> PairedContents:
    """The pairs of the splits for training and validation whose items the catalogue has. rows: catalogue_contents.

    Raises UsageError where none is left.
    """
    table = workshop.warehouse.pairs.read()
    usable = table.where(F.col("split").isin(*SPLITS) & (F.coalesce("label", F.lit(1)) > 0))
    known = usable.select("trigger_id", "offer_id", "style_group", "split")
    for end in ENDS:
        own = rows.select(F.col("item_id").alias(f"{end}_id"), F.col("content_key").alias(f"{end}_key"))
        known = known.join(own, f"{end}_id")
    known = kept(known, scratch / "known")
    counts = {"pairs": table.count(), "usable": usable.count(), "known": known.count()}
    counts["unknown"] = counts["usable"] - counts["known"]
    check_counts(counts, usable)
    own = own_contents(rows, workshop.settings.train)
    contents = kept(numbered_contents(known, own), scratch / "contents")
    for end in ENDS:
        own = contents.select(F.col("row").alias(end), F.col("content_key").alias(f"{end}_key"))
        known = known.join(own, f"{end}_key")
    pairs = kept(known.select(*ENDS, "style_group", "split").distinct(), scratch / "pairs")
    digest = hashlib.sha256(f"{digest_of(pairs)} {digest_of(contents.drop('name'))}".encode()).hexdigest()
    return PairedContents(contents, read_pairs(scratch / "pairs"), counts | {"contents": contents.count()}, digest)


def check_counts(counts: dict[str, int], usable: DataFrame) -> None:
    if not counts["pairs"]:
        raise UsageError("there are no training pairs: run ./spark-submit.sh sample_pairs first")
    if not counts["usable"]:
        raise UsageError(
            f"all {counts['pairs']:,} pairs are kept for testing or have label 0, expected some to train on: "
            "lower pairs.test_share, or collect more clicks, and run ./spark-submit.sh sample_pairs again"
        )
    if not counts["known"]:
        ids = ", ".join(row["trigger_id"] for row in usable.select("trigger_id").limit(3).collect())
        raise UsageError(
            f"none of {counts['usable']:,} pairs has both its items in the catalogue (the pairs' ids are such as "
            f"{ids}): are pairs and catalogue of one shop? Then run ./spark-submit.sh sample_pairs again"
        )


def own_contents(rows: DataFrame, train: Train) -> DataFrame:
    """content_key, name of a sample of the catalogue's contents with photo and title: to align them takes no clicks."""
    both = rows.where("title is not null and (image is not null or image_uri is not null)")
    named = both.groupBy("content_key").agg(F.min("item_id").alias("name"))
    wanted = train.own_contents if train.alignment else 0
    return named.orderBy(F.xxhash64("content_key", F.lit(train.seed)), "content_key").limit(wanted)


def numbered_contents(known: DataFrame, own: DataFrame) -> DataFrame:
    """row (long, 0, 1, ...), content_key, name: the contents of both."""
    ends = [known.select(F.col(f"{end}_key").alias("content_key"), F.col(f"{end}_id").alias("name")) for end in ENDS]
    named = ends[0].union(ends[1]).union(own).groupBy("content_key").agg(F.min("name").alias("name"))
    # One task numbers the keys, by their order in its partition: train.features_max_gib bounds how many there are.
    ordered = named.repartition(1).sortWithinPartitions("content_key")
    return ordered.select(F.monotonically_increasing_id().alias("row"), "content_key", "name")


def digest_of(frame: DataFrame) -> str:
    """Equal for equal rows in whatever order."""
    hashes = (F.xxhash64(*frame.columns), F.hash(*frame.columns))
    row = only_row(frame.agg(F.count("*"), *[F.sum(value.cast("decimal(38,0)")) for value in hashes]))
    return " ".join(map(str, row))


def kept(frame: DataFrame, path: Path) -> DataFrame:
    """The same rows, computed once."""
    frame.write.mode("overwrite").parquet(path.as_uri())
    return frame.sparkSession.read.schema(frame.schema).parquet(path.as_uri())


def read_pairs(path: Path) -> dict[str, Pairs]:
    """The pairs of each split, always in the same order."""
    table = ds.dataset(path, format="parquet").to_table().sort_by([(name, "ascending") for name in PAIR_COLUMNS])
    splits = {split: table.filter(ds.field("split") == split) for split in SPLITS}
    return {split: pairs_of(part) for split, part in splits.items()}


def pairs_of(table: pa.Table) -> Pairs:
    trigger, offer, group = (table[name].to_numpy() for name in PAIR_COLUMNS)
    return Pairs(trigger, offer, group, np.zeros(len(group), np.int64))


def tell(found: PairedContents, settings: Settings) -> None:
    counts, train = found.counts, found.pairs["train"]
    groups = len(np.unique(train.group))
    say(
        f"train: {len(train):,} pairs of {groups:,} style groups, {len(found.pairs['validation']):,} more for "
        f"validation, over {counts['contents']:,} contents"
    )
    if counts["unknown"]:
        say(f"train: {counts['unknown']:,} of {counts['usable']:,} pairs left out: the catalogue has not both items")
    if groups < settings.train.batch:
        say(f"train: batches of {groups}, not of train.batch={settings.train.batch}: there are no more style groups")
    if not len(found.pairs["validation"]):
        say("train: no pairs for validation, so that the last weights are kept and not the best ones")


def contents_with_data(contents: DataFrame, rows: DataFrame) -> DataFrame:
    """row, title, image, image_uri of the contents."""
    return distinct_contents(rows).join(contents, "content_key").select("row", "title", "image", "image_uri")


def make_inputs(
    workshop: Workshop, work: TrainingFolder, found: PairedContents, contents: DataFrame, makers: Makers
) -> tuple[Source, dict[str, int]]:
    """What training reads of the contents, by executors into Parquet, then packed; and its counts."""
    settings, backbones = workshop.settings, workshop.settings.train.depth == "backbones"
    identity = encoder_identity(workshop)
    widths, size = widths_of(identity), identity["preprocessing"]["image"]["size"]
    counts = count_inputs(contents, identity["preprocessing"]["text"]["max_tokens"])
    needed = photo_disk(counts, size) if backbones else feature_disk(counts, widths)
    check_disk(needed, counts["contents"], settings.train.features_max_gib, work.path)
    counter = Counter(workshop.spark.sparkContext)
    policy, limits = fetch_policy(settings), decode_limits(settings)
    if backbones:
        make = makers[1](workshop.encoder, policy, limits, counter.add)
    else:
        make = makers[0](workshop.encoder, policy, limits, VARIANTS, settings.encoder.threads, counter.add)
    columns = PHOTO_COLUMNS if backbones else FEATURE_COLUMNS
    with Progress("features", counts["contents"], counter.values):
        folder = work.path / "parquet" / found.digest[:16]
        files = list(write_waves(workshop, folder, contents, counts["contents"], make, columns))
    source = pack_photos(files, work.photos, size) if backbones else pack_features(files, work.features, widths)
    shutil.rmtree(work.path / "parquet")
    missing = counts["photos"] - int(source.has_image.sum())
    check_photos(missing, counts["photos"], settings.embed)
    return source, {"bytes": needed, "photos": counts["photos"], "photos_missing": missing}


def encoder_identity(workshop: Workshop) -> dict[str, Any]:
    """Raises UsageError unless the encoder is one whose fusion or head can be trained."""
    files = EncoderFiles.open(local_copy(workshop.store, workshop.encoder.encoder_id))
    if files.kind not in ("unified", "dual_stream"):
        raise UsageError(
            f"encoder {files.encoder_id} is of kind {files.kind}, and only a fusion is trained, which kind unified "
            "has, or a head, which kind dual_stream takes: name a folder with one of these by encoder.path=..., or "
            "promote one with `samestyle encoders promote`"
        )
    return files.manifest["identity"]


def widths_of(identity: dict[str, Any]) -> Widths:
    if identity["kind"] == "dual_stream":  # which gives no tokens
        return Widths(identity["dim"], identity["dim"], 0, 0, VARIANTS)
    fusion = identity["fusion"]
    return Widths(fusion["image_half"], fusion["text_half"], fusion["image_width"], fusion["text_width"], VARIANTS)


def count_inputs(contents: DataFrame, max_tokens: int) -> dict[str, int]:
    """contents, photos, titles, and the most tokens that the titles can have: one a character and two at the ends."""
    photo = F.col("image").isNotNull() | F.col("image_uri").isNotNull()
    tokens = F.least(F.length("title") + 2, F.lit(max_tokens))
    row = only_row(
        contents.agg(
            F.count("*").alias("contents"),
            F.count_if(photo).alias("photos"),
            F.count("title").alias("titles"),
            F.coalesce(F.sum(tokens), F.lit(0)).alias("tokens"),
        )
    )
    return row.asDict()


def feature_disk(counts: dict[str, int], widths: Widths) -> int:
    """The most bytes that the features take."""
    titles = counts["titles"] * widths.title_bytes + counts["tokens"] * widths.token_bytes
    return counts["photos"] * widths.photo_bytes + titles


def photo_disk(counts: dict[str, int], size: int) -> int:
    return counts["photos"] * size * size * 3 + counts["tokens"] * 4


def check_disk(needed: int, contents: int, most_gib: float, path: Path) -> None:
    """Says what the cache takes; twice that while it is packed. Raises UsageError where it is too much."""
    gib = 2 * needed / GIB
    told = f"features of {contents:,} contents take at most {gib:.2f} GiB of disk"
    if gib > most_gib:
        raise UsageError(
            f"{told}, and train.features_max_gib is {most_gib:g}: set train.features_max_gib={math.ceil(gib)} where "
            "there is room, or train on fewer pairs, as by a higher pairs.clicks_min"
        )
    say(f"train: {told} below {path}, half of it after packing")


def write_waves(
    workshop: Workshop, folder: Path, contents: DataFrame, total: int, make: Any, columns: Sequence[str]
) -> Iterator[Path]:
    """The Parquet files of all waves; one that an interrupted run has finished is not made again."""
    embed = workshop.settings.embed
    waves = math.ceil(total / embed.wave_rows)
    tasks = tasks_of(total / waves, embed, Placement())
    for wave in range(waves):
        workshop.lease.check()
        target = folder / f"wave-{wave:05d}-of-{waves:05d}"
        if not (target / "_SUCCESS").exists():
            rows = contents.where(F.col("row") % waves == wave)
            made = rows.repartition(tasks).mapInArrow(make, ddl(columns))
            made.write.mode("overwrite").parquet(target.as_uri())
        yield from sorted(target.glob("*.parquet"))


def check_photos(missing: int, photos: int, limits: Embed) -> None:
    """A dead image server must not make an encoder of titles alone. Raises InputError."""
    if missing:
        say(f"train: {missing:,} of {photos:,} photos cannot be had or are broken; their contents show their titles")
    if missing >= limits.transient_min and missing > limits.transient_max * photos:
        raise InputError(
            f"{missing:,} of {photos:,} photos cannot be had, at most {limits.transient_max:.0%} may "
            "(embed.transient_max): is the image server up? Run again"
        )


def without_empty(pairs: Pairs, source: Source) -> Pairs:
    """The pairs of which both ends have a photo or a title."""
    full = source.has_image | source.has_text
    rows = full[pairs.trigger] & full[pairs.offer]
    return Pairs(*(array[rows] for array in (pairs.trigger, pairs.offer, pairs.group, pairs.source)))


def aligned_rows(source: Source, validation: Pairs, train: Train) -> np.ndarray:
    """The contents with photo and title, but for those that the weights are chosen by; none without alignment."""
    both = np.flatnonzero(source.has_image & source.has_text) if train.alignment else np.zeros(0, np.int64)
    return np.setdiff1d(both, np.concatenate([validation.trigger, validation.offer]))


def validation_rows(pairs: Pairs, train: Pairs, contents: int, seed: int) -> Validation:
    """The contents of whole groups, drawn by the seed until there are enough; none that training pairs show.

    And OTHERS of all `contents`, rows 0, 1, ... of the source, that no pair for validation shows.
    """
    rows, first = np.unique(np.concatenate([pairs.trigger, pairs.offer]), return_index=True)
    _, group = np.unique(np.concatenate([pairs.group, pairs.group])[first], return_inverse=True)
    random = np.random.default_rng(seed)
    others = random.permutation(np.setdiff1d(np.arange(contents), rows))[:OTHERS]
    unseen = ~np.isin(rows, np.concatenate([train.trigger, train.offer]))
    rows, group = rows[unseen], group[unseen]
    names, sizes = np.unique(group, return_counts=True)
    order = random.permutation(len(names))
    drawn = np.isin(group, names[order[np.cumsum(sizes[order]) <= VALIDATION_ROWS]])
    if not drawn.any():
        return Validation(rows[drawn], group[drawn])
    return Validation(np.concatenate([rows[drawn], others]), np.concatenate([group[drawn], np.full(len(others), NONE)]))


def keep_names(contents: Path, path: Path) -> None:
    """contents.parquet of a TrainingFolder."""
    pq.write_table(ds.dataset(contents, format="parquet").to_table(columns=["row", "name"]).sort_by("row"), path)
