"""Anatomy and fibres of a simulated head.

Tissue comes from the MNI152 2009a symmetric maps that nilearn packages (or from random
labels), under a random affine and elastic deformation. White matter is cut into many bundles, long
in the direction of their fibres and narrow across, with sharp borders; each kind has fibre
populations and properties of its own. So orientations change slowly along a fibre and
abruptly between neighbours, as they do in a brain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

__all__ = [
    "FANS",
    "LESION_CHANCE",
    "N_REGIONS",
    "Anatomy",
    "TissueMaps",
    "draw_anatomy",
    "load_tissue_maps",
    "sample_head",
    "sample_template",
    "smooth_field",
]

#: Number of kinds of bundle. The first four follow the rough atlas, the others are free.
N_REGIONS = 18
#: Kinds whose fibres spread from a point, MNI mm: up from below the brainstem, and out to the
#: gyri from the brain's middle.
FANS = {1: (0.0, -22.0, -75.0), 3: (0.0, -18.0, 10.0)}

#: Share of heads with white-matter lesions: small places where free water replaces fibres.
LESION_CHANCE = 0.3

#: Standard deviation of a random B-spline field with unit coefficients, per axis.
_SPLINE_DEVIATION = 0.4794**0.5


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
    return TissueMaps(arrays[0], arrays[1], arrays[2], np.asarray(wm.affine, dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Tissues and fibres on a grid.

    Attributes
    ----------
    wm, gm, csf
        Shape (X, Y, Z), float32: volume fractions; they add up to one inside the brain.
    mask
        Shape (X, Y, Z), bool: the brain.
    region
        Shape (X, Y, Z), int16: kind of bundle, 0 to ``N_REGIONS - 1``; zero outside the brain.
    fibres
        Shape (2, 3, X, Y, Z), float32: unit axes of two fibre populations, RAS+; zero outside
        the brain.
    mni_mm
        Shape (3, X, Y, Z), float32: where each voxel lies in MNI space, RAS mm.
    sharpness
        Exponent by which the template's fractions were sharpened.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    """

    wm: NDArray[np.float32]
    gm: NDArray[np.float32]
    csf: NDArray[np.float32]
    mask: NDArray[np.bool_]
    region: NDArray[np.int16]
    fibres: NDArray[np.float32]
    mni_mm: NDArray[np.float32]
    sharpness: float
    affine: NDArray[np.float64]


def smooth_field(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    spacing: ArrayLike,
    n_channels: int = 1,
) -> NDArray[np.float32]:
    """Draw smooth random fields: cubic B-splines with normal coefficients.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        X, Y, Z.
    spacing
        Distance of the control points, voxels: one number or three.
    n_channels
        Number of independent fields.

    Returns
    -------
    ndarray
        Shape (n_channels, X, Y, Z), float32, mean 0, variance about 1.
    """
    bases = []
    for n, step in zip(shape, np.broadcast_to(np.asarray(spacing, float), 3), strict=True):
        position = np.arange(n) / step + rng.uniform()
        n_control = int(position[-1]) + 4
        knots = np.arange(-3.0, n_control + 1)
        basis = BSpline.design_matrix(position, knots, 3).toarray()[:, :n_control]
        bases.append((basis / _SPLINE_DEVIATION).astype(np.float32))
    control = rng.standard_normal((n_channels, *(b.shape[1] for b in bases)), dtype=np.float32)
    field = np.einsum("xi,cijk->cxjk", bases[0], control, optimize=True)
    field = np.einsum("yj,cxjk->cxyk", bases[1], field, optimize=True)
    field = np.einsum("zk,cxyk->cxyz", bases[2], field, optimize=True)
    return np.ascontiguousarray(field)


