"""manifest.json: all that a release is. Reading is strict: the file may have been edited or damaged."""

import dataclasses
import hashlib
import json
import math
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from samestyle.errors import IntegrityError, UsageError
from samestyle.index.nodes import SPACE, GraphHealth
from samestyle.release.store import SHA256, ObjectRef, check_key

FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 2**28
MAX_DIM = 65_536
# hnswlib numbers nodes with 32 bits.
MAX_NODES = 2**32 - 1
VIEWS = ("image", "text", "fused")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
T = TypeVar("T")

Band = Literal["duplicate", "same_style", "similar"]
BANDS: tuple[Band, ...] = ("duplicate", "same_style", "similar")


def require(condition: bool, field: str, found: object, expected: str) -> None:
    """Raise IntegrityError naming the field, what was found and what was expected."""
    if not condition:
        raise IntegrityError(f"manifest: {field} is {shown(found)}, expected {expected}")


def shown(value: object, length: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


def require_name(field: str, value: str) -> None:
    """Names become parts of paths, so nothing but letters, digits, `_`, `-` and inner dots."""
    require(bool(NAME.fullmatch(value)), field, value, "letters, digits, `_`, `-`, `.`, no dot first")


def check_release_id(release_id: str) -> str:
    """The id itself. Raises UsageError if it cannot be one."""
    if not NAME.fullmatch(release_id):
        raise UsageError(f"{release_id!r} is no release id: `samestyle releases list` shows them")
    return release_id


@dataclass(frozen=True)
class Recall:
    """recall@k against exact search: the value, its 95 % interval, the number of queries."""

    k: int
    value: float
    low: float
    high: float
    queries: int

    def __post_init__(self) -> None:
        require(self.k >= 1 and self.queries >= 1, "recall k and queries", (self.k, self.queries), "at least 1")
        bounds = (self.low, self.value, self.high)
        require(0 <= bounds[0] <= bounds[1] <= bounds[2] <= 1, "recall low, value, high", bounds, "0 to 1, rising")


@dataclass(frozen=True)
class RecallPoint:
    """recall@k measured at one ef_search, with its 95 % interval.

    compared: vectors that a query is compared with in all shards together. Null in releases of former versions, as are
    the bounds.
    """

    ef: int
    recall: float
    low: float | None = None
    high: float | None = None
    compared: float | None = None


@dataclass(frozen=True)
class RecallSlice:
    """recall@k at the chosen ef_search for some of an index's queries.

    by: what `name` is, `queries` for one of their kinds, `category` for a category or one that others are below of.
    low, high: 95 % intervals that hold for all slices of the index together.
    """

    by: str
    name: str
    value: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True)
class Precision:
    """Of labelled pairs at or above a threshold the share that is right, with its 95 % interval; how many pairs that
    were; and the share of all right pairs that is among them."""

    pairs: int
    value: float
    low: float
    high: float
    recall: float

    def __post_init__(self) -> None:
        shares = (self.low, self.value, self.high, self.recall)
        require(all(0 <= share <= 1 for share in shares), "precision low, value, high, recall", shares, "0 to 1")


@dataclass(frozen=True)
class Calibration:
    """What the threshold of same_style was fitted on: `labels` in words, the precision wanted, and the one reached on
    the half of the labels that it was fitted on, and on the other half."""

    labels: str
    precision: float
    fitted: Precision
    shown: Precision


@dataclass(frozen=True)
class Thresholds:
    """Lowest cosines of the bands; `calibrated` where that of same_style was fitted on labelled pairs. calibration is
    null where it was not, and in releases of former versions."""

    same_style: float
    similar: float
    duplicate: float
    calibrated: bool = False
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        rising = (self.similar, self.same_style, self.duplicate)
        require(
            -1 <= rising[0] <= rising[1] <= rising[2] <= 1,
            "similar, same_style, duplicate",
            rising,
            "-1 to 1, rising",
        )

    def lowest(self, band: Band) -> float:
        """The lowest cosine of a band."""
        return {"duplicate": self.duplicate, "same_style": self.same_style, "similar": self.similar}[band]

    def band(self, score: float, same_supplier: bool) -> Band | None:
        """Which band a neighbour belongs to, None for none.

        duplicate: an offer of the same supplier that is nearly the same; same_style: the same style at other
        suppliers; similar: the next ones, whoever sells them. No neighbour is in two bands.
        """
        if score >= self.same_style:
            if not same_supplier:
                return "same_style"
            return "duplicate" if score >= self.duplicate else "similar"
        return "similar" if score >= self.similar else None


