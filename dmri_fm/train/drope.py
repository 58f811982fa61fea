"""Pretrain a D-RoPE encoder as a masked autoencoder of brains, simulated and real.

Places and directions are hidden in turn, epoch by epoch. Our own encoder learns two more things
where simulation can teach them: to tell apart scans of one head that differ in their tissue alone,
whatever directions and b-values they were measured with, and what that tissue would measure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmri_fm.errors import ConfigError
from dmri_fm.models.drope import Drope, DropeConfig
from dmri_fm.models.guided_mae import (
    SMALL_MAE,
    Autoencoder,
    GuidedAutoencoder,
    GuidedConfig,
    Reconstruction,
    SiblingTokens,
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
    mae_loss,
    ramp_tau,
)
from dmri_fm.models.patches import patchify
from dmri_fm.models.registry import find_encoder
from dmri_fm.models.tokens import ScanTokens, feature_grid, tokenise
from dmri_fm.models.unusual import ScanCode, encode_tokens, fit_unusual
from dmri_fm.models.weights import save_weights
from dmri_fm.normalise.qspace import to_qspace
from dmri_fm.normalise.signal import CLIP, normalise_b0
from dmri_fm.simulate import draw_batch, draw_protocol
from dmri_fm.simulate.heads import Heads
from dmri_fm.simulate.protocol import draw_shells
from dmri_fm.simulate.siblings import draw_siblings
from dmri_fm.train.config import DropePretraining
from dmri_fm.train.loop import CHECKPOINT, Run, run_training
from dmri_fm.train.losses import confusion
from dmri_fm.train.scan_cache import CachedScan

__all__ = [
    "MAE_CONFIGS",
    "PretrainingScan",
    "ScanSource",
    "build_autoencoder",
    "draw_scan_tokens",
    "pretrain_drope",
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

#: Likewise, of the choice of a step's scan, and of its directions and mask.
CHOICE, STEP = 4, 3

#: What the network expects, written beside the weights.
NORMALISATION = {
    "signal": "weighted volumes over the mean b=0, clipped, zero outside the brain, no logarithm",
    "qspace": "rho = b / 1000 in ms/um^2, theta and phi of the b-vector in the grid's RAS frame",
    "grid": "MNI152NLin2009aSym",
}


#: Mean and deviation of the numbers of :func:`dmri_fm.simulate.mixture.tissue_summary`.
SUMMARY_MEAN = (0.500, 0.0995, 0.277, 0.100, 0.446, 0.0239, 0.226, 0.0219)
SUMMARY_STD = (0.037, 0.020, 0.041, 0.025, 0.033, 0.012, 0.032, 0.013)

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


#: b-values of the two protocols of siblings, s/mm^2: in half of the cases the same.
SIBLING_BVALS = (700.0, 2500.0)


class PretrainingScan(NamedTuple):
    """A scan to learn from, and what its tissue would measure.

    Attributes
    ----------
    tokens
        The scan.
    summary
        Shape (8,), standardised; NaN where it is not known.
    siblings
        Scans of the same head with other tissues, where there are any.
    sibling_summary
        Shape (K, 8): of the siblings.
    """

    tokens: ScanTokens
    summary: Tensor
    siblings: SiblingTokens | None = None
    sibling_summary: Tensor | None = None


class SiblingRequest(NamedTuple):
    """How many tissues are drawn for a head, how many places and directions are scanned."""

    n: int
    n_places: int
    n_directions: int

    @classmethod
    def of(cls, training: DropePretraining) -> SiblingRequest | None:
        """Return what a run asks for; None if it has no use for siblings."""
        if training.n_siblings < 2:
            return None
        return cls(training.n_siblings, training.sibling_places, training.sibling_directions)


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
    siblings: SiblingRequest | None = None,
) -> PretrainingScan:
    """Simulate a whole brain on the model's grid and cut it into patches.

    One, two or three shells (b 400 to 3000) share the directions out; one to four b=0 volumes.
    Siblings are drawn where they are asked for.
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
        with_summary=True,
    )
    assert drawn.summary is not None
    mask = drawn.mask[0].numpy()
    signal = normalise_b0(drawn.signal[0].movedim(0, 3).numpy(), gtab, mask=mask).signal
    is_weighted = ~gtab.is_b0
    tokens = tokenise(
        signal[..., is_weighted], gtab.select(np.flatnonzero(is_weighted)), mask, config
    )
    scan = PretrainingScan(tokens, _standardise(drawn.summary[0]))
    if siblings is None:
        return scan
    others, summary = _draw_siblings(rng, generator, drawn.heads, tokens, config, siblings)
    return scan._replace(siblings=others, sibling_summary=_standardise(summary))


