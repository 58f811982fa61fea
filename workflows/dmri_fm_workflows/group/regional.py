"""Statistics of scalar maps in regions of the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import affine_transform

from dmri_fm.errors import ImageError

#: A region with fewer voxels than this has no statistics.
MIN_VOXELS = 20

STATISTICS = ("mean", "median", "std")

#: Space of the maps that are summarised, and of all regions.
SCALAR_SPACE = "MNI152NLin2009aSym"


class Region(NamedTuple):
    """A region on the grid of a map.

    Attributes
    ----------
    name
        As in the columns of the tables.
    voxels
        Shape (N,): positions in the flattened map.
    weights
        Shape (N,), above 0; None: all equal.
    """

    name: str
    voxels: NDArray[np.int_]
    weights: NDArray[np.float64] | None = None


class RegionSource(Protocol):
    """Regions in the template's space that can be put on the grid of a map."""

    @property
    def about(self) -> Mapping[str, str]:
        """What each region is, by name."""

    @property
    def arrays(self) -> Sequence[NDArray]:
        """Arrays that define the regions."""

    def on_grid(self, shape: Sequence[int], affine: NDArray[np.float64]) -> tuple[Region, ...]:
        """Return the regions on a grid: its shape and its affine (voxel to RAS+ mm)."""


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
    source
        What the regions are of, for their description.
    """

    labels: NDArray[np.int_]
    affine: NDArray[np.float64]
    members: Mapping[str, tuple[int, ...]]
    source: str = "blocks of the template"

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

    @property
    def about(self) -> Mapping[str, str]:
        """What each region is, by name."""
        return {
            name: f"label{'s' if len(values) > 1 else ''} {', '.join(map(str, values))} of "
            f"{self.source}"
            for name, values in self.members.items()
        }

    @property
    def arrays(self) -> Sequence[NDArray]:
        """Arrays that define the regions."""
        return self.labels, self.affine

    def on_grid(self, shape: Sequence[int], affine: NDArray[np.float64]) -> tuple[Region, ...]:
        """Return the regions on a grid, by nearest voxel."""
        labels = _resample(self.labels, self.affine, shape, affine, order=0).ravel()
        order = np.argsort(labels, kind="stable")
        edges = np.searchsorted(labels[order], np.arange(int(labels.max()) + 2))
        return tuple(
            Region(name, np.concatenate([_span(order, edges, value) for value in values]))
            for name, values in self.members.items()
        )


def _span(order: NDArray[np.int_], edges: NDArray[np.int_], value: int) -> NDArray[np.int_]:
    known = value + 1 < len(edges)
    return order[edges[value] : edges[value + 1]] if known else order[:0]


@dataclass(frozen=True, eq=False)
class Bundles:
    """Masks or probabilities of fibre bundles, each on a grid of its own.

    Attributes
    ----------
    images
        By region's name: values (X, Y, Z) of 0 or more, and their affine (voxel to RAS+ mm).
    sources
        By region's name: the file.
    """

    images: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float64]]]
    sources: Mapping[str, str]

    @property
    def about(self) -> Mapping[str, str]:
        """What each region is, by name."""
        return {
            name: f"bundle {file}, voxels weighted by its values"
            for name, file in self.sources.items()
        }

    @property
    def arrays(self) -> Sequence[NDArray]:
        """Arrays that define the regions."""
        return [array for image in self.images.values() for array in image]

    def on_grid(self, shape: Sequence[int], affine: NDArray[np.float64]) -> tuple[Region, ...]:
        """Return the bundles on a grid, by linear interpolation."""
        found = []
        for name, (image, own) in self.images.items():
            weights = _resample(image, own, shape, affine, order=1).ravel().astype(np.float64)
            voxels = np.flatnonzero(weights > 0)
            found.append(Region(name, voxels, weights[voxels]))
        return tuple(found)


def _resample(
    data: NDArray, own: NDArray[np.float64], shape: Sequence[int], affine: NDArray, *, order: int
) -> NDArray:
    """Return an image on another grid; 0 outside of it."""
    if tuple(shape) == data.shape and np.allclose(affine, own, atol=1e-3):
        return data
    step = np.linalg.inv(own) @ affine
    return np.asarray(
        affine_transform(
            data,
            step[:3, :3],
            step[:3, 3],
            tuple(shape),
            order=order,
            mode="grid-constant",
            cval=0,
        )
    )


class Summary(NamedTuple):
    """Statistics of a map in regions, one entry of each array per region.

    Attributes
    ----------
    statistics
        Shape (R, 3): :data:`STATISTICS` in the map's units, weighted where the region is; NaN
        where fewer than :data:`MIN_VOXELS` voxels are left.
    n_voxels
        Shape (R,): voxels inside the mask with a finite value.
    coverage
        Shape (R,): share of the region (of its weights) inside the mask, 0 to 1.
    """

    statistics: NDArray[np.float64]
    n_voxels: NDArray[np.int_]
    coverage: NDArray[np.float64]


def summarise_map(data: ArrayLike, mask: ArrayLike, *, regions: Sequence[Region]) -> Summary:
    """Summarise a scalar map in every region.

    Parameters
    ----------
    data
        Shape (X, Y, Z), on the regions' grid. Voxels that are not finite are ignored.
    mask
        Shape (X, Y, Z): where the map holds a value.
    regions
        Regions on the same grid.

    Raises
    ------
    ImageError
        If the shapes differ.
    """
    image, brain = np.asarray(data), np.asarray(mask, dtype=bool)
    if image.shape != brain.shape:
        raise ImageError(f"map of shape {image.shape}, mask of shape {brain.shape}")
    values, inside = image.ravel(), brain.ravel()
    statistics = np.full((len(regions), len(STATISTICS)), np.nan)
    n_voxels = np.zeros(len(regions), dtype=np.int_)
    coverage = np.zeros(len(regions))
    for row, (_, voxels, weights) in enumerate(regions):
        is_in = inside[voxels]
        found = values[voxels].astype(np.float64)
        usable = is_in & np.isfinite(found)
        n_voxels[row] = np.count_nonzero(usable)
        if voxels.size:
            coverage[row] = np.average(is_in, weights=weights)
        if n_voxels[row] >= MIN_VOXELS:
            chosen = None if weights is None else weights[usable]
            statistics[row] = _describe(found[usable], chosen)
    return Summary(statistics, n_voxels, coverage)


def _describe(
    values: NDArray[np.float64], weights: NDArray[np.float64] | None
) -> tuple[float, float, float]:
    """Return mean, median and (population) standard deviation."""
    if weights is None:
        return float(values.mean()), float(np.median(values)), float(values.std())
    mean = float(np.average(values, weights=weights))
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    median = float(values[order][np.searchsorted(share, 0.5)])
    return mean, median, float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))
