"""What happens to a head in the scanner: it moves, and echo-planar images are distorted."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ConfigError
from dmri_fm.simulate.anatomy import Anatomy, sample_head, sample_template, smooth_field

__all__ = [
    "distort",
    "draw_field_hz",
    "draw_motion",
    "head_shell",
    "move_volume",
    "t1w_image",
]

#: Bones and air near the brain, where the field is bent: MNI mm, width mm, share of the peak.
_FIELD_SOURCES = (
    ((0.0, 48.0, -28.0), 20.0, 1.0),
    ((45.0, -22.0, -38.0), 15.0, -0.7),
    ((-45.0, -22.0, -38.0), 15.0, -0.7),
)


def head_shell(mni_mm: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the fractions of fluid and scalp around the brain at points of MNI space.

    From the brain outwards: 3 mm of fluid, 6 mm of bone (no signal), 5 mm of scalp.
    """
    distance = sample_head(mni_mm)

    def layer(inner: float, outer: float) -> NDArray[np.float32]:
        rise, fall = np.clip(distance - inner, 0, 1), np.clip(outer - distance, 0, 1)
        return np.asarray(np.minimum(rise, fall), dtype=np.float32)

    return layer(0.0, 3.0), layer(9.0, 14.0)


def draw_field_hz(
    rng: np.random.Generator, anatomy: Anatomy, *, peak_hz: float
) -> NDArray[np.float32]:
    """Draw a susceptibility field: bumps above the sinuses and the ears, and a smooth rest.

    Parameters
    ----------
    rng
        Source of randomness.
    anatomy
        The head.
    peak_hz
        Field above the frontal sinus, Hz.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), float32, Hz.
    """
    mni_mm = anatomy.mni_mm
    field = np.zeros(mni_mm.shape[1:], dtype=np.float32)
    for place, width, share in _FIELD_SOURCES:
        centre = np.array(place) + rng.normal(0.0, 3.0, 3)
        apart = mni_mm - centre.astype(np.float32)[:, None, None, None]
        size = peak_hz * share * rng.uniform(0.8, 1.2)
        field += np.float32(size) * np.exp(-(apart**2).sum(axis=0) / np.float32(2 * width**2))
    voxel_size_mm = np.linalg.norm(anatomy.affine[:3, :3], axis=0)
    shape = anatomy.mask.shape
    rest = smooth_field(rng, (shape[0], shape[1], shape[2]), spacing=50.0 / voxel_size_mm)[0]
    field += np.float32(0.06 * peak_hz) * rest
    return field


def distort(
    data: NDArray[np.float32],
    shift: NDArray[np.float32],
    *,
    axis: int,
) -> NDArray[np.float32]:
    """Shift signal along one axis, and keep its sum.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N).
    shift
        Shape (X, Y, Z), voxels: the signal of voxel x along the axis appears at x + shift.
    axis
        0, 1 or 2.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, N), float32: stretched signal is fainter, compressed signal brighter.

    Raises
    ------
    ConfigError
        If the field folds the image: neighbours would change places.

    Examples
    --------
    >>> line = np.array([0, 0, 4, 0, 0], dtype=np.float32).reshape(1, 5, 1, 1)
    >>> distort(line, np.full((1, 5, 1), 1.5, np.float32), axis=1).ravel().tolist()
    [0.0, 0.0, 0.0, 2.0, 2.0]
    """
    lines = np.moveaxis(data, axis, 2).astype(np.float64)
    shifts = np.moveaxis(shift, axis, 2).astype(np.float64)
    n = lines.shape[2]
    middle = 0.5 * (shifts[..., 1:] + shifts[..., :-1])
    edges = np.concatenate([shifts[..., :1], middle, shifts[..., -1:]], axis=2) + np.arange(n + 1)
    if (np.diff(edges, axis=2) <= 0).any():
        raise ConfigError(
            "a field that folds the image",
            expected="a shift that changes by less than one voxel from voxel to voxel",
            advice="lower the field or the readout time",
        )
    # The signal that lies before an edge stays before it: interpolate the running sum.
    total = np.zeros((*lines.shape[:2], n + 1, lines.shape[3]))
    np.cumsum(lines, axis=2, out=total[:, :, 1:])
    source = np.empty_like(edges)
    grid = np.arange(n + 1, dtype=np.float64)
    for i, j in np.ndindex(*edges.shape[:2]):
        source[i, j] = np.interp(grid, edges[i, j], grid)
    lower = np.minimum(source.astype(np.intp), n - 1)
    part = (source - lower)[..., None]
    before = np.take_along_axis(total, lower[..., None], axis=2)
    after = np.take_along_axis(total, lower[..., None] + 1, axis=2)
    moved = np.diff(before + part * (after - before), axis=2)
    return np.ascontiguousarray(np.moveaxis(moved, 2, axis), dtype=np.float32)