def _voxel_mm(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the RAS mm of every voxel, shape (3, X, Y, Z)."""
    axes = [np.arange(n, dtype=np.float32) for n in shape]
    linear = affine[:3].astype(np.float32)
    x, y, z = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    return np.stack([r[0] * x + r[1] * y + (r[2] * z + r[3]) for r in linear])


def _atlas_scores(mni_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score four kinds of bundle by place: left-right, up-down, front-back, radial; (4, M)."""
    side, z = np.abs(mni_mm[0]), mni_mm[2]
    above = 1.0 / (1.0 + np.exp(-(z + 8.0) / 4.0))
    middle = np.exp(-((side / 15.0) ** 2))
    # Where a ray from below the brainstem through the point is at the height of the callosum.
    ray = side * 95.0 / np.maximum(z + 75.0, 10.0)
    radius = np.sqrt(mni_mm[0] ** 2 + (0.85 * (mni_mm[1] + 18.0)) ** 2 + (1.1 * (z - 10.0)) ** 2)
    return np.stack(
        [
            middle * above,
            np.exp(-(((ray - 24.0) / 8.0) ** 2)) + middle * (1.0 - above),
            np.exp(-(((side - 38.0) / 8.0) ** 2)),
            1.0 / (1.0 + np.exp(-(radius - 58.0) / 4.0)),
        ]
    ).astype(np.float32)


def _draw_noise(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a periodic cube of smooth noise, variance 1; features are about three cells wide."""
    noise = rng.standard_normal((48, 48, 48), dtype=np.float32)
    noise = gaussian_filter(noise, 1.5, mode="wrap")
    smooth: NDArray[np.float32] = noise / noise.std()
    return smooth


def _look_up(
    noise: NDArray[np.float32], mm: NDArray[np.float32], *, width_mm: ArrayLike, offset: ArrayLike
) -> NDArray[np.float32]:
    """Sample the noise at (3, M) points so that its features have the given widths; (M,)."""
    cells = np.float32(3.0) / np.asarray(width_mm, dtype=np.float32)
    where = mm * np.broadcast_to(cells, 3)[:, None] + np.asarray(offset, dtype=np.float32)[:, None]
    sampled: NDArray[np.float32] = map_coordinates(
        noise, where, order=1, mode="grid-wrap", output=np.float32, prefilter=False
    )
    return sampled


def _draw_fibres(
    rng: np.random.Generator,
    mni_mm: NDArray[np.float32],
    rotation: NDArray[np.float64],
    atlas_weight: float,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Draw kinds of bundle (M,) and two axes (2, 3, M) at (3, M) points of MNI space.

    Every kind has a main axis of its own. Bundles are the places where its noise, stretched
    along that axis, is the highest of all: tubes that the fibres inside follow, with sharp borders
    across. Within a bundle the axis bends slowly. `rotation` takes MNI to scanner directions.
    """
    noise = _draw_noise(rng)
    frames = Rotation.random(2 * N_REGIONS, random_state=rng).as_matrix().astype(np.float32)
    frames = frames.reshape(2, N_REGIONS, 3, 3)
    # Columns are axes, the main one first: left-right, up-down, front-back for the atlas.
    for kind, order in enumerate(([0, 1, 2], [2, 0, 1], [1, 2, 0])):
        frames[0, kind] = np.eye(3, dtype=np.float32)[:, order]
    across = rng.uniform(5.0, 9.0)
    width = np.array([4.0 * across, across, across])
    scores = np.empty((N_REGIONS, mni_mm.shape[1]), dtype=np.float32)
    for kind in range(N_REGIONS):
        scores[kind] = _look_up(
            noise,
            frames[0, kind].T @ mni_mm,
            width_mm=width if kind != 3 else across,
            offset=rng.uniform(0, 48, 3),
        )
    scores[:4] += np.float32(2.5 * atlas_weight) * _atlas_scores(mni_mm)
    region = scores.argmax(axis=0).astype(np.int16)

    bend_width = rng.uniform(15.0, 30.0) * np.array([3.0, 1.0, 1.0])
    offsets = rng.uniform(0, 48, (4, 3))
    axes = np.empty((2, 3, mni_mm.shape[1]), dtype=np.float32)
    for kind in range(N_REGIONS):
        inside = region == kind
        mm = mni_mm[:, inside]
        for population, frame in enumerate(frames[:, kind]):
            local = frame.T @ mm
            bend = np.float32(0.3) * np.stack(
                [
                    _look_up(noise, local, width_mm=bend_width, offset=o)
                    for o in offsets[2 * population : 2 * population + 2]
                ]
            )
            main = frame[:, :1]
            if population == 0 and kind in FANS:
                away = mm - np.array(FANS[kind], dtype=np.float32)[:, None]
                main = away / np.maximum(np.linalg.norm(away, axis=0), 1e-3)
            axes[population][:, inside] = main + frame[:, 1:] @ bend
    wobble_mm, wobble = rng.uniform(4.0, 8.0), np.float32(rng.uniform(0.03, 0.15))
    for component in axes[0]:
        component += wobble * _look_up(
            noise, mni_mm, width_mm=wobble_mm, offset=rng.uniform(0, 48, 3)
        )
    axes = rotation.astype(np.float32) @ axes
    axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-6)
    return region, axes


def _random_tissue(
    rng: np.random.Generator, shape: tuple[int, int, int], voxel_size_mm: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Draw WM, GM and CSF fractions from random labels, shape (3, X, Y, Z)."""
    scores = smooth_field(rng, shape, spacing=rng.uniform(6, 20) / voxel_size_mm, n_channels=3)
    scores += np.array([0.8, 0.4, -0.2], dtype=np.float32)[:, None, None, None]
    parts: NDArray[np.float32] = np.exp(8.0 * (scores - scores.max(axis=0)))
    parts /= parts.sum(axis=0)
    return parts


def draw_anatomy(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    affine: NDArray[np.float64],
    jitter: float = 1.0,
    deformation_mm: float = 4.0,
    atlas_weight: float = 1.0,
    random_labels: bool = False,
    lesion_chance: float = LESION_CHANCE,
    rotation: NDArray[np.float64] | None = None,
) -> Anatomy:
    """Draw the anatomy of one head on a grid.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        X, Y, Z.
    affine
        Shape (4, 4), voxel to RAS+ mm of the grid; scanner space is MNI space up to the drawn
        transform.
    jitter
        Size of the random affine: 1 means deviations of 5 degrees, 3 mm and 5 % of scale.
    deformation_mm
        Deviation of the elastic displacement, mm.
    atlas_weight
        0: orientations are random; 1: they follow a rough atlas (callosum left-right,
        projections up-down, association front-back, gyri radial).
    random_labels
        Take tissues from random labels in place of the template.
    lesion_chance
        Probability that the white matter has lesions.
    rotation
        Shape (3, 3), a rotation to apply before the random one, for patches of any pose.

    Returns
    -------
    Anatomy
        On the grid asked for.
    """
    affine = np.asarray(affine, dtype=np.float64)
    voxel_size_mm = np.linalg.norm(affine[:3, :3], axis=0)
    turn = Rotation.from_euler("xyz", jitter * rng.normal(0, 5.0, 3), degrees=True).as_matrix()
    if rotation is not None:
        turn = turn @ rotation
    centre = affine @ [*((np.array(shape) - 1) / 2), 1.0]
    stretch = np.exp(jitter * rng.normal(0, 0.05, 3))
    linear = np.diag(stretch) @ turn
    scanner2mni = np.eye(4)
    scanner2mni[:3, :3] = linear
    scanner2mni[:3, 3] = centre[:3] - linear @ centre[:3] + jitter * rng.normal(0, 3.0, 3)
    mni_mm = _voxel_mm(shape, scanner2mni @ affine)
    mni_mm += deformation_mm * smooth_field(
        rng, shape, spacing=rng.uniform(25.0, 45.0) / voxel_size_mm, n_channels=3
    )
    sharpness = float(rng.uniform(1.5, 3.5))
    if random_labels:
        wm, gm, csf = _random_tissue(rng, shape, voxel_size_mm)
        mask = np.ones(shape, dtype=bool)
    else:
        wm, gm, csf, mask = sample_template(mni_mm, sharpness=sharpness)
    if rng.uniform() < lesion_chance:
        spots = smooth_field(rng, shape, spacing=rng.uniform(3.0, 7.0) / voxel_size_mm)[0]
        fluid = wm * np.float32(rng.uniform(0.1, 0.6)) * (spots > rng.uniform(1.8, 2.8))
        wm, csf = wm - fluid, csf + fluid
    region = np.zeros(shape, dtype=np.int16)
    fibres = np.zeros((2, 3, *shape), dtype=np.float32)
    region[mask], fibres[:, :, mask] = _draw_fibres(rng, mni_mm[:, mask], turn.T, atlas_weight)
    return Anatomy(wm, gm, csf, mask, region, fibres, mni_mm, sharpness, affine)


def sample_template(
    mni_mm: NDArray[np.float32], *, sharpness: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return the template's white matter, grey matter, CSF and brain at points of MNI space.

    Parameters
    ----------
    mni_mm
        Shape (3, X, Y, Z), RAS mm.
    sharpness
        The maps are averages over many heads: their fractions are raised to this power and
        add up to one again, which gives the partial volumes of a single head.
    """
    template = load_tissue_maps()
    mm2voxel = np.linalg.inv(template.affine)
    assert np.allclose(mm2voxel[:3, :3], np.eye(3)), "nilearn's template is on another grid"
    where = mni_mm + mm2voxel[:3, 3].astype(np.float32)[:, None, None, None]
    wm, gm, brain = (
        map_coordinates(a, where, order=1, output=np.float32, prefilter=False)
        for a in (template.wm, template.gm, template.brain)
    )
    mask = brain > 0.5
    parts = np.stack([wm, gm, np.clip(1.0 - wm - gm, 0.0, 1.0)]) ** np.float32(sharpness) * mask
    parts /= np.maximum(parts.sum(axis=0), 1e-6)
    return parts[0], parts[1], parts[2], mask


@lru_cache(maxsize=1)
def _load_head() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the distance from the template's brain, mm, on a 2 mm grid with wide margins."""
    template = load_tissue_maps()
    brain = np.pad(template.brain[::2, ::2, ::2] > 0.5, 16)
    distance = distance_transform_edt(~brain, sampling=2.0).astype(np.float32)
    affine = template.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] -= 16 * 2.0
    return distance, affine


def sample_head(mni_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance from the brain at points of MNI space, mm; zero inside the brain."""
    distance, affine = _load_head()
    where = (mni_mm - affine[:3, 3].astype(np.float32)[:, None, None, None]) / np.float32(2.0)
    sampled: NDArray[np.float32] = map_coordinates(
        distance, where, order=1, mode="nearest", output=np.float32, prefilter=False
    )
    return sampled
