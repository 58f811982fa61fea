"""Gradient tables: b-values and b-vectors, and the frames they live in.

On disk a b-vector follows FSL's convention: it is given along the image's own axes, and its
first component is negated when the image is stored neurologically (determinant of the affine
above zero). In memory a b-vector is always in scanner space, RAS+. The two functions
:func:`fsl_to_ras` and :func:`ras_to_fsl` are the only place where the two meet.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import polar

from dmri_fm.content import require_content
from dmri_fm.errors import GradientError

__all__ = [
    "B0_THRESHOLD",
    "GradientTable",
    "Shell",
    "fsl_to_ras",
    "group_shells",
    "ras_to_fsl",
    "read_gradients",
    "rotation_part",
    "write_gradients",
]

#: b-values below this count as b=0, s/mm^2. UIH stores 1.25, GE and Philips store 5 to 10.
B0_THRESHOLD = 50.0

#: b-values closer than this belong to one shell, s/mm^2.
SHELL_WIDTH = 100.0

#: Above this, the largest b-value is in another unit (s/m^2), s/mm^2. Ex-vivo scans reach 40,000.
LARGEST_PLAUSIBLE_MAXIMUM = 100_000.0

#: b-values up to this that come with directions are in ms/um^2; above it, up to
#: :data:`B0_THRESHOLD`, they may be the 5 to 10 s/mm^2 some scanners store for b=0.
LARGEST_PER_UM2_SURE = 4.5

#: Numbers beyond this are no b-values in any unit: 10,000 s/mm^2 are 1e10 s/m^2.
LARGEST_NUMBER = 1e12

#: Larger files hold no gradients: 10,000 volumes take less than one MB.
MAX_FILE_BYTES = 4_000_000

#: A diffusion-weighted b-vector may differ from unit length by this before it is refused.
UNIT_TOLERANCE = 0.1


@dataclass(frozen=True)
class Shell:
    """Volumes that share a b-value.

    Attributes
    ----------
    bval
        Mean b-value, s/mm^2.
    index
        Positions in the series, ascending.
    """

    bval: float
    index: tuple[int, ...]


def group_shells(bvals: ArrayLike) -> list[NDArray[np.int_]]:
    """Part measurements into shells by ascending b-value; a gap above 100 s/mm^2 parts two.

    Parameters
    ----------
    bvals
        Shape (N,), s/mm^2.

    Returns
    -------
    list of ndarray
        Positions of each shell, ascending.

    Examples
    --------
    >>> [shell.tolist() for shell in group_shells([1000, 2500, 990, 1010])]
    [[0, 2, 3], [1]]
    """
    values = np.asarray(bvals, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order]) > SHELL_WIDTH) + 1
    return [np.sort(part) for part in np.split(order, starts) if part.size]


@dataclass(frozen=True, eq=False)
class GradientTable:
    """b-values and b-vectors of a series.

    Parameters
    ----------
    bvals
        Shape (N,), s/mm^2, finite and not negative.
    bvecs_ras
        Shape (N, 3), RAS+ scanner frame. Unit length where the b-value is at least
        :data:`B0_THRESHOLD`; rows of b=0 volumes are set to zero.

    Raises
    ------
    GradientError
        If shapes differ, a value is not finite, or a vector is not of unit length.

    Examples
    --------
    >>> gtab = GradientTable([0, 1000], [[np.nan] * 3, [0, 0, 1]])
    >>> gtab.is_b0.tolist(), gtab.bvecs_ras.tolist()
    ([True, False], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> GradientTable([0, 1000], [[0, 0, 0], [0, 0, 3]])
    Traceback (most recent call last):
    ...
    dmri_fm.errors.GradientError: b-vector of volume 1 has length 3.000
      expected: unit length for every volume with b >= 50 s/mm^2
      what to do: check that the file holds directions, not directions times b
    """

    bvals: NDArray[np.float64]
    bvecs_ras: NDArray[np.float64]

    def __post_init__(self) -> None:
        bvals = np.array(self.bvals, dtype=np.float64)
        bvecs = np.array(self.bvecs_ras, dtype=np.float64)
        if bvals.ndim != 1 or bvecs.shape != (bvals.size, 3):
            raise GradientError(
                f"b-values of shape {bvals.shape} beside b-vectors of shape {bvecs.shape}",
                expected="shapes (N,) and (N, 3)",
            )
        if not np.isfinite(bvals).all() or (bvals < 0).any():
            raise GradientError(
                "b-values that are negative or not finite",
                expected="numbers in s/mm^2, zero or above",
            )
        weighted = bvals >= B0_THRESHOLD
        bvecs[~weighted] = 0.0
        if not np.isfinite(bvecs).all():
            volume = int(np.flatnonzero(~np.isfinite(bvecs).all(axis=1))[0])
            raise GradientError(
                f"b-vector of volume {volume} (b = {bvals[volume]:g}) is not finite",
                expected="a direction for every volume with b >= 50 s/mm^2",
                advice="convert the scan again, or remove the volume from image, bval and bvec",
            )
        length = np.linalg.norm(bvecs, axis=1)
        wrong = weighted & (np.abs(length - 1.0) > UNIT_TOLERANCE)
        if wrong.any():
            volume = int(np.flatnonzero(wrong)[0])
            raise GradientError(
                f"b-vector of volume {volume} has length {length[volume]:.3f}",
                expected="unit length for every volume with b >= 50 s/mm^2",
                advice="check that the file holds directions, not directions times b",
            )
        bvecs[weighted] /= length[weighted, None]
        bvals.setflags(write=False)
        bvecs.setflags(write=False)
        object.__setattr__(self, "bvals", bvals)
        object.__setattr__(self, "bvecs_ras", bvecs)

    def __len__(self) -> int:
        return int(self.bvals.size)

    @property
    def is_b0(self) -> NDArray[np.bool_]:
        """Shape (N,): which volumes are b=0."""
        return self.bvals < B0_THRESHOLD

    @property
    def shells(self) -> tuple[Shell, ...]:
        """Diffusion-weighted shells by ascending b-value; a gap above 100 s/mm^2 parts them."""
        weighted = np.flatnonzero(~self.is_b0)
        groups = [weighted[g] for g in group_shells(self.bvals[weighted])]
        return tuple(Shell(float(np.mean(self.bvals[g])), tuple(g.tolist())) for g in groups)

    def count_directions(self) -> int:
        """Count distinct axes (v and -v are one) among the diffusion-weighted volumes."""
        axes: list[NDArray[np.float64]] = []
        for v in self.bvecs_ras[~self.is_b0]:
            if all(abs(float(v @ w)) < np.cos(np.deg2rad(2.0)) for w in axes):
                axes.append(v)
        return len(axes)

    def select(self, index: Sequence[int] | NDArray[np.int_]) -> GradientTable:
        """Return the table of the given volumes, in the given order."""
        index = np.asarray(index)
        return GradientTable(self.bvals[index], self.bvecs_ras[index])

    def rotated(self, rotations: ArrayLike) -> GradientTable:
        """Return the table with every b-vector rotated.

        Parameters
        ----------
        rotations
            Shape (3, 3), or (N, 3, 3) for one rotation per volume. A point x of the image
            moves to R x, and so does the direction.
        """
        rotation = np.broadcast_to(np.asarray(rotations, dtype=np.float64), (len(self), 3, 3))
        return GradientTable(self.bvals, np.einsum("nij,nj->ni", rotation, self.bvecs_ras))

    @staticmethod
    def concatenate(tables: Sequence[GradientTable]) -> GradientTable:
        """Join tables, volumes in order."""
        return GradientTable(
            np.concatenate([t.bvals for t in tables]),
            np.concatenate([t.bvecs_ras for t in tables]),
        )


def rotation_part(affine: ArrayLike) -> NDArray[np.float64]:
    """Return the orthogonal matrix nearest to the linear part of an affine.

    Parameters
    ----------
    affine
        Shape (3, 3) or (4, 4). Voxel sizes, and shears of a sampling grid, are removed.

    Returns
    -------
    ndarray
        Shape (3, 3), orthogonal; its determinant has the sign of the affine's.

    Examples
    --------
    >>> rotation_part(np.diag([-2.0, 2.0, 3.0, 1.0])).diagonal().tolist()
    [-1.0, 1.0, 1.0]
    """
    linear = np.asarray(affine, dtype=np.float64)[:3, :3]
    scale = np.linalg.norm(linear, axis=0)
    rotation, _ = polar(linear / scale)
    return np.asarray(rotation)


def _fsl_axes(affine: ArrayLike) -> NDArray[np.float64]:
    """Return the matrix that takes FSL's b-vector components to RAS."""
    rotation = rotation_part(affine)
    if np.linalg.det(rotation) > 0:
        rotation = rotation @ np.diag([-1.0, 1.0, 1.0])
    return rotation


def fsl_to_ras(bvecs_fsl: ArrayLike, affine: ArrayLike) -> NDArray[np.float64]:
    """Turn FSL b-vectors into RAS+ scanner directions.

    Parameters
    ----------
    bvecs_fsl
        Shape (N, 3), along the image's axes, first component negated if det(affine) > 0.
    affine
        Shape (4, 4), voxel to RAS+ mm, of the image the vectors belong to.

    Returns
    -------
    ndarray
        Shape (N, 3), RAS+.

    Examples
    --------
    The same file vector means opposite sides in a RAS and an LAS image only if the image is
    mirrored too: in both, FSL's +x points to the anatomical left.

    >>> fsl_to_ras([[1, 0, 0]], np.diag([2, 2, 2, 1])).tolist()
    [[-1.0, 0.0, 0.0]]
    >>> fsl_to_ras([[1, 0, 0]], np.diag([-2, 2, 2, 1])).tolist()
    [[-1.0, 0.0, 0.0]]
    """
    return np.asarray(bvecs_fsl, dtype=np.float64) @ _fsl_axes(affine).T + 0.0


def ras_to_fsl(bvecs_ras: ArrayLike, affine: ArrayLike) -> NDArray[np.float64]:
    """Turn RAS+ scanner directions into FSL b-vectors; inverse of :func:`fsl_to_ras`."""
    return np.asarray(bvecs_ras, dtype=np.float64) @ _fsl_axes(affine) + 0.0


def _is_number(word: str) -> bool:
    """Tell plain numbers, NaN included, from words, infinity and what only Python accepts."""
    try:
        return word.isascii() and "_" not in word and not abs(float(word)) > LARGEST_NUMBER
    except ValueError:
        return False


def _read_numbers(path: Path, what: str) -> NDArray[np.float64]:
    advice = "convert the scan with dcm2niix, which writes .bval and .bvec beside the image"
    expected = f"a text file with the {what}"
    require_content(path, GradientError)
    if not path.is_file():
        raise GradientError("file is missing", path=path, expected=expected, advice=advice)
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


def read_gradients(
    bval: str | Path, bvec: str | Path, *, affine: ArrayLike, n_volumes: int | None = None
) -> GradientTable:
    """Read FSL gradient files of an image.

    Parameters
    ----------
    bval, bvec
        FSL text files: N b-values, in a row or a column; 3 rows of N components. A bvec file
        of N rows of 3 is refused: with N = 3 the two cannot be told apart.
    affine
        Shape (4, 4), voxel to RAS+ mm, of the image.
    n_volumes
        Number of volumes of the image; that of the b-values if there is no image.

    Returns
    -------
    GradientTable
        b-vectors in RAS+.

    Raises
    ------
    GradientError
        If a file is missing, empty or malformed, a count differs from `n_volumes`, a b-value
        is in another unit, or a diffusion-weighted volume has no direction.
    """
    bval, bvec = Path(bval), Path(bvec)
    bvals = _read_numbers(bval, "b-values").ravel()
    bvecs = _read_numbers(bvec, "b-vectors")
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
    try:
        return GradientTable(bvals, fsl_to_ras(bvecs.T, affine))
    except GradientError as error:
        raise GradientError(
            error.found, path=bvec, expected=error.expected, advice=error.advice
        ) from None


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
