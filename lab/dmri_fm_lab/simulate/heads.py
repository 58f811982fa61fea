"""Heads of the training generator: tissues and fibres, batched in torch.

Tissue comes from the MNI152 2009a symmetric maps that nilearn packages (or from random labels),
under a random affine and elastic deformation, with ventricles, cortex and sulci of random size.
White matter is cut into many bundles, long in the direction of their fibres and narrow across;
neighbours mix at the borders, over a width of each head's own, and others cross them. Fibres of
the cortex are radial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from dmri_fm_lab.simulate.fields import (
    NOISE_CELLS,
    grid_mm,
    log_uniform,
    noise_cubes,
    normal,
    random_rotations,
    sample_points,
    sample_voxels,
    small_rotations,
    smooth_fields,
    uniform,
    unit,
    voxel_sizes,
)
from dmri_fm_lab.simulate.template import load_tissue_maps

__all__ = ["N_POPULATIONS", "N_REGIONS", "Heads", "draw_heads"]

#: Number of kinds of bundle. The first four follow the rough atlas, the others are free.
N_REGIONS = 18
#: Kinds whose fibres spread from a point, MNI mm: up from below the brainstem, and out to the
#: gyri from the brain's middle.
FANS = {1: (0.0, -22.0, -75.0), 3: (0.0, -18.0, 10.0)}

#: Fibre populations that may cross in a bundle.
N_POPULATIONS = 3

#: Lead of a bundle's noise (variance 1) at which its neighbour's share is a quarter.
_MIXING = (0.03, 0.4)

#: Period of the finest folds of grey and white matter, mm.
_FOLDS_MM = (3.0, 10.0)

#: Deeper below the brain's surface than this lie the ventricles, mm.
_DEEP_MM = 22.0


@dataclass(frozen=True, eq=False)
class Heads:
    """Tissues and fibres of a batch on their grids.

    Attributes
    ----------
    fractions
        Shape (B, 4, X, Y, Z): white matter, grey matter, CSF, lesion; they add up to one inside
        the brain and are zero outside.
    mask
        Shape (B, X, Y, Z), bool: the brain.
    bundle
        Shape (B, X, Y, Z), int64: kind of bundle, below :data:`N_REGIONS`.
    fibres
        Shape (B, 3, 3, X, Y, Z): unit axes of the populations, RAS+; (batch, population, axis):
        of the bundle, of its neighbour, and of what crosses it; zero outside the brain.
    neighbour
        Shape (B, X, Y, Z): share of the neighbour's fibres, 0 to 0.5: most at the border.
    cortical
        Shape (B, 3, X, Y, Z): unit axis of the cortex' fibres, RAS+.
    mni_mm
        Shape (B, 3, X, Y, Z): where each voxel lies in MNI space, RAS mm.
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

    def one(self, index: int) -> Heads:
        """Return one sample of the batch, as a batch of one."""
        return Heads(*(getattr(self, f.name)[index : index + 1] for f in fields(self)))


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


