"""Part of a scan from which features are computed: ours, and the published one.

Kung et al. 2026 (section 4.3, https://doi.org/10.48550/arXiv.2603.25977) read slices 64 to 119 of
192 on a grid of 1 mm, and 12 directions that are drawn at random for each participant.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.tokens import ScanTokens, patch_centres
from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.identities.base import DIRECTION_CHOICES
from dmri_fm.qspace import choose_spread, one_of_each_direction

#: Part of the encoder's grid: all of it, or the slices of the published extraction.
Region: TypeAlias = Literal["whole", "published"]

#: First and last slice of the published extraction, on the grid of 1 mm.
PUBLISHED_SLICES = (64, 119)


def check_region(name: str) -> Region:
    """Return a region by its name; ConfigError if there is none."""
    if name not in get_args(Region):
        raise ConfigError(f"region {name!r}", expected=" or ".join(get_args(Region)))
    return cast(Region, name)


def patches_of_region(config: DropeConfig, region: Region) -> NDArray[np.bool_]:
    """Return which patches of the grid, C order, have their centre in a region.

    Parameters
    ----------
    config
        Of the encoder. Its grid begins where the grid of 1 mm does, whatever its voxels.
    region
        See :data:`Region`.

    Returns
    -------
    ndarray
        Shape (S,), bool.
    """
    if region == "whole":
        return np.ones(int(np.prod(config.patch_grid)), dtype=bool)
    first, last = PUBLISHED_SLICES
    height_mm = (patch_centres(config)[:, 2] + 0.5) * config.voxel_size_mm
    inside: NDArray[np.bool_] = (height_mm > first) & (height_mm < last + 1)
    return inside


def select_region(tokens: ScanTokens, config: DropeConfig, region: Region) -> ScanTokens:
    """Return the tokens of a scan that lie in a region."""
    inside = patches_of_region(config, region)[tokens.index]
    return tokens if inside.all() else tokens.select_patches(np.flatnonzero(inside))


def choose_directions(
    gtab: GradientTable, n_directions: int, *, how: str, seed: int, gamma: float
) -> NDArray[np.int_]:
    """Choose diffusion-weighted volumes, the first of each distinct direction.

    `how` is a key of :data:`~dmri_fm.identities.base.DIRECTION_CHOICES`: far apart in q-space, or
    at random, as published. Other parameters and errors as of
    :func:`dmri_fm.qspace.choose_spread`.

    Examples
    --------
    >>> gtab = GradientTable([0, 1000, 1000, 2000], [[0, 0, 0], *np.eye(3)])
    >>> choose_directions(gtab, 12, how="random", seed=0, gamma=0.5).tolist()
    [1, 2, 3]
    """
    if how not in DIRECTION_CHOICES:
        raise ConfigError(f"directions {how!r}", expected=" or ".join(DIRECTION_CHOICES))
    distinct = one_of_each_direction(gtab)
    if how == "spread":
        table = gtab.select(distinct) if len(distinct) else gtab
        return distinct[choose_spread(table, n_directions, seed=seed, gamma=gamma)]
    return np.sort(np.random.default_rng(seed).permutation(distinct)[:n_directions])
