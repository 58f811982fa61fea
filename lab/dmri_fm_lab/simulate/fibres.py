"""Fibres of the training generator's brains: bundles, their axes and their borders."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dmri_fm_lab.simulate.fields import (
    NOISE_CELLS,
    log_uniform,
    noise_cubes,
    random_rotations,
    sample_points,
    uniform,
    unit,
)

#: Number of bundle types. The first four follow the rough atlas, the others are free.
N_REGIONS = 18

#: Bundle types whose fibres spread from a point, MNI mm: up from below the brainstem, and out to
#: the gyri from the brain's middle.
FANS = {1: (0.0, -22.0, -75.0), 3: (0.0, -18.0, 10.0)}

#: Fibre populations that may cross in a bundle.
N_POPULATIONS = 3

#: Lead of a bundle's noise (variance 1) at which its neighbour's share is a quarter.
_MIXING = (0.03, 0.4)


def _atlas_scores(mni_mm: Tensor) -> Tensor:
    """Score four bundle types by position: left-right, up-down, front-back, radial."""
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


def draw_fibres(
    generator: torch.Generator, mni_mm: Tensor, mask: Tensor, turn: Tensor, atlas_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw bundle types (B, X, Y, Z), axes (B, 3, 3, X, Y, Z), RAS+, and neighbours' shares.

    Each bundle type has a main axis and noise that is stretched along it. A voxel belongs to the
    type of the highest noise: tubes, which the fibres inside follow. Within a bundle the axis
    bends slowly. Where another type's noise is nearly as high, its fibres mix in, half and half
    at the border: over less than a voxel in some brains, over most of a bundle in others.
    Axes are unit, zero outside the mask; `turn` (B, 3, 3) takes them to MNI space.
    """
    n, _, *size = mni_mm.shape
    device = mni_mm.device
    cubes = noise_cubes(generator, n, n_channels=3)
    frames = random_rotations(generator, n, 2, N_REGIONS)
    # Columns are axes, the main one first: left-right, up-down, front-back for the atlas.
    for number, order in enumerate(([0, 1, 2], [2, 0, 1], [1, 2, 0])):
        frames[:, 0, number] = torch.eye(3, device=device)[:, order]

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
        types, lead = _two_highest(scores.flatten(1)[:, voxels])
        bundle[k].view(-1).index_copy_(0, voxels, types[0])
        neighbour[k].view(-1).index_copy_(0, voxels, torch.sigmoid(-lead / sharpness[k]))
        to_ras = turn[k].T
        brain_axes = _bundle_axes(
            to_ras @ mni_mm[k].flatten(1)[:, voxels],
            types,
            to_ras @ frames[k],
            {t: to_ras @ torch.tensor(source, device=device) for t, source in FANS.items()},
            cubes[k],
            bend_mm=bend_mm[k],
            wobble_mm=wobble_mm[k],
            wobble=wobble[k],
        )
        axes[k].index_copy_(2, voxels, brain_axes)
    return bundle, axes.reshape(n, N_POPULATIONS, 3, *size), neighbour


def _two_highest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two highest (2, V) of scores (K, V), and by how much the first leads, (V,)."""
    types = torch.arange(len(scores), dtype=torch.uint8, device=scores.device)[:, None]
    best = scores.amax(dim=0)
    is_best = scores == best
    rest = scores.masked_fill(is_best, -torch.inf)
    second = rest.amax(dim=0)
    # Quicker than argmax, which is slow along the first axis.
    highest = [(hit * types).amax(dim=0) for hit in (is_best, rest == second)]
    return torch.stack(highest).long(), best - second


def _bundle_axes(
    position_mm: Tensor,
    types: Tensor,
    frames: Tensor,
    fans: dict[int, Tensor],
    cubes: Tensor,
    *,
    bend_mm: Tensor,
    wobble_mm: Tensor,
    wobble: Tensor,
) -> Tensor:
    """Return the axes (3, 3, V) of V voxels of one brain: population, direction, voxel."""
    # position_mm (3, V): in MNI space, turned as the axes are to be, like frames and fans.
    # types (2, V): bundle type, and its neighbour's.
    # frames (2, N_REGIONS, 3, 3): columns are axes, of the type, and of the fibres that cross it.
    # cubes (3, ...): noise. bend_mm (3,): width of bends along the axes of a bundle's frame.
    # wobble_mm, wobble: width of the first population's wobbles, and their size, rad.
    main_frames, crossing_frames = frames.movedim(1, 3)  # (3, 3, N_REGIONS)
    own = torch.stack(
        [main_frames[..., types[0]], main_frames[..., types[1]], crossing_frames[..., types[0]]]
    )  # (3, 3, 3, V)
    local = (own[0] * position_mm[:, None]).sum(dim=0)
    bend = 0.3 * sample_points(cubes[1:], local * (3.0 / bend_mm)[:, None])
    main = own[:, :, 0]
    axes = torch.addcmul(main, own[:, :, 1], bend[0]).addcmul_(own[:, :, 2], bend[1])
    for number, source in fans.items():
        away = unit(position_mm - source[:, None], 0)
        axes[:2] += torch.where((types == number)[:, None], away - main[:2], 0.0)
    axes[0] += wobble * sample_points(cubes, position_mm * (3.0 / wobble_mm))
    return unit(axes, 1)
