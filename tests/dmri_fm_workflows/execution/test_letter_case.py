"""Names that differ in case alone, on a disk that takes them for one; links stand for such."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm.errors import OutputError
from dmri_fm_workflows.execution.letter_case import check_letter_case


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output folder that holds `sub-A`."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "sub-A").mkdir()
    return tmp_path


def test_disk_that_tells_case_apart_takes_both(output) -> None:
    (output / "sub-a").mkdir()
    check_letter_case(output, "a", ["sub-a_acq-x", "sub-a_acq-X"])
    check_letter_case(output, "A", ["sub-A"])
    check_letter_case(output, "b", [])


def test_folder_of_another_person_is_refused(output) -> None:
    (output / "sub-a").symlink_to("sub-A")
    with pytest.raises(OutputError, match="sub-A and sub-a") as caught:
        check_letter_case(output, "a", ["sub-a"])
    assert caught.value.path == output


def test_series_that_would_fall_together_are_refused(output) -> None:
    (output / "LOGS").symlink_to("logs")
    check_letter_case(output, "A", ["sub-A_acq-x", "sub-A_acq-y"])
    with pytest.raises(OutputError, match="sub-A_acq-x and sub-A_acq-X"):
        check_letter_case(output, "A", ["sub-A_acq-x", "sub-A_acq-X"])
