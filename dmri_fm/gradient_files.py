"""Reading and writing FSL's gradient files.

:func:`read_raw_gradients` reads the files of a raw scan, as converters wrote them: lengths of
b-vectors that carry part of the b-value, volumes without a direction. It says what it did.
:func:`read_gradients` is strict: it reads files that are in order, such as the app's own.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.content import describe_absence, require_content
from dmri_fm.errors import GradientError
from dmri_fm.gradient_options import (
    B0_THRESHOLD_RANGE,
    GradientOptions,
    check_b0_threshold,
)
from dmri_fm.gradients import (
    B0_THRESHOLD,
    GradientTable,
    choose_b0_threshold,
    fsl_to_ras,
    ras_to_fsl,
)
from dmri_fm.vector_lengths import (
    VectorLengths,
    apply_lengths,
    describe_lengths,
    describe_range,
    has_direction,
    list_volumes,
)

__all__ = [
    "B0_THRESHOLD_KEY",
    "RawGradients",
    "read_gradients",
    "read_numbers",
    "read_raw_gradients",
    "stated_b0_threshold",
    "write_gradients",
]

#: Key of a series' sidecar: b-values below it count as b=0, s/mm^2.
B0_THRESHOLD_KEY = "B0Threshold"

#: Above this, the largest b-value is in another unit (s/m^2), s/mm^2. Ex-vivo scans reach 40,000.
LARGEST_PLAUSIBLE_MAXIMUM = 100_000.0

#: b-values up to this that come with directions are in ms/um^2; above it, up to
#: :data:`dmri_fm.gradients.B0_THRESHOLD`, they may be the 5 to 10 s/mm^2 some scanners store for
#: b=0.
LARGEST_PER_UM2_SURE = 4.5

#: Numbers beyond this are no b-values in any unit: 10,000 s/mm^2 are 1e10 s/m^2.
LARGEST_NUMBER = 1e12

#: Larger files hold no gradients: 10,000 volumes take less than one MB.
MAX_FILE_BYTES = 4_000_000


@dataclass(frozen=True, eq=False)
class RawGradients:
    """The gradient files of a raw scan, as they were read.

    Attributes
    ----------
    gtab
        Table of the volumes that are kept, b-vectors in RAS+.
    kept
        Their positions in the files, ascending, from 0.
    left_out
        Reason by position of each other volume.
    lengths
        What was made of b-vectors whose length is not 1; None if all are unit vectors.
    warnings
        What a reader of the results should know.
    left_out_bvals
        b-values of the volumes in `left_out`, in that order, s/mm^2.
    """

    gtab: GradientTable
    kept: tuple[int, ...]
    left_out: Mapping[int, str]
    lengths: VectorLengths | None
    warnings: tuple[str, ...]
    left_out_bvals: tuple[float, ...] = ()

    @property
    def is_as_stored(self) -> bool:
        """The files hold this very table: nothing was scaled, no volume is left out."""
        return not self.left_out and self.lengths is None


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
    """Read FSL gradient files of an image that are in order, and refuse all others.

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
    bvals, bvecs = _read_table(bval, bvec, n_volumes)
    return _to_table(bvals, bvecs, affine, b0_threshold, path=bvec)


