"""Join the runs of a series into one, on one intensity scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable, rotation_part
from dmri_fm.preprocess.raw_series import find_empty_volumes
from dmri_fm.series import Dwi


@dataclass(frozen=True, eq=False)
class MergedRuns:
    """Several runs as one series.

    Attributes
    ----------
    dwi
        All volumes, run after run.
    run_index
        Shape (N,): the run each volume came from.
    scales
        Factor each run was multiplied by to bring its b=0 level to the first run's.
    """

    dwi: Dwi
    run_index: NDArray[np.int_]
    scales: tuple[float, ...]


def merge_runs(runs: Sequence[Dwi]) -> MergedRuns:
    """Concatenate runs after matching the level of their b=0 images.

    The scanner may scale each run differently. The factor is the ratio of the medians of the
    mean b=0 over voxels brighter than the mean, which holds through the local displacement of
    opposite phase encodings. A run without b=0 keeps its scale.

    Every run is taken to lie where the first one lies: a field of view that was moved by a few
    millimetres between runs then counts as head motion, which is corrected anyway. Its b-vectors
    keep their direction in the image.

    Parameters
    ----------
    runs
        Series with the same number of voxels and nearly the same position.

    Raises
    ------
    ImageError
        If the numbers of voxels differ.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.shape[:3] != first.shape[:3]:
            raise ImageError(
                f"runs on different grids: {first.shape[:3]} and {run.shape[:3]}",
                expected="one grid for the runs of a series",
                advice="tell the runs apart by an `acq` entity",
            )
    levels = [_b0_level(run) for run in runs]
    reference = next((level for level in levels if level), None)
    scales = tuple(
        1.0 if reference is None or level is None else reference / level for level in levels
    )
    data = join_scaled([run.data for run in runs], scales)
    axes = rotation_part(first.affine)
    gtab = GradientTable.concatenate(
        [run.gtab.rotated(axes @ rotation_part(run.affine).T) for run in runs]
    )
    index = np.repeat(np.arange(len(runs)), [len(run.gtab) for run in runs])
    return MergedRuns(Dwi.from_arrays(data, first.affine, gtab), index, scales)


def join_scaled(runs: Sequence[NDArray[np.float32]], scales: Sequence[float]) -> NDArray[Any]:
    """Concatenate runs of shape (X, Y, Z, N), each multiplied by its factor."""
    return np.concatenate(
        [run * np.float32(scale) for run, scale in zip(runs, scales, strict=True)], axis=3
    )


def _b0_level(run: Dwi) -> float | None:
    empty = find_empty_volumes(run.data)
    index = [n for n in np.flatnonzero(run.gtab.is_b0) if n not in empty]
    if not index:
        return None
    b0 = run.data[..., index].mean(axis=3)
    return float(np.median(b0[b0 > b0.mean()])) or None
