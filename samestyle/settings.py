"""Settings: one frozen, typed tree, read on the driver only.

Layers, later ones win: conf/base.yaml (every key, with its default), conf/<env>.yaml (differences only), a file named
by `--settings`, and `a.b=value` words on the command line. What executors need travels in closures, never as this tree.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from samestyle.errors import UsageError

View = Literal["image", "text", "fused"]
ENVIRONMENTS = ("demo", "dev", "prod")


class Section(BaseModel):
    """A branch of the tree: cannot be changed, knows no other keys than its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class CatalogueColumns(Section):
    """Which of the source's columns is which of ours. A column that already has our name maps itself."""

    item_id: str | None = Field(None, description="Identifies an offer; required.")
    title: str | None = Field(None, description="The offer's title; at least one of title and photo is needed.")
    image: str | None = Field(None, description="The photo's bytes, as a binary column.")
    image_uri: str | None = Field(None, description="Where the photo lies; read by the workers.")
    image_version: str | None = Field(None, description="Changes when the photo behind an unchanged URI does.")
    supplier_id: str | None = Field(None, description="Who sells it; same-style neighbours come from other suppliers.")
    category: str | None = Field(None, description="Path of category names, joined by `/`.")
    updated_at: str | None = Field(None, description="Of several rows with one item_id the newest wins.")
    style_group: str | None = Field(None, description="The true style; used by evaluation only.")


class Catalogue(Section):
    """The table of offers that a night reads."""

    table: str | None = Field(None, description="Name of a Spark catalogue table, for example shop.items.")
    path: str | None = Field(None, description="Folder or file of the catalogue, where it is no named table.")
    format: Literal["delta", "parquet", "json", "csv"] = Field("parquet", description="Format of catalogue.path.")
    columns: CatalogueColumns = Field(CatalogueColumns(), description="Our column names to the source's.")
    attributes: tuple[str, ...] = Field(
        (),
        description="Further columns of the source that module filters and readers may use, such as price.",
    )
    image_root: str | None = Field(
        None, description="Folder that relative image URIs start from; default: the catalogue's own folder."
    )
    refetch_days: int = Field(30, ge=1, description="A URI without a version is fetched again after this many days.")
    sample: float = Field(
        1.0, gt=0, le=1, description="Share of the items that are read, by a hash of item_id; --sample sets it."
    )


class ClickColumns(Section):
    """Which of the click log's columns is which of ours."""

    user_id: str | None = Field(None, description="The shopper.")
    session_id: str | None = Field(None, description="One visit of a shopper.")
    item_id: str | None = Field(None, description="The offer that was clicked; required.")
    query: str | None = Field(None, description="The words that led to the click.")
    clicked_at: str | None = Field(None, description="When: a timestamp, or seconds since 1970.")


class Clicks(Section):
    """The click log: which categories the history module covers, and whose neighbours it lists."""

    table: str | None = Field(None, description="Name of a Spark catalogue table.")
    path: str | None = Field(None, description="Folder or file of the log, where it is no named table.")
    format: Literal["delta", "parquet", "json", "csv"] = Field("parquet", description="Format of clicks.path.")
    columns: ClickColumns = Field(ClickColumns(), description="Our column names to the source's.")
    window_days: int = Field(30, ge=1, description="Clicks older than this, seen from the newest one, are ignored.")


class Paths(Section):
    """Where things are written."""

    root: str | None = Field(None, description="Everything that a run writes lies below this folder; required.")
    shared: bool = Field(False, description="paths.root is a local path that every executor sees at the same place.")


