"""Steps of masked pretraining: choice of scan and mask, and errors of the reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.guided_mae import (
    Autoencoder,
    GuidedAutoencoder,
    Reconstruction,
    Window,
)
from dmri_fm.encoders.drope.mae import Mask, draw_mask, masked_errors, ramp_tau
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise_series
from dmri_fm.errors import ConfigError
from dmri_fm.gradients import group_shells
from dmri_fm_lab.simulate import draw_batch, draw_protocol
from dmri_fm_lab.train.config import DropePretraining
from dmri_fm_lab.train.loop import TRAINING
from dmri_fm_lab.train.scan_cache import CachedScan

#: Further purposes in seeds: choice of a step's scan, of its directions and mask, of held-out
#: participants.
CHOICE, STEP, HOLD_OUT = 4, 3, 6

#: Scale of errors without a baseline: mean squared error of S/S0.
ERROR_SCALE = 0.01

#: Side of the box of patches in which the convolutions are trained, and directions of a step.
WINDOW_PATCHES, WINDOW_DIRECTIONS = 5, 4

#: Least number of directions of a shell that is shown while another one is masked.
FEWEST_OF_SHELL = 3


def draw_scan_tokens(
    rng: np.random.Generator, config: DropeConfig, *, n_directions: int
) -> ScanTokens:
    """Simulate a whole brain on the model's grid and cut it into patches.

    One, two or three shells (b 400 to 3000) share the directions out; one to four b=0 volumes.
    """
    n_shells = min(int(rng.integers(1, 4)), n_directions)
    counts = [len(part) for part in np.array_split(np.arange(n_directions), n_shells)]
    bvals = np.sort(rng.uniform(400.0, 3000.0, n_shells)).round(-1)
    gtab = draw_protocol(
        rng,
        scheme="multishell",
        n_directions=counts,
        bvals=bvals.tolist(),
        n_b0=int(rng.integers(1, 5)),
    )
    grid = config.grid
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    drawn = draw_batch(
        generator,
        [gtab],
        shape=grid.shape,
        affine=torch.tensor(grid.affine, dtype=torch.float32),
        with_truth=False,
    )
    images = drawn.signal[0].movedim(0, 3).numpy()
    return tokenise_series(images, gtab, drawn.mask[0].numpy(), config)


@dataclass
class ScanSource:
    """Training scans by step: one of the last few that were drawn.

    `config` is the encoder's. `scans` are real ones, from which the share `training.scan_share`
    is drawn; the others are simulated. `purpose` is part of the seeds, see :data:`.loop.TRAINING`.
    """

    config: DropeConfig
    training: DropePretraining
    purpose: int = TRAINING
    scans: Sequence[CachedScan] = ()
    _drawn: dict[int, ScanTokens] = field(default_factory=dict)

    def get(self, step: int) -> ScanTokens:
        """Return the scan of a step, which depends on nothing but its number."""
        rng = np.random.default_rng([self.training.optimisation.seed, CHOICE, step])
        newest = step // self.training.n_reuse
        number = newest - int(rng.integers(min(self.training.n_at_hand, newest + 1)))
        oldest = newest - self.training.n_at_hand
        self._drawn = {k: v for k, v in self._drawn.items() if k > oldest}
        if number not in self._drawn:
            self._drawn[number] = self.draw(number)
        return self._drawn[number]

    def draw(self, number: int) -> ScanTokens:
        """Return a scan by its own number."""
        rng = np.random.default_rng([self.training.optimisation.seed, self.purpose, number])
        n = self.training.scan_directions
        if self.scans and rng.uniform() < self.training.scan_share:
            scan = self.scans[int(rng.integers(len(self.scans)))]
            return scan.draw(rng, self.config, n_directions=n)
        return draw_scan_tokens(rng, self.config, n_directions=n)


def choose_directions(
    rng: np.random.Generator, rho: NDArray[np.float64], training: DropePretraining
) -> tuple[NDArray[np.int_], NDArray[np.int_] | None]:
    """Choose the directions of a step and, where one shell is to be masked, the visible ones.

    `rho` (N,) is b / 1000 of the scan's directions. Returns ascending indices, and positions
    among them that stay visible: those of one shell, while another is masked. None if any may.
    """
    most = min(training.max_directions, len(rho))
    n = int(rng.integers(min(training.min_directions, most), most + 1))
    shells = [s for s in group_shells(1000.0 * rho) if len(s) >= FEWEST_OF_SHELL]
    if len(shells) > 1 and rng.uniform() < training.shell_share:
        one, other = (shells[i] for i in rng.permutation(len(shells))[:2])
        parts = [rng.permutation(s)[: max(FEWEST_OF_SHELL, n // 2)] for s in (one, other)]
        chosen = np.sort(np.concatenate(parts))
        return chosen, np.flatnonzero(np.isin(chosen, parts[0]))
    return np.sort(rng.permutation(len(rho))[:n]), None


def crop(rng: np.random.Generator, scan: ScanTokens, training: DropePretraining) -> ScanTokens:
    """Return the whole scan, or the patches nearest to one of them, in the order of the whole."""
    if rng.uniform() < training.whole_share:
        return scan
    n = len(scan.index)
    centre = scan.positions[int(rng.integers(n))]
    nearest = (scan.positions - centre).norm(dim=1).argsort(stable=True).numpy()
    return scan.select_patches(np.sort(nearest[: max(2, round(training.crop_share * n))]))


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


def draw_window(
    rng: np.random.Generator, scan: ScanTokens, is_masked: Tensor, patch: tuple[int, int, int]
) -> Window:
    """Choose where the convolutions are trained: about a random patch, masked directions."""
    cells = np.floor(scan.positions.cpu().numpy() / np.array(patch)).astype(int)
    low = cells[int(rng.integers(len(cells)))] - WINDOW_PATCHES // 2
    low = np.clip(low, cells.min(axis=0), np.maximum(cells.max(axis=0) + 1 - WINDOW_PATCHES, 0))
    high = np.minimum(low + WINDOW_PATCHES, cells.max(axis=0) + 1)
    directions = is_masked.any(dim=1).nonzero()[:, 0].cpu().numpy()
    chosen = np.sort(rng.permutation(directions)[:WINDOW_DIRECTIONS])
    a, b, c, d, e, f = (int(v) for v in (*low, *high))
    return Window([int(t) for t in chosen], (a, b, c), (d, e, f))


def step_losses(
    model: Autoencoder, config: DropePretraining, network: nn.Module, scan: ScanTokens, step: int
) -> dict[str, Tensor]:
    """Mask a part of a step's scan, and compare the reconstruction with it.

    `network` is the callable form of the model, wrapped for its devices. Mask and directions
    depend on nothing but the step's number.
    """
    device = next(network.parameters()).device
    rng = np.random.default_rng([config.optimisation.seed, STEP, step])
    is_spatial = masks_patches(config, step)
    chosen, kept = choose_directions(rng, scan.qspace[:, 0].numpy(), config)
    scan = crop(rng, scan.select(chosen), config).to(device)
    n, n_places = len(chosen), scan.positions.shape[0]
    if is_spatial or kept is None:
        kind: Literal["spatial", "diffusion"] = "spatial" if is_spatial else "diffusion"
        mask = draw_mask(rng, model.config, kind=kind, n_directions=n, n_places=n_places)
    else:
        mask = Mask("diffusion", torch.from_numpy(kept)[None])
    mask = mask._replace(kept=mask.kept.to(device))
    is_masked = mask.hidden(n, n_places)
    target, brain = scan.patches[None], scan.brain[None]
    args = (target, scan.qspace[None], scan.positions[None], mask)
    # Masked patches and masked directions differ in difficulty: log them apart, NaN where absent.
    absent = torch.full((), float("nan"), device=device)
    more: dict[str, Tensor] = {}
    if isinstance(model, GuidedAutoencoder):
        window = draw_window(rng, scan, is_masked[0], model.config.encoder.patch)
        output: Reconstruction = network(*args, brain, window=window)
        patches, estimate = output.patches, output.estimate
    else:
        patches, estimate = network(*args), None
    tau = ramp_tau(step / (config.ramp_share * config.optimisation.n_steps))
    visible, masked = masked_errors(patches, target, is_masked, brain=brain)
    scale = torch.full_like(masked, ERROR_SCALE)
    if estimate is not None:
        # Scans differ in noise: a gain of a tenth counts the same in all of them.
        _, scale = masked_errors(estimate, target, is_masked, brain=brain)
        more["gain"] = masked / scale
    loss = (1.0 - tau) * visible / ERROR_SCALE + tau * masked / scale.clamp(min=1e-6)
    return {
        "loss": loss,
        "visible": visible,
        "masked_spatial": masked if is_spatial else absent,
        "masked_diffusion": absent if is_spatial else masked,
        **more,
    }
