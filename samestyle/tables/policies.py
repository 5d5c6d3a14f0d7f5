"""What workers may fetch and decode, from the settings: what travels to executors in place of the tree."""

from pathlib import Path

from samestyle.catalogue.fetch import FetchPolicy
from samestyle.catalogue.images import DecodeLimits
from samestyle.settings import Catalogue, Settings


def fetch_policy(settings: Settings) -> FetchPolicy:
    """Where photos may be read from: below the catalogue's own image folder, and what the settings add."""
    images, base = settings.images, image_base(settings.catalogue)
    return FetchPolicy(
        schemes=images.schemes,
        file_roots=(*([base] if base and "://" not in base else []), *images.roots),
        base=base,
        allow_private_networks=images.allow_private_networks,
        max_bytes=images.max_bytes,
        timeout_s=images.timeout_s,
        deadline_s=images.deadline_s,
        max_redirects=images.max_redirects,
        retries=images.retries,
        connections_per_host=images.connections_per_host,
    )


def image_base(catalogue: Catalogue) -> str | None:
    """Where relative image URIs start from: the catalogue's own folder; a named table has none."""
    named = catalogue.image_root or catalogue.path
    if named is None:
        return None
    path = named.removeprefix("file://")
    if "://" in path:
        return path if catalogue.image_root else path.rpartition("/")[0]
    folder = Path(path).absolute()
    return str(folder if catalogue.image_root or folder.is_dir() else folder.parent)


def decode_limits(settings: Settings) -> DecodeLimits:
    images = settings.images
    return DecodeLimits(images.max_pixels, images.max_side, images.min_side)
