"""Encoders that many tests look at and none changes: exported once a session."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def late_fusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from samestyle.encoder.export import export_late_fusion

    folder = tmp_path_factory.mktemp("encoders") / "late_fusion"
    export_late_fusion(folder)
    return folder


@pytest.fixture(scope="session")
def unified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Around a fusion with random weights, whose steps are about as long as its cap allows."""
    from unified import random_fusion

    from samestyle.encoder.export import export_unified

    folder = tmp_path_factory.mktemp("encoders") / "unified"
    export_unified(
        folder, random_fusion(), {"training": [{"name": "dice", "licence": "CC0-1.0", "used": "thrown once"}]}
    )
    return folder