@dataclass(frozen=True)
class Shard:
    """One hnswlib file and its item file.

    graph: `nodes` vectors under the labels 0..nodes-1. items_file: one row an item, `items` of them alive.
    shard: its number, which it keeps as long as its graph; a later one is larger. key: the category of a module with
    shard_by. dead_share: nodes without a living item / nodes. frozen: it is full, nothing is added to it any more.
    insertion_digest: sha256 over labels and vectors in the order of insertion. orphans: vectors that their
    own search does not find; orphans_found: before they were linked again. health: how the graph hangs together.
    recall: measured on this shard alone, the mean over the index's queries at its ef_search; recall_low, recall_high:
    95 % intervals that hold for all shards of the index together. Null in releases of former versions.
    """

    shard: int
    key: str | None
    graph: ObjectRef
    items_file: ObjectRef
    nodes: int
    items: int
    dead_share: float
    frozen: bool
    seed: int
    insertion_digest: str
    orphans: int
    recall: float | None = None
    recall_low: float | None = None
    recall_high: float | None = None
    orphans_found: int | None = None
    health: GraphHealth | None = None

    def __post_init__(self) -> None:
        require(self.shard >= 0, "shard", self.shard, "0 or more")
        require(1 <= self.nodes <= MAX_NODES, f"shard {self.shard} nodes", self.nodes, f"1 to {MAX_NODES}")
        require(0 <= self.items <= MAX_NODES, f"shard {self.shard} items", self.items, f"0 to {MAX_NODES}")
        require(0 <= self.dead_share <= 1, f"shard {self.shard} dead_share", self.dead_share, "0 to 1")
        require(0 <= self.orphans <= self.nodes, f"shard {self.shard} orphans", self.orphans, f"0 to {self.nodes}")

    @property
    def living(self) -> int:
        """Nodes with a living item."""
        return round(self.nodes * (1 - self.dead_share))


def data_digest(shards: Iterable[Shard]) -> str:
    """sha256 over what decides the true neighbours: each shard's vectors, and which of them have a living item."""
    facts = sorted((shard.shard, shard.insertion_digest, shard.items_file.sha256) for shard in shards)
    return digest(json.dumps(facts).encode())


@dataclass(frozen=True)
class PlacedShard:
    """A shard of one of several indexes that are worked on together; `index` is its index's place among them."""

    index: int
    shard: Shard
    dim: int


@dataclass(frozen=True)
class Index:
    """One module and view, with what hnswlib forgets: space, dim, ef_search.

    Vectors have length 1 and lie in graphs of hnswlib's space "ip", so that 1 - distance is the cosine.
    shard_rows: nodes at which a shard is full. measured_on: data_digest of the shards that recall was measured on,
    which must be these; null in releases of former versions.
    """

    module: str
    view: str
    dim: int
    m: int
    ef_construction: int
    ef_search: int
    recall: Recall
    thresholds: Thresholds
    shards: tuple[Shard, ...]
    recall_curve: tuple[RecallPoint, ...] = ()
    recall_slices: tuple[RecallSlice, ...] = ()
    measured_on: str | None = None
    shard_by: str | None = None
    shard_rows: int | None = None
    where: str | None = None
    metric: str = "cosine"
    space: str = SPACE

    def __post_init__(self) -> None:
        name = f"index {self.module}/{self.view}"
        require_name("module", self.module)
        require(self.view in VIEWS, f"{name} view", self.view, f"one of {', '.join(VIEWS)}")
        require(
            self.metric == "cosine" and self.space == SPACE,
            f"{name} metric, space",
            (self.metric, self.space),
            f"('cosine', {SPACE!r})",
        )
        require(1 <= self.dim <= MAX_DIM, f"{name} dim", self.dim, f"1 to {MAX_DIM}")
        numbers = (self.m, self.ef_construction, self.ef_search)
        require(
            all(1 <= n <= 2**20 for n in numbers),
            f"{name} m, ef_construction, ef_search",
            numbers,
            "1 to 2**20",
        )
        shards = [shard.shard for shard in self.shards]
        require(
            bool(shards) and len(set(shards)) == len(shards),
            f"{name} shards",
            shards,
            "one or more, each once",
        )
        for shard in self.shards:
            least = shard.nodes * self.dim * 4
            require(
                shard.graph.bytes > least,
                f"{name} shard {shard.shard} graph bytes",
                shard.graph.bytes,
                f"more than {least} for {shard.nodes} vectors of {self.dim} dimensions",
            )
        require(
            self.measured_on in (None, data_digest(self.shards)),
            f"{name} measured_on",
            self.measured_on,
            f"{data_digest(self.shards)}, the digest of its shards: run evaluate_index again",
        )

    @property
    def items(self) -> int:
        """Living items of all shards."""
        return sum(shard.items for shard in self.shards)

    @property
    def nodes(self) -> int:
        return sum(shard.nodes for shard in self.shards)

    @property
    def orphans(self) -> int:
        return sum(shard.orphans for shard in self.shards)


