"""Pretrain a D-RoPE encoder as a masked autoencoder of simulated brains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmri_fm.models.drope import Drope, DropeConfig
from dmri_fm.models.familiarity import fit_familiarity
from dmri_fm.models.mae import (
    PAPER_MAE,
    SMALL_MAE,
    MaeConfig,
    MaskedAutoencoder,
    draw_mask,
    mae_loss,
    ramp_tau,
)
from dmri_fm.models.registry import find_encoder
from dmri_fm.models.tokens import ScanTokens, feature_grid, tokenise
from dmri_fm.models.weights import save_weights
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.simulate import draw_batch, draw_protocol
from dmri_fm.train.config import DropePretraining
from dmri_fm.train.loop import Run, run_training

__all__ = [
    "MAE_CONFIGS",
    "SimulatedScans",
    "build_autoencoder",
    "draw_scan_tokens",
    "pretrain_drope",
]

#: Decoder and masks for each encoder of the registry.
MAE_CONFIGS: dict[str, MaeConfig] = {"drope": SMALL_MAE, "drope-paper": PAPER_MAE}

#: Seeds of simulated scans are [seed, purpose, number]: no scan serves two purposes.
TRAINING, REFERENCE, HELD_OUT = 0, 1, 2

#: What the network expects, written beside the weights.
NORMALISATION = {
    "signal": "weighted volumes over the mean b=0, clipped, zero outside the brain, no logarithm",
    "qspace": "rho = b / 1000 in ms/um^2, theta and phi of the b-vector in the grid's RAS frame",
    "grid": "MNI152NLin2009aSym",
}


def build_autoencoder(model: str = "drope") -> MaskedAutoencoder:
    """Return the autoencoder that pretrains an encoder, its weights as they are drawn.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder.
    """
    encoder = find_encoder(model)
    return MaskedAutoencoder(replace(MAE_CONFIGS[model], encoder=encoder))


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
        kind="multishell" if n_shells > 1 else "shell",
        n_directions=counts if n_shells > 1 else counts[0],
        bvals=bvals.tolist() if n_shells > 1 else float(bvals[0]),
        n_b0=int(rng.integers(1, 5)),
    )
    grid = feature_grid(config)
    drawn = draw_batch(
        torch.Generator().manual_seed(int(rng.integers(2**63))),
        [gtab],
        shape=grid.shape,
        affine=torch.tensor(grid.affine, dtype=torch.float32),
        with_truth=False,
    )
    mask = drawn.mask[0].numpy()
    signal = normalise_b0(drawn.signal[0].movedim(0, 3).numpy(), gtab, mask=mask).signal
    is_weighted = ~gtab.is_b0
    return tokenise(
        signal[..., is_weighted], gtab.select(np.flatnonzero(is_weighted)), mask, config
    )


@dataclass
class SimulatedScans:
    """Simulated scans by number; the last one is kept, as steps in a row ask for the same.

    Attributes
    ----------
    config
        The encoder's.
    n_directions
        Directions of a scan.
    seed, purpose
        See :data:`TRAINING`.
    """

    config: DropeConfig
    n_directions: int
    seed: int
    purpose: int
    _last: tuple[int, ScanTokens] | None = None

    def get(self, number: int) -> ScanTokens:
        """Return a scan."""
        if self._last is None or self._last[0] != number:
            rng = np.random.default_rng([self.seed, self.purpose, number])
            tokens = draw_scan_tokens(rng, self.config, n_directions=self.n_directions)
            self._last = (number, tokens)
        return self._last[1]


def pretrain_drope(
    config: DropePretraining,
    folder: str | Path,
    *,
    accelerator: str = "cpu",
    devices: int = 1,
    weights: str | Path | None = None,
    version: str = "0.1.0",
    draw: Callable[[int], ScanTokens] | None = None,
) -> Run:
    """Pretrain an encoder on simulation, drawn on the fly.

    Parameters
    ----------
    config
        Settings; see :func:`dmri_fm.train.config.read_training`.
    folder
        For the log and the checkpoint; a run found there is continued.
    accelerator, devices
        "cpu", "cuda" or "auto", and how many of them.
    weights
        Where to write the encoder's weights (.safetensors) afterwards, with the statistics of
        its features on further simulated scans.
    version
        Of the weights.
    draw
        Other training scans by number, in place of the simulated ones.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder.
    """
    architecture = find_encoder(config.model)
    settings = config.optimisation
    torch.manual_seed(settings.seed)
    model = build_autoencoder(config.model)
    mae = model.config
    scans = SimulatedScans(architecture, config.scan_directions, settings.seed, TRAINING)
    draw = draw or scans.get

    def step_losses(network: nn.Module, scan: ScanTokens, step: int) -> dict[str, Tensor]:
        device = next(network.parameters()).device
        rng = np.random.default_rng([settings.seed, 3, step])
        available = scan.qspace.shape[0]
        most = min(config.max_directions, available)
        n = int(rng.integers(min(config.min_directions, most), most + 1))
        scan = scan.select(np.sort(rng.permutation(available)[:n])).to(device)
        is_spatial = (step // config.steps_per_epoch) % 2 == 0
        mask = draw_mask(
            rng,
            mae,
            kind="spatial" if is_spatial else "diffusion",
            n_directions=n,
            n_places=scan.positions.shape[0],
        )
        mask = replace(mask, kept=mask.kept.to(device))
        target = scan.patches[None]
        reconstruction = network(target, scan.qspace[None], scan.positions[None], mask)
        loss, visible, hidden = mae_loss(
            reconstruction,
            target,
            mask.hidden(n, scan.positions.shape[0]),
            tau=ramp_tau(step / settings.n_steps),
            brain=scan.brain[None],
        )
        # The two kinds of masks differ in difficulty: log them apart, NaN where absent.
        absent = torch.full_like(hidden, float("nan")).detach()
        return {
            "loss": loss,
            "visible": visible,
            "hidden_spatial": hidden if is_spatial else absent,
            "hidden_diffusion": absent if is_spatial else hidden,
        }

    run = run_training(
        model,
        lambda number: draw(number // config.n_reuse),
        step_losses,
        settings=settings,
        folder=folder,
        accelerator=accelerator,
        devices=devices,
    )
    if weights is not None and run.is_main:
        assert isinstance(run.model, MaskedAutoencoder)
        encoder = run.model.encoder.cpu()
        statistics = fit_familiarity(
            _encode_scans(encoder, config, REFERENCE, config.n_reference),
            _encode_scans(encoder, config, HELD_OUT, config.n_held_out),
        )
        save_weights(
            weights,
            encoder,
            name=config.model,
            config=architecture,
            version=version,
            normalisation=NORMALISATION,
            training={
                "data": "simulation (dmri_fm.simulate), drawn on the fly; no real scan",
                "steps": run.steps,
                "minutes": round(run.minutes, 1),
                "settings": asdict(config),
                "last": {k: round(v, 5) for k, v in run.last.items()},
            },
            statistics=statistics,
        )
    return run


def _encode_scans(
    encoder: Drope, config: DropePretraining, purpose: int, n_scans: int
) -> NDArray[np.float32]:
    """Return features (n_scans, D) of simulated scans with the largest number of directions."""
    seed = config.optimisation.seed
    rows = []
    for number in range(n_scans):
        rng = np.random.default_rng([seed, purpose, number])
        scan = draw_scan_tokens(rng, encoder.config, n_directions=config.max_directions)
        with torch.inference_mode():
            cls = encoder.encode_cls(scan.patches[None], scan.qspace[None], scan.positions[None])
        rows.append(cls[0].numpy())
    return np.stack(rows)
