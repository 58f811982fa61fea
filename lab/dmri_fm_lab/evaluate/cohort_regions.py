"""Baselines of simulated cohorts: FA and MD of regions, and the size of brain and ventricles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from dmri_fm.normalise.grid import Grid
from dmri_fm.series import Dwi
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.normalised_fit import fit_normalised
from dmri_fm_lab.prediction.rish import Labels
from dmri_fm_lab.simulate.voxel_tissue import Geometry

#: Edge of the cubes that white and grey matter are cut into, mm.
CUBE_MM = 32.0

#: Least share of a tissue in the voxels of its regions, and fewest voxels of a region.
LEAST_TISSUE, FEWEST_VOXELS = 0.6, 30

#: CSF deeper than this below the surface of the brain is that of ventricles, mm.
DEEP_MM = 22.0


def choose_parcels(heads: Sequence[Geometry]) -> NDArray[np.int_]:
    """Return the labels of the regions that have enough voxels in all heads, ascending."""
    common = set.intersection(*(_large(_labels(head)) for head in heads))
    return np.array(sorted(common))


def _large(labels: NDArray[np.int_]) -> set[int]:
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    return set(values[counts >= FEWEST_VOXELS].tolist())


def _labels(geometry: Geometry) -> NDArray[np.int_]:
    """Return the region of each voxel (V,): cube and tissue; -1 for none."""
    ijk = np.argwhere(geometry.mask)
    mm = ijk @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    # Up to 32 cubes to either side of the origin along each axis.
    cube = np.floor(mm / CUBE_MM).astype(int) + 32
    number = np.ravel_multi_index(tuple(cube.T), (64, 64, 64))
    white, grey = (geometry.fractions[:, k] > LEAST_TISSUE for k in range(2))
    return np.where(white, 2 * number, np.where(grey, 2 * number + 1, -1))


def label_image(geometry: Geometry, parcels: NDArray[np.int_]) -> Labels:
    """Return the regions of a head as an image, numbered from one in the order of `parcels`.

    Names are `wm_<cube>` and `gm_<cube>`: cube of the template's space and true tissue.
    """
    labels = _labels(geometry)
    place = np.searchsorted(parcels, labels).clip(max=len(parcels) - 1)
    image = np.zeros(geometry.mask.shape, dtype=np.int16)
    image[geometry.mask] = np.where(parcels[place] == labels, place + 1, 0)
    tissues = ("wm", "gm")
    names = {k + 1: f"{tissues[p % 2]}_{p // 2}" for k, p in enumerate(parcels.tolist())}
    return Labels(image, Grid(geometry.mask.shape, geometry.affine), names)


def regional_means(
    scan: GridScan, geometry: Geometry, parcels: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Return the mean FA, then the mean MD (um^2/ms), of regions; NaN where one is empty.

    Parameters
    ----------
    scan
        With the mask of the geometry, or less.
    geometry
        True tissue.
    parcels
        See :func:`choose_parcels`.
    """
    maps = fit_normalised(Dwi.from_arrays(scan.signal, scan.affine, scan.gtab, mask=scan.mask))
    labels = np.where(scan.mask[geometry.mask], _labels(geometry), -1)
    place = np.searchsorted(parcels, labels).clip(max=len(parcels) - 1)
    inside = parcels[place] == labels
    counts = np.bincount(place[inside], minlength=len(parcels)).astype(float)
    counts[counts == 0] = np.nan
    means = [
        np.bincount(place[inside], image[geometry.mask][inside], len(parcels)) / counts
        for image in (maps.fa, 1e3 * maps.md)
    ]
    return np.concatenate(means)


def brain_sizes(geometry: Geometry) -> NDArray[np.float64]:
    """Return the volumes of brain, white matter, grey matter, CSF and ventricles, ml."""
    edges = np.linalg.norm(geometry.affine[:3, :3], axis=0)
    depth = distance_transform_edt(geometry.mask, sampling=edges)[geometry.mask]
    ventricles = geometry.fractions[depth > DEEP_MM, 2].sum()
    parts = [len(geometry.fractions), *geometry.fractions.sum(axis=0), ventricles]
    return np.array(parts, dtype=np.float64) * float(np.prod(edges)) / 1000.0
