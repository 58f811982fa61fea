"""Pretrain a D-RoPE encoder as a masked autoencoder of brains, simulated and real.

Places and directions are hidden in turn, epoch by epoch. What the scan's features are, beside the
tokens, is fitted afterwards: see :mod:`dmri_fm.train.readout`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import group_shells
from dmri_fm.models.directions import FEATURE_DIRECTIONS
from dmri_fm.models.drope import Drope, DropeConfig
from dmri_fm.models.guided_mae import (
    SMALL_MAE,
    Autoencoder,
    GuidedAutoencoder,
    GuidedConfig,
    Reconstruction,
    Window,
    split_autoencoder,
)
from dmri_fm.models.mae import (
    ABLATION_MAE,
    PAPER_MAE,
    MaeConfig,
    Mask,
    MaskedAutoencoder,
    draw_mask,
    masked_errors,
    ramp_tau,
)
from dmri_fm.models.registry import find_encoder
from dmri_fm.models.tokens import ScanTokens, feature_grid, tokenise_series
from dmri_fm.models.unusual import ScanCode, encode_tokens, fit_unusual
from dmri_fm.models.weights import save_weights
from dmri_fm.simulate import draw_batch, draw_protocol
from dmri_fm.train.config import DropePretraining, describe_recipe
from dmri_fm.train.loop import CHECKPOINT, Run, run_training
from dmri_fm.train.readout import fit_scan_readout, load_readout, save_readout
from dmri_fm.train.scan_cache import CachedScan

__all__ = [
    "MAE_CONFIGS",
    "ScanSource",
    "build_autoencoder",
    "check_part",
    "draw_scan_tokens",
    "pretrain_drope",
    "set_aside",
]

#: Decoder and masks for each encoder of the registry.
MAE_CONFIGS: dict[str, MaeConfig] = {
    "drope": SMALL_MAE,
    "drope-paper": PAPER_MAE,
    "drope-ablation": ABLATION_MAE,
    "drope-ablation-plain": ABLATION_MAE,
}

#: Seeds of simulated scans are [seed, purpose, number]: no scan serves two purposes.
TRAINING, REFERENCE, HELD_OUT = 0, 1, 2

#: Likewise, of the choice of a step's scan, of its directions and mask, and of participants.
CHOICE, STEP, ASIDE = 4, 3, 6

#: What the network expects, written beside the weights.
NORMALISATION = {
    "signal": "weighted volumes over the mean b=0, clipped, zero outside the brain, no logarithm",
    "qspace": "rho = b / 1000 in ms/um^2, theta and phi of the b-vector in the grid's RAS frame",
    "grid": "MNI152NLin2009aSym",
}


#: What of an autoencoder is trained: the encoder stays as it is with the second.
PARTS = ("all", "decoder")

#: Mean squared error of S/S0 by which errors are divided that have no plain estimate beside them.
ERROR_SCALE = 0.01

#: Side of the box of patches in which the convolutions are trained, and directions of a step.
WINDOW_PATCHES, WINDOW_DIRECTIONS = 5, 4

#: Share of an octant of the brain beyond whose lack a scan is no example of a sound one.
MOST_MISSING = 0.25

#: Directions of the scans from which the first readout is made.
FEW_DIRECTIONS = 8

#: Least number of directions of a shell that is shown while another one is hidden.
FEWEST_OF_SHELL = 3


def build_autoencoder(model: str = "drope") -> Autoencoder:
    """Return the autoencoder that pretrains an encoder, its weights as they are drawn.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder.
    """
    encoder = find_encoder(model)
    config = replace(MAE_CONFIGS[model], encoder=encoder)
    if isinstance(config, GuidedConfig):
        return GuidedAutoencoder(config)
    return MaskedAutoencoder(config)


def draw_scan_tokens(
    rng: np.random.Generator,
    config: DropeConfig,
    *,
    n_directions: int,
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

    Attributes
    ----------
    config
        The encoder's.
    training
        Says how many directions a scan has, for how many steps it serves, how many of them are
        at hand, and which share of scans is real.
    purpose
        See :data:`TRAINING`.
    scans
        Real ones; all are simulated if there is none.
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
    """Choose directions of a step and, of some, which stay visible.

    Parameters
    ----------
    rng
        Source of randomness.
    rho
        Shape (N,): b / 1000 of the scan's directions.
    training
        Says how many there are, and how often one shell is hidden from another.

    Returns
    -------
    chosen
        Ascending indices.
    kept
        Positions among the chosen that stay visible: those of one shell, where another is to be
        hidden. None if any may be.
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
    """Return the whole scan, or the places nearest to one of them, in the order of the whole."""
    if rng.uniform() < training.whole_share:
        return scan
    n = len(scan.index)
    centre = scan.positions[int(rng.integers(n))]
    nearest = (scan.positions - centre).norm(dim=1).argsort(stable=True).numpy()
    return scan.select_places(np.sort(nearest[: max(2, round(training.crop_share * n))]))


