"""What a notebook opens: the release of the store that the settings name, with the tables below paths.root."""

import pytest
from releases import publish_small

from samestyle.errors import UsageError
from samestyle.release.store import LocalStore
from samestyle.tables.analysis import open_served


def test_a_release_is_opened_wherever_its_store_lies(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    publish_small(LocalStore(elsewhere), tmp_path / "built")
    with pytest.raises(UsageError, match=f"channel current of {root}/store names no release: .*or name the store"):
        open_served(None, root)
    served = open_served(None, root, store=elsewhere)
    assert (served.manifest.release_id, served.settings.paths.root) == ("r1", str(root))
    assert served.settings.store_uri == str(elsewhere)
    publish_small(LocalStore(root / "store"), tmp_path / "built", "r2")
    assert open_served(None, root).manifest.release_id == "r2"
