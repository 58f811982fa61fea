"""Images whose k-space was filled with zeros in plane: found in the spectrum of their noise.

Scanners interpolate images (GE often to 256 x 256, as in ADNI): the matrix as measured is put into
a larger one of zeros. Neighbouring voxels then share their noise, which MP-PCA takes for signal,
and Gibbs ringing has another period than the subvoxel shifts of Kellner et al. expect.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter

from dmri_fm.gradients import GradientTable

#: Power of noise, over its level at low frequencies, below which k-space counts as empty.
EMPTY_POWER = 0.1

#: Images are zero-filled in plane if k-space is empty beyond this share of the highest frequency
#: along both axes of the plane. Where nothing was filled the fuller one reaches 0.91 and more (21
#: series of eight participants, `benchmarks/kspace_extent.py`); partial Fourier and filters of the
#: readout (Canon: 0.53 to 0.65) empty one axis only. Zero-filling by less than 1.3 cannot be told
#: from a filter.
FULL_EXTENT = 0.85

#: Shorter axes have too few frequencies to judge.
FEWEST_VOXELS = 16

#: Volumes that are looked at; more add nothing.
MOST_VOLUMES = 8

#: Frequencies of the other axes, as shares of their extent, whose lines are looked at: there is
#: least signal that k-space is not empty of.
_BAND = (0.6, 0.95)

#: Extent at the start, and repetitions: with each, lines of higher frequencies say more of noise.
_FIRST_EXTENT = 0.4
_N_PASSES = 4

#: Frequencies, as shares of the highest, at which the noise has its full power.
_PLATEAU = (0.125, 1 / 3)

#: Fewest voxels of the head, as a share of the image, whose noise can be looked at.
_SMALLEST_HEAD = 0.01


def measure_kspace_extent(
    data: NDArray[np.float32], gtab: GradientTable
) -> tuple[float, float, float] | None:
    """Measure how far k-space is filled along each axis of the image.

    Differences of two volumes of one shell hold noise and little signal. Their power spectrum
    along an axis, at frequencies of the other axes that hold next to no signal, is level where
    k-space was measured. Only the head counts: magnitudes of noise alone have a wider spectrum.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N), magnitudes as acquired.
    gtab
        Gradients of the N volumes.

    Returns
    -------
    tuple of float or None
        Highest frequency, by axis, whose power is :data:`EMPTY_POWER` of the level or more, as a
        share of the highest of the grid; 1 along axes of fewer than :data:`FEWEST_VOXELS`
        voxels. None where no shell has two volumes, the volumes do not differ, or there is no
        head.

    Notes
    -----
    An image that was smoothed or resampled looks the same, and is as unfit for MP-PCA.
    """
    groups = [np.array(shell.index) for shell in gtab.shells] or [np.flatnonzero(gtab.is_b0)]
    index = max(groups, key=len)[:MOST_VOLUMES]
    if len(index) < 2 or max(data.shape[:3]) < FEWEST_VOXELS:
        return None
    volumes = data[..., index].astype(np.float32)
    window = _head_window(volumes.mean(axis=3))
    if window.mean() < _SMALLEST_HEAD:
        return None
    power = np.zeros(data.shape[:3], dtype=np.float64)
    for one, other in zip(range(len(index) - 1), range(1, len(index)), strict=True):
        difference = (volumes[..., other] - volumes[..., one]) * window
        power += np.abs(fft.fftn(difference)) ** 2
    if not power.any():
        return None
    x = y = z = _FIRST_EXTENT
    for _ in range(_N_PASSES):
        x, y, z = (_extent_along(power, axis, (x, y, z)) for axis in range(3))
    return x, y, z


def in_plane_extent(extents: tuple[float, float, float], *, slice_axis: int) -> float:
    """Return the larger extent of the two axes of the plane.

    Parameters
    ----------
    extents
        Result of :func:`measure_kspace_extent`.
    slice_axis
        Axis of the image along which slices lie: what is empty along it was interpolated through
        the plane, and is not looked at.

    Examples
    --------
    >>> in_plane_extent((0.5, 0.55, 1.0), slice_axis=2)
    0.55
    >>> in_plane_extent((0.5, 1.0, 0.5), slice_axis=2)  # a filter, and interpolated slices
    1.0
    """
    return max(extent for axis, extent in enumerate(extents) if axis != slice_axis)


def is_zero_filled(extent: float | None) -> bool:
    """Tell zero-filled images by :func:`in_plane_extent`; None, unknown, counts as not filled."""
    return extent is not None and extent <= FULL_EXTENT


def describe_zero_filling(extents: tuple[float, float, float], *, slice_axis: int) -> str:
    """Return what was found in an image that is zero-filled in plane, in words.

    Examples
    --------
    >>> describe_zero_filling((0.5, 0.504, 0.7), slice_axis=2)
    'k-space is empty beyond 50% along i and beyond 50% along j'
    """
    found = [
        f"beyond {extent:.0%} along {axis}"
        for axis, extent in zip("ijk", extents, strict=True)
        if axis != "ijk"[slice_axis]
    ]
    return f"k-space is empty {' and '.join(found)}"


def _head_window(mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 inside the head, and a smooth way to 0 at its rim."""
    # dipy's segmentation takes a second to import.
    from dipy.segment.threshold import otsu

    smooth = gaussian_filter(mean, 1.0)
    if smooth.min() == smooth.max():
        return np.zeros_like(mean)
    head = (smooth > otsu(smooth)).astype(np.float32)
    return np.asarray(np.clip(2 * gaussian_filter(head, 1.5) - 1, 0, 1), dtype=np.float32)


def _extent_along(power: NDArray[np.float64], axis: int, extents: tuple[float, ...]) -> float:
    """Return the extent of a power spectrum (X, Y, Z), zero frequency first, along an axis.

    `extents` are those of all axes as far as they are known: they choose the lines.
    """
    n = power.shape[axis]
    if n < FEWEST_VOXELS:
        return 1.0
    where = np.ones(power.shape, dtype=bool)
    for other in {0, 1, 2} - {axis}:
        if power.shape[other] >= FEWEST_VOXELS:
            share = 2 * np.abs(fft.fftfreq(power.shape[other]))
            shape = [1, 1, 1]
            shape[other] = -1
            low, high = (b * extents[other] for b in _BAND)
            where = where & ((share >= low) & (share <= high)).reshape(shape)
    lines = np.moveaxis(power * where, axis, 0).reshape(n, -1).sum(axis=1)
    # Frequencies of both signs; the highest of an even number of voxels has one.
    half = np.arange(n // 2 + 1)
    lines = (lines[half] + lines[-half]) / 2
    first, last = (max(1, round(share * (n // 2))) for share in _PLATEAU)
    level = float(np.median(lines[first : last + 1]))
    filled = np.flatnonzero(lines >= EMPTY_POWER * level)
    return float(filled[-1] / (n // 2))
