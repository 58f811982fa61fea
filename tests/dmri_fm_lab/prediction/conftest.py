"""Fixtures of prediction."""

import pytest

from tests.dmri_fm_lab.prediction.tiny_cohort import write_cohort


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """Eight participants with series and maps in the template's space, read only."""
    return write_cohort(tmp_path_factory.mktemp("tiny-cohort"))
