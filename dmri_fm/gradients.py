"""Gradient tables: b-values and b-vectors, and the frames they live in.

On disk a b-vector follows FSL's convention: it is given along the image's own axes, and its
first component is negated when the image is stored neurologically (determinant of the affine
above zero). In memory a b-vector is always in scanner space, RAS+. The functions
:func:`fsl_to_ras` and :func:`ras_to_fsl` are the only place where the two meet. Some pipelines
write other frames: :func:`to_ras`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import polar

from dmri_fm.errors import ConfigError, GradientError

#: Frame of the b-vectors of a file. `fsl`: along the image's axes, with FSL's sign rule; `voxel`:
#: along the image's axes, without it, as DIPY reads them; `ras`: of the scanner, RAS+, as
#: MRtrix3 writes them.
BvecFrame = Literal["fsl", "voxel", "ras"]

#: b-values below this count as b=0 unless a table says otherwise, s/mm^2. UIH stores 1.25, GE
#: and Philips store 5 to 10.
B0_THRESHOLD = 50.0

#: Where no b-value lies below :data:`B0_THRESHOLD`, those up to this count as b=0 ...
LARGEST_B0_BVAL = 100.0
#: ... if the next one is higher by this or more ...
B0_GAP = 200.0
#: ... and this is the threshold, s/mm^2. HCP 7T has 60 to 70 for b=0, Bruker 55.
RAISED_B0_THRESHOLD = 150.0

#: A gap between b-values that is larger than this, s/mm^2, and than this share of the lower
#: one, separates two shells.
SHELL_GAP = 100.0
SHELL_GAP_SHARE = 0.05

#: A length that differs from 1 by no more than this is rounding, and is normalised.
UNIT_TOLERANCE = 0.01

#: Axes closer than this are one direction measured again, degrees.
SAME_AXIS_DEG = 2.0


@dataclass(frozen=True)
class Shell:
    """Volumes that share a b-value."""

    bval: float  # mean b-value, s/mm^2
    index: tuple[int, ...]  # positions in the series, ascending


def choose_b0_threshold(bvals: ArrayLike) -> float:
    """Return the b-value from which volumes count as diffusion-weighted.

    Some scanners store no b-value below 50 s/mm^2 although they did measure b=0: the b-values of
    the lowest cluster then belong to the imaging and crusher gradients.

    Parameters
    ----------
    bvals
        Shape (N,), s/mm^2.

    Returns
    -------
    float
        :data:`B0_THRESHOLD`. Where no b-value lies below it, :data:`RAISED_B0_THRESHOLD`, if
        there are b-values up to :data:`LARGEST_B0_BVAL` and the next one, if any, is higher by
        :data:`B0_GAP` or more.

    Examples
    --------
    >>> choose_b0_threshold([0, 60, 1000]), choose_b0_threshold([60, 65, 1000])
    (50.0, 150.0)
    >>> choose_b0_threshold([60, 200, 1000]), choose_b0_threshold([120, 1000])
    (50.0, 50.0)
    """
    values = np.asarray(bvals, dtype=np.float64)
    low, high = values[values <= LARGEST_B0_BVAL], values[values > LARGEST_B0_BVAL]
    if (values < B0_THRESHOLD).any() or not low.size:
        return B0_THRESHOLD
    is_apart = not high.size or high.min() >= low.max() + B0_GAP
    return RAISED_B0_THRESHOLD if is_apart else B0_THRESHOLD


def is_unit_length(lengths: ArrayLike) -> NDArray[np.bool_]:
    """Tell which lengths are 1 but for rounding; NaN is not.

    Examples
    --------
    >>> is_unit_length([0.98, 0.995, 1.01]).tolist()
    [False, True, True]
    """
    return np.asarray(np.abs(np.asarray(lengths, dtype=np.float64) - 1.0) <= UNIT_TOLERANCE + 1e-9)


def group_shells(bvals: ArrayLike) -> list[NDArray[np.int_]]:
    """Split measurements into shells by ascending b-value.

    A gap separates two shells if it is above :data:`SHELL_GAP` and above :data:`SHELL_GAP_SHARE`
    of the lower b-value: scanners scatter b-values by a share of the nominal one.

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
    >>> [shell.tolist() for shell in group_shells([4850, 5000, 5150, 700])]
    [[3], [0, 1, 2]]
    """
    values = np.asarray(bvals, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    gaps = np.diff(ascending)
    starts = np.flatnonzero(gaps > np.maximum(SHELL_GAP, SHELL_GAP_SHARE * ascending[:-1])) + 1
    return [np.sort(part) for part in np.split(order, starts) if part.size]


@dataclass(frozen=True, eq=False)
class GradientTable:
    """b-values and b-vectors of a series.

    Parameters
    ----------
    bvals
        Shape (N,), s/mm^2, finite and not negative.
    bvecs_ras
        Shape (N, 3), RAS+ scanner frame, unit length for every diffusion-weighted volume. The
        direction of a b=0 volume is kept if its b-value is at least :data:`B0_THRESHOLD` (the
        60 s/mm^2 of HCP 7T weight the signal a little); other rows are set to zero.
    b0_threshold
        b-values below it count as b=0, s/mm^2; that of :func:`choose_b0_threshold` if not given.

    Raises
    ------
    GradientError
        If shapes differ, a value is not finite, or a vector is not of unit length to 1%.
    ConfigError
        If the threshold is not above zero.

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
    b0_threshold: float = None  # type: ignore[assignment]  # a number once it is made

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
        threshold = self.b0_threshold
        threshold = choose_b0_threshold(bvals) if threshold is None else float(threshold)
        if not threshold > 0:
            raise ConfigError(f"b=0 threshold of {threshold:g}", expected="more than 0 s/mm^2")
        weighted = bvals >= threshold
        directed = weighted | (
            (bvals >= B0_THRESHOLD) & is_unit_length(np.linalg.norm(bvecs, axis=1))
        )
        bvecs[~directed] = 0.0
        if not np.isfinite(bvecs).all():
            volume = int(np.flatnonzero(~np.isfinite(bvecs).all(axis=1))[0])
            raise GradientError(
                f"b-vector of volume {volume} (b = {bvals[volume]:g}) is not finite",
                expected=f"a direction for every volume with b >= {threshold:g} s/mm^2",
                advice="convert the scan again, or remove the volume from image, bval and bvec",
            )
        length = np.linalg.norm(bvecs, axis=1)
        wrong = weighted & ~is_unit_length(length)
        if wrong.any():
            volume = int(np.flatnonzero(wrong)[0])
            raise GradientError(
                f"b-vector of volume {volume} has length {length[volume]:.3f}",
                expected=f"unit length for every volume with b >= {threshold:g} s/mm^2",
                advice="check that the file holds directions, not directions times b",
            )
        bvecs[directed] /= length[directed, None]
        bvals.setflags(write=False)
        bvecs.setflags(write=False)
        object.__setattr__(self, "bvals", bvals)
        object.__setattr__(self, "bvecs_ras", bvecs)
        object.__setattr__(self, "b0_threshold", threshold)

    def __len__(self) -> int:
        return int(self.bvals.size)

    @property
    def is_b0(self) -> NDArray[np.bool_]:
        """Shape (N,): which volumes are b=0."""
        return self.bvals < self.b0_threshold

    @property
    def shells(self) -> tuple[Shell, ...]:
        """Diffusion-weighted shells by ascending b-value, see :func:`group_shells`."""
        weighted = np.flatnonzero(~self.is_b0)
        groups = [weighted[g] for g in group_shells(self.bvals[weighted])]
        return tuple(Shell(float(np.mean(self.bvals[g])), tuple(g.tolist())) for g in groups)

    def require_b0(self) -> None:
        """Refuse a table without a b=0 volume.

        Raises
        ------
        GradientError
            If there is none.
        """
        if not self.is_b0.any():
            raise GradientError(
                f"no b=0 volume among {len(self)}",
                expected=f"at least one volume with b < {self.b0_threshold:g} s/mm^2",
                advice="merge the b=0 images of the protocol into the series",
            )

    def group_axes(self, index: Iterable[int]) -> list[list[int]]:
        """Group volumes by axis: v and -v, and axes within :data:`SAME_AXIS_DEG`, are one."""
        groups: list[list[int]] = []
        limit = np.cos(np.deg2rad(SAME_AXIS_DEG))
        for i in index:
            for group in groups:
                if abs(float(self.bvecs_ras[group[0]] @ self.bvecs_ras[i])) > limit:
                    group.append(i)
                    break
            else:
                groups.append([i])
        return groups

    def count_directions(self) -> int:
        """Count distinct axes among the diffusion-weighted volumes."""
        return len(self.group_axes(np.flatnonzero(~self.is_b0).tolist()))

    def select(self, index: Sequence[int] | NDArray[np.int_]) -> GradientTable:
        """Return the table of the given volumes, in the given order."""
        index = np.asarray(index)
        return GradientTable(self.bvals[index], self.bvecs_ras[index], self.b0_threshold)

    def rotated(self, rotations: ArrayLike) -> GradientTable:
        """Return the table with every b-vector rotated.

        Parameters
        ----------
        rotations
            Shape (3, 3), or (N, 3, 3) for one rotation per volume. A point x of the image
            moves to R x, and so does the direction.
        """
        rotation = np.broadcast_to(np.asarray(rotations, dtype=np.float64), (len(self), 3, 3))
        turned = np.einsum("nij,nj->ni", rotation, self.bvecs_ras)
        return GradientTable(self.bvals, turned, self.b0_threshold)

    @staticmethod
    def concatenate(tables: Sequence[GradientTable]) -> GradientTable:
        """Join tables, volumes in order.

        The threshold is the lowest of theirs, raised where a b=0 volume of one table would
        otherwise count as diffusion-weighted.
        """
        bvals = np.concatenate([t.bvals for t in tables])
        threshold = min(t.b0_threshold for t in tables)
        largest_b0 = bvals[np.concatenate([t.is_b0 for t in tables])].max(initial=0.0)
        if largest_b0 >= threshold:
            threshold = float(np.floor(largest_b0)) + 1.0
        return GradientTable(bvals, np.concatenate([t.bvecs_ras for t in tables]), threshold)


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


