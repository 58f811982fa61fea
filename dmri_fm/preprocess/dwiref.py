"""The b=0 reference image."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import GradientError, ImageError
from dmri_fm.preprocess.alignment import align, one_itk_thread, resample_affine, to_ants_image
from dmri_fm.series import Dwi

#: Bias fields are smooth over centimetres: they are estimated on voxels of about this size, mm.
N4_SAMPLING_MM = 6.0

#: Smallest factor of a coil: no field that N4 continues beyond its mask may reach 0.
LEAST_BIAS = 0.01

#: Largest number of b=0 volumes in the mean: more add little and cost a registration each.
MOST_B0 = 8


def b0_reference(dwi: Dwi) -> NDArray[np.float32]:
    """Align the b=0 volumes that hold signal rigidly to the first one and average them.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), float32, at the position of the first b=0.

    Raises
    ------
    GradientError
        If there is no b=0 volume with signal.
    """
    series, gtab, affine = dwi.data, dwi.gtab, dwi.affine
    index = np.array([n for n in np.flatnonzero(gtab.is_b0) if series[..., n].any()], dtype=int)
    if not index.size:
        raise GradientError(
            f"no b=0 volume with signal among {len(gtab)} volumes",
            expected=f"at least one volume with b < {gtab.b0_threshold:g} s/mm^2",
            advice="merge the b=0 images of the protocol into the series",
        )
    if index.size > MOST_B0:
        index = index[np.linspace(0, index.size - 1, MOST_B0).round().astype(int)]
    first = series[..., index[0]]
    total = first.astype(np.float64)
    for n in index[1:]:
        volume = series[..., n]
        xfm = align(first, volume, fixed_affine=affine, moving_affine=affine, metric="correlation")
        total += resample_affine(
            volume, xfm, fixed_affine=affine, moving_affine=affine, shape=first.shape
        )
    return np.maximum(total / index.size, 0).astype(np.float32)


@one_itk_thread()
def correct_bias(
    image: ArrayLike, affine: ArrayLike, *, mask: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Even out the slow intensity change of the receive coil (N4).

    Parameters
    ----------
    image
        Shape (X, Y, Z), not negative.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    mask
        Shape (X, Y, Z): where the field is estimated; the bright voxels if not given.

    References
    ----------
    Tustison et al. 2010, doi:10.1109/TMI.2010.2046908.
    """
    data = np.asarray(image, dtype=np.float32)
    if mask is None:
        mask = data > 0.1 * np.percentile(data, 99)
    return np.asarray(np.maximum(_run_n4(data, affine, mask), 0), dtype=np.float32)


@one_itk_thread()
def estimate_bias(image: ArrayLike, affine: ArrayLike, *, mask: ArrayLike) -> NDArray[np.float32]:
    """Estimate the receive field of the coil in the brain (N4).

    Parameters, without a default mask, and the method are those of :func:`correct_bias`.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), above 0: factor of the signal. Its geometric mean in the mask is 1, so
        that a division leaves the level of the brain.

    Raises
    ------
    ImageError
        If the mask is empty.
    """
    inside = np.asarray(mask, dtype=bool)
    if not inside.any():
        raise ImageError("the brain mask is empty", expected="a brain to estimate its bias in")
    data = np.asarray(image, dtype=np.float32)
    field = np.maximum(_run_n4(data, affine, inside, returns_field=True), LEAST_BIAS)
    level = np.exp(np.log(field[inside]).mean())
    return np.asarray(field / level, dtype=np.float32)


def name_bias_correction() -> str:
    """Return the entry of the sidecar about a series whose bias was divided out."""
    return f"N4 (ANTsPy {version('antspyx')}) on the b=0 reference, applied to all volumes"


def _run_n4(
    data: NDArray[np.float32], affine: ArrayLike, mask: ArrayLike, *, returns_field: bool = False
) -> NDArray[np.float32]:
    import ants

    smallest_mm = float(np.linalg.norm(np.asarray(affine)[:3, :3], axis=0).min())
    found = ants.n4_bias_field_correction(
        to_ants_image(data, affine),
        mask=to_ants_image(np.asarray(mask, dtype=np.float32), affine),
        shrink_factor=max(1, round(N4_SAMPLING_MM / smallest_mm)),
        convergence={"iters": [50, 40, 30], "tol": 1e-6},
        return_bias_field=returns_field,
    )
    return np.asarray(found.numpy(), dtype=np.float32)
