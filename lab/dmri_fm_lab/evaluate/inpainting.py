"""Inpainting of masked patches from visible voxels: means, convolution, Laplace's equation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import cg

#: Width of the Gaussian of the normalised convolution, voxels; doubled far from visible voxels.
WIDTH_VOXELS = 3.0

#: Smallest share of the Gaussian on visible voxels.
LEAST_SHARE = 0.02

#: Relative residual at which the harmonic fill stops.
_TOLERANCE = 1e-4

_Image = NDArray[np.float32]
_Mask = NDArray[np.bool_]


def fill_by_means(images: _Image, visible: _Mask, masked: _Mask) -> _Image:
    """Put the mean of an image's visible voxels in its masked ones.

    Parameters
    ----------
    images
        Shape (X, Y, Z, N); masked voxels are not read.
    visible, masked
        Shape (X, Y, Z): voxels of the brain, without overlap.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, N), float32.
    """
    out = images.astype(np.float32)
    out[masked] = images[visible].mean(axis=0)
    return out


def fill_smoothly(images: _Image, visible: _Mask, masked: _Mask) -> _Image:
    """Put a Gaussian mean of the visible voxels near by in the masked ones.

    Normalised convolution (Knutsson & Westin 1993, doi:10.1109/CVPR.1993.341081). Parameters
    and result are those of :func:`fill_by_means`.
    """
    out = fill_by_means(images, visible, masked)
    left, width = masked.copy(), WIDTH_VOXELS
    seen = visible.astype(np.float32)
    while left.any() and width < max(masked.shape):
        share = gaussian_filter(seen, width)
        near = left & (share > LEAST_SHARE)
        for n in range(images.shape[3]):
            blurred = gaussian_filter(np.where(visible, images[..., n], np.float32(0)), width)
            out[near, n] = blurred[near] / share[near]
        left, width = left & ~near, 2.0 * width
    return out


def fill_harmonically(images: _Image, visible: _Mask, masked: _Mask) -> _Image:
    """Solve Laplace's equation in the masked voxels, the visible ones as its boundary.

    No flux leaves the brain. Masked voxels that are connected to no visible one keep the mean.
    Parameters and result are those of :func:`fill_by_means`.
    """
    out = fill_smoothly(images, visible, masked)
    number = np.full(masked.shape, -1)
    number[masked] = np.arange(int(masked.sum()))
    inside = masked | visible
    n_neighbours = np.zeros(int(masked.sum()))
    right = np.zeros((len(n_neighbours), images.shape[3]))
    rows, columns = [], []
    for axis in range(3):
        for step in (1, -1):
            here, there = _shifted(axis, step)
            pairs = masked[here] & inside[there]
            first, second = number[here][pairs], number[there][pairs]
            np.add.at(n_neighbours, first, 1.0)
            known = second < 0
            np.add.at(right, first[known], images[there][pairs][known])
            rows.append(first[~known])
            columns.append(second[~known])
    row, column = np.concatenate(rows), np.concatenate(columns)
    size = (len(n_neighbours), len(n_neighbours))
    # Voxels without neighbours have no equation and keep their value.
    alone = n_neighbours == 0
    diagonal = np.where(alone, 1.0, n_neighbours)
    right[alone] = out[masked][alone]
    matrix = diags_array(diagonal) - coo_array((np.ones(len(row)), (row, column)), shape=size)
    matrix = matrix.tocsr()
    inverse = diags_array(1.0 / diagonal)
    start = out[masked].astype(np.float64)
    for n in range(images.shape[3]):
        solved, _ = cg(
            matrix, right[:, n], x0=start[:, n], rtol=_TOLERANCE, maxiter=500, M=inverse
        )
        out[masked, n] = solved
    return out


def _shifted(axis: int, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of the voxels with a neighbour along an axis, and of these neighbours."""
    low, high = slice(None, -1), slice(1, None)
    pair = (low, high) if step > 0 else (high, low)
    here, there = (tuple(p if a == axis else slice(None) for a in range(3)) for p in pair)
    return here, there


def fill_by_directions(images: _Image, visible: NDArray[np.bool_]) -> _Image:
    """Put the mean of a voxel's visible directions in its masked ones.

    Masks have to differ between directions, as in the authors' code.

    Parameters
    ----------
    images
        Shape (X, Y, Z, N).
    visible
        Shape (X, Y, Z, N): a mask of every direction. Voxels without a visible direction get the
        mean of each image's visible voxels.
    """
    count = visible.sum(axis=3)
    total = np.where(visible, images, np.float32(0)).sum(axis=3)
    volumes = zip(np.moveaxis(images, 3, 0), np.moveaxis(visible, 3, 0), strict=True)
    own = np.array([image[seen].mean() if seen.any() else 0.0 for image, seen in volumes])
    mean = np.where(
        (count > 0)[..., None], (total / np.maximum(count, 1))[..., None], own.astype(np.float32)
    )
    return np.where(visible, images, mean).astype(np.float32)
