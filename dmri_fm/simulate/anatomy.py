"""Anatomy and fibres of a simulated head.

Tissue comes from the MNI152 2009a symmetric maps that nilearn packages (or from random
labels), under a random affine and elastic deformation. White matter is cut into many small
regions with sharp borders; every region has fibre populations and properties of its own, so
that orientations change as abruptly as they do in a brain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial.transform import Rotation

__all__ = [
    "LESION_CHANCE",
    "N_REGIONS",
    "Anatomy",
    "draw_anatomy",
    "sample_head",
    "sample_template",
    "smooth_field",
]

#: Number of region kinds. The first four follow the rough atlas, the others are free.
N_REGIONS = 12

#: Share of heads with white-matter lesions: small places where free water replaces fibres.
LESION_CHANCE = 0.3

#: Standard deviation of a random B-spline field with unit coefficients, per axis.
_SPLINE_DEVIATION = 0.4794**0.5


class _Template(NamedTuple):
    """MNI152 2009a maps: float32 arrays of one shape, and their voxel-to-RAS mm affine."""

    wm: NDArray[np.float32]
    gm: NDArray[np.float32]
    brain: NDArray[np.float32]
    affine: NDArray[np.float64]


@lru_cache(maxsize=1)
def _load_template() -> _Template:
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
    return _Template(arrays[0], arrays[1], arrays[2], np.asarray(wm.affine, dtype=np.float64))


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
        Shape (X, Y, Z), int16: kind of white-matter region, 0 to ``N_REGIONS - 1``.
    fibres
        Shape (2, 3, X, Y, Z), float32: unit axes of two fibre populations, RAS+.
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


def _unit(field: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.sqrt(np.einsum("cxyz,cxyz->xyz", field, field))
    result: NDArray[np.float32] = field / np.maximum(length, 1e-6)
    return result


def _atlas_scores(mni_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score four kinds of region by place: left-right, up-down, front-back, radial."""
    side, z = np.abs(mni_mm[0]), mni_mm[2]
    above = 1.0 / (1.0 + np.exp(-(z + 8.0) / 4.0))
    middle = np.exp(-((side / 15.0) ** 2))
    radius = np.sqrt(mni_mm[0] ** 2 + (0.85 * (mni_mm[1] + 18.0)) ** 2 + (1.1 * (z - 10.0)) ** 2)
    return np.stack(
        [
            middle * above,
            np.exp(-(((side - 24.0) / 8.0) ** 2)) + middle * (1.0 - above),
            np.exp(-(((side - 38.0) / 8.0) ** 2)),
            1.0 / (1.0 + np.exp(-(radius - 58.0) / 4.0)),
        ]
    ).astype(np.float32)


def _draw_fibres(
    rng: np.random.Generator,
    mni_mm: NDArray[np.float32],
    rotation: NDArray[np.float64],
    voxel_size_mm: NDArray[np.float64],
    atlas_weight: float,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Draw region kinds and two axes per voxel; `rotation` takes MNI to scanner directions."""
    shape = (mni_mm.shape[1], mni_mm.shape[2], mni_mm.shape[3])
    scores = smooth_field(
        rng, shape, spacing=rng.uniform(5.0, 11.0) / voxel_size_mm, n_channels=N_REGIONS
    )
    scores[:4] += 4.0 * atlas_weight * _atlas_scores(mni_mm)
    region = scores.argmax(axis=0).astype(np.int16)
    bend = smooth_field(rng, shape, spacing=rng.uniform(15.0, 40.0) / voxel_size_mm, n_channels=6)
    wobble = rng.uniform(0.05, 0.25) * smooth_field(
        rng, shape, spacing=rng.uniform(4.0, 8.0) / voxel_size_mm, n_channels=3
    )
    # One smooth field turned differently in every region: bundles bend slowly and end sharply.
    turns = Rotation.random(2 * N_REGIONS, random_state=rng).as_matrix().astype(np.float32)
    turns = turns.reshape(2, N_REGIONS, 3, 3)
    axes = np.empty((2, 3, *shape), dtype=np.float32)
    radial = mni_mm - np.array([0, -18, 10], dtype=np.float32)[:, None, None, None]
    to_scanner = rotation.astype(np.float32)
    for kind in range(N_REGIONS):
        inside = region == kind
        first = bend[:3, inside]
        if kind < 3:
            first = 0.35 * first + to_scanner[:, kind, None]
        elif kind == 3:
            away = radial[:, inside]
            away = away / np.maximum(np.linalg.norm(away, axis=0), 1e-3)
            first = 0.35 * first + to_scanner @ away
        else:
            first = turns[0, kind] @ first
        axes[0][:, inside] = first
        axes[1][:, inside] = turns[1, kind] @ bend[3:, inside]
    axes[0] = _unit(axes[0]) + wobble
    axes[0], axes[1] = _unit(axes[0]), _unit(axes[1])
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
    region, fibres = _draw_fibres(rng, mni_mm, turn.T, voxel_size_mm, atlas_weight)
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
    template = _load_template()
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
    template = _load_template()
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
