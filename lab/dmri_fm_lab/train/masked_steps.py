"""Steps of masked pretraining: choice of scans and masks, and errors of the reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.mae import Mask, MaskedAutoencoder, draw_mask, masked_errors, ramp_tau
from dmri_fm.encoders.drope.masked_directions import to_table
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.errors import ConfigError
from dmri_fm.gaussian_process import mean_weights
from dmri_fm.gradients import group_shells
from dmri_fm_lab.train.brain_source import STEP, BrainSource
from dmri_fm_lab.train.config import DropePretraining


@dataclass(frozen=True)
class ScanSource(BrainSource):
    """Training scans of a D-RoPE encoder by step."""

    config: DropeConfig
    training: DropePretraining

    def get(self, number: int) -> list[ScanTokens]:
        """Return what a device sees in a step, which depends on nothing but the number.

        Slabs; or one whole brain, late in a run.
        """
        training, step = self.training, number // self.devices
        rng = np.random.default_rng([training.optimisation.seed, STEP, number, 0])
        if step >= training.whole_from * training.optimisation.n_steps:
            return [self.draw(rng, self.newest(step), training.whole_directions)]
        n = int(rng.integers(training.min_directions, training.max_directions + 1))
        return [
            self.draw(rng, self.newest(step), n, n_slices=training.slab_slices)
            for _ in range(training.batch)
        ]

    def draw(
        self,
        rng: np.random.Generator,
        n_brains: int,
        n_directions: int,
        *,
        n_slices: int | None = None,
    ) -> ScanTokens:
        """Return a real scan, or one of the first simulated brains, as tokens of D-RoPE."""
        scan = self.choose(rng, n_brains)
        return scan.draw(rng, self.config, n_directions=n_directions, n_slices=n_slices)


def masks_patches(config: DropePretraining, step: int) -> bool:
    """Return whether a step masks patches; if not, it masks directions.

    Raises ConfigError if the settings name no way of masking.
    """
    epoch = step // config.steps_per_epoch
    is_spatial = {"alternating": epoch % 2 == 0, "spatial": True, "diffusion": False}
    if config.masking not in is_spatial:
        raise ConfigError(
            f"masking {config.masking!r}", expected=f"one of {', '.join(is_spatial)}"
        )
    return is_spatial[config.masking]


def choose_mask(
    rng: np.random.Generator,
    model: MaskedAutoencoder,
    config: DropePretraining,
    scan: ScanTokens,
    *,
    is_spatial: bool,
) -> Mask:
    """Draw the mask of a scan: patches, directions or, as an option, whole shells."""
    kind: Literal["spatial", "diffusion"] = "spatial" if is_spatial else "diffusion"
    n, n_patches = len(scan.qspace), len(scan.index)
    shells = group_shells(1000.0 * scan.qspace[:, 0].numpy())
    if not is_spatial and len(shells) > 1 and rng.uniform() < config.shell_share:
        kept = np.sort(shells[int(rng.integers(len(shells)))])
        return Mask(kind, torch.from_numpy(kept)[None])
    return draw_mask(rng, model.config, kind=kind, n_directions=n, n_patches=n_patches)


def step_losses(
    model: MaskedAutoencoder,
    config: DropePretraining,
    network: nn.Module,
    scans: Sequence[ScanTokens],
    step: int,
) -> dict[str, Tensor]:
    """Mask a part of each scan, and compare the reconstruction with it; means over scans.

    `network` is the callable form of the model, wrapped for its devices. Masks depend on nothing
    but the numbers of step and device.

    Returns
    -------
    dict
        `loss`, of signals scaled as the network's input is; mean squared errors of S/S0:
        `visible`, `masked_spatial`, `masked_diffusion`; `over_mean`: error of masked directions
        over that of the mean of visible ones. NaN where a step masks the other way.
    """
    device = next(network.parameters()).device
    is_spatial = masks_patches(config, step)
    tau = ramp_tau(step / config.optimisation.n_steps)
    device_number = distributed.get_rank() if distributed.is_initialized() else 0
    rows = []
    for number, scan in enumerate(scans, start=1 + device_number * len(scans)):
        rng = np.random.default_rng([config.optimisation.seed, STEP, step, number])
        mask = choose_mask(rng, model, config, scan, is_spatial=is_spatial)
        scan = scan.to(device)
        mask = mask._replace(kept=mask.kept.to(device))
        target, brain = scan.patches[None], scan.brain[None]
        found = network(target, scan.qspace[None], scan.positions[None], mask)
        is_masked = mask.masked(len(scan.qspace), len(scan.index))
        visible, masked = masked_errors(found, target, is_masked, brain=brain)
        absent = torch.full_like(masked, float("nan")).detach()
        loss = ((1.0 - tau) * visible + tau * masked) / model.config.encoder.signal_std**2
        if is_spatial:
            parts = [masked, absent, absent]
        else:
            plain = mean_of_visible(scan, mask.kept[0])[None]
            _, level = masked_errors(plain, target, is_masked, brain=brain)
            parts = [absent, masked, masked / level]
        rows.append(torch.stack([loss, visible, *parts]))
    means = torch.stack(rows).mean(dim=0)
    names = ("loss", "visible", "masked_spatial", "masked_diffusion", "over_mean")
    return dict(zip(names, means, strict=True))


def mean_of_visible(scan: ScanTokens, kept: Tensor) -> Tensor:
    """Predict each direction (T, S, P) by the mean of visible ones of the nearest b-value."""
    table = to_table(scan.qspace)
    weights = torch.from_numpy(mean_weights(table.select(kept.cpu().numpy()), table))
    return torch.einsum("kt,ksp->tsp", weights.to(scan.patches), scan.patches[kept])
