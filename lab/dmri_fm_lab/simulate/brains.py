"""Brains of the training generator: tissues and fibres, batched in torch.

Tissue comes from the MNI152 2009a symmetric maps that nilearn packages (or from random labels),
under a random affine and elastic deformation, with ventricles, cortex and sulci of random size.
White matter is cut into many bundles, long in the direction of their fibres and narrow across;
neighbours mix at the borders, over a width of each brain's own, and others cross them. Fibres of
the cortex are radial.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from dmri_fm_lab.simulate.fibres import draw_fibres
from dmri_fm_lab.simulate.fields import (
    grid_mm,
    log_uniform,
    normal,
    sample_voxels,
    small_rotations,
    smooth_fields,
    uniform,
    unit,
    voxel_sizes,
)
from dmri_fm_lab.simulate.template import load_tissue_maps

#: Period of the finest folds of grey and white matter, mm.
_FOLDS_MM = (3.0, 10.0)

#: Depth of the ventricles below the brain's surface, mm: they lie deeper than this.
_DEEP_MM = 22.0


@dataclass(frozen=True, eq=False)
class Brains:
    """Tissues and fibres of a batch on their grids.

    Attributes
    ----------
    fractions
        Shape (B, 4, X, Y, Z): white matter, grey matter, CSF, lesion; they add up to one inside
        the brain and are zero outside.
    mask
        Shape (B, X, Y, Z), bool: the brain.
    bundle
        Shape (B, X, Y, Z), int64: type of the bundle, below :data:`~.fibres.N_REGIONS`.
    fibres
        Shape (B, 3, 3, X, Y, Z): unit axes (batch, population, axis), RAS+, of the populations:
        the bundle's, its neighbour's, and the one that crosses it; zero outside the brain.
    neighbour
        Shape (B, X, Y, Z): share of the neighbour's fibres, 0 to 0.5: most at the border.
    cortical
        Shape (B, 3, X, Y, Z): unit axis of the cortex' fibres, RAS+.
    mni_mm
        Shape (B, 3, X, Y, Z): positions of the voxels in MNI space, RAS mm.
    affine
        Shape (B, 4, 4), voxel to RAS+ mm.
    """

    fractions: Tensor
    mask: Tensor
    bundle: Tensor
    fibres: Tensor
    neighbour: Tensor
    cortical: Tensor
    mni_mm: Tensor
    affine: Tensor

    @property
    def voxel_mm(self) -> Tensor:
        """Voxel sizes, shape (B, 3)."""
        return voxel_sizes(self.affine)

    def one(self, index: int) -> Brains:
        """Return one sample of the batch, as a batch of one."""
        return Brains(*(getattr(self, f.name)[index : index + 1] for f in fields(self)))


@dataclass(frozen=True)
class Variation:
    """Deviations of brains from the template, and chances of lesions and of cut slabs.

    Attributes
    ----------
    jitter
        Size of the random affine: 1 means deviations of 5 degrees, 3 mm and 5 % of scale.
    deformation_mm
        Deviation of the elastic displacement, mm; its control points are 25 to 45 mm apart, so
        that the map stays one to one.
    label_chance
        Probability that tissues come from random labels in place of the template.
    lesion_chance, tumour_chance
        Probability of many small lesions in white matter, and of one large one anywhere.
    slab_chance
        Probability that slices at one end of the third axis are empty.
    """

    jitter: float = 1.0
    deformation_mm: float = 4.0
    label_chance: float = 0.0
    lesion_chance: float = 0.3
    tumour_chance: float = 0.05
    slab_chance: float = 0.0


@lru_cache(maxsize=2)
def _template(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return maps (1, 7, X, Y, Z) and the RAS mm of their first voxel, which are 1 mm apart.

    White matter, grey matter, brain, depth below the surface (0 to 1), and the direction in
    which white matter grows, which fibres of the cortex follow.
    """
    maps = load_tissue_maps()
    inside = maps.brain > 0.5
    depth = gaussian_filter(
        (distance_transform_edt(inside) > _DEEP_MM).astype(np.float32), 3.0, output=np.float32
    )
    slope = np.stack(np.gradient(gaussian_filter(maps.wm, 2.0, output=np.float32)))
    channels = np.stack([maps.wm, maps.gm, maps.brain, depth, *slope]).astype(np.float32)
    origin = torch.tensor(maps.affine[:3, 3], dtype=torch.float32, device=device)
    # The channels of a voxel lie side by side: they are looked up together.
    stacked = torch.from_numpy(channels)[None].to(device)
    return stacked.contiguous(memory_format=torch.channels_last_3d), origin