class Tables(Section):
    """The tables that we write."""

    format: Literal["delta", "parquet"] = Field("delta", description="Format of our own tables.")
    optimize: bool = Field(True, description="Join a table's small files where there are many; Delta only.")
    file_mib: int = Field(256, ge=1, description="Size of the joined files, in MiB.")
    vacuum_hours: float | None = Field(
        168.0,
        ge=0,
        description="Files that nothing reads any more are removed when this old, and never what a kept release was "
        "made from; null: never.",
    )
    retain_days: int | None = Field(
        90,
        ge=0,
        description="Vectors and neighbours that no kept release uses are removed when this old; null: never; Delta "
        "only.",
    )
    dead_share: float = Field(
        0.1, ge=0, le=1, description="Vectors are removed once they are this share, as files are written anew for it."
    )


class Demo(Section):
    """The generated catalogue, made where no catalogue is given."""

    day: int = Field(1, ge=1, description="2, 3, ... moves the demo catalogue on by days.")
    offers: int = Field(3000, ge=60, description="Number of offers on day 1.")
    seed: int = Field(7, description="Another seed, another shop.")


class EncoderSettings(Section):
    """The encoder, and how it is run."""

    path: str | None = Field(None, description="Folder of an exported encoder; default: the one that set-up exported.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where nights embed: cpu; cuda, a GPU a task; auto: cuda where Spark has GPUs for executors.",
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        "fp16", description="Of a GPU. fp16 is close to a CPU's vectors; bf16 is not, but never overflows."
    )
    batch_size: int | None = Field(
        None, ge=1, description="Images or titles a forward pass; default: 32, on a GPU 256."
    )
    threads: int = Field(1, ge=1, description="Threads a worker on CPUs; one a core in use is fastest.")


class Images(Section):
    """What a worker may fetch and decode. Image URIs and bytes are untrusted."""

    schemes: tuple[str, ...] = Field(("file", "http", "https", "s3"), description="URI schemes that are fetched.")
    roots: tuple[str, ...] = Field(
        (), description="Folders below which file URIs may lie, besides catalogue.image_root."
    )
    allow_private_networks: bool = Field(False, description="Fetch from private and loopback addresses too.")
    max_bytes: int = Field(20 * 2**20, ge=1, description="Largest photo, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest photo, in pixels, checked before decoding.")
    max_side: int = Field(16_000, ge=1, description="Longest side of a photo, in pixels.")
    min_side: int = Field(8, ge=1, description="Shortest side of a photo, in pixels; smaller ones are placeholders.")
    timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for a connection or the next bytes.")
    deadline_s: float = Field(30.0, gt=0, description="Seconds for a whole photo; ends slow drips.")
    max_redirects: int = Field(3, ge=0, description="Redirects followed, each checked like the first address.")
    retries: int = Field(2, ge=0, description="Further tries at once after a transient failure.")
    connections_per_host: int = Field(
        8, ge=1, description="Most connections of a worker to one host at once; s3 counts as one host."
    )


class Embed(Section):
    """The embedding job."""

    wave_rows: int = Field(50_000, ge=1, description="Contents committed together; a killed run loses at most these.")
    task_rows: int | None = Field(None, ge=1, description="Contents a Spark task; default: 500, on a GPU 10,000.")
    task_gpus: float = Field(
        1.0, gt=0, le=1, description="GPUs that a task asks Spark for; with 0.5 two tasks share one."
    )
    task_cores: int | None = Field(
        None, ge=1, description="Cores that a task on a GPU asks for; default: its share of spark.executor.cores."
    )
    fetch_threads: int = Field(
        16,
        ge=1,
        description="Photos that a worker fetches at once, at most; on a GPU at least two for each that is decoded.",
    )
    decode_threads: int | None = Field(
        None, ge=1, description="Photos that a worker decodes at once; default: 1, on a GPU as many as it has cores."
    )
    max_title_chars: int = Field(512, ge=1, description="Titles are cut to this many characters.")
    backoff_hours: float = Field(
        12.0,
        ge=0,
        description="A failure is tried again after this many hours, twice as many after the next one in a row, and so "
        "on up to catalogue.refetch_days.",
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="What an hour of the machines that embed costs; --dry-run then estimates the cost."
    )
    transient_max: float = Field(
        0.2,
        ge=0,
        le=1,
        description="A wave with a larger share of transient failures stops the run (exit 5).",
    )
    transient_min: int = Field(20, ge=0, description="Fewer failures than this never stop a run, however small it is.")


