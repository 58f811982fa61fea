from __future__ import annotations

import pytest

from dmri_fm.errors import InputError
from dmri_fm_lab.qc_exclusions import QUALITY, read_exclusions


def test_scans_are_excluded_by_the_table_of_the_group_level(tmp_path) -> None:
    assert read_exclusions(tmp_path) == {}
    table = tmp_path / QUALITY
    table.parent.mkdir()
    rows = "sub-1\tPA\tmean_fd > 1\t2.0\nsub-1\tAP\tn/a\t0.1\n"
    table.write_text("participant_id\tdirection\tqc_exclude\tmean_fd\n" + rows)
    reason = "excluded by QC: mean_fd > 1"
    assert read_exclusions(tmp_path) == {"sub-1_dir-PA": ("sub-1_dir-PA", reason)}
    table.write_text("mean_fd\n1\n")
    with pytest.raises(InputError, match="no column participant_id"):
        read_exclusions(tmp_path)