def draw_brains(
    generator: torch.Generator,
    shape: tuple[int, int, int],
    affine: Tensor,
    *,
    atlas_weight: Tensor,
    rotation: Tensor | None = None,
    variation: Variation = Variation(),
) -> Brains:
    """Draw the anatomy of a batch of brains.

    Parameters
    ----------
    generator
        Source of randomness; the brains lie on its device.
    shape
        X, Y, Z.
    affine
        Shape (B, 4, 4), voxel to RAS+ mm of each grid; scanner space is MNI space up to the
        drawn transform.
    atlas_weight
        Shape (B,). 0: orientations are random; 1: they follow a rough atlas (callosum
        left-right, projections up-down, association front-back, gyri radial).
    rotation
        Shape (B, 3, 3): rotations before the random one, for patches of any pose.
    variation
        Deviations from the template.
    """
    voxel_mm = voxel_sizes(affine)
    turn, mni_mm = _draw_mni_mm(generator, shape, affine, rotation, variation)
    maps, origin = _template(affine.device)
    sampled = sample_voxels(maps, mni_mm - origin.reshape(3, 1, 1, 1))
    fractions, mask = _tissues(generator, sampled[:, :4], shape, voxel_mm, variation.label_chance)
    fractions = _wound(generator, fractions, voxel_mm, variation)
    fractions, mask = _crop_slab(generator, fractions, mask, variation.slab_chance)
    bundle, fibres, neighbour = draw_fibres(generator, mni_mm, mask, turn, atlas_weight)
    # The template's directions are those of MNI space.
    cortical = torch.einsum("bji,bjxyz->bixyz", turn, sampled[:, 4:])
    return Brains(fractions, mask, bundle, fibres, neighbour, unit(cortical, 1), mni_mm, affine)


def _draw_mni_mm(
    generator: torch.Generator,
    shape: tuple[int, int, int],
    affine: Tensor,
    rotation: Tensor | None,
    variation: Variation,
) -> tuple[Tensor, Tensor]:
    """Draw rotations (B, 3, 3) to MNI space, and positions of voxels there (B, 3, X, Y, Z), mm."""
    n, device = len(affine), affine.device
    turn = small_rotations(variation.jitter * np.deg2rad(5.0) * normal(generator, n, 3))
    if rotation is not None:
        turn = turn @ rotation
    stretch = torch.exp(0.05 * variation.jitter * normal(generator, n, 3))
    linear = stretch[:, :, None] * turn
    middle = torch.tensor([*((k - 1) / 2 for k in shape), 1.0], device=device)
    centre = (affine @ middle)[:, :3]
    to_mni = torch.eye(4, device=device).repeat(n, 1, 1)
    to_mni[:, :3, :3] = linear
    shift = 3.0 * variation.jitter * normal(generator, n, 3)
    to_mni[:, :3, 3] = centre - (linear @ centre[..., None])[..., 0] + shift
    spacing = uniform(generator, 25.0, 45.0, n, 1) / voxel_sizes(affine)
    warp = smooth_fields(generator, shape, spacing=spacing, n_channels=3)
    return turn, grid_mm(shape, to_mni @ affine) + variation.deformation_mm * warp