class Module(Section):
    """One use of the index, with its own items, views and graphs."""

    views: tuple[View, ...] = Field(("fused",), min_length=1, description="Which vectors are indexed.")
    where: str | None = Field(
        None,
        description="Spark SQL over the items table and the attributes; items that fail it are left out.",
    )
    scope: Literal["catalogue", "clicked_categories"] = Field(
        "catalogue", description="All items, or those of the leaf categories clicked within the window."
    )
    triggers: Literal["catalogue", "clicked"] = Field(
        "catalogue",
        description="Whose neighbours are listed: all items', or the clicked ones' where there is a click log.",
    )
    shard_by: Literal["category"] | None = Field(
        None,
        description="Keep each leaf category in shards of its own; otherwise contents are spread evenly.",
    )
    shard_rows: int = Field(1_000_000, ge=1, description="Nodes a shard.")
    m: int = Field(16, ge=2, le=256, description="Links a node and upper layer; twice as many on the lowest.")
    ef_construction: int = Field(200, ge=4, description="Candidates kept while a node is inserted.")
    recall_target: float = Field(
        0.95, gt=0, le=1, description="The smallest ef_search whose recall passes this is chosen."
    )


class Index(Section):
    """What all shards have in common."""

    seed: int = Field(42, description="Seeds the order of insertion and the levels of the graphs.")
    add_rows: int = Field(10_000, ge=1, description="Vectors handed to hnswlib at a time.")
    memory_gib: float | None = Field(
        None,
        gt=0,
        description="Most memory of a task that builds a shard, in GiB; makes shards smaller than shard_rows.",
    )
    dead_max: float = Field(
        0.3, gt=0, le=1, description="A shard of whose nodes a larger share is dead is dissolved, some of them earlier."
    )
    dissolve_max: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Share of an index's living nodes that dissolving may insert a night; one shard may always go.",
    )
    ef_search: tuple[int, ...] = Field(
        (10, 20, 40, 80, 160, 320), min_length=1, description="The values of ef_search that are measured."
    )


class EvaluationPairs(Section):
    """Labelled pairs of offers to measure an encoder on."""

    path: str | None = Field(None, description="Folder or file of the pairs; default: no labelled pairs.")
    format: Literal["delta", "parquet", "json", "csv"] = Field(
        "parquet", description="Format of evaluation.pairs.path."
    )


class Evaluation(Section):
    """How a build and an encoder are measured."""

    queries: int = Field(
        500,
        ge=1,
        description="Queries a module and view, or a set of evaluate_encoder. Of an index up to a third each are "
        "clicked items and contents that it does not hold, the others its own vectors, moved.",
    )
    k: int = Field(10, ge=1, description="recall@k.")
    perturbation: float = Field(
        0.2, ge=0, description="Length of the random step that moves a query away from the indexed vector."
    )
    pairs: EvaluationPairs = Field(EvaluationPairs(), description="Labelled pairs to measure an encoder on.")
    split_column: str | None = Field(
        None, description="Catalogue column whose values tell queries from pool; default: every item queries the rest."
    )
    query_split: str | None = Field(None, description="Value of evaluation.split_column that marks queries.")
    pool_split: str | None = Field(None, description="Value of evaluation.split_column that marks the pool.")
    unseen: bool = Field(False, description="Let only styles ask of which no training pair has shown an offer.")
    bootstrap: int = Field(1000, ge=100, description="Resamples behind each 95 % interval of encoder quality.")