def draw_motion(
    rng: np.random.Generator, n_volumes: int, *, step_mm: float, step_deg: float
) -> NDArray[np.float64]:
    """Draw head motion as a random walk that starts at rest.

    Returns
    -------
    ndarray
        Shape (n_volumes, 4, 4), RAS mm: a point x of the head is at ``xfms[n] @ x`` during
        volume n, the same sense as the transforms that motion correction estimates.
    """
    steps = rng.normal(0.0, 1.0, (n_volumes, 6)) * ([step_deg] * 3 + [step_mm] * 3)
    steps[0] = 0.0
    # Heads drift back: a walk without memory would leave the field of view.
    walk = np.zeros_like(steps)
    for n in range(1, n_volumes):
        walk[n] = 0.9 * walk[n - 1] + steps[n]
    xfms = np.tile(np.eye(4), (n_volumes, 1, 1))
    xfms[:, :3, :3] = Rotation.from_euler("xyz", walk[:, :3], degrees=True).as_matrix()
    xfms[:, :3, 3] = walk[:, 3:]
    return xfms


def move_volume(
    volume: NDArray[np.float32], affine: ArrayLike, xfm: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Resample a volume so that what was at x (RAS mm) is at ``xfm @ x``."""
    if np.array_equal(xfm, np.eye(4)):
        return volume
    affine = np.asarray(affine, dtype=np.float64)
    pull = np.linalg.inv(affine) @ np.linalg.inv(xfm) @ affine
    moved: NDArray[np.float32] = affine_transform(
        volume, pull[:3, :3], offset=pull[:3, 3], order=3, output=np.float32
    )
    return np.maximum(moved, 0.0)


def t1w_image(
    rng: np.random.Generator,
    mni_mm: NDArray[np.float32],
    *,
    sharpness: float,
    voxel_size_mm: float,
    snr: float = 30.0,
) -> NDArray[np.float32]:
    """Draw a T1-weighted image of a head, skull and scalp included.

    Parameters
    ----------
    rng
        Source of randomness.
    mni_mm
        Shape (3, X, Y, Z): where each voxel lies in MNI space, RAS mm.
    sharpness
        See :func:`~dmri_fm.simulate.anatomy.sample_template`.
    voxel_size_mm
        Of the image's grid, for the receive field.
    snr
        White matter over the noise.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), float32, scanner units.
    """
    wm, gm, csf, _ = sample_template(mni_mm, sharpness=sharpness)
    fluid, scalp = head_shell(mni_mm)
    image = wm + 0.68 * gm + 0.22 * csf + 0.2 * fluid + 0.95 * scalp
    bias = smooth_field(
        rng, (image.shape[0], image.shape[1], image.shape[2]), spacing=90.0 / voxel_size_mm
    )[0]
    image = image * np.exp(np.float32(0.12) * bias)
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) / np.float32(snr)
    drawn: NDArray[np.float32] = 900.0 * np.hypot(image + noise[0], noise[1])
    return drawn.astype(np.float32)