def _tissues(
    generator: torch.Generator,
    maps: Tensor,
    shape: tuple[int, int, int],
    voxel_mm: Tensor,
    label_chance: float,
) -> tuple[Tensor, Tensor]:
    """Turn averaged maps into the tissue fractions (B, 4, X, Y, Z) of single brains."""
    n = len(maps)
    white, grey, brain, depth = maps.unbind(1)
    mask = brain > 0.5

    def size(deviation: float) -> Tensor:
        return deviation * normal(generator, n, 1, 1, 1)

    # The maps are averages over many brains: their fractions are sharpened. Larger ventricles,
    # a thicker cortex, wider sulci: more weight for a tissue, deep or near the surface.
    odds = torch.stack(
        [
            torch.zeros_like(white),
            size(0.5) * (1 - depth) + size(0.3) * depth,
            (0.5 + size(0.7)) * (1 - depth) + size(0.8) * depth,
        ],
        dim=1,
    )
    parts = torch.stack([white, grey, (1 - white - grey).clamp(0, 1)], dim=1)
    # Folds that the average has lost: grey and white matter interlock finely near the surface.
    spacing = log_uniform(generator, *_FOLDS_MM, n, 1) / voxel_mm
    folds = smooth_fields(generator, shape, spacing=spacing)[:, 0]
    odds[:, 1] += uniform(generator, 0.0, 3.0, n, 1, 1, 1) * (1 - depth) * folds
    sharpness = uniform(generator, 1.5, 3.5, n, 1, 1, 1, 1)
    parts = parts.clamp(min=1e-6) ** sharpness * odds.exp()
    labelled = uniform(generator, 0.0, 1.0, n) < label_chance
    if labelled.any():
        where = labelled.nonzero()[:, 0]
        spacing = uniform(generator, 6.0, 20.0, len(where), 1) / voxel_mm[where]
        scores = smooth_fields(generator, shape, spacing=spacing, n_channels=3)
        scores = scores + torch.tensor([0.8, 0.4, -0.2], device=maps.device).reshape(3, 1, 1, 1)
        parts[where] = torch.softmax(8.0 * scores, dim=1)
        mask = mask | labelled.reshape(n, 1, 1, 1)
    parts = parts / parts.sum(dim=1, keepdim=True) * mask[:, None]
    # Sulci that the average has lost: sheets of CSF within the cortex.
    spacing = uniform(generator, 8.0, 16.0, n, 1) / voxel_mm
    fold = smooth_fields(generator, shape, spacing=spacing)[:, 0]
    width = uniform(generator, 0.1, 0.4, n, 1, 1, 1)
    lost = parts[:, 1] * (1 - depth) * torch.exp(-(fold / width).square())
    parts = torch.stack([parts[:, 0], parts[:, 1] - lost, parts[:, 2] + lost], dim=1)
    return F.pad(parts, (0, 0, 0, 0, 0, 0, 0, 1)), mask


def _wound(
    generator: torch.Generator, fractions: Tensor, voxel_mm: Tensor, variation: Variation
) -> Tensor:
    """Replace tissue by lesions."""
    n, _, *size = fractions.shape
    shape = (size[0], size[1], size[2])

    def draw(low: float, high: float) -> Tensor:
        return uniform(generator, low, high, n, 1, 1, 1)

    def has(chance: float) -> Tensor:
        return (draw(0.0, 1.0) < chance).float()

    spacing = uniform(generator, 3.0, 7.0, n, 1) / voxel_mm
    spots = smooth_fields(generator, shape, spacing=spacing)[:, 0]
    lesion = has(variation.lesion_chance) * draw(0.1, 0.8) * (spots > draw(1.8, 2.8))
    index = grid_mm(shape, torch.eye(4, device=fractions.device)[None])
    edge = torch.tensor(shape, device=fractions.device) - 1.0
    centre = uniform(generator, 0.0, 1.0, n, 3) * edge
    apart = (index - centre.reshape(n, 3, 1, 1, 1)) * voxel_mm.reshape(n, 3, 1, 1, 1)
    ragged = apart.square().sum(dim=1).sqrt() + 3.0 * spots
    tumour = has(variation.tumour_chance) * draw(0.7, 1.0) * (ragged < draw(6.0, 20.0))
    white, grey, csf, _ = fractions.unbind(1)
    lost_white = white * torch.maximum(lesion, tumour)
    lost_grey = grey * tumour
    return torch.stack([white - lost_white, grey - lost_grey, csf, lost_white + lost_grey], dim=1)


def _crop_slab(
    generator: torch.Generator, fractions: Tensor, mask: Tensor, slab_chance: float
) -> tuple[Tensor, Tensor]:
    """Empty slices at one end of the third axis: the field of view ends there."""
    n, slices = len(mask), mask.shape[3]
    left = uniform(generator, 0.1, 0.5, n) * (uniform(generator, 0.0, 1.0, n) < slab_chance)
    height = torch.arange(slices, device=mask.device) / slices
    from_below = uniform(generator, 0.0, 1.0, n, 1) < 0.5
    height = torch.where(from_below, height, 1 - 1 / slices - height)
    kept = (height >= left[:, None]).reshape(n, 1, 1, slices)
    return fractions * kept[:, None], mask & kept