class Neighbours(Section):
    """The lists of neighbours. Scores are cosines."""

    k: int = Field(10, ge=1, description="Neighbours a band that are shown.")
    keep: int = Field(
        20, ge=1, description="Neighbours a band that are kept, so that withdrawals can be made up for; at least k."
    )
    candidates: int = Field(100, ge=1, description="Nodes of a shard that are searched for before bands are made.")
    supplier_max: int = Field(
        3, ge=1, description="Further offers of one supplier come after all others of their band."
    )
    searches_max: int | None = Field(
        10_000_000, ge=1, description="A night that would search more nodes than this is refused; null: none is."
    )
    precision: float = Field(
        0.9, gt=0, le=1, description="Share of the band same_style that should be right: its threshold follows from it."
    )
    labelled: int = Field(2000, ge=1, description="Sampled items whose neighbours are compared with their true styles.")
    same_style_min: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Lowest score of the band same_style; null: calibrated on labels, or 0.85 where there are none.",
    )
    similar_min: float = Field(0.5, ge=-1, le=1, description="Lowest score of the band similar.")
    duplicate_min: float = Field(0.95, ge=-1, le=1, description="Lowest score of the band duplicate.")

    @model_validator(mode="after")
    def keeps_what_it_shows(self) -> "Neighbours":
        if self.keep < self.k:
            raise ValueError(f"keep is {self.keep} and k is {self.k}: lists cannot be shorter than what they show")
        return self


class Pairs(Section):
    """Training pairs from the click log: which clicks of one visit show the same style."""

    path: str | None = Field(None, description="Ready pairs instead of clicks, with a label where known.")
    format: Literal["delta", "parquet", "json", "csv"] = Field("parquet", description="Format of pairs.path.")
    session_items_max: int = Field(50, ge=2, description="Visits with more distinct items are robots: left out.")
    clicks_min: int = Field(1, ge=1, description="Fewest visits in which both offers were clicked.")
    title_min: float = Field(0.3, ge=-1, le=1, description="Lowest cosine of the titles' vectors.")
    fused_min: float = Field(0.7, ge=-1, le=1, description="Lowest cosine of the fused vectors.")
    per_item_max: int = Field(20, ge=1, description="Most pairs of one offer; the most clicked ones stay.")
    validation_share: float = Field(0.1, ge=0, lt=1, description="Share of the style groups kept for validation.")
    test_share: float = Field(0.1, ge=0, lt=1, description="Share of the style groups kept for testing.")
    seed: int = Field(0, description="Seeds which groups are kept.")


class Losses(Section):
    """What training minimises: a weighted sum; weight 0 leaves a loss out."""

    published: bool = Field(False, description="The published losses as they are: one direction, no mask of groups.")
    ppm: float = Field(1.0, ge=0, description="Weight of product-to-product matching.")
    pdc: float = Field(1.0, ge=0, description="Weight of product distinctiveness.")
    lc: float = Field(1.0, ge=0, description="Weight of locality consistency.")
    infonce: float = Field(0.1, ge=0, description="Weight of InfoNCE in each of its directions.")
    single_views: float = Field(1.0, ge=0, description="Weight of the matching of photo to photo, and title to title.")
    margin: float = Field(0.2, ge=0, description="Margin of PPM and PDC, a difference of cosines.")
    lc_margin: float = Field(0.01, ge=0, description="Margin of LC, a squared difference of cosines.")
    temperature: float = Field(0.1, gt=0, description="Temperature of InfoNCE.")


