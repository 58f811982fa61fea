"""Reading and writing FSL's gradient files.

:func:`read_raw_gradients` reads the files of a raw scan, as converters wrote them: lengths of
b-vectors that carry part of the b-value, volumes without a direction. It reports its changes.
:func:`read_gradients` is strict: it reads files that need no change, such as the app's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gradient_arrangements import AS_STORED, arrangement_matrix
from dmri_fm.gradient_options import (
    B0_THRESHOLD_RANGE,
    GradientOptions,
    check_b0_threshold,
)
from dmri_fm.gradient_text import read_table
from dmri_fm.gradients import (
    B0_THRESHOLD,
    BvecFrame,
    GradientTable,
    choose_b0_threshold,
    fsl_to_ras,
    ras_to_fsl,
    to_ras,
)
from dmri_fm.vector_lengths import (
    VectorLengths,
    apply_lengths,
    describe_lengths,
    describe_range,
    has_direction,
    list_volumes,
)

#: Key of a series' sidecar: b-values below it count as b=0, s/mm^2.
B0_THRESHOLD_KEY = "B0Threshold"


@dataclass(frozen=True, eq=False)
class RawGradients:
    """The gradients of a raw scan, and the changes that reading its files took.

    Attributes
    ----------
    gtab
        Table of the volumes that are kept, b-vectors in RAS+.
    kept
        Positions of these volumes in the files, ascending, from 0.
    left_out
        Reason by position of each other volume.
    lengths
        Reading of b-vectors whose length is not 1; None if all are unit vectors.
    warnings
        Changes and doubts, as sentences for the report.
    left_out_bvals
        b-values of the volumes in `left_out`, in that order, s/mm^2.
    frame
        Frame of the b-vectors in the file.
    arrangement
        Components that were read in place of those of the file, see
        :mod:`dmri_fm.gradient_arrangements`.
    """

    gtab: GradientTable
    kept: tuple[int, ...]
    left_out: Mapping[int, str]
    lengths: VectorLengths | None
    warnings: tuple[str, ...]
    left_out_bvals: tuple[float, ...] = ()
    frame: BvecFrame = "fsl"
    arrangement: str = AS_STORED

    @property
    def is_as_stored(self) -> bool:
        """FSL files hold this table: nothing was scaled or rearranged, no volume is left out."""
        is_fsl = self.frame == "fsl" and self.arrangement == AS_STORED
        return not self.left_out and self.lengths is None and is_fsl


def stated_b0_threshold(metadata: Mapping[str, Any]) -> float | None:
    """Return the b=0 threshold that the sidecar of a series states; None if it has none.

    Examples
    --------
    >>> stated_b0_threshold({"B0Threshold": 150}), stated_b0_threshold({"B0Threshold": "x"})
    (150.0, None)
    """
    value = metadata.get(B0_THRESHOLD_KEY)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    low, high = B0_THRESHOLD_RANGE
    return float(value) if is_number and low <= value <= high else None  # type: ignore


def read_gradients(
    bval: str | Path,
    bvec: str | Path,
    *,
    affine: ArrayLike,
    n_volumes: int | None = None,
    b0_threshold: float | None = None,
) -> GradientTable:
    """Read FSL gradient files of an image that need no change, and refuse all others.

    Parameters
    ----------
    bval, bvec
        FSL text files: N b-values, in a row or a column; 3 rows of N components. A bvec file
        of N rows of 3 is refused: with N = 3 the two cannot be told apart.
    affine
        Shape (4, 4), voxel to RAS+ mm, of the image.
    n_volumes
        Number of volumes of the image; that of the b-values if there is no image.
    b0_threshold
        See :class:`GradientOptions`.

    Returns
    -------
    GradientTable
        b-vectors in RAS+.

    Raises
    ------
    GradientError
        If a file is missing, empty or malformed, a count differs from `n_volumes`, a b-value
        is in another unit, or a diffusion-weighted volume has no direction of length 1.
    """
    bval, bvec = Path(bval), Path(bvec)
    check_b0_threshold(b0_threshold)
    bvals, bvecs = read_table(bval, bvec, n_volumes)
    return _to_table(bvals, fsl_to_ras(bvecs, affine), b0_threshold, path=bvec)


def read_raw_gradients(
    bval: str | Path,
    bvec: str | Path,
    *,
    affine: ArrayLike,
    n_volumes: int | None = None,
    options: GradientOptions = GradientOptions(),  # noqa: B008 (frozen)
    frame: BvecFrame = "fsl",
    arrangement: str = AS_STORED,
) -> RawGradients:
    """Read the gradient files of a raw scan, and report the changes that they need.

    Lengths of b-vectors that vary within one shell by more than rounding scale the b-value by
    their square, as MRtrix does: some scanners store one nominal b-value for all shells, and
    a vector of zeros for b=0, which is read so if no b-value of the file is b=0. Other weighted
    volumes without a direction (trace images and ADC maps that a scanner appends) are left out.

    Parameters
    ----------
    bval, bvec, affine, n_volumes
        See :func:`read_gradients`.
    options
        Choices of the user.
    frame
        Frame of the b-vectors; where it is `ras`, `bvec` is a gradient table of MRtrix3, rows of
        x, y, z, b, whose b has to be that of `bval`.
    arrangement
        Components to read in place of those of the file, which a converter got wrong: a label of
        :mod:`dmri_fm.gradient_arrangements`.

    Raises
    ------
    ConfigError
        If the arrangement is none.
    GradientError
        As :func:`read_gradients`; if all weighted volumes lack a direction; if b-vectors share a
        length other than 1 and the options do not say what it means.
    """
    bval, bvec = Path(bval), Path(bvec)
    bvals, bvecs = read_table(bval, bvec, n_volumes, is_mrtrix=frame == "ras")
    bvals, bvecs, lengths = apply_lengths(bvals, bvecs, options, path=bvec)
    if arrangement != AS_STORED:
        bvecs = bvecs @ arrangement_matrix(arrangement).T
    threshold = options.b0_threshold
    if threshold is None:
        threshold = choose_b0_threshold(bvals)
    weighted = bvals >= threshold
    bare = weighted & ~has_direction(bvecs)
    if weighted.any() and (bare == weighted).all():
        raise GradientError(
            f"none of the {int(weighted.sum())} volumes with b >= {threshold:g} s/mm^2 has a "
            "direction",
            path=bvec,
            expected="a direction for every diffusion-weighted volume",
            advice="convert the scan again: trace images and ADC maps are no diffusion series",
        )
    kept = np.flatnonzero(~bare)
    left_out = {
        int(i): f"b = {bvals[i]:g} s/mm^2 without a direction" for i in np.flatnonzero(bare)
    }
    warnings = [*describe_lengths(bvec.name, bvals, lengths)]
    if left_out:
        warnings.append(
            f"{bvec.name}: {list_volumes(left_out)} left out: no direction at b = "
            f"{describe_range(bvals[bare])} s/mm^2 (zeros or NaN). Scanners append such "
            "trace images and ADC maps; elsewhere the vector is damaged, or the b-value of a b=0 "
            "is wrong."
        )
    if options.b0_threshold is None and threshold > B0_THRESHOLD:
        warnings.append(
            f"{bval.name}: no b-value lies below {B0_THRESHOLD:g} s/mm^2; the lowest ones, "
            f"{describe_range(bvals[~weighted])} s/mm^2, count as b=0. --b0-threshold decides "
            "otherwise."
        )
    return RawGradients(
        gtab=_to_table(bvals[kept], to_ras(bvecs[kept], affine, frame), threshold, path=bvec),
        kept=tuple(int(i) for i in kept),
        left_out=left_out,
        lengths=lengths,
        warnings=tuple(warnings),
        left_out_bvals=tuple(float(b) for b in bvals[bare]),
        frame=frame,
        arrangement=arrangement,
    )


def largest_angle_deg(one: RawGradients, other: RawGradients) -> float:
    """Return the largest angle between the directions of two readings of one series, degrees.

    Opposite directions weight alike, and count as one. Readings that leave out different volumes
    differ by 90 degrees.
    """
    if one.kept != other.kept:
        return 90.0
    is_weighted = ~(one.gtab.is_b0 | other.gtab.is_b0)
    pairs = (t.gtab.bvecs_ras[is_weighted] for t in (one, other))
    cosines = np.abs(np.sum(np.multiply(*pairs), axis=1))
    return float(np.rad2deg(np.arccos(np.clip(cosines.min(initial=1.0), 0, 1))))


def _to_table(
    bvals: NDArray[np.float64],
    bvecs_ras: NDArray[np.float64],
    b0_threshold: float | None,
    *,
    path: Path,
) -> GradientTable:
    threshold = choose_b0_threshold(bvals) if b0_threshold is None else b0_threshold
    try:
        return GradientTable(bvals, bvecs_ras, threshold)
    except GradientError as error:
        raise GradientError(
            error.found, path=path, expected=error.expected, advice=error.advice
        ) from None


def write_gradients(
    gtab: GradientTable, bval: str | Path, bvec: str | Path, *, affine: ArrayLike
) -> None:
    """Write FSL gradient files: one row of b-values, three rows of components.

    The b-vectors depend on the affine, voxel to RAS+ mm, of the image beside the files.
    """
    bvals = " ".join(f"{b:g}" for b in gtab.bvals)
    rows = (" ".join(f"{x:.6f}" for x in row) for row in ras_to_fsl(gtab.bvecs_ras, affine).T)
    Path(bval).write_text(bvals + "\n", encoding="ascii")
    Path(bvec).write_text("\n".join(rows) + "\n", encoding="ascii")


def write_mrtrix_gradients(gtab: GradientTable, path: str | Path) -> None:
    """Write a gradient table for MRtrix3's `-grad`: rows `x y z b`, zeros without a direction.

    Its frame is that of the scanner, not of the image: the order in which voxels are stored does
    not matter, and no sign rule applies.
    """
    rows = (
        " ".join([*(f"{x:.6f}" for x in bvec), f"{bval:g}"])
        for bvec, bval in zip(gtab.bvecs_ras + 0.0, gtab.bvals, strict=True)
    )
    Path(path).write_text("\n".join(rows) + "\n", encoding="ascii")