def _standardise(summary: Tensor) -> Tensor:
    return (summary - torch.tensor(SUMMARY_MEAN)) / torch.tensor(SUMMARY_STD)


def _draw_siblings(
    rng: np.random.Generator,
    generator: torch.Generator,
    heads: Heads,
    tokens: ScanTokens,
    config: DropeConfig,
    request: SiblingRequest,
) -> tuple[SiblingTokens, Tensor]:
    """Scan some patches of a head with other tissues; return their summaries (K, 8), too."""
    first = float(rng.uniform(*SIBLING_BVALS))
    bvals = (first, first if rng.uniform() < 0.5 else float(rng.uniform(*SIBLING_BVALS)))
    gtabs = draw_shells(rng, n_directions=request.n_directions, bvals=bvals)
    is_weighted = torch.from_numpy(~gtabs[0].is_b0)
    places = np.sort(rng.permutation(len(tokens.index))[: request.n_places])
    numbers = torch.arange(int(np.prod(config.grid_shape))).reshape(1, 1, *config.grid_shape)
    voxels = patchify(numbers, config.patch)[0, 0][torch.from_numpy(tokens.index[places])]
    drawn = draw_siblings(generator, heads, gtabs, voxels.flatten(), n=request.n)
    signal = drawn.signal.unflatten(3, voxels.shape)
    s0 = signal[:, :, ~is_weighted].mean(dim=2, keepdim=True)
    ratio = (signal[:, :, is_weighted] / s0.clamp(min=1e-6)).clamp(*CLIP)
    qspace = np.stack([to_qspace(gtab)[~gtab.is_b0] for gtab in gtabs])
    patches = ratio * tokens.brain[places]
    scans = SiblingTokens(
        patches, torch.from_numpy(qspace).double(), tokens.positions[torch.from_numpy(places)]
    )
    return scans, drawn.summary


