"""What image networks see of a participant: FA and MD maps, or directions as channels."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dmri_fm.errors import InputError
from dmri_fm.normalise.grid import Grid, resample_image
from dmri_fm.series import load_image, read_array
from dmri_fm_lab.feature_cache import FeatureCache, digest
from dmri_fm_lab.scan_tables import LeftOut
from dmri_fm_lab.scans import list_corrected
from dmri_fm_lab.train.scan_cache import CachedScan
from dmri_fm_lab.train.scan_variation import MOST_SHIFT_VOXELS
from dmri_fm_workflows.bids.names import scan_name, split_name

#: Ending of the app's maps in the template's space, and the factor that brings each near 1.
MAP_ENDING = "_space-MNI152NLin2009aSym_res-2_model-{model}_param-{map}_dwimap.nii.gz"
MAPS = {"fa": 1.0, "md": 1000.0}

_NO_MAPS = "no FA and MD maps in the template's space"

#: Purpose in the seeds of views, see :data:`dmri_fm_lab.train.loop.TRAINING`.
IMAGE_DRAW, IMAGE_VIEW = 10, 11


def find_maps(root: Path, *, model: str = "tensor") -> tuple[dict[str, list[Path]], list[LeftOut]]:
    """Return the FA and MD maps of each scan in the template's space, and scans that lack one.

    Parameters
    ----------
    root
        Output folder of the app.
    model
        Label of the model that made the maps.

    Raises
    ------
    InputError
        If no scan has both.
    """
    found: dict[str, dict[str, Path]] = {}
    for name in MAPS:
        ending = MAP_ENDING.format(model=model, map=name)
        for path in sorted(root.glob(f"sub-*/**/dwi/*{ending}")):
            found.setdefault(scan_name(split_name(path)[0]), {})[name] = path
    whole = {s: [paths[m] for m in MAPS] for s, paths in found.items() if paths.keys() == {*MAPS}}
    lacking = [
        LeftOut(s, f"no {' and no '.join(sorted(MAPS.keys() - paths.keys()))} map")
        for s, paths in found.items()
        if s not in whole
    ]
    lacking += [LeftOut(s, _NO_MAPS) for s in list_corrected(root) if s not in found]
    if not whole:
        raise InputError(
            "no scan has FA and MD maps in the template's space",
            path=root,
            expected="sub-*/dwi/sub-*" + MAP_ENDING.format(model=model, map="{fa,md}"),
            advice="run drope-bidsapp with --output-spaces MNI152NLin2009aSym",
        )
    return whole, lacking


@dataclass(frozen=True)
class MapImages:
    """FA and MD maps, on channels; :class:`.fold_training.Samples`.

    Attributes
    ----------
    maps
        Files of FA and MD by participant.
    grid
        Grid in the template's space on which they are read.
    pool
        Voxels of the grid along each axis that are averaged into one.
    cache
        Keeps the result.
    seed
        Of the draws.
    """

    maps: Mapping[str, Sequence[Path]]
    grid: Grid
    pool: int
    cache: FeatureCache
    seed: int = 0

    n_channels = len(MAPS)

    def draw(self, participant: str, number: int) -> Tensor:
        """Return the maps (2, X, Y, Z), mirrored and moved at random."""
        rng = _rng(self.seed, IMAGE_DRAW, participant, number)
        return vary(self._read(participant), rng, most_shift=MOST_SHIFT_VOXELS // self.pool)

    def views(self, participant: str) -> Sequence[Tensor]:
        """Return the maps as they are."""
        return [self._read(participant)]

    def _read(self, participant: str) -> Tensor:
        paths = self.maps[participant]
        states = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        name = f"{participant}_{digest(states, self.pool, self.grid)}"
        stored = self.cache.get(name, lambda: {"image": self._resample(paths)})
        return torch.from_numpy(stored["image"])

    def _resample(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        images = []
        for path, factor in zip(paths, MAPS.values(), strict=True):
            image = load_image(path, ndim=3)
            data = np.nan_to_num(read_array(image, is_finite=False))
            images.append(factor * resample_image(data, image.affine, self.grid))
        return _pooled(torch.from_numpy(np.stack(images)), self.pool).numpy()


@dataclass(frozen=True)
class DirectionImages:
    """Random diffusion directions, S/S0, on channels in any order: a network is not told them.

    Attributes
    ----------
    scans
        By participant, each with `n_channels` distinct directions or more.
    pool
        Voxels along each axis that are averaged into one.
    n_channels
        Directions of an image.
    n_views
        Draws of directions over which a prediction is averaged.
    seed
        Of the draws.
    """

    scans: Mapping[str, CachedScan]
    pool: int
    n_channels: int = 12
    n_views: int = 4
    seed: int = 0

    def draw(self, participant: str, number: int) -> Tensor:
        """Return random directions (n, X, Y, Z), mirrored and moved at random."""
        rng = _rng(self.seed, IMAGE_DRAW, participant, number)
        return vary(self._read(participant, rng), rng, most_shift=MOST_SHIFT_VOXELS // self.pool)

    def views(self, participant: str) -> Sequence[Tensor]:
        """Return random directions, as they were measured, the same at every call."""
        return [
            self._read(participant, _rng(self.seed, IMAGE_VIEW, participant, number))
            for number in range(self.n_views)
        ]

    def _read(self, participant: str, rng: np.random.Generator) -> Tensor:
        volumes, _ = self.scans[participant].read_volumes(rng, self.n_channels)
        return _pooled(torch.from_numpy(np.moveaxis(volumes, 3, 0).copy()), self.pool)


def vary(image: Tensor, rng: np.random.Generator, *, most_shift: int) -> Tensor:
    """Mirror an image (C, X, Y, Z), left for right, in half of the draws, and move it."""
    if rng.uniform() < 0.5:
        image = image.flip(1)
    shift = rng.integers(-most_shift, most_shift + 1, 2).tolist()
    return torch.roll(image, shift, (1, 2))


def _pooled(image: Tensor, pool: int) -> Tensor:
    return image if pool == 1 else functional.avg_pool3d(image[None], pool)[0]


def _rng(seed: int, purpose: int, participant: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, zlib.crc32(participant.encode()), number])
