"""Scans that quality control at the group level excluded, for readers of series and maps."""

from __future__ import annotations

from pathlib import Path

from dmri_fm_lab.scan_tables import LeftOut, read_scan_table

#: Table of the group level that marks every scan of the dataset.
QUALITY = Path("group") / "desc-image_qc.tsv"


def read_exclusions(derivatives: Path) -> dict[str, LeftOut]:
    """Return the excluded scans of an output folder of the app, by name, with their rule.

    Nobody is excluded where the group level has not been run, or has no such table.

    Raises
    ------
    InputError
        If the table cannot be read.
    """
    path = derivatives / QUALITY
    if not path.is_file():
        return {}
    return {item.name: item for item in read_scan_table(path).left_out}
