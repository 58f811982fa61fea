"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Real scans live outside the repository; this folder, or the one DMRI_TEST_DATA names.
DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real test scans; skips the test where it is missing."""
    folder = Path(os.environ.get("DMRI_TEST_DATA", DEFAULT_DATA))
    if not (folder / "ds-vendors").is_dir():
        pytest.skip(f"no real scans at {folder}; set DMRI_TEST_DATA to the folder that holds them")
    return folder