def draw_heads(
    generator: torch.Generator,
    shape: tuple[int, int, int],
    affine: Tensor,
    *,
    rotation: Tensor | None = None,
    jitter: float = 1.0,
    deformation_mm: float = 4.0,
    atlas_weight: Tensor,
    label_chance: float = 0.0,
    lesion_chance: float = 0.3,
    tumour_chance: float = 0.05,
    slab_chance: float = 0.0,
) -> Heads:
    """Draw the anatomy of a batch of heads.

    Parameters
    ----------
    generator
        Source of randomness; the heads lie on its device.
    shape
        X, Y, Z.
    affine
        Shape (B, 4, 4), voxel to RAS+ mm of each grid; scanner space is MNI space up to the
        drawn transform.
    rotation
        Shape (B, 3, 3): rotations before the random one, for patches of any pose.
    jitter
        Size of the random affine: 1 means deviations of 5 degrees, 3 mm and 5 % of scale.
    deformation_mm
        Deviation of the elastic displacement, mm; its control points are 25 to 45 mm apart, so
        that the map stays one to one.
    atlas_weight
        Shape (B,). 0: orientations are random; 1: they follow a rough atlas (callosum
        left-right, projections up-down, association front-back, gyri radial).
    label_chance
        Probability that tissues come from random labels in place of the template.
    lesion_chance, tumour_chance
        Probability of many small lesions in white matter, and of one large one anywhere.
    slab_chance
        Probability that slices at one end of the third axis hold nothing.
    """
    n, device = len(affine), affine.device
    voxel_mm = voxel_sizes(affine)
    turn = small_rotations(jitter * np.deg2rad(5.0) * normal(generator, n, 3))
    if rotation is not None:
        turn = turn @ rotation
    stretch = torch.exp(0.05 * jitter * normal(generator, n, 3))
    linear = stretch[:, :, None] * turn
    middle = torch.tensor([*((k - 1) / 2 for k in shape), 1.0], device=device)
    centre = (affine @ middle)[:, :3]
    to_mni = torch.eye(4, device=device).repeat(n, 1, 1)
    to_mni[:, :3, :3] = linear
    shift = 3.0 * jitter * normal(generator, n, 3)
    to_mni[:, :3, 3] = centre - (linear @ centre[..., None])[..., 0] + shift
    mni_mm = grid_mm(shape, to_mni @ affine)
    mni_mm = mni_mm + deformation_mm * smooth_fields(
        generator, shape, spacing=uniform(generator, 25.0, 45.0, n, 1) / voxel_mm, n_channels=3
    )
    maps, origin = _template(device)
    found = sample_voxels(maps, mni_mm - origin.reshape(3, 1, 1, 1))
    fractions, mask = _tissues(generator, found[:, :4], shape, voxel_mm, label_chance)
    fractions = _wound(generator, fractions, voxel_mm, lesion_chance, tumour_chance)
    fractions, mask = _leave_out(generator, fractions, mask, slab_chance)
    bundle, fibres, neighbour = _draw_fibres(generator, mni_mm, mask, turn, atlas_weight)
    # The template's directions are those of MNI space.
    cortical = torch.einsum("bji,bjxyz->bixyz", turn, found[:, 4:])
    return Heads(
        fractions,
        mask,
        bundle,
        fibres,
        neighbour,
        unit(cortical, 1),
        mni_mm,
        affine,
    )


def _tissues(
    generator: torch.Generator,
    maps: Tensor,
    shape: tuple[int, int, int],
    voxel_mm: Tensor,
    label_chance: float,
) -> tuple[Tensor, Tensor]:
    """Turn averaged maps into the tissue fractions (B, 4, X, Y, Z) of single heads."""
    n = len(maps)
    white, grey, brain, depth = maps.unbind(1)
    mask = brain > 0.5

    def size(deviation: float) -> Tensor:
        return deviation * normal(generator, n, 1, 1, 1)

    # The maps are averages over many heads: their fractions are sharpened. Larger ventricles,
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
    generator: torch.Generator,
    fractions: Tensor,
    voxel_mm: Tensor,
    lesion_chance: float,
    tumour_chance: float,
) -> Tensor:
    """Put lesions in the place of tissue."""
    n, _, *shape = fractions.shape
    size = (shape[0], shape[1], shape[2])

    def draw(low: float, high: float) -> Tensor:
        return uniform(generator, low, high, n, 1, 1, 1)

    def has(chance: float) -> Tensor:
        return (draw(0.0, 1.0) < chance).float()

    spacing = uniform(generator, 3.0, 7.0, n, 1) / voxel_mm
    spots = smooth_fields(generator, size, spacing=spacing)[:, 0]
    lesion = has(lesion_chance) * draw(0.1, 0.8) * (spots > draw(1.8, 2.8))
    index = grid_mm(size, torch.eye(4, device=fractions.device)[None])
    edge = torch.tensor(size, device=fractions.device) - 1.0
    place = uniform(generator, 0.0, 1.0, n, 3) * edge
    apart = (index - place.reshape(n, 3, 1, 1, 1)) * voxel_mm.reshape(n, 3, 1, 1, 1)
    ragged = apart.square().sum(dim=1).sqrt() + 3.0 * spots
    tumour = has(tumour_chance) * draw(0.7, 1.0) * (ragged < draw(6.0, 20.0))
    white, grey, csf, _ = fractions.unbind(1)
    lost_white = white * torch.maximum(lesion, tumour)
    lost_grey = grey * tumour
    return torch.stack([white - lost_white, grey - lost_grey, csf, lost_white + lost_grey], dim=1)