def hides_places(config: DropePretraining, step: int) -> bool:
    """Return whether a step hides places; if not, it hides directions.

    Raises
    ------
    ConfigError
        If the settings name no way of masking.
    """
    epoch = step // config.steps_per_epoch
    is_spatial = {"alternating": epoch % 2 == 0, "spatial": True, "diffusion": False}
    if config.masking not in is_spatial:
        raise ConfigError(
            f"masking {config.masking!r}", expected=f"one of {', '.join(is_spatial)}"
        )
    return is_spatial[config.masking]


def draw_window(
    rng: np.random.Generator, scan: ScanTokens, hidden: Tensor, patch: tuple[int, int, int]
) -> Window:
    """Choose where the convolutions are trained: about a random place, hidden directions."""
    cells = np.floor(scan.positions.cpu().numpy() / np.array(patch)).astype(int)
    low = cells[int(rng.integers(len(cells)))] - WINDOW_PATCHES // 2
    low = np.clip(low, cells.min(axis=0), np.maximum(cells.max(axis=0) + 1 - WINDOW_PATCHES, 0))
    high = np.minimum(low + WINDOW_PATCHES, cells.max(axis=0) + 1)
    directions = hidden.any(dim=1).nonzero()[:, 0].cpu().numpy()
    chosen = np.sort(rng.permutation(directions)[:WINDOW_DIRECTIONS])
    a, b, c, d, e, f = (int(v) for v in (*low, *high))
    return Window([int(t) for t in chosen], (a, b, c), (d, e, f))


def check_part(config: DropePretraining, *, has_start: bool) -> None:
    """Raise ConfigError if a decoder is to be trained without an encoder that has been."""
    if config.part not in PARTS or (config.part == "decoder" and not has_start):
        raise ConfigError(
            f"part {config.part!r} of a {'trained' if has_start else 'new'} network",
            expected=f"one of {', '.join(PARTS)}; the decoder alone only of a trained one",
            advice="name weights or a run with --start",
        )


