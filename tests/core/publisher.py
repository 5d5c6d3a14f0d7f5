"""A process of its own that stores and publishes release r2 on top of r1, and may be killed at any of its moments.

    publisher.py STORE FOLDER [N]    kills itself with SIGKILL at its Nth moment; without N prints how many there are

A moment is whatever the interpreter reports of files (open, rename, remove, ...), and each write of the store.
"""

import os
import signal
import sys
from pathlib import Path

from releases import judged, make_manifest, small_catalogue

from samestyle.release.publish import current_release, publish
from samestyle.release.retention import collect_garbage
from samestyle.release.store import Store, open_store

FILES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime", "os.truncate", "shutil.", "fcntl.")
SEED = 2


def night(store: Store, folder: Path) -> None:
    """What a night does to the store: its objects, the release, and the removal of what is not needed."""
    named = current_release(store)
    parent = named[1] if named else None
    if parent is None or parent.release_id == "r1":
        manifest = judged(make_manifest(store, folder, "r2", "r1", small_catalogue(seed=SEED)), parent)
        publish(store, manifest, "current", "r1")
    collect_garbage(store, 1, dry_run=False, grace_s=-60)


def main(uri: str, folder: str, at: int | None) -> None:
    moments, root = 0, str(Path(uri).parent)

    def watch(event: str, arguments: tuple) -> None:
        nonlocal moments
        if event.startswith(FILES) and root in str(arguments[:2]):
            moments += 1
            if moments == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    night(open_store(uri), Path(folder))
    print(moments, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