@dataclass(frozen=True)
class EncoderEntry:
    """The query encoder: `files` by their names below its folder; `description` is its own metadata."""

    encoder_id: str
    dim: int
    files: dict[str, ObjectRef]
    description: dict[str, Any]

    def __post_init__(self) -> None:
        require_name("encoder encoder_id", self.encoder_id)
        require(1 <= self.dim <= MAX_DIM, "encoder dim", self.dim, f"1 to {MAX_DIM}")
        for name in self.files:
            require_path("encoder file name", name)


@dataclass(frozen=True)
class Source:
    """The catalogue that was read: table name or path, and its version where it has one."""

    table: str
    version: str | None = None


@dataclass(frozen=True)
class GateResult:
    """What one rule of the gate said: both values, and a sentence with them and the way out."""

    rule: str
    passed: bool
    value: float
    limit: float
    sentence: str


@dataclass(frozen=True)
class VectorProbe:
    """What a fixed sample of the items says of a view's vectors.

    items: probes that have this view. bad: vectors that are zero, not finite, or not of length 1. centroid_shift:
    length of the difference of the mean vectors, norm_shift: of the mean lengths, both against the parent's vectors of
    the same items; null where the parent was made by another encoder, or there is none.
    """

    view: str
    items: int
    bad: int
    centroid_shift: float | None = None
    norm_shift: float | None = None


@dataclass(frozen=True)
class NeighbourProbe:
    """overlap: share of the neighbours, that the parent lists for a fixed sample of items and that still serve, which
    are listed again. items: probes that both list; neighbours: how many were looked for."""

    module: str
    items: int
    neighbours: int
    overlap: float

    def __post_init__(self) -> None:
        require(0 <= self.overlap <= 1, f"overlap of {self.module}", self.overlap, "0 to 1")


@dataclass(frozen=True)
class QualityProbe:
    """recall@1 of the parent's encoder and of this one in the latest evaluation that both have."""

    evaluation: str
    direction: str
    before: float
    after: float


