"""What fine-tuning sees of a scan: slabs of it in a few directions, behind the frozen front."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.errors import ConfigError
from dmri_fm_lab.feature_cache import FeatureCache, Vectors, digest
from dmri_fm_lab.prediction.finetune_network import FrontTokens, pass_front
from dmri_fm_lab.train.scan_cache import CachedScan, slab_starts

#: Purposes in the seeds of views: of training, and of predictions.
DRAW, VIEW = 8, 9


@dataclass(frozen=True)
class ViewSettings:
    """Views of a scan.

    Attributes
    ----------
    n_directions
        Random distinct directions of a view; all of them if a scan has fewer.
    slab_slices
        Slices of a slab, a multiple of those of a patch; 0: the whole brain.
    n_views
        Views over which a prediction is averaged: slabs at equal distances, from the lowest to
        the highest that holds a fair part of the brain, each with directions of its own.
    seed
        Of the draws.
    """

    n_directions: int = 12
    slab_slices: int = 4
    n_views: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_directions, self.n_views, self.slab_slices + 1) < 1:
            raise ConfigError(
                f"{self.n_views} views of {self.n_directions} directions and {self.slab_slices} "
                "slices",
                expected="one or more views and directions, and slices of a slab or 0",
            )


@dataclass(frozen=True)
class FrontViews:
    """Views of scans behind the frozen front of an encoder; :class:`.fold_training.Samples`.

    Attributes
    ----------
    scans
        By participant, on the encoder's grid.
    front
        See :func:`.finetune_network.frozen_front`.
    settings
        Of the views.
    cache
        Keeps what the front gives of views, which other folds and runs use again.
    is_kept
        Whether views of training are kept; without, they are new in every epoch.
    """

    scans: Mapping[str, CachedScan]
    front: Drope
    settings: ViewSettings
    cache: FeatureCache
    is_kept: bool

    def draw(self, participant: str, number: int) -> FrontTokens:
        """Return a random slab, mirrored, moved or noisier at random, as in pretraining."""

        def draw() -> ScanTokens:
            rng = self._rng(DRAW, participant, number)
            return self.scans[participant].draw(
                rng,
                self.front.config,
                n_directions=self.settings.n_directions,
                n_slices=self.settings.slab_slices or None,
            )

        return self._pass(draw, participant, f"draw-{number}" if self.is_kept else "")

    def views(self, participant: str) -> Sequence[FrontTokens]:
        """Return slabs at equal distances, as they were measured."""
        return [self._view(participant, number) for number in range(self.settings.n_views)]

    def _view(self, participant: str, number: int) -> FrontTokens:
        def read() -> ScanTokens:
            scan, settings = self.scans[participant], self.settings
            mask, n_slices = scan.read_mask(), settings.slab_slices
            first = 0
            if n_slices:
                starts = slab_starts(mask, n_slices)
                part = (number + 0.5) / settings.n_views
                first = int(starts[int(part * len(starts))])
                mask = mask[:, :, first : first + n_slices]
            rng = self._rng(VIEW, participant, number)
            volumes, gtab = scan.read_volumes(
                rng, settings.n_directions, first=first, n_slices=n_slices or None
            )
            return tokenise(volumes, gtab, mask, self.front.config, origin=(0, 0, first))

        return self._pass(read, participant, f"view-{number}")

    def _pass(self, read: Callable[[], ScanTokens], participant: str, view: str) -> FrontTokens:
        """Return what the front gives of a view, kept if the view has a name."""

        def compute() -> Vectors:
            found = pass_front(self.front, read())
            return {k: v.cpu().numpy() for k, v in found._asdict().items()}

        # A front without blocks costs no more than reading its result.
        is_kept = view and len(self.front.blocks) > 0
        scan = self.scans[participant]
        name = f"{scan.name}_{digest(scan.origin)}_{view}"
        vectors = self.cache.get(name, compute) if is_kept else compute()
        return FrontTokens(**{k: torch.from_numpy(v) for k, v in vectors.items()})

    def _rng(self, purpose: int, participant: str, number: int) -> np.random.Generator:
        # Not by position: other participants of a run must not change what is drawn of one.
        who = zlib.crc32(participant.encode())
        return np.random.default_rng([self.settings.seed, purpose, who, number])
