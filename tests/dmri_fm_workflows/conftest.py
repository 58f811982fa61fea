"""Fixtures of the app's tests."""

from pathlib import Path

import pytest


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Give an empty dataset's folder."""
    folder = tmp_path / "bids"
    folder.mkdir()
    return folder
