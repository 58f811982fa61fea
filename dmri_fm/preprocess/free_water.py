"""Free water in the ventricles as a check of the b-values.

Water at the temperature of the body diffuses at a known rate. The diffusivity of deep voxels that
are bright in b=0 therefore checks the b-values of the gradient files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

from dmri_fm.errors import ImageError
from dmri_fm.series import Dwi
from dmri_fm.tensor_design import DIAGONAL, design_matrix, determines_tensor

#: Key of a series' sidecar: what :func:`describe_free_water` returns.
B_SCALING_CHECK_KEY = "BScalingCheck"

#: Diffusivity of water at 37 C, mm^2/s (Holz, Heil & Sacco 2000, doi:10.1039/b005319h).
FREE_WATER_MD = 3.0e-3

#: Above this b-value, s/mm^2, the signal of free water is lost in the noise.
LARGEST_FREE_WATER_BVAL = 1200.0

#: Ventricles lie farther from the edge of the brain mask than this, mm: the sulci do not.
DEPTH_MM = 20.0

#: Ventricles are brighter in b=0 than the median of the deep voxels by this factor ...
BRIGHT_FACTOR = 2.5
#: ... and brighter than this share of the 99th percentile there: less of them is tissue.
BRIGHT_SHARE = 0.75

#: Fewest voxels of free water that are measured.
FEWEST_VOXELS = 30


@dataclass(frozen=True)
class FreeWater:
    """Mean diffusivity of the ventricles, and the number of voxels of the measurement."""

    md: float  # mm^2/s
    n_voxels: int


def find_ventricles(b0: NDArray[Any], *, mask: ArrayLike, affine: ArrayLike) -> NDArray[np.bool_]:
    """Find voxels of free water: deep in the brain and bright in b=0.

    Parameters
    ----------
    b0
        Shape (X, Y, Z), scanner units.
    mask
        Shape (X, Y, Z): the brain. Where it meets the edge of the image it is taken to go on.
    affine
        Shape (4, 4), voxel to RAS+ mm.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), bool; all False if nothing stands out.
    """
    inside = np.asarray(mask) > 0
    if inside.shape != b0.shape:
        raise ImageError(
            f"mask of shape {inside.shape} for an image of shape {b0.shape}",
            expected="the same grid",
        )
    edges_mm = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    padded = np.pad(inside, 1, mode="edge")
    depth = distance_transform_edt(padded, sampling=edges_mm)[1:-1, 1:-1, 1:-1]
    deep = inside & (depth > DEPTH_MM) & (b0 > 0)
    if not deep.any():
        return np.zeros_like(inside)
    limit = max(
        BRIGHT_FACTOR * float(np.median(b0[deep])),
        BRIGHT_SHARE * float(np.percentile(b0[deep], 99)),
    )
    return np.asarray(deep & (b0 > limit))


def measure_free_water(dwi: Dwi) -> FreeWater | None:
    """Measure the mean diffusivity of the ventricles.

    A tensor is fitted to the mean signal of their voxels, up to 1200 s/mm^2.

    Returns
    -------
    FreeWater or None
        None with fewer than :data:`FEWEST_VOXELS` voxels, or if the b-values up to 1200 s/mm^2
        do not determine a tensor.

    Raises
    ------
    ImageError
        If the series has no mask.
    """
    data, gtab = dwi.data, dwi.gtab
    index = np.flatnonzero(gtab.bvals <= LARGEST_FREE_WATER_BVAL)
    table = gtab.select(index)
    if not table.is_b0.any() or not determines_tensor(table):
        return None
    water = find_ventricles(data[..., gtab.is_b0].mean(axis=3), mask=dwi.brain, affine=dwi.affine)
    n_voxels = int(water.sum())
    if n_voxels < FEWEST_VOXELS:
        return None
    signal = np.array([data[..., n][water].mean(dtype=np.float64) for n in index])
    if not (signal > 0).all():
        return None
    tensor = np.linalg.lstsq(design_matrix(table), np.log(signal), rcond=None)[0]
    return FreeWater(float(tensor[list(DIAGONAL)].mean()), n_voxels)


def describe_free_water(
    water: FreeWater | None, *, method: str, common_length: float | None
) -> Mapping[str, Any]:
    """Return the sidecar's check of b-values that lengths of b-vectors may have scaled.

    Parameters
    ----------
    water
        Measurement with the b-values in use.
    method
        Reading of the lengths: `length` or `none`.
    common_length
        The length that the b-vectors share, for the result of the other reading; None if they
        share none.

    Examples
    --------
    >>> found = describe_free_water(FreeWater(3.0e-3, 99), method="none", common_length=0.93)
    >>> found["Summary"]
    'ventricles (99 voxels): MD 3.00e-3 mm^2/s with --b-scaling none, 3.47e-3 with length; free \
water at 37 C: 3.0e-3'
    """
    expected = f"free water at 37 C: {1e3 * FREE_WATER_MD:.1f}e-3"
    if water is None:
        return {
            "VentricleMD": "n/a",
            "FreeWaterMD": FREE_WATER_MD,
            "Summary": f"ventricles: MD n/a (too few voxels, or no b-values up to "
            f"{LARGEST_FREE_WATER_BVAL:.0f} s/mm^2 that determine it); {expected}",
        }
    words = f"ventricles ({water.n_voxels} voxels): MD {1e3 * water.md:.2f}e-3 mm^2/s"
    words += f" with --b-scaling {method}"
    if common_length is not None:
        # MD goes as one over b.
        factor = common_length**2 if method == "length" else common_length**-2
        other = "none" if method == "length" else "length"
        words += f", {1e3 * water.md * factor:.2f}e-3 with {other}"
    return {
        "VentricleMD": round(water.md, 6),
        "FreeWaterMD": FREE_WATER_MD,
        "NumberOfVoxels": water.n_voxels,
        "Summary": f"{words}; {expected}",
    }
