"""Numbers of FSL's gradient files: b-values and b-vectors of any length, checked for sense."""

from __future__ import annotations

import reprlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmri_fm.content import describe_absence, require_content
from dmri_fm.errors import GradientError
from dmri_fm.gradients import B0_THRESHOLD, SAME_AXIS_DEG

#: Largest plausible b-value, s/mm^2; more is in s/m^2. Ex-vivo scans reach 40,000.
LARGEST_PLAUSIBLE_MAXIMUM = 100_000.0

#: b-values up to this that come with directions are in ms/um^2; above it, up to
#: :data:`dmri_fm.gradients.B0_THRESHOLD`, they may be the 5 to 10 s/mm^2 some scanners store for
#: b=0.
LARGEST_PER_UM2_SURE = 4.5

#: Numbers beyond this are no b-values in any unit: 10,000 s/mm^2 are 1e10 s/m^2.
LARGEST_NUMBER = 1e12

#: Larger files hold no gradients: 10,000 volumes take less than one MB.
MAX_FILE_BYTES = 4_000_000


#: Largest difference between the b-values of two files of one series: s/mm^2, and a share.
B_ATOL, B_RTOL = 50.0, 0.05

_CONVERT = "convert the scan with dcm2niix, which writes .bval and .bvec beside the image"


def _is_number(word: str) -> bool:
    """Tell plain numbers, NaN included, from words, infinity and what only Python accepts."""
    try:
        return word.isascii() and "_" not in word and not abs(float(word)) > LARGEST_NUMBER
    except ValueError:
        return False


def read_numbers(path: Path, what: str) -> NDArray[np.float64]:
    """Read the numbers of a gradient file.

    Parameters
    ----------
    path
        Text file of plain numbers, separated by blanks or commas; only a regular file is opened.
    what
        Name of the content, for the errors: "b-values".

    Returns
    -------
    ndarray
        Shape (rows, columns), NaN included; nothing else is checked.

    Raises
    ------
    GradientError
        If the file is missing, not fetched, no regular file, empty, larger than
        :data:`MAX_FILE_BYTES`, no table, or holds anything but numbers.
    """

    def refusal(
        found: str, expected: str = f"a text file with the {what}", advice: str = _CONVERT
    ) -> GradientError:
        return GradientError(found, path=path, expected=expected, advice=advice)

    require_content(path, GradientError)
    if not path.is_file():
        raise refusal(describe_absence(path))
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise refusal(found, advice="check the permissions of the file") from None
    if len(content) > MAX_FILE_BYTES:
        raise refusal(f"file is larger than {MAX_FILE_BYTES // 10**6} MB")
    text = content.decode("utf-8-sig", errors="replace").replace(",", " ")
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if not rows:
        raise refusal("file is empty")
    if (bad := next((w for row in rows for w in row if not _is_number(w)), None)) is not None:
        raise refusal(f"not a number: {reprlib.repr(bad)}", f"the {what} as plain numbers")
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        found = f"rows of unequal length: {reprlib.repr(lengths)}"
        raise refusal(found, f"the {what} as a regular table")
    return np.array([[float(word) for word in row] for row in rows])


def read_table(
    bval: Path, bvec: Path, n_volumes: int | None, *, is_mrtrix: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return b-values (N,) and the b-vectors (N, 3) of the files, as stored, any length.

    With `is_mrtrix` the b-vectors are those of a gradient table of MRtrix3, rows of x, y, z, b.
    """
    bvals = read_numbers(bval, "b-values").ravel()
    bvecs = read_numbers(bvec, "b-vectors")
    if is_mrtrix:
        bvecs = _mrtrix_vectors(bvecs, bvals, bvec)
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


def _mrtrix_vectors(
    table: NDArray[np.float64], bvals: NDArray[np.float64], path: Path
) -> NDArray[np.float64]:
    """Return the b-vectors (3, N) of a gradient table of MRtrix3 that has the given b-values."""
    if table.shape != (bvals.size, 4):
        raise GradientError(
            f"{table.shape[0]} rows of {table.shape[1]} numbers",
            path=path,
            expected=f"{bvals.size} rows of 4 numbers: x, y, z, b",
            advice="find the file that was written together with the b-values",
        )
    far = np.abs(table[:, 3] - bvals) > B_ATOL + B_RTOL * bvals
    if far.any():
        first = int(np.flatnonzero(far)[0])
        raise GradientError(
            f"b = {table[first, 3]:g} s/mm^2 in row {first + 1}, {bvals[first]:g} in the b-values",
            path=path,
            expected="the b-values of the .bval file beside it",
            advice="find out which of the two files belongs to the image",
        )
    return table[:, :3].T


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
    n_others = (axes < np.cos(np.deg2rad(SAME_AXIS_DEG))).sum(axis=1).max()
    return bool(largest <= LARGEST_PER_UM2_SURE or n_others >= 5)
