"""Motion of a series as a table: transform, pose and framewise displacement of every volume."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from dmri_fm.errors import InputError
from dmri_fm.preprocess.eddy_translation import EDDY_NAMES, EddyTranslation
from dmri_fm.preprocess.motion import MotionEstimate
from dmri_fm.preprocess.pose import POSE_NAMES

_COLUMNS = (
    *(f"m{row}_{column}" for row in range(1, 4) for column in range(1, 5)),
    *POSE_NAMES,
    *EDDY_NAMES,
    "framewise_displacement",
)


def write_motion_tsv(motion: MotionEstimate, path: str | Path) -> Path:
    """Write one row per volume: the pull matrix by rows, the parameters, the displacements."""
    with Path(path).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["volume", *_COLUMNS])
        eddy = motion.eddy.as_columns()
        for n, (xfm, pose, shift, fd) in enumerate(
            zip(motion.xfms, motion.parameters, eddy, motion.fd_mm, strict=True)
        ):
            numbers = [*xfm[:3].ravel(), *pose, *shift, fd]
            writer.writerow([n, *("n/a" if np.isnan(x) else f"{x:.9g}" for x in numbers)])
    return Path(path)


def read_motion_tsv(path: str | Path) -> MotionEstimate:
    """Read a file of :func:`write_motion_tsv`; outlier slices are not in it.

    Raises
    ------
    InputError
        If columns are missing.
    """
    with Path(path).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    if not rows or any(name not in rows[0] for name in _COLUMNS):
        raise InputError(
            "not a table of volume transforms",
            path=path,
            expected=", ".join(_COLUMNS[:3]) + ", ...",
        )
    table = np.array(
        [[np.nan if r[name] == "n/a" else float(r[name]) for name in _COLUMNS] for r in rows]
    )
    xfms = np.tile(np.eye(4), (len(rows), 1, 1))
    xfms[:, :3] = table[:, :12].reshape(-1, 3, 4)
    return MotionEstimate(
        xfms=xfms,
        is_outlier=np.zeros((len(rows), 0), dtype=bool),
        parameters=table[:, 12:27],
        fd_mm=table[:, 31],
        method="read from a file",
        eddy=EddyTranslation(table[:, 30], table[:, 27:30], "read from a file"),
    )
