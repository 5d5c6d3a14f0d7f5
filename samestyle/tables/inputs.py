"""What a night reads where the settings name no catalogue: the generated one, with its clicks."""

from collections.abc import Callable

from samestyle.demo.catalogue import write_demo_catalogue
from samestyle.errors import UsageError
from samestyle.progress import at_most_every
from samestyle.runs import paths_root
from samestyle.settings import Settings

DEMO_ATTRIBUTES = ("price", "in_stock")


def with_demo_catalogue(settings: Settings, say: Callable[[str], None]) -> Settings:
    """The settings as they are where they name a catalogue; else pointing at the demo's, which is made if need be."""
    if not settings.is_demo_catalogue:
        return settings
    if settings.env != "demo":
        raise UsageError(
            f"no catalogue is given, and the generated one is for env demo, not for {settings.env}: "
            "set catalogue.table or catalogue.path"
        )
    demo = write_demo_catalogue(
        paths_root(settings) / "catalogue",
        settings.demo.offers,
        settings.demo.day,
        settings.demo.seed,
        progress=at_most_every(5, say),
    )
    named = {
        "path": str(demo.path),
        "format": "parquet",
        "attributes": DEMO_ATTRIBUTES,
        "image_root": str(demo.image_root),
    }
    clicks = {"path": str(demo.clicks_path), "format": "parquet"}
    return settings.model_copy(
        update={
            "catalogue": settings.catalogue.model_copy(update=named),
            "clicks": settings.clicks.model_copy(update=clicks),
        }
    )