def to_ras(bvecs: ArrayLike, affine: ArrayLike, frame: BvecFrame) -> NDArray[np.float64]:
    """Turn b-vectors of a file into RAS+ scanner directions.

    Parameters
    ----------
    bvecs
        Shape (N, 3).
    affine
        Shape (4, 4), voxel to RAS+ mm, of the image the vectors belong to.
    frame
        Frame of the file, see :data:`BvecFrame`.

    Returns
    -------
    ndarray
        Shape (N, 3), RAS+.

    Examples
    --------
    The x component of a file beside an LPS image: its first axis points to the anatomical left.

    >>> lps = np.diag([-2, -2, 2, 1])
    >>> [float(to_ras([[1, 0, 0]], lps, frame)[0, 0]) for frame in ("fsl", "voxel", "ras")]
    [1.0, -1.0, 1.0]
    """
    if frame == "fsl":
        return fsl_to_ras(bvecs, affine)
    axes = rotation_part(affine) if frame == "voxel" else np.eye(3)
    return np.asarray(bvecs, dtype=np.float64) @ axes.T + 0.0


def ras_to_fsl(bvecs_ras: ArrayLike, affine: ArrayLike) -> NDArray[np.float64]:
    """Turn RAS+ scanner directions into FSL b-vectors; inverse of :func:`fsl_to_ras`."""
    return np.asarray(bvecs_ras, dtype=np.float64) @ _fsl_axes(affine) + 0.0
