"""Fixtures of the stages' tests."""

from pathlib import Path

import pytest

from dmri_fm_workflows.bids import DwiSeries
from tests.dmri_fm_workflows.tiny_series import make_fieldmap, make_run


@pytest.fixture
def series(tmp_path: Path) -> DwiSeries:
    """Two runs of opposite phase encoding, and a field map: every method can correct them."""
    raw = tmp_path / "raw"
    runs = (make_run(raw, "PA"), make_run(raw, "AP"))
    return DwiSeries(runs=runs, entities={"subject": "01"}, fieldmaps=(make_fieldmap(raw),))
