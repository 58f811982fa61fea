"""Small encoders that are pretrained alike, to compare architectures and ways of masking."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dmri_fm.encoders.drope.mae import MaskedAutoencoder
from dmri_fm.errors import ConfigError
from dmri_fm_lab.train.brain_source import BRAINS
from dmri_fm_lab.train.config import DropePretraining, read_training
from dmri_fm_lab.train.drope import Start, pretrain_drope, start_autoencoder

#: Shipped settings that all rows of a comparison share.
SETTINGS = "drope-ablation"

#: Part of a run in which the learning rate rises.
WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class Row:
    """What differs between the rows of a comparison.

    Attributes
    ----------
    model
        Name in the registry.
    masking
        See :class:`~dmri_fm_lab.train.config.DropePretraining`.
    seed
        Seed of the initial weights and of every sample.
    patch
        Voxels of a patch along each axis, in place of the model's.
    near_identity
        Whether training starts near the identity, see :mod:`dmri_fm_lab.train.initial_weights`;
        from random weights if not.
    """

    model: str = "drope-ablation"
    masking: str = "alternating"
    seed: int = 0
    patch: tuple[int, int, int] | None = None
    near_identity: bool = True

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        size = "" if self.patch is None else f"_patch-{'x'.join(map(str, self.patch))}"
        start = "" if self.near_identity else "_start-random"
        return f"{self.model}_{self.masking}_seed-{self.seed}{size}{start}"

    def build(self) -> MaskedAutoencoder:
        """Return the autoencoder as its training starts."""
        return start_autoencoder(
            self.model, seed=self.seed, near_identity=self.near_identity, patch=self.patch
        )


def pretrain_row(
    row: Row, folder: Path, *, n_steps: int, until: int | None = None
) -> MaskedAutoencoder:
    """Pretrain an autoencoder on simulated brains, or read it back.

    Networks that are finished are kept, and unfinished runs go on. Rows of one seed see the same
    brains.

    Parameters
    ----------
    row
        Architecture, masking and seed.
    folder
        Of the comparison: a folder for each row, and one for the simulated brains.
    n_steps
        Steps of the whole run, over which its schedule reaches.
    until
        Step at which the network is wanted, in ascending order from call to call; the last one
        if None.

    Returns
    -------
    MaskedAutoencoder
        The running average of the weights, in evaluation mode.

    Raises
    ------
    ConfigError
        If the folder holds a run of the row with other settings, or one that is past that step.
    """
    until = n_steps if until is None else until
    kept = folder / row.name / f"step-{until:06d}_of-{n_steps:06d}.pt"
    network = row.build()
    if kept.exists():
        network.load_state_dict(torch.load(kept, weights_only=True))
        return network.eval().requires_grad_(False)
    warmup = max(1, round(WARMUP_SHARE * n_steps))
    changes = {"n_steps": n_steps, "warmup_steps": warmup, "max_steps": until, "seed": row.seed}
    settings = read_training(DropePretraining, SETTINGS, model=row.model, optimisation=changes)
    run = pretrain_drope(
        replace(settings, masking=row.masking),
        folder / row.name,
        brains=folder / BRAINS,
        start=Start(network, {"row": row.name}),
    )
    if run.steps != until:
        raise ConfigError(
            f"a run that has reached step {run.steps}",
            path=folder / row.name,
            expected=f"step {until} at most",
            advice="choose another folder",
        )
    torch.save(network.state_dict(), kept)
    return network.eval().requires_grad_(False)