def _choose_of_siblings(rng: np.random.Generator, siblings: SiblingTokens) -> SiblingTokens:
    """Return half of the places and half or more of the directions, others at every step."""
    _, _, n_directions, n_places, _ = siblings.patches.shape
    places = torch.from_numpy(np.sort(rng.permutation(n_places)[: (n_places + 1) // 2]))
    n = int(rng.integers(n_directions // 2, n_directions + 1))
    which = torch.from_numpy(np.sort(rng.permutation(n_directions)[:n]))
    return SiblingTokens(
        siblings.patches[:, :, which][:, :, :, places],
        siblings.qspace[:, which],
        siblings.positions[places],
    )


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
    _drawn: dict[int, PretrainingScan] = field(default_factory=dict)

    def get(self, step: int) -> PretrainingScan:
        """Return the scan of a step, which depends on nothing but its number."""
        rng = np.random.default_rng([self.training.optimisation.seed, CHOICE, step])
        newest = step // self.training.n_reuse
        number = newest - int(rng.integers(min(self.training.n_at_hand, newest + 1)))
        oldest = newest - self.training.n_at_hand
        self._drawn = {k: v for k, v in self._drawn.items() if k > oldest}
        if number not in self._drawn:
            self._drawn[number] = self.draw(number)
        return self._drawn[number]

    def draw(self, number: int) -> PretrainingScan:
        """Return a scan by its own number."""
        rng = np.random.default_rng([self.training.optimisation.seed, self.purpose, number])
        n = self.training.scan_directions
        if self.scans and rng.uniform() < self.training.scan_share:
            scan = self.scans[int(rng.integers(len(self.scans)))]
            tokens = scan.draw(rng, self.config, n_directions=n)
            return PretrainingScan(tokens, torch.full((len(SUMMARY_MEAN),), torch.nan))
        request = SiblingRequest.of(self.training)
        return draw_scan_tokens(rng, self.config, n_directions=n, siblings=request)


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
    shells = [np.flatnonzero(np.round(rho, 2) == r) for r in np.unique(np.round(rho, 2))]
    shells = [s for s in shells if len(s) >= FEWEST_OF_SHELL]
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


def pretrain_drope(
    config: DropePretraining,
    folder: str | Path,
    *,
    accelerator: str = "cpu",
    devices: int = 1,
    weights: str | Path | None = None,
    version: str = "0.1.0",
    scans: Sequence[CachedScan] = (),
    draw: Callable[[int], PretrainingScan] | None = None,
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
        its features on further simulated scans.
    version
        Of the weights.
    scans
        Real scans, see :func:`dmri_fm.train.scan_cache.cache_scans`.
    draw
        Other training scans by step, in place of all these.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder.
    """
    architecture = find_encoder(config.model)
    hides_places(config, 0)
    settings = config.optimisation
    torch.manual_seed(settings.seed)
    model = build_autoencoder(config.model)
    mae = model.config
    source = ScanSource(architecture, config, scans=scans)
    draw = draw or source.get
    shares = {
        "summary": config.summary_weight,
        "sibling_summary": config.summary_weight,
        "siblings": config.sibling_weight,
    }

    def step_losses(network: nn.Module, drawn: PretrainingScan, step: int) -> dict[str, Tensor]:
        device = next(network.parameters()).device
        rng = np.random.default_rng([settings.seed, STEP, step])
        scan = drawn.tokens
        is_spatial = hides_places(config, step)
        chosen, kept = choose_directions(rng, scan.qspace[:, 0].numpy(), config)
        scan = crop(rng, scan.select(chosen), config).to(device)
        n, n_places = len(chosen), scan.positions.shape[0]
        if is_spatial or kept is None:
            kind: Literal["spatial", "diffusion"] = "spatial" if is_spatial else "diffusion"
            mask = draw_mask(rng, mae, kind=kind, n_directions=n, n_places=n_places)
        else:
            mask = Mask("diffusion", torch.from_numpy(kept)[None])
        mask = replace(mask, kept=mask.kept.to(device))
        hidden = mask.hidden(n, n_places)
        target, brain = scan.patches[None], scan.brain[None]
        args = (target, scan.qspace[None], scan.positions[None], mask)
        # The two kinds of masks differ in difficulty: log them apart, NaN where absent.
        absent = torch.full((), float("nan"), device=device)
        more: dict[str, Tensor] = {}
        if isinstance(model, GuidedAutoencoder):
            window = draw_window(rng, scan, hidden[0], architecture.patch)
            chosen_siblings = None
            if drawn.siblings is not None:
                chosen_siblings = SiblingTokens(
                    *(t.to(device) for t in _choose_of_siblings(rng, drawn.siblings))
                )
            found: Reconstruction = network(*args, brain, window=window, siblings=chosen_siblings)
            patches, estimate = found.patches, found.estimate
            more["summary"] = _summary_error(found.summary[0], drawn.summary.to(device))
            more["sibling_summary"] = more["siblings"] = absent
            if found.siblings is not None and found.sibling_summary is not None:
                assert drawn.sibling_summary is not None
                known = drawn.sibling_summary[:, None].to(device)
                more["sibling_summary"] = _summary_error(found.sibling_summary, known)
                more["siblings"] = confusion(found.siblings)
        else:
            patches, estimate = network(*args), None
        tau = ramp_tau(step / (config.ramp_share * settings.n_steps))
        _, visible, masked = mae_loss(patches, target, hidden, tau=tau, brain=brain)
        scale = torch.full_like(masked, ERROR_SCALE)
        if estimate is not None:
            # Scans differ in noise: a gain of a tenth counts the same in all of them.
            _, _, scale = mae_loss(estimate, target, hidden, tau=tau, brain=brain)
            more["gain"] = masked / scale
        loss = (1.0 - tau) * visible / ERROR_SCALE + tau * masked / scale.clamp(min=1e-6)
        for name, weight in shares.items():
            if name in more and more[name].isfinite():
                loss = loss + weight * more[name]
        return {
            "loss": loss,
            "visible": visible,
            "hidden_spatial": masked if is_spatial else absent,
            "hidden_diffusion": absent if is_spatial else masked,
            **more,
        }

    if isinstance(model, GuidedAutoencoder) and not (Path(folder) / CHECKPOINT).exists():
        _start_readout(model, [draw(step) for step in range(config.n_starting)])
    run = run_training(
        model,
        draw,
        step_losses,
        settings=settings,
        folder=folder,
        accelerator=accelerator,
        devices=devices,
        data={"scans": [scan.name for scan in scans]},
    )
    if weights is not None and run.is_main:
        assert isinstance(run.model, MaskedAutoencoder | GuidedAutoencoder)
        encoder = run.model.encoder.cpu()
        statistics = fit_unusual(
            _encode_scans(encoder, config, scans, REFERENCE, config.n_reference),
            _encode_scans(encoder, config, scans, HELD_OUT, config.n_held_out),
        )
        rest, rest_config = (
            split_autoencoder(run.model)
            if isinstance(run.model, GuidedAutoencoder)
            else (None, None)
        )
        save_weights(
            weights,
            encoder,
            name=config.model,
            config=architecture,
            version=version,
            normalisation=NORMALISATION,
            training={
                "data": "simulation (dmri_fm.simulate), drawn on the fly"
                + (", and real scans" if scans else "; no real scan"),
                "scans": [scan.name for scan in scans],
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


def _start_readout(model: GuidedAutoencoder, scans: Sequence[PretrainingScan]) -> None:
    """Start from the linear readout that gives visible patches back best, with random blocks."""
    rows: list[tuple[Tensor, Tensor]] = []
    rng = np.random.default_rng(0)
    for number, drawn in enumerate(scans):
        scan = drawn.tokens.select(np.arange(min(FEW_DIRECTIONS, len(drawn.tokens.qspace))))
        n, n_places = len(scan.qspace), len(scan.index)
        kind: Literal["spatial", "diffusion"] = "diffusion" if number % 2 else "spatial"
        mask = draw_mask(rng, model.config, kind=kind, n_directions=n, n_places=n_places)
        args = (scan.patches[None], scan.qspace[None], scan.positions[None], mask)
        with torch.no_grad():
            _, tokens, _, _ = model.decode(*args, scan.brain[None])
        shown = ~mask.hidden(n, n_places)[0]
        rows.append((tokens[0][shown], scan.patches[shown]))
    if rows:
        model.start_readout(torch.cat([t for t, _ in rows]), torch.cat([p for _, p in rows]))


def _summary_error(found: Tensor, known: Tensor) -> Tensor:
    """Return the mean squared error, without what is not known."""
    return torch.where(known.isnan(), torch.zeros_like(found), found - known).square().mean()


def _encode_scans(
    encoder: Drope,
    config: DropePretraining,
    scans: Sequence[CachedScan],
    purpose: int,
    n_scans: int,
) -> list[ScanCode]:
    """Encode scans as training draws them, but for those that miss much of the brain."""
    source = ScanSource(encoder.config, replace(config, n_siblings=0), purpose, scans)
    found: list[ScanCode] = []
    for number in itertools.count():
        tokens = source.draw(number).tokens
        n = min(config.max_directions, len(tokens.qspace))
        code = encode_tokens(encoder, tokens.select(np.arange(n)))
        if not code.signs[0] > MOST_MISSING or number >= 2 * n_scans:
            found.append(code)
        if len(found) == n_scans:
            break
    return found