class Train(Section):
    """Training of an encoder."""

    start: Literal["current", "scratch"] = Field("current", description="Weights to start from, where they fit.")
    depth: Literal["fusion", "backbones"] = Field(
        "fusion", description="What is trained: the fusion alone, on cached features, or the backbones too (GPU)."
    )
    residual_cap: float | None = Field(
        0.45, gt=0, description="Largest norm that the fusion adds to the base; null: no base, the published form."
    )
    width: int = Field(192, ge=8, description="Width of the fusion.")
    layers: int = Field(1, ge=1, description="Layers of the fusion.")
    heads: int = Field(4, ge=1, description="Attention heads of the fusion.")
    batch: int = Field(64, ge=2, description="Pairs a step, all of different style groups.")
    steps: int = Field(1000, ge=0, description="Steps of training.")
    learning_rate: float = Field(7e-4, gt=0, description="Highest learning rate; falls to 0 along a cosine.")
    warmup: int = Field(50, ge=0, description="Steps over which the learning rate rises.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of AdamW.")
    clip_norm: float = Field(1.0, gt=0, description="Gradients of a larger norm are scaled down to it.")
    modality_dropout: float = Field(0.15, ge=0, lt=1, description="Share of fused passes that lose photo or title.")
    token_dropout: float = Field(0.15, ge=0, lt=1, description="Share of tokens left out.")
    alignment: float = Field(
        0.5, ge=0, le=1, description="Share of a batch that pairs an offer with itself: its photo with its title."
    )
    own_contents: int = Field(
        5000, ge=0, description="Contents of the catalogue, paired or not, whose photo and title are aligned."
    )
    average: float = Field(
        0.99, ge=0, lt=1, description="What is kept is a moving average of the weights; share that stays at each step."
    )
    evaluate_every: int = Field(100, ge=1, description="Steps between two looks at the validation split.")
    seed: int = Field(0, description="Seeds weights, batches and dropout; same seed, same weights on one machine.")
    processes: int = Field(1, ge=1, description="Training processes, with one thread each; one a GPU.")
    features_max_gib: float = Field(20.0, gt=0, description="Most disk that cached features may take.")


class Calibrate(Section):
    """Calibration of an encoder on the catalogue, without labels."""

    rows: int = Field(
        5000, ge=1, le=50_000, description="Most contents of the catalogue that the projection is fitted on."
    )


class Preflight(Section):
    """Checks before anything is written, against what serves now."""

    shrink_max: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Largest share of the served items that may be missing from the catalogue.",
    )
    duplicates_max: float = Field(0.1, ge=0, le=1, description="Largest share of rows that repeat an item_id.")


class Gate(Section):
    """Limits that a release must keep; a release beyond one of them is not published."""

    recall_min: float = Field(
        0.9, ge=0, le=1, description="Lowest recall@k: the whole's lower bound, a shard's or slice's upper."
    )
    orphans_max: int = Field(0, ge=0, description="Vectors that their own search finds neither itself nor an equal.")
    items_min: int = Field(1, ge=0, description="Fewest items of the search module, or of the first one.")
    shrink_max: float = Field(0.3, ge=0, le=1, description="Largest share by which a module may shrink.")
    growth_max: float = Field(1.0, ge=0, description="Largest share by which a module may grow.")
    rejected_max: float = Field(0.2, ge=0, le=1, description="Largest share of catalogue rows that are rejected.")
    degraded_max: float = Field(0.2, ge=0, le=1, description="Largest share embedded without their broken photo.")
    stale_max: float = Field(0.2, ge=0, le=1, description="Largest share that serves its former content.")
    style_recall_min: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Lowest same-style R@1 of the fused view, where a style column is mapped.",
    )
    style_drop_max: float = Field(
        0.2, ge=0, le=1, description="Largest loss of same-style R@1 of a view against the release before."
    )
    quality_drop_max: float = Field(
        0.05, ge=0, le=1, description="Largest loss of recall@1 of a new encoder in the evaluation that both have."
    )
    probes: int = Field(
        500, ge=0, description="Items whose vectors and neighbours are compared with the release before."
    )
    bad_vectors_max: int = Field(0, ge=0, description="Sampled vectors that are zero, not finite or not of length 1.")
    centroid_shift_max: float = Field(
        0.25, ge=0, description="Largest shift of a view's mean vector, over the same items, between two releases."
    )
    norm_shift_max: float = Field(0.001, ge=0, description="Largest shift of the mean length of a view's vectors.")
    overlap_min: float = Field(
        0.5, ge=0, le=1, description="Lowest share of the sampled items' neighbours that are found again."
    )
    balance_max: float = Field(
        3.0, ge=1, description="Largest shard of an index, in means of its shards, where it is not cut by category."
    )