def read_raw_gradients(
    bval: str | Path,
    bvec: str | Path,
    *,
    affine: ArrayLike,
    n_volumes: int | None = None,
    options: GradientOptions = GradientOptions(),  # noqa: B008 (frozen)
) -> RawGradients:
    """Read the FSL gradient files of a raw scan, and say what had to be done to use them.

    Lengths of b-vectors that vary within one shell by more than rounding scale the b-value by
    their square, as MRtrix does: some scanners store one nominal b-value for all shells, and
    a vector of zeros for b=0, which is read so if no b-value of the file is b=0. Other weighted
    volumes without a direction (trace images and ADC maps that a scanner appends) are left out.

    Parameters
    ----------
    bval, bvec, affine, n_volumes
        See :func:`read_gradients`.
    options
        What the user has decided.

    Raises
    ------
    GradientError
        As :func:`read_gradients`; if all weighted volumes lack a direction; if b-vectors share a
        length other than 1 and the options do not say what it means.
    """
    bval, bvec = Path(bval), Path(bvec)
    bvals, bvecs = _read_table(bval, bvec, n_volumes)
    bvals, bvecs, lengths = apply_lengths(bvals, bvecs, options, path=bvec)
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
        gtab=_to_table(bvals[kept], bvecs[kept], affine, threshold, path=bvec),
        kept=tuple(int(i) for i in kept),
        left_out=left_out,
        lengths=lengths,
        warnings=tuple(warnings),
        left_out_bvals=tuple(float(b) for b in bvals[bare]),
    )


def _to_table(
    bvals: NDArray[np.float64],
    bvecs: NDArray[np.float64],
    affine: ArrayLike,
    b0_threshold: float | None,
    *,
    path: Path,
) -> GradientTable:
    threshold = choose_b0_threshold(bvals) if b0_threshold is None else b0_threshold
    try:
        return GradientTable(bvals, fsl_to_ras(bvecs, affine), threshold)
    except GradientError as error:
        raise GradientError(
            error.found, path=path, expected=error.expected, advice=error.advice
        ) from None


def _is_number(word: str) -> bool:
    """Tell plain numbers, NaN included, from words, infinity and what only Python accepts."""
    try:
        return word.isascii() and "_" not in word and not abs(float(word)) > LARGEST_NUMBER
    except ValueError:
        return False


