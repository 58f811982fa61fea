"""Fixtures of the stages' tests."""

from pathlib import Path

import pytest

from dmri_fm_workflows.bids import DwiSeries
from tests.dmri_fm_workflows.tiny_series import make_run


@pytest.fixture
def series(tmp_path: Path) -> DwiSeries:
    """Two runs of opposite phase encoding."""
    runs = (make_run(tmp_path / "raw", "PA"), make_run(tmp_path / "raw", "AP"))
    return DwiSeries(runs=runs, entities={"subject": "01"})
