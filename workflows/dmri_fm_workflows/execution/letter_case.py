"""Letter case: names that differ in it alone, on a disk that takes them for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dmri_fm.errors import OutputError


def check_letter_case(output_dir: Path, label: str, scans: Sequence[str]) -> None:
    """Refuse a participant whose outputs would have the folder or the files of others.

    `sub-a` and `sub-A` are two people. Disks of macOS and Windows, and shares of theirs that a
    container mounts, have one folder for both.

    Parameters
    ----------
    output_dir
        Output folder; its `logs` exist.
    label
        Participant, without `sub-`.
    scans
        Names of the participant's series.

    Raises
    ------
    OutputError
        If the folder of another participant is this one's too, or two series differ in case
        alone and the disk does not tell them apart.
    """
    folder = output_dir / f"sub-{label}"
    for other in sorted(output_dir.iterdir()):
        if (
            other.name != folder.name
            and other.name.lower() == folder.name.lower()
            and _is_same(other, folder)
        ):
            raise _cannot_tell(output_dir, other.name, folder.name)
    if _is_same(output_dir / "logs", output_dir / "LOGS"):
        lower: dict[str, str] = {}
        for scan in scans:
            if (other_scan := lower.setdefault(scan.lower(), scan)) != scan:
                raise _cannot_tell(output_dir, other_scan, scan)


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _cannot_tell(output_dir: Path, one: str, other: str) -> OutputError:
    return OutputError(
        f"{one} and {other} would be written into the same files: this disk does not tell upper "
        "from lower case",
        path=output_dir,
        expected="names that differ in more than case, or a disk that tells them apart",
        advice="give another output folder, or rename one of the two in the dataset",
    )
