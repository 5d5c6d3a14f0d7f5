from pathlib import Path

import pytest
from checkout import copy_checkout

NIGHTLY = '''"""Run the whole night."""

import argparse

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
parser.parse_args()
'''
EMBED = '"""Embed what is new.\n\nAt length.\n"""\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with two small jobs, in a folder whose name has a space."""
    return copy_checkout(tmp_path / "check out", {"nightly": NIGHTLY, "embed": EMBED})