def pretrain_drope(
    config: DropePretraining,
    folder: str | Path,
    *,
    accelerator: str = "cpu",
    devices: int = 1,
    weights: str | Path | None = None,
    version: str = "0.1.0",
    scans: Sequence[CachedScan] = (),
    start: Autoencoder | None = None,
    origin: Mapping[str, Any] | None = None,
    draw: Callable[[int], ScanTokens] | None = None,
) -> Run:
    """Pretrain an encoder on simulation, drawn on the fly, and on real scans.

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
        its features on further draws of simulated and real scans.
    version
        Of the weights.
    scans
        Real scans, see :func:`dmri_fm.train.scan_cache.cache_scans`.
    start
        What to train further, see :func:`dmri_fm.train.runs.load_start`; it is changed.
    origin
        What `start` is, its `scans` among it: written beside the weights.
    draw
        Other training scans by step, in place of all these.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder, or its decoder is to be trained without one.
    """
    architecture = find_encoder(config.model)
    hides_places(config, 0)
    settings = config.optimisation
    torch.manual_seed(settings.seed)
    check_part(config, has_start=start is not None)
    model = build_autoencoder(config.model) if start is None else start.train()
    model.requires_grad_(True)
    model.encoder.requires_grad_(config.part == "all")
    if config.part == "all" and model.encoder.readout is not None:
        model.encoder.readout.reset()
    aside = set_aside(scans, config)
    scans = [scan for scan in scans if scan not in aside]
    draw = draw or ScanSource(architecture, config, scans=scans).get
    is_new = start is None and not (Path(folder) / CHECKPOINT).exists()
    if isinstance(model, GuidedAutoencoder) and is_new:
        _start_readout(model, [draw(step) for step in range(config.n_starting)])
    run = run_training(
        model,
        draw,
        partial(step_losses, model, config),
        settings=settings,
        folder=folder,
        accelerator=accelerator,
        devices=devices,
        data={
            "scans": [scan.name for scan in scans],
            "recipe": describe_recipe(config),
            "start": None if origin is None else dict(origin),
        },
    )
    if weights is not None and run.is_main:
        statistics = _describe_features(run, config, folder, scans, aside)
        seen = {scan.name for scan in scans} | set((origin or {}).get("scans", ()))
        rest, rest_config = (
            split_autoencoder(run.model)
            if isinstance(run.model, GuidedAutoencoder)
            else (None, None)
        )
        save_weights(
            weights,
            model.encoder,
            name=config.model,
            config=architecture,
            version=version,
            normalisation=NORMALISATION,
            training={
                "data": "simulation (dmri_fm.simulate), drawn on the fly"
                + (", and real scans" if seen else "; no real scan"),
                "start": None if origin is None else dict(origin),
                "scans": sorted(seen),
                "aside": [scan.name for scan in aside],
                "steps": run.steps,
                "minutes": round(run.minutes, 1),
                "settings": asdict(config),
                "last": {k: round(v, 5) for k, v in run.last.items()},
            },
            statistics=statistics,
            pretraining=rest,
            pretraining_config=rest_config,
        )
    return run


def set_aside(scans: Sequence[CachedScan], config: DropePretraining) -> list[CachedScan]:
    """Return the scans of the participants that are not trained on."""
    participants = sorted({scan.participant for scan in scans})
    rng = np.random.default_rng([config.optimisation.seed, ASIDE])
    n = int(config.aside_share * len(participants))
    chosen = set(rng.permutation(participants)[:n].tolist())
    return [scan for scan in scans if scan.participant in chosen]


def step_losses(
    model: Autoencoder, config: DropePretraining, network: nn.Module, scan: ScanTokens, step: int
) -> dict[str, Tensor]:
    """Hide a part of a scan, and compare what comes back with it.

    Parameters
    ----------
    model
        What is trained.
    config
        How.
    network
        The model as it is called, on one device or several.
    scan
        Of this step.
    step
        Its number: mask and directions depend on nothing else.
    """
    device = next(network.parameters()).device
    rng = np.random.default_rng([config.optimisation.seed, STEP, step])
    is_spatial = hides_places(config, step)
    chosen, kept = choose_directions(rng, scan.qspace[:, 0].numpy(), config)
    scan = crop(rng, scan.select(chosen), config).to(device)
    n, n_places = len(chosen), scan.positions.shape[0]
    if is_spatial or kept is None:
        kind: Literal["spatial", "diffusion"] = "spatial" if is_spatial else "diffusion"
        mask = draw_mask(rng, model.config, kind=kind, n_directions=n, n_places=n_places)
    else:
        mask = Mask("diffusion", torch.from_numpy(kept)[None])
    mask = mask._replace(kept=mask.kept.to(device))
    hidden = mask.hidden(n, n_places)
    target, brain = scan.patches[None], scan.brain[None]
    args = (target, scan.qspace[None], scan.positions[None], mask)
    # The two kinds of masks differ in difficulty: log them apart, NaN where absent.
    absent = torch.full((), float("nan"), device=device)
    more: dict[str, Tensor] = {}
    if isinstance(model, GuidedAutoencoder):
        window = draw_window(rng, scan, hidden[0], model.config.encoder.patch)
        found: Reconstruction = network(*args, brain, window=window)
        patches, estimate = found.patches, found.estimate
    else:
        patches, estimate = network(*args), None
    tau = ramp_tau(step / (config.ramp_share * config.optimisation.n_steps))
    visible, masked = masked_errors(patches, target, hidden, brain=brain)
    scale = torch.full_like(masked, ERROR_SCALE)
    if estimate is not None:
        # Scans differ in noise: a gain of a tenth counts the same in all of them.
        _, scale = masked_errors(estimate, target, hidden, brain=brain)
        more["gain"] = masked / scale
    loss = (1.0 - tau) * visible / ERROR_SCALE + tau * masked / scale.clamp(min=1e-6)
    return {
        "loss": loss,
        "visible": visible,
        "hidden_spatial": masked if is_spatial else absent,
        "hidden_diffusion": absent if is_spatial else masked,
        **more,
    }


