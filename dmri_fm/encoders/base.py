"""The protocol of encoders, networks that turn a series into features; what those here share."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from dmri_fm.encoders.features import ScanFeatures
from dmri_fm.errors import ConfigError
from dmri_fm.normalise.grid import Grid
from dmri_fm.out_of_distribution import SCAN_STATISTICS, Reference
from dmri_fm.series import Dwi
from dmri_fm.weights import Weights

Prepared = TypeVar("Prepared")
Network = TypeVar("Network")
Config = TypeVar("Config")


class Encoder(Protocol[Prepared]):
    """A network with weights that computes features of a series.

    A new encoder is a class with these members in a module or package of its own below
    `dmri_fm.encoders`, a record in :mod:`dmri_fm.identities.encoders` and a line in
    :mod:`dmri_fm.registry`, which constructs it with its :class:`~dmri_fm.weights.Weights`.
    """

    @property
    def name(self) -> str:
        """Name in the registry."""

    @property
    def weights(self) -> Weights:
        """The weights that run."""

    @property
    def grid(self) -> Grid:
        """Grid in MNI152NLin2009aSym that the encoder reads."""

    @property
    def reference(self) -> Reference | None:
        """Statistics of its training features, for the out-of-distribution score, or None."""

    def prepare(
        self,
        dwi: Dwi,
        *,
        n_directions: int | None,
        seed: int,
        region: str | None = None,
        rotations: NDArray[np.float32] | None = None,
    ) -> Prepared:
        """Turn a series into the encoder's input.

        Parameters
        ----------
        dwi
            On :attr:`grid`, b-vectors in its RAS frame, scanner units (not divided by b=0).
        n_directions
            Largest number of directions to use; its own choice if None.
        seed
            Seed of all random choices, that of directions among them.
        region
            Part of the grid to read, by a name of the encoder's; its own choice if None.
        rotations
            Shape (X, Y, Z, 3): rotations of directions by a warp beyond that of the gradient
            table, see :func:`dmri_fm.normalise.local_rotation.local_rotations`; for encoders whose
            record says that they read them.

        Raises
        ------
        GradientError
            If there is no b=0 volume, or no diffusion-weighted one.
        ImageError
            If the mask is empty, or holds nothing that the encoder reads.
        ConfigError
            If the encoder knows no such region, or has no choice of directions.
        """

    def encode(self, prepared: Prepared) -> ScanFeatures:
        """Compute the features of a scan."""


class LoadedEncoder(Generic[Network, Config]):
    """The members of an encoder that follow from its weights."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.name = weights.name
        has_reference = weights.statistics.keys() >= {*SCAN_STATISTICS}
        self.reference: Reference | None = weights.statistics if has_reference else None
        self._network = cast(Network, weights.model)
        self._config: Config = cast(Any, weights.model).config

    @property
    def grid(self) -> Grid:
        """Grid in MNI152NLin2009aSym that the encoder reads."""
        grid: Grid = cast(Any, self._config).grid
        return grid

    def _refuse_choices(self, n_directions: int | None, region: str | None, *, reads: str) -> None:
        """Raise ConfigError if a number of directions or a part of the brain is asked for."""
        if n_directions is not None or region not in (None, "whole"):
            raise ConfigError(
                f"{n_directions} directions, region {region!r}",
                expected=f"no such choice: {self.name} reads {reads}",
            )