def read_numbers(path: Path, what: str) -> NDArray[np.float64]:
    """Read a gradient file as it stands.

    Parameters
    ----------
    path
        Text file of plain numbers, parted by blanks or commas; only a regular file is opened.
    what
        What it should hold, for the errors: "b-values".

    Returns
    -------
    ndarray
        Shape (rows, columns), NaN included; what the numbers mean is not looked at.

    Raises
    ------
    GradientError
        If the file is missing, not fetched, no regular file, empty, larger than
        :data:`MAX_FILE_BYTES`, no table, or holds anything but numbers.
    """
    advice = "convert the scan with dcm2niix, which writes .bval and .bvec beside the image"
    expected = f"a text file with the {what}"
    require_content(path, GradientError)
    if not path.is_file():
        raise GradientError(describe_absence(path), path=path, expected=expected, advice=advice)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise GradientError(
            f"cannot be read ({error.strerror})",
            path=path,
            expected=expected,
            advice="check the permissions of the file",
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise GradientError(
            f"file is larger than {MAX_FILE_BYTES // 10**6} MB",
            path=path,
            expected=expected,
            advice=advice,
        )
    text = content.decode("utf-8-sig", errors="replace").replace(",", " ")
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if not rows:
        raise GradientError("file is empty", path=path, expected=expected, advice=advice)
    if (bad := next((w for row in rows for w in row if not _is_number(w)), None)) is not None:
        raise GradientError(
            f"not a number: {reprlib.repr(bad)}",
            path=path,
            expected=f"the {what} as plain numbers",
            advice=advice,
        )
    numbers = [[float(word) for word in row] for row in rows]
    if len({len(row) for row in numbers}) > 1:
        raise GradientError(
            f"rows of unequal length: {reprlib.repr([len(row) for row in numbers])}",
            path=path,
            expected=f"the {what} as a regular table",
            advice=advice,
        )
    return np.array(numbers)


def _read_table(
    bval: Path, bvec: Path, n_volumes: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return b-values (N,) and the b-vectors (N, 3) of the files, FSL's frame, any length."""
    bvals = read_numbers(bval, "b-values").ravel()
    bvecs = read_numbers(bvec, "b-vectors")
    n_volumes = bvals.size if n_volumes is None else n_volumes
    if bvals.size != n_volumes:
        raise GradientError(
            f"{bvals.size} b-values for an image of {n_volumes} volumes",
            path=bval,
            expected=f"{n_volumes} b-values",
            advice="find the bval file that was converted together with this image",
        )
    if bvecs.shape != (3, n_volumes):
        is_transposed = bvecs.shape == (n_volumes, 3)
        raise GradientError(
            f"{bvecs.shape[0]} rows of {bvecs.shape[1]} numbers"
            + (": the table is transposed" if is_transposed else "")
            + f", for an image of {n_volumes} volumes",
            path=bvec,
            expected=f"3 rows (x, y, z) of {n_volumes} numbers",
            advice="write the components as rows: numpy.savetxt(bvec, numpy.loadtxt(bvec).T)"
            if is_transposed
            else "find the bvec file that was converted together with this image",
        )
    if not np.isfinite(bvals).all() or (bvals < 0).any():
        raise GradientError(
            "b-values that are negative or not finite",
            path=bval,
            expected="numbers in s/mm^2, zero or above",
            advice="convert the scan again",
        )
    largest = float(bvals.max())
    if _is_per_um2(bvals, bvecs.T):
        raise GradientError(
            f"the largest b-value is {largest:g} although the b-vectors hold directions",
            path=bval,
            expected="b-values in s/mm^2",
            advice="multiply the file by 1000 if it is in ms/um^2",
        )
    if largest > LARGEST_PLAUSIBLE_MAXIMUM:
        raise GradientError(
            f"the largest b-value is {largest:g}",
            path=bval,
            expected="b-values in s/mm^2",
            advice="divide the file by 1e6 if it is in s/m^2",
        )
    return bvals, bvecs.T


def _is_per_um2(bvals: NDArray[np.float64], bvecs: NDArray[np.float64]) -> bool:
    """Tell b-values in ms/um^2 (0, 1, 2.5) from a series that holds b=0 volumes only."""
    largest = bvals.max()
    if not 0.1 < largest < B0_THRESHOLD or not (bvals < largest / 20).any():
        return False
    strong = bvecs[bvals > largest / 2]
    length = np.linalg.norm(strong, axis=1)
    if not (length > 0.5).all():
        return False
    axes = np.abs(strong @ strong.T) / np.outer(length, length)
    n_others = (axes < np.cos(np.deg2rad(2.0))).sum(axis=1).max()
    return bool(largest <= LARGEST_PER_UM2_SURE or n_others >= 5)


def write_gradients(
    gtab: GradientTable, bval: str | Path, bvec: str | Path, *, affine: ArrayLike
) -> None:
    """Write FSL gradient files for an image with the given affine.

    Parameters
    ----------
    gtab
        The table, RAS+.
    bval, bvec
        Paths to write: one row of b-values, three rows of components.
    affine
        Shape (4, 4), voxel to RAS+ mm, of the image the files will stand beside.
    """
    bvals = " ".join(f"{b:g}" for b in gtab.bvals)
    rows = (" ".join(f"{x:.6f}" for x in row) for row in ras_to_fsl(gtab.bvecs_ras, affine).T)
    Path(bval).write_text(bvals + "\n", encoding="ascii")
    Path(bvec).write_text("\n".join(rows) + "\n", encoding="ascii")


def write_mrtrix_gradients(gtab: GradientTable, path: str | Path) -> None:
    """Write a gradient table as MRtrix3 reads it with `-grad`.

    Its frame is that of the scanner, not of the image: one file serves an image in whatever
    order its voxels are stored, and no sign rule applies.

    Parameters
    ----------
    gtab
        The table, RAS+.
    path
        Path to write: a row `x y z b` for each volume, zeros for a volume without direction.
    """
    rows = (
        " ".join([*(f"{x:.6f}" for x in bvec), f"{bval:g}"])
        for bvec, bval in zip(gtab.bvecs_ras + 0.0, gtab.bvals, strict=True)
    )
    Path(path).write_text("\n".join(rows) + "\n", encoding="ascii")