def _leave_out(
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


def _atlas_scores(mni_mm: Tensor) -> Tensor:
    """Score four kinds of bundle by place: left-right, up-down, front-back, radial."""
    x, y, z = mni_mm.unbind(1)
    side = x.abs()
    above = torch.sigmoid((z + 8.0) / 4.0)
    middle = torch.exp(-((side / 15.0) ** 2))
    # Where a ray from below the brainstem through the point is at the height of the callosum.
    ray = side * 95.0 / (z + 75.0).clamp(min=10.0)
    radius = torch.sqrt(x**2 + (0.85 * (y + 18.0)) ** 2 + (1.1 * (z - 10.0)) ** 2)
    return torch.stack(
        [
            middle * above,
            torch.exp(-(((ray - 24.0) / 8.0) ** 2)) + middle * (1.0 - above),
            torch.exp(-(((side - 38.0) / 8.0) ** 2)),
            torch.sigmoid((radius - 58.0) / 4.0),
        ],
        dim=1,
    )


def _draw_fibres(
    generator: torch.Generator, mni_mm: Tensor, mask: Tensor, turn: Tensor, atlas_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw kinds of bundle (B, X, Y, Z), axes (B, 3, 3, X, Y, Z), RAS+, and neighbours' shares.

    Every kind has a main axis of its own. Bundles are the places where its noise, stretched
    along that axis, is the highest of all: tubes that the fibres inside follow. Within a bundle
    the axis bends slowly. Where another kind's noise is nearly as high its fibres mix in, half
    and half at the border: over less than a voxel in some heads, over most of a bundle in others.
    Axes are unit, zero outside the mask; `turn` (B, 3, 3) takes them to MNI space.
    """
    n, _, *size = mni_mm.shape
    device = mni_mm.device
    cubes = noise_cubes(generator, n, n_channels=3)
    frames = random_rotations(generator, n, 2, N_REGIONS)
    # Columns are axes, the main one first: left-right, up-down, front-back for the atlas.
    for kind, order in enumerate(([0, 1, 2], [2, 0, 1], [1, 2, 0])):
        frames[:, 0, kind] = torch.eye(3, device=device)[:, order]

    across = uniform(generator, 4.0, 14.0, n, 1, 1)
    width = across * torch.tensor([4.0, 1.0, 1.0], device=device).repeat(n, N_REGIONS, 1)
    width[:, 3] = across[:, 0]
    offset = uniform(generator, 0.0, float(NOISE_CELLS), n, N_REGIONS, 3)
    bend_mm = uniform(generator, 15.0, 30.0, n, 1) * torch.tensor([3.0, 1.0, 1.0], device=device)
    wobble_mm = uniform(generator, 3.0, 8.0, n)
    wobble = log_uniform(generator, 0.03, 0.5, n)
    sharpness = log_uniform(generator, *_MIXING, n)
    # Scores are smooth: half the grid will do. The borders between them stay sharp.
    half = [max(2, k // 2 + 1) for k in size]
    coarse_mm = F.interpolate(mni_mm, size=half, mode="trilinear", align_corners=True)
    pull = 2.5 * atlas_weight.reshape(n, 1, 1, 1, 1) * _atlas_scores(coarse_mm)
    to_cells = (frames[:, 0] * (3.0 / width)[:, :, None]).movedim(3, 1)  # (B, 3, N_REGIONS, 3)
    bundle = torch.zeros(n, *size, dtype=torch.int64, device=device)
    neighbour = torch.zeros(n, *size, device=device)
    axes = torch.zeros(n, N_POPULATIONS, 3, math.prod(size), device=device)
    for k in range(n):
        cells = torch.addmm(
            offset[k].T.reshape(-1, 1), to_cells[k].reshape(-1, 3), coarse_mm[k].flatten(1)
        )
        scores = sample_points(cubes[k, :1], cells.reshape(3, -1)).reshape(N_REGIONS, *half)
        scores[:4] += pull[k]
        scores = F.interpolate(scores[None], size=size, mode="trilinear", align_corners=True)[0]
        voxels = mask[k].flatten().nonzero()[:, 0]
        kinds, lead = _two_highest(scores.flatten(1)[:, voxels])
        bundle[k].view(-1).index_copy_(0, voxels, kinds[0])
        neighbour[k].view(-1).index_copy_(0, voxels, torch.sigmoid(-lead / sharpness[k]))
        to_ras = turn[k].T
        found = _bundle_axes(
            to_ras @ mni_mm[k].flatten(1)[:, voxels],
            kinds,
            to_ras @ frames[k],
            {kind: to_ras @ torch.tensor(place, device=device) for kind, place in FANS.items()},
            cubes[k],
            bend_mm=bend_mm[k],
            wobble_mm=wobble_mm[k],
            wobble=wobble[k],
        )
        axes[k].index_copy_(2, voxels, found)
    return bundle, axes.reshape(n, N_POPULATIONS, 3, *size), neighbour


def _two_highest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two highest (2, V) of scores (K, V), and by how much the first leads, (V,)."""
    kinds = torch.arange(len(scores), dtype=torch.uint8, device=scores.device)[:, None]
    best = scores.amax(dim=0)
    is_best = scores == best
    rest = scores.masked_fill(is_best, -torch.inf)
    second = rest.amax(dim=0)
    # Quicker than argmax, which is slow along the first axis.
    found = [(hit * kinds).amax(dim=0) for hit in (is_best, rest == second)]
    return torch.stack(found).long(), best - second


def _bundle_axes(
    place_mm: Tensor,
    kinds: Tensor,
    frames: Tensor,
    fans: dict[int, Tensor],
    cubes: Tensor,
    *,
    bend_mm: Tensor,
    wobble_mm: Tensor,
    wobble: Tensor,
) -> Tensor:
    """Return the axes (3, 3, V) of V voxels of one head: population, direction, voxel.

    Parameters
    ----------
    place_mm
        Shape (3, V): places in MNI space, turned as the axes are to be.
    kinds
        Shape (2, V): kinds of bundle, and their neighbours.
    frames
        Shape (2, N_REGIONS, 3, 3): frames of the kinds, and of what crosses them, whose columns
        are axes, turned alike.
    fans
        Where the fibres of some kinds come from, shape (3,), mm, turned alike.
    cubes
        Shape (3, ...): noise, see :func:`noise_cubes`.
    bend_mm
        Shape (3,): width of the bends along the axes of a bundle's frame.
    wobble_mm, wobble
        Width of wobbles of the first population, and their size, rad.
    """
    main_frames, crossing_frames = frames.movedim(1, 3)  # (3, 3, N_REGIONS)
    own = torch.stack(
        [main_frames[..., kinds[0]], main_frames[..., kinds[1]], crossing_frames[..., kinds[0]]]
    )  # (3, 3, 3, V)
    local = (own[0] * place_mm[:, None]).sum(dim=0)
    bend = 0.3 * sample_points(cubes[1:], local * (3.0 / bend_mm)[:, None])
    main = own[:, :, 0]
    axes = torch.addcmul(main, own[:, :, 1], bend[0]).addcmul_(own[:, :, 2], bend[1])
    for kind, source in fans.items():
        away = unit(place_mm - source[:, None], 0)
        axes[:2] += torch.where((kinds == kind)[:, None], away - main[:2], 0.0)
    axes[0] += wobble * sample_points(cubes, place_mm * (3.0 / wobble_mm))
    return unit(axes, 1)
