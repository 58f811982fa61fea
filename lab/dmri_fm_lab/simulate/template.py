"""Average heads in MNI space, packaged by nilearn, from which simulated ones are deformed.

There are two, so that networks trained on one can be tested on the other. The tissue maps of the
MNI152 2009a template are averages of many brains, and blurred. The folded cortex of FreeSurfer's
average surfaces (fsaverage5; Fischl et al. 1999,
doi:10.1002/(SICI)1097-0193(1999)8:4<272::AID-HBM10>3.0.CO;2-4) is sharp; only the
tissue below and between its hemispheres comes from the tissue maps.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_fill_holes,
    distance_transform_edt,
    gaussian_filter,
    map_coordinates,
)

#: MNI305, the space of FreeSurfer's surfaces, to MNI152, mm (FreeSurfer's documented matrix).
_MNI305_TO_MNI152 = np.array(
    [
        [0.9975, -0.0073, 0.0176, -0.0429],
        [0.0146, 1.0009, -0.0024, 1.5496],
        [-0.0130, -0.0093, 0.9971, 1.1840],
    ]
)
#: Averaged surfaces have shrunk: this much larger, about this point, they fill the template.
_SURFACE_SCALE, _SURFACE_CENTRE_MM = 1.04, np.array([0.0, -17.0, 15.0])

#: Margin around the brain, for skull and scalp, mm.
_MARGIN_MM = 16


class TissueMaps(NamedTuple):
    """MNI152 2009a maps: float32 arrays of one shape, and their voxel-to-RAS mm affine."""

    wm: NDArray[np.float32]
    gm: NDArray[np.float32]
    brain: NDArray[np.float32]
    affine: NDArray[np.float64]


@lru_cache(maxsize=1)
def load_tissue_maps() -> TissueMaps:
    """Load the packaged maps; read-only."""
    from nilearn import datasets

    wm, gm, brain = (
        load(resolution=1)
        for load in (
            datasets.load_mni152_wm_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    arrays = [np.ascontiguousarray(image.dataobj, dtype=np.float32) for image in (wm, gm, brain)]
    for array in arrays:
        array.setflags(write=False)
    affine = np.asarray(wm.affine, dtype=np.float64)
    assert np.allclose(affine[:3, :3], np.eye(3)), "nilearn's template is on another grid"
    return TissueMaps(arrays[0], arrays[1], arrays[2], affine)


class AnatomyMaps(NamedTuple):
    """A head with a folded cortex, on a 1 mm grid in MNI space.

    Attributes
    ----------
    channels
        Shape (7, X, Y, Z), float32: signed distances, mm, negative inside, from the white
        matter's surface, the pial surface, the ventricles and the brain; fraction of
        grey nuclei inside the white surface; fractions of white and grey matter outside the
        hemispheres (cerebellum, brainstem, middle).
    origin_mm
        RAS mm of the first voxel.
    """

    channels: NDArray[np.float32]
    origin_mm: NDArray[np.float32]

    def sample(self, mni_mm: NDArray[np.float32]) -> NDArray[np.float32]:
        """Interpolate the channels at points (3, ...); the edge's values beyond."""
        where = mni_mm - self.origin_mm.reshape(3, *[1] * (mni_mm.ndim - 1))
        return np.stack(
            [
                map_coordinates(c, where, order=1, mode="nearest", prefilter=False)
                for c in self.channels
            ]
        )


def _signed_distance(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance from the border of a 1 mm mask, mm, negative inside."""
    apart = distance_transform_edt(~inside) - distance_transform_edt(inside)
    apart = np.where(inside, apart + 0.5, apart - 0.5)
    smooth: NDArray[np.float32] = gaussian_filter(apart.astype(np.float32), 0.6)
    return smooth


def _load_surface(name: str) -> NDArray[np.float64]:
    """Return points (N, 3) that cover a surface of both hemispheres without gaps, MNI152 mm."""
    from nilearn.datasets import load_fsaverage

    points = []
    mesh = load_fsaverage("fsaverage5")[name]
    for part in mesh.parts.values():
        corners = np.asarray(part.coordinates, dtype=np.float64)
        corners = corners @ _MNI305_TO_MNI152[:, :3].T + _MNI305_TO_MNI152[:, 3]
        corners = _SURFACE_CENTRE_MM + _SURFACE_SCALE * (corners - _SURFACE_CENTRE_MM)
        a, b, c = np.moveaxis(corners[np.asarray(part.faces)], 1, 0)
        steps = 8  # edges are up to 8 mm long
        points += [
            (i * a + j * b + (steps - i - j) * c) / steps
            for i in range(steps + 1)
            for j in range(steps + 1 - i)
        ]
    return np.concatenate(points)


@lru_cache(maxsize=1)
def load_anatomy_maps() -> AnatomyMaps:
    """Build the head with a folded cortex; a few seconds, once per process."""
    tissue = load_tissue_maps()
    extent = np.argwhere(tissue.brain > 0.5)
    first, last = extent.min(axis=0), extent.max(axis=0)
    box = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    wm, gm, brain = (np.pad(a[box], _MARGIN_MM) for a in tissue[:3])
    origin = tissue.affine[:3, 3] + first - _MARGIN_MM
    inside = {}
    for name in ("white_matter", "pial"):
        shell = np.zeros(wm.shape, dtype=bool)
        shell[tuple(np.rint(_load_surface(name) - origin).astype(int).T)] = True
        inside[name] = binary_fill_holes(shell)
    white, pial = (_signed_distance(inside[name]) for name in ("white_matter", "pial"))
    # The mask of the surface's voxels reaches half a voxel beyond it.
    white, pial = white + np.float32(0.5), pial + np.float32(0.5)

    x, y, z = np.meshgrid(*[np.arange(n) + o for n, o in zip(wm.shape, origin, strict=True)],
                          indexing="ij", sparse=True)  # fmt: skip
    whole = brain > 0.5
    fluid = np.clip(1 - wm - gm, 0, 1) * whole
    # The surface called white encloses the ventricles and the nuclei.
    deep = (white < -2) & (np.abs(x) < 40)
    ventricles = gaussian_filter(fluid * deep, 0.7) > 0.4
    is_nuclear = (np.abs(x) < 38) & (y > -40) & (y < 30) & (z > -20) & (z < 28)
    nuclei = gaussian_filter(gm * (deep & is_nuclear), 0.7)
    # Between and below the hemispheres; elsewhere outside the pial surface lies fluid.
    is_middle = (np.abs(x) < 16) & (y > -45) & (y < 20) & (z < 30)
    is_below = (y < -28) & (z < -8 - 0.15 * np.abs(x))
    outside = whole & (pial > 0.5) & (is_middle | is_below)
    channels = np.stack(
        [
            white,
            pial,
            _signed_distance(ventricles),
            _signed_distance(whole | inside["pial"]),
            nuclei,
            gaussian_filter(wm * outside, 0.5),
            gaussian_filter(gm * outside, 0.5),
        ]
    ).astype(np.float32)
    channels.setflags(write=False)
    return AnatomyMaps(channels, origin.astype(np.float32))