def _describe_features(
    run: Run,
    config: DropePretraining,
    folder: str | Path,
    scans: Sequence[CachedScan],
    aside: Sequence[CachedScan],
) -> dict[str, Tensor]:
    """Fit what reads features off the tokens, if need be; return statistics of sound scans."""
    assert isinstance(run.model, MaskedAutoencoder | GuidedAutoencoder)
    encoder = run.model.encoder.cpu()
    if encoder.readout is not None:
        load_readout(folder, encoder.readout, step=run.steps)
        if not encoder.readout.is_fitted:
            fit_scan_readout(encoder, n_heads=config.n_readout, seed=config.optimisation.seed)
            save_readout(folder, encoder.readout, step=run.steps)
    return fit_unusual(
        _encode_scans(encoder, config, scans, REFERENCE, config.n_reference),
        _encode_scans(encoder, config, aside or scans, HELD_OUT, config.n_held_out),
    )


def _start_readout(model: GuidedAutoencoder, scans: Sequence[ScanTokens]) -> None:
    """Start from the linear readout that gives visible patches back best, with random blocks."""
    rows: list[tuple[Tensor, Tensor]] = []
    rng = np.random.default_rng(0)
    for number, whole in enumerate(scans):
        scan = whole.select(np.arange(min(FEW_DIRECTIONS, len(whole.qspace))))
        n, n_places = len(scan.qspace), len(scan.index)
        kind: Literal["spatial", "diffusion"] = "diffusion" if number % 2 else "spatial"
        mask = draw_mask(rng, model.config, kind=kind, n_directions=n, n_places=n_places)
        args = (scan.patches[None], scan.qspace[None], scan.positions[None], mask)
        with torch.no_grad():
            tokens, _, _ = model.decode(*args, scan.brain[None])
        shown = ~mask.hidden(n, n_places)[0]
        rows.append((tokens[0][shown], scan.patches[shown]))
    if rows:
        model.start_readout(torch.cat([t for t, _ in rows]), torch.cat([p for _, p in rows]))


def _encode_scans(
    encoder: Drope,
    config: DropePretraining,
    scans: Sequence[CachedScan],
    purpose: int,
    n_scans: int,
) -> list[ScanCode]:
    """Encode scans as training draws them, but for those that miss much of the brain.

    With as many directions as features are computed from in the app.
    """
    config = replace(config, scan_directions=FEATURE_DIRECTIONS)
    source = ScanSource(encoder.config, config, purpose, scans)
    found: list[ScanCode] = []
    for number in itertools.count():
        tokens = source.draw(number)
        code = encode_tokens(encoder, tokens)
        if not code.signs[0] > MOST_MISSING or number >= 2 * n_scans:
            found.append(code)
        if len(found) == n_scans:
            break
    return found