@dataclass(frozen=True)
class Probes:
    """What is compared with the parent beyond counts."""

    vectors: tuple[VectorProbe, ...] = ()
    neighbours: tuple[NeighbourProbe, ...] = ()
    quality: tuple[QualityProbe, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """All that a release is: immutable, written last, by publish alone.

    created_at: ISO 8601, UTC. ledger: read, fresh, reused, stale, degraded, rejected, deleted. style_recall:
    same-style R@1 by view, where a style column is mapped. display: files for web pages, by name. probes: how it
    differs from the parent. forced: why it was published although the gate refused.
    """

    release_id: str
    created_at: str
    parent: str | None
    run_id: str
    code_version: str
    settings: dict[str, Any]
    settings_digest: str
    source: Source
    items_version: str
    encoder: EncoderEntry
    ledger: dict[str, int]
    indexes: tuple[Index, ...]
    style_recall: dict[str, float] | None = None
    display: dict[str, ObjectRef] | None = None
    probes: Probes | None = None
    gate: tuple[GateResult, ...] = ()
    forced: str | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        require(self.format_version == FORMAT_VERSION, "format_version", self.format_version, str(FORMAT_VERSION))
        require_name("release_id", self.release_id)
        require_name("run_id", self.run_id)
        if self.parent is not None:
            require_name("parent", self.parent)
        for name in self.display or {}:
            require_path("display name", name)
        names = [(index.module, index.view) for index in self.indexes]
        require(
            bool(names) and len(set(names)) == len(names),
            "indexes",
            names,
            "one or more, each module and view once",
        )
        for index in self.indexes:
            require(
                index.dim == self.encoder.dim,
                f"index {index.module}/{index.view} dim",
                index.dim,
                f"{self.encoder.dim}, the encoder's",
            )

    def modules(self) -> list[str]:
        """Names of the modules, in order."""
        return list(dict.fromkeys(index.module for index in self.indexes))

    def index(self, module: str, view: str) -> Index:
        """The index of a module and view. Raises UsageError naming those that there are."""
        for index in self.indexes:
            if (index.module, index.view) == (module, view):
                return index
        there = ", ".join(f"{index.module}/{index.view}" for index in self.indexes)
        raise UsageError(f"release {self.release_id} has no index {module}/{view}: it has {there}")

    def module_items(self, module: str) -> int:
        """Living items of a module: of its largest view, as some items have no photo or no title."""
        return max((index.items for index in self.indexes if index.module == module), default=0)

    def objects(self) -> dict[str, ObjectRef]:
        """Every object that the release needs, by key."""
        refs = [ref for index in self.indexes for shard in index.shards for ref in (shard.graph, shard.items_file)]
        refs += [*self.encoder.files.values(), *(self.display or {}).values()]
        return {ref.key: ref for ref in refs}

    def to_json(self) -> bytes:
        """Readable, the same bytes for the same manifest."""
        text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Read untrusted bytes. Raises IntegrityError naming the field, what it is and what was expected."""
        tree = read_json("manifest", data, MAX_MANIFEST_BYTES)
        require(isinstance(tree, dict), "the whole", tree, "an object")
        version = tree.get("format_version")
        require(
            version == FORMAT_VERSION and type(version) is int,
            "format_version",
            version,
            f"{FORMAT_VERSION}: this samestyle reads no other",
        )
        return decode(cls, tree, "")


def read_json(name: str, data: bytes, most: int) -> Any:
    """Parse untrusted JSON of at most `most` bytes. Raises IntegrityError, also for NaN and doubled keys."""
    if len(data) > most:
        raise IntegrityError(f"{name} has {len(data)} bytes, expected at most {most}")
    try:
        return json.loads(data, object_pairs_hook=without_doubles, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name} is not readable as JSON ({error}): restore it, or roll back") from error


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return tree


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def require_path(field: str, value: str) -> None:
    """Relative file names, with folders, that stay inside theirs."""
    try:
        check_key(value)
    except UsageError as error:
        raise IntegrityError(f"manifest: {field} is {shown(value)}, which is no safe file name: {error}") from error


def decode(kind: Any, value: Any, field: str) -> Any:
    """JSON to a (nested) dataclass by its type hints. Fields that a later version added are passed over."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return decode_dataclass(kind, value, field)
    if origin is types.UnionType:
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else decode(inner, value, field)
    if origin is tuple:
        require(isinstance(value, list | tuple), field, value, "a list")
        return tuple(decode(arguments[0], item, f"{field}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        require(isinstance(value, dict), field, value, "an object")
        return {key: decode(arguments[1], item, f"{field}.{key}") for key, item in value.items()}
    return value if kind is Any else decode_scalar(kind, value, field)


def decode_dataclass(kind: type[T], value: Any, field: str) -> T:
    require(isinstance(value, dict), field or "the whole", value, "an object")
    hints = get_type_hints(kind)
    known = {}
    for entry in dataclasses.fields(kind):  # type: ignore[arg-type]
        name = f"{field}.{entry.name}".lstrip(".")
        optional = entry.default is not dataclasses.MISSING
        require(optional or entry.name in value, name, "missing", "to be there")
        if entry.name in value:
            known[entry.name] = decode(hints[entry.name], value[entry.name], name)
    try:
        return kind(**known)
    except IntegrityError as error:
        raise IntegrityError(f"{error} (at {field or 'the top'})") from None


def decode_scalar(kind: type, value: Any, field: str) -> Any:
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    require(type(value) is kind, field, value, f"of type {kind.__name__}")
    require(kind is not float or math.isfinite(value), field, value, "a finite number")
    return value


def require_target(release_id: str, manifest_sha256: str) -> None:
    """What a channel names, or named once: a release and its manifest's digest."""
    require_name("channel release_id", release_id)
    require(bool(SHA256.fullmatch(manifest_sha256)), "channel manifest_sha256", manifest_sha256, "64 digits")


@dataclass(frozen=True)
class Change:
    """One move of a channel: `action` is publish, promote or rollback."""

    action: str
    release_id: str
    manifest_sha256: str
    at: str

    def __post_init__(self) -> None:
        require_target(self.release_id, self.manifest_sha256)


@dataclass(frozen=True)
class Pointer:
    """What a channel names. `previous` is where a rollback goes; `history` the latest moves, newest last."""

    release_id: str
    manifest_sha256: str
    published_at: str
    previous: str | None
    history: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        require_target(self.release_id, self.manifest_sha256)
        if self.previous is not None:
            require_name("channel previous", self.previous)

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Pointer":
        """Read untrusted bytes. Raises IntegrityError."""
        return decode(cls, read_json("channel", data, 2**20), "")

    def known_digests(self) -> Iterator[tuple[str, str]]:
        """(release_id, manifest sha256) of all moves that are remembered."""
        for change in self.history:
            yield change.release_id, change.manifest_sha256


def manifest_key(release_id: str) -> str:
    """Where a release's manifest lies in its store."""
    return f"releases/{check_release_id(release_id)}/manifest.json"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
