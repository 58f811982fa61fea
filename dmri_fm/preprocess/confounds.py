"""Confounds: one row per volume, columns named as QSIPrep names them.

Cieslak et al. 2021, doi:10.1038/s41592-021-01185-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.eddy_translation import EDDY_NAMES
from dmri_fm.preprocess.motion import MotionEstimate
from dmri_fm.preprocess.pose import POSE_NAMES


def confounds_table(
    motion: MotionEstimate, gtab: GradientTable, original_files: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the confounds of a series.

    Parameters
    ----------
    motion
        Head motion of the volumes; mm, rad, RAS+.
    gtab
        Gradient table of the corrected volumes, RAS+.
    original_files
        Raw image of every volume.

    Returns
    -------
    list of dict
        One per volume; None for what is missing: the displacement of a run's first volume, and
        translations by eddy currents that were not told from the head's. The direction of a b=0
        is (0, 0, 0), as in QSIPrep's tables.

    Raises
    ------
    GradientError
        If the numbers of volumes differ.
    """
    if not len(motion.xfms) == len(gtab) == len(original_files):
        raise GradientError(
            f"{len(motion.xfms)} transforms, {len(gtab)} gradients and "
            f"{len(original_files)} files",
            expected="one of each per volume",
        )
    rows = []
    eddy = motion.eddy.as_columns()
    for n, name in enumerate(original_files):
        direction = [0.0] * 3 if gtab.is_b0[n] else [float(x) for x in gtab.bvecs_ras[n]]
        slices = motion.is_outlier[n]
        rows.append(
            {
                "framewise_displacement": _number(motion.fd_mm[n]),
                **dict(zip(POSE_NAMES, map(float, motion.parameters[n]), strict=True)),
                **dict(zip(EDDY_NAMES, map(_number, eddy[n]), strict=True)),
                "outlier_fraction": float(slices.mean()) if slices.size else None,
                "bval": float(gtab.bvals[n]),
                "grad_x": direction[0],
                "grad_y": direction[1],
                "grad_z": direction[2],
                "original_file": name,
            }
        )
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
