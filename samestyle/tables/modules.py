"""Which indexes a night builds: the settings' modules and views, less what cannot be built, which is reported."""

from collections.abc import Iterator
from dataclasses import dataclass

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


def index_tasks(settings: Settings, columns: list[str], notes: list[str]) -> Iterator[IndexTask]:
    """Everything to build, in the settings' order; `notes` gets a sentence for all that is left out.

    columns: what a filter may name, the items' columns and attributes.
    """
    has_clicks = bool(settings.clicks.path or settings.clicks.table)
    for name, module in settings.modules.items():
        if not has_clicks and "clicked" in (module.scope + module.triggers):
            notes.append(f"module {name} skipped: it needs a click log, and clicks.path and clicks.table are not set")
            continue
        where = usable_filter(settings, name, columns, notes)
        for view in module.views:
            yield IndexTask(name, module, view, where)


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
