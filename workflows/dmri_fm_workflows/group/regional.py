"""Statistics of scalar maps in regions of the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError

#: A region with fewer voxels than this has no statistics.
MIN_VOXELS = 20

STATISTICS = ("mean", "median", "std")


@dataclass(frozen=True, eq=False)
class RegionSet:
    """Named sets of voxels on one grid.

    Attributes
    ----------
    labels
        Shape (X, Y, Z), int; 0 is no region.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    members
        Label values of each region; regions may share labels.
    """

    labels: NDArray[np.int_]
    affine: NDArray[np.float64]
    members: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if self.labels.ndim != 3 or np.asarray(self.affine).shape != (4, 4):
            raise ImageError(
                f"labels of shape {self.labels.shape}", expected="3-D with a 4 x 4 affine"
            )

    @classmethod
    def from_table(
        cls,
        labels: ArrayLike,
        affine: ArrayLike,
        *,
        names: Mapping[int, str],
        tissues: Mapping[int, str] | None = None,
    ) -> RegionSet:
        """Build the regions of a label image, and their unions by tissue.

        Parameters
        ----------
        labels, affine
            See the class.
        names
            Region name of each label value.
        tissues
            Tissue of each label value; the union of a tissue's regions becomes a region of the
            tissue's name, before the others.

        Examples
        --------
        >>> labels = np.zeros((2, 2, 2), int)
        >>> RegionSet.from_table(labels, np.eye(4), names={1: "wm_left", 2: "wm_right"},
        ...                      tissues={1: "wm", 2: "wm"}).members
        {'wm': (1, 2), 'wm_left': (1,), 'wm_right': (2,)}
        """
        members: dict[str, tuple[int, ...]] = {}
        for index, tissue in (tissues or {}).items():
            members[tissue] = (*members.get(tissue, ()), index)
        members |= {name: (index,) for index, name in names.items()}
        return cls(np.asarray(labels), np.asarray(affine, dtype=np.float64), members)

    def on_grid(self, shape: Sequence[int], affine: ArrayLike) -> RegionSet:
        """Return the regions on another grid, by nearest voxel."""
        shape = tuple(int(n) for n in shape)
        affine = np.asarray(affine, dtype=np.float64)
        if shape == self.labels.shape and np.allclose(affine, self.affine, atol=1e-3):
            return self
        to_own = np.linalg.inv(self.affine) @ affine
        axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True)
        index = [
            np.rint(sum(to_own[row, k] * axes[k] for k in range(3)) + to_own[row, 3]).astype(int)
            for row in range(3)
        ]
        inside = np.ones(shape, dtype=bool)
        for position, size in zip(index, self.labels.shape, strict=True):
            inside &= (position >= 0) & (position < size)
        clipped = [np.clip(f, 0, n - 1) for f, n in zip(index, self.labels.shape, strict=True)]
        labels = np.where(inside, self.labels[tuple(clipped)], 0)
        return RegionSet(labels, affine, self.members)


def summarise_map(
    data: ArrayLike, mask: ArrayLike, *, regions: RegionSet
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Summarise a scalar map in every region.

    Parameters
    ----------
    data
        Shape (X, Y, Z), on the regions' grid. Voxels that are not finite are ignored.
    mask
        Shape (X, Y, Z): where the map holds a value.
    regions
        Regions on the same grid.

    Returns
    -------
    statistics
        By region: mean, median and (population) standard deviation, the map's units; NaN where
        fewer than :data:`MIN_VOXELS` voxels are left.
    coverage
        By region: share of its voxels inside the mask, 0 to 1.

    Raises
    ------
    ImageError
        If the shapes differ.
    """
    values = np.asarray(data, dtype=np.float64)
    inside = np.asarray(mask, dtype=bool)
    labels = regions.labels
    if values.shape != labels.shape or inside.shape != labels.shape:
        raise ImageError(
            f"map of shape {values.shape}, mask of shape {inside.shape}",
            expected=f"the regions' grid, {labels.shape}",
        )
    somewhere = labels > 0
    label, value = labels[somewhere], values[somewhere]
    is_in = inside[somewhere]
    usable = is_in & np.isfinite(value)
    order = np.argsort(label, kind="stable")
    label, value, is_in, usable = label[order], value[order], is_in[order], usable[order]
    n_labels = int(labels.max()) + 1
    edges = np.searchsorted(label, np.arange(n_labels + 1))
    statistics, coverage = {}, {}
    for name, members in regions.members.items():
        known = [m for m in members if m < n_labels]
        pieces = [slice(edges[m], edges[m + 1]) for m in known]
        covered = [is_in[p] for p in pieces]
        n_all = sum(c.size for c in covered)
        coverage[name] = float(sum(c.sum() for c in covered)) / n_all if n_all else 0.0
        chosen = np.concatenate([value[p][usable[p]] for p in pieces] or [np.empty(0)])
        if chosen.size < MIN_VOXELS:
            statistics[name] = dict.fromkeys(STATISTICS, float("nan"))
        else:
            numbers = (chosen.mean(), np.median(chosen), chosen.std())
            statistics[name] = dict(zip(STATISTICS, map(float, numbers), strict=True))
    return statistics, coverage