class Release(Section):
    """What is handed to serving."""

    store: str | None = Field(
        None, description="Where releases lie: s3://bucket/prefix, or a folder; default: store/ below paths.root."
    )
    channel: str = Field("current", pattern=r"^[a-z0-9_-]+$", description="The pointer that publish moves.")
    keep: int = Field(7, ge=1, description="Releases that are kept, besides those that a channel names.")
    grace_hours: float = Field(
        24.0, ge=0, description="Nothing younger is removed: a build uploads before it is published."
    )
    display: bool = Field(
        False,
        description="Carry titles and thumbnails as well, for `samestyle serve`; thumbnails are made while photos are "
        "embedded, so that photos embedded before have none.",
    )


class Lock(Section):
    """Two nights never run at once."""

    lease_s: float = Field(120.0, gt=0, description="A holder that is silent for this long counts as dead.")


class Notify(Section):
    """Who is told of the end of a run."""

    command: str | None = Field(
        None, description="Run at the end of every run, with the path of summary.json added, and the file as its input."
    )
    timeout_s: float = Field(60.0, gt=0, description="Seconds after which the command is ended.")


DEFAULT_MODULES = {
    "search": Module(views=("fused", "image", "text")),
    "homepage": Module(where="in_stock", triggers="clicked"),
    "history": Module(where="in_stock", scope="clicked_categories", triggers="clicked"),
}


class Settings(Section):
    """The whole tree."""

    env: Literal["demo", "dev", "prod"] = Field("demo", description="Which conf/<env>.yaml was read.")
    catalogue: Catalogue = Field(Catalogue(), description="The table of offers.")
    clicks: Clicks = Field(Clicks(), description="The click log.")
    paths: Paths = Field(Paths(), description="Where things are written.")
    tables: Tables = Field(Tables(), description="The tables that we write.")
    demo: Demo = Field(Demo(), description="The generated catalogue.")
    encoder: EncoderSettings = Field(EncoderSettings(), description="The encoder.")
    images: Images = Field(Images(), description="Fetching and decoding photos.")
    embed: Embed = Field(Embed(), description="The embedding job.")
    modules: dict[str, Module] = Field(
        DEFAULT_MODULES,
        min_length=1,
        description="The modules, by name; a further block is a further one, and `null` switches one off.",
    )
    index: Index = Field(Index(), description="What all shards have in common.")
    evaluation: Evaluation = Field(Evaluation(), description="How a build and an encoder are measured.")
    pairs: Pairs = Field(Pairs(), description="Training pairs from the click log.")
    losses: Losses = Field(Losses(), description="What training minimises.")
    train: Train = Field(Train(), description="Training of an encoder.")
    calibrate: Calibrate = Field(Calibrate(), description="Calibration of an encoder on the catalogue, without labels.")
    neighbours: Neighbours = Field(Neighbours(), description="The lists of neighbours.")
    preflight: Preflight = Field(Preflight(), description="Checks before anything is written.")
    gate: Gate = Field(Gate(), description="Limits that a release must keep.")
    release: Release = Field(Release(), description="What is handed to serving.")
    lock: Lock = Field(Lock(), description="Two nights never run at once.")
    notify: Notify = Field(Notify(), description="Who is told of the end of a run.")
    own_filters: tuple[str, ...] = Field((), exclude=True)  # modules whose filter is the user's own

    @field_validator("modules", mode="before")
    @classmethod
    def without_switched_off(cls, blocks: Any) -> Any:
        """`modules.history=null` takes out a module that a layer below has."""
        if not isinstance(blocks, dict):
            return blocks  # for pydantic to refuse
        return {name: block for name, block in blocks.items() if block is not None}

    @property
    def store_uri(self) -> str:
        """Where releases, encoders and locks lie."""
        return self.release.store or f"{self.paths.root}/store"

    @property
    def is_demo_catalogue(self) -> bool:
        """True where no catalogue is given, so that the generated one is used."""
        return self.catalogue.table is None and self.catalogue.path is None

    def digest(self) -> str:
        """sha256 (hex) of all settings that decide what a run produces."""
        dumped = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(dumped.encode()).hexdigest()


