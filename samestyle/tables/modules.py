"""Which indexes a night builds: the settings' modules and views, less what cannot be built, which is reported."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from samestyle.errors import UsageError
from samestyle.index.nodes import GraphParameters
from samestyle.index.segments import Limits
from samestyle.release.manifest import Index, Manifest
from samestyle.settings import Module, Settings, View


@dataclass(frozen=True)
class IndexTask:
    """One index to build: a view of a module, over the items that pass `where`."""

    name: str
    module: Module
    view: View
    where: str | None

    @property
    def label(self) -> str:
        return f"{self.name}/{self.view}"


def whole_catalogue(settings: Settings) -> str | None:
    """The first module that covers all items, where there is one."""
    modules = settings.modules.items()
    return next((name for name, one in modules if one.scope == "catalogue" and one.where is None), None)


def index_tasks(settings: Settings, columns: list[str], notes: list[str]) -> Iterator[IndexTask]:
    """Everything to build, in the settings' order; `notes` gets a sentence for all that is left out.

    columns: what a filter may name, the items' columns and attributes.
    """
    has_clicks = bool(settings.clicks.path or settings.clicks.table)
    for name, module in settings.modules.items():
        if not has_clicks and module.scope == "clicked_categories":
            notes.append(f"module {name} skipped: it needs a click log, and clicks.path and clicks.table are not set")
            continue
        where = usable_filter(settings, name, columns, notes)
        for view in module.views:
            yield IndexTask(name, module, view, where)


def graph_parameters(settings: Settings, module: Module, dim: int) -> GraphParameters:
    index = settings.index
    return GraphParameters(dim, module.m, module.ef_construction, index.seed, index.add_rows)


def shard_limits(settings: Settings, module: Module, dim: int) -> Limits:
    """How large a module's shards get, by rows and by memory. Raises UsageError where no shard fits the memory."""
    index, rows = settings.index, module.shard_rows
    if index.memory_gib is not None:
        graph = graph_parameters(settings, module, dim)
        rows = min(rows, graph.rows_within(int(index.memory_gib * 2**30)))
        if rows < 1:
            least = graph.build_bytes(index.add_rows) / 2**30
            raise UsageError(f"index.memory_gib is {index.memory_gib}: the smallest shard needs {least:.2f}; raise it")
    return Limits(rows, index.dead_max, index.dissolve_max)


def index_of(manifest: Manifest | None, module: str, view: str) -> Index | None:
    """A release's index, None where it has none."""
    indexes = manifest.indexes if manifest else ()
    return next((index for index in indexes if (index.module, index.view) == (module, view)), None)


def rebuild_reason(
    parent: Manifest, before: Index, settings: Settings, module: Module, dim: int, encoder_id: str
) -> str | None:
    """Why no shard of the parent's index can stay, with both values of what changed; None where shards can."""
    graph, limits = graph_parameters(settings, module, dim), shard_limits(settings, module, dim)
    pairs = {
        "the encoder": (parent.encoder.encoder_id, encoder_id),
        "shard_rows": (before.shard_rows, limits.rows),
        "m": (before.m, graph.m),
        "ef_construction": (before.ef_construction, graph.ef_construction),
        "index.seed": (before.shards[0].seed, graph.seed),
        "shard_by": (before.shard_by, module.shard_by),
    }
    return "; ".join(f"{name} was {was}, is {now}" for name, (was, now) in pairs.items() if was != now) or None


def shard_lines(settings: Settings, rows: int, dim: int, parent: Manifest | None, encoder_id: str) -> Iterator[str]:
    """The plan's lines: how large shards get, as if every row were a node of every view, and which are built anew."""
    for name, module in settings.modules.items():
        graph, limits = graph_parameters(settings, module, dim), shard_limits(settings, module, dim)
        memory, shards = graph.build_bytes(min(rows, limits.rows)) / 2**20, math.ceil(rows / limits.rows)
        yield (
            f"  build_index {name} ({', '.join(module.views)}): up to {shards} shards a view of {limits.rows:,} nodes, "
            f"{memory:,.0f} MiB of memory a shard ({graph.bytes_per_vector():,} bytes a vector)"
        )
        for view in module.views:
            before = index_of(parent, name, view)
            if parent and before and (why := rebuild_reason(parent, before, settings, module, dim, encoder_id)):
                yield f"              every shard of {view} is built anew: {why}"


def usable_filter(settings: Settings, name: str, columns: list[str], notes: list[str]) -> str | None:
    """The module's filter. A default one that names an attribute that is not mapped is dropped, a user's own never."""
    where = settings.modules[name].where
    if where is None or name in settings.own_filters or names_in(where) <= set(columns):
        return where
    notes.append(f"module {name}: default filter {where!r} dropped, catalogue.attributes has no such column")
    return None


def names_in(expression: str) -> set[str]:
    """The names of a default filter, which are plain ones such as `in_stock`."""
    return {word for word in expression.replace("(", " ").replace(")", " ").split() if word.isidentifier()}
