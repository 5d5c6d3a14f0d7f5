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
    )


def image_base(catalogue: Catalogue) -> str | None:
    """Where relative image URIs start from; a named table has no folder of its own."""
    if catalogue.image_root or catalogue.path is None:
        return catalogue.image_root
    return catalogue.path.rpartition("/")[0] if "://" in catalogue.path else str(Path(catalogue.path).absolute().parent)


def decode_limits(settings: Settings) -> DecodeLimits:
    images = settings.images
    return DecodeLimits(images.max_pixels, images.max_side, images.min_side)