def conf_folder() -> Path:
    """Folder of the YAML files: next to the code, or the working folder where they came by `--files`."""
    home = os.environ.get("SAMESTYLE_HOME")
    candidates = [Path(home) / "conf"] if home else []
    candidates += [Path(__file__).resolve().parents[1] / "conf", Path.cwd()]
    for folder in candidates:
        if (folder / "base.yaml").is_file():
            return folder
    raise UsageError(
        f"conf/base.yaml is in none of {', '.join(map(str, candidates))}: "
        "run from a checkout, or ship the files of conf/ with --files"
    )


def load_settings(env: str | None = None, file: str | Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Read all layers; `overrides` are words such as `demo.day=2`. Raises UsageError for whatever is wrong."""
    env = env or os.environ.get("SAMESTYLE_ENV") or "demo"
    if env not in ENVIRONMENTS:
        raise UsageError(f"unknown environment {env!r}: choose one of {', '.join(ENVIRONMENTS)}")
    conf = conf_folder()
    base = read_yaml(conf / "base.yaml")
    own = merge(read_yaml(conf / f"{env}.yaml"), read_yaml(Path(file)) if file else {})
    for word in overrides:
        own = merge(own, parse_override(word))
    tree = merge(merge(base, own), {"env": env})
    modules = own.get("modules")
    blocks = modules.items() if isinstance(modules, dict) else ()
    tree["own_filters"] = [name for name, block in blocks if isinstance(block, dict) and "where" in block]
    return validate(tree)


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read settings file {path}: {error}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"settings file {path} holds a {type(tree).__name__}: write `key: value` lines")
    return tree


def parse_override(word: str) -> dict[str, Any]:
    """`a.b=value` as a nested dict; the value is read as YAML, so that numbers and lists work."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise UsageError(f"cannot read {word!r}: settings are given as a.b=value, for example demo.day=2")
    try:
        tree: Any = yaml.safe_load(value) if value else None
    except yaml.YAMLError as error:
        raise UsageError(f"cannot read the value of {word!r}: {error}; quote it, as in {key}='\"text\"'") from None
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested dicts as one; where both have a key, `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def validate(tree: dict[str, Any]) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise UsageError("\n".join(explain(item) for item in error.errors())) from None


def explain(item: Any) -> str:
    """One pydantic complaint in our words."""
    path = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(".".join(path), list(all_keys(path)), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "conf/base.yaml lists them all"
        return f"unknown setting {'.'.join(path)}: {hint}"
    return f"setting {'.'.join(path)} is {item['input']!r}: {item['msg']}"


def all_keys(path: list[str]) -> Iterator[str]:
    """Every dotted key of the tree; under `modules` with the module's name that `path` has."""
    for key, _ in describe(Settings):
        module = path[1] if len(path) > 1 and path[0] == "modules" else "search"
        yield key.replace("modules.<name>", f"modules.{module}")


def describe(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, pydantic field) of every leaf, in order; modules appear once as `modules.<name>`."""
    for name, field in section.model_fields.items():
        if field.exclude:
            continue
        key = prefix + name
        branch = branch_of(field.annotation)
        if branch is None:
            yield key, field
        else:
            yield from describe(branch, f"{key}.<name>." if name == "modules" else f"{key}.")


def branch_of(annotation: Any) -> type[Section] | None:
    """The section that a field holds, itself or as the values of a dict; None for a leaf."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def to_yaml(settings: Settings) -> str:
    """The resolved tree, as `--dry-run` prints it."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
