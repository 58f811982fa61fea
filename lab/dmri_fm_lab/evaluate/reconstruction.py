"""Score what a masked autoencoder fills in, beside plain methods that see the same."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.encoders.drope.guided_mae import Autoencoder, GuidedAutoencoder, Reconstruction
from dmri_fm.encoders.drope.mae import Mask, draw_mask
from dmri_fm.encoders.drope.network import unpatchify
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.errors import ConfigError, GradientError, ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.signal import CLIP
from dmri_fm.qspace import choose_spread, condition_number
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.comparison import clean, versions
from dmri_fm_lab.evaluate.grid_scans import GridScan
from dmri_fm_lab.evaluate.inpainting import fill_by_directions
from dmri_fm_lab.evaluate.reconstruction_rivals import (
    DIRECTION_RIVALS,
    PLACE_RIVALS,
    Kept,
    fit_normalised,
)
from dmri_fm_lab.evaluate.reconstruction_scores import authors_scores, hidden_scores, psnr_db
from dmri_fm_lab.evaluate.regions import Regions, reference_regions
from dmri_fm_lab.evaluate.scores import Row, mean_rows

__all__ = [
    "RIVAL_TITLES",
    "ReconstructionRequest",
    "reconstruct",
    "score_scan",
    "score_scans",
]

logger = logging.getLogger(__name__)

#: Every method, in the order of tables.
RIVAL_TITLES: dict[str, str] = {
    "network": "network",
    "start": "where the network starts",
    "mean": "mean of what is visible",
    "tensor": "tensor",
    "tensor-smooth": "tensor of smoothed images",
    "harmonics": "spherical harmonics",
    "gaussian-process": "Gaussian process",
    "stacked": "stacked predictions",
    "convolution": "normalised convolution",
    "harmonic": "harmonic inpainting",
    "directions": "same place, other directions",
    "floor": "noise alone",
}

#: What is hidden: whole directions; places, the same in all directions; places of each direction
#: by themselves, as in the authors' code, which the network here cannot be asked for.
KINDS = ("diffusion", "spatial", "spatial-per-direction")

#: Draws of visible directions, of which the best for a tensor is taken.
N_DRAWS = 20

_NOTES = {
    "where": "hidden voxels of the brain on the encoder's grid; S/S0, range 1",
    "start": "the plain estimate that the network corrects, which no weights have a part in",
    "mean": "of the kept directions of the nearest b-value; of the visible voxels of the volume",
    "psnr": "10 log10(1 / MSE); authors_psnr is 10 log10(1 / sqrt(MSE)), half of it",
    "ssim": "ours: 3-D, Gaussian window of 1.5 voxels, the target in place of visible voxels",
    "authors": "authors_*: as their code computes them, from its description: visible patches "
    "as the network gives them back, error over voxels with a positive reconstruction, slices "
    "scaled by their maximum, each by its own. Masks are shared by all directions, other than "
    "in their code, and outside the brain everything is zero",
    "spatial-per-direction": "masks per direction, as in the authors' code: most places stay "
    "visible in some directions. Plain methods only: the encoder takes one mask",
    "diffusion": "of 20 random sets of visible directions the one that determines a tensor best, "
    "for the rivals' sake",
    "truth": "rmse_truth and tensors of simulated scans: against the signal without noise",
    "tensors": "fa, md (mm^2/s): mean absolute errors of tensors fitted to visible and "
    "reconstructed volumes; of hidden places only, if places were hidden. The reference of real "
    "scans is the tensor of the measured volumes, as noisy as they are",
    "floor": "rmse of the signal without noise; of real scans from the estimated noise, which "
    "interpolation makes look less than it is",
    "fid": "the Frechet inception distance is not computed: it needs the weights of an image "
    "network, which are not at hand",
}

_Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Task:
    """What every mask of a scan shares.

    `scan` and its `tokens`; `seen` (X, Y, Z), the voxels of the patches that the encoder is given;
    `reference`, the tensors that others are compared with, and their `regions`, None where the
    directions determine none; `has_rivals`, whether plain methods are scored, too.
    """

    scan: GridScan
    tokens: ScanTokens
    seen: NDArray[np.bool_]
    reference: TensorMaps | None
    regions: Regions | None
    has_rivals: bool


@dataclass(frozen=True)
class ReconstructionRequest:
    """What to hide.

    Attributes
    ----------
    directions
        Numbers of directions of a scan; those that it does not have are left out.
    n_masks
        Masks of each kind.
    seed
        Of directions and masks.
    has_rivals
        Whether plain methods are scored beside the network.
    """

    directions: tuple[int, ...] = (12, 30)
    n_masks: int = 2
    seed: int = 0
    has_rivals: bool = True

    def __post_init__(self) -> None:
        if not self.directions or min(self.directions) < 2 or self.n_masks < 1:
            raise ConfigError(
                f"{list(self.directions)} directions, {self.n_masks} masks",
                expected="two directions or more, a mask or more",
            )


def reconstruct(
    network: Autoencoder, scan: GridScan, tokens: ScanTokens, mask: Mask
) -> dict[str, _Image]:
    """Return what a network makes of a scan, (X, Y, Z, T), zero outside the brain.

    `network`, and `start`: the plain estimate that it corrects, if it is one that does.
    """
    device = next(network.parameters()).device
    moved = tokens.to(device)
    mask = mask._replace(kept=mask.kept.to(device))
    with torch.inference_mode():
        args = (moved.patches[None], moved.qspace[None], moved.positions[None], mask)
        if isinstance(network, GuidedAutoencoder):
            whole: Reconstruction = network(*args, moved.brain[None])
            found = {"network": whole.patches, "start": whole.estimate}
        else:
            found = {"network": network.reconstruct(*args, moved.brain[None])}
    return {
        name: to_volumes(patches[0].cpu(), tokens, network) * scan.mask[..., None]
        for name, patches in found.items()
    }


def to_volumes(patches: Tensor, tokens: ScanTokens, network: Autoencoder) -> _Image:
    """Put patches (T, S, P) back on the grid, (X, Y, Z, T); zero where there is none."""
    config = network.config.encoder
    n_places = math.prod(config.patch_grid)
    full = torch.zeros(len(patches), n_places, patches.shape[2])
    full[:, torch.from_numpy(tokens.index)] = patches.float()
    volumes = unpatchify(full[None], config.patch, config.patch_grid)[0]
    return np.ascontiguousarray(np.moveaxis(volumes.numpy(), 0, 3))


def _seen_voxels(
    tokens: ScanTokens, network: Autoencoder, kept: NDArray[np.int_] | None = None
) -> NDArray[np.bool_]:
    """Return the voxels of the patches that the encoder is given, or of some of them."""
    which = np.arange(len(tokens.index)) if kept is None else kept
    flags = torch.zeros(1, len(tokens.index), tokens.patches.shape[2])
    flags[:, torch.from_numpy(which)] = 1.0
    return to_volumes(flags, tokens, network)[..., 0] > 0


def score_scan(
    network: Autoencoder, scan: GridScan, request: ReconstructionRequest
) -> dict[str, Any]:
    """Hide directions and places of a scan and score what comes back.

    Returns
    -------
    dict
        By number of directions and kind of mask: rows by method and b-value ("all" for all),
        errors of tensors, and the authors' scores; JSON-ready, means over masks.
    """
    record: dict[str, Any] = {
        "name": scan.name,
        "kind": scan.kind,
        "n_voxels": int(scan.mask.sum()),
        "shells": {f"{s.bval:.0f}": len(s.index) for s in scan.gtab.shells},
        "has_truth": scan.clean is not None,
        "results": {},
    }
    for n in request.directions:
        if n > len(scan.gtab):
            logger.warning("%s: has no %d directions", scan.name, n)
            continue
        chosen = choose_spread(scan.gtab, n, seed=request.seed, gamma=network.config.encoder.gamma)
        part = scan.select(chosen)
        tokens = tokenise(part.signal, part.gtab, part.mask, network.config.encoder)
        if not tokens.index.size:
            raise ImageError(f"{scan.name}: no patch holds brain", expected="a brain")
        logger.info("%s: %d directions", scan.name, n)
        seen = _seen_voxels(tokens, network)
        reference, regions = _reference(part)
        task = _Task(part, tokens, seen, reference, regions, request.has_rivals)
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        for number in range(request.n_masks):
            rng = np.random.default_rng([request.seed, n, number])
            found["diffusion"].append(_hide_directions(network, task, rng))
            found["spatial"].append(_hide_places(network, task, rng))
            if request.has_rivals:
                found["spatial-per-direction"].append(_hide_apart(network, task, rng))
        record["results"][str(n)] = {k: _mean_records(rows) for k, rows in found.items() if rows}
    result: dict[str, Any] = clean(record)
    return result


def draw_direction_mask(
    rng: np.random.Generator, network: Autoencoder, gtab: GradientTable, *, n_places: int
) -> Mask:
    """Choose which directions stay visible: of some draws, the best for a tensor.

    A random six of twelve directions often determine no tensor, or one full of noise: rivals
    would look worse than they are.
    """
    masks = [
        draw_mask(rng, network.config, kind="diffusion", n_directions=len(gtab), n_places=n_places)
        for _ in range(N_DRAWS)
    ]
    return min(masks, key=lambda m: condition_number(gtab.bvecs_ras[m.kept[0].numpy()]))


def _hide_directions(
    network: Autoencoder, task: _Task, rng: np.random.Generator
) -> dict[str, Any]:
    scan, tokens = task.scan, task.tokens
    n = len(scan.gtab)
    mask = draw_direction_mask(rng, network, scan.gtab, n_places=len(tokens.index))
    kept = mask.kept[0].numpy()
    hidden = np.setdiff1d(np.arange(n), kept)
    where = scan.mask & task.seen
    visible = Kept(scan.signal[..., kept], scan.gtab.select(kept), scan.mask, scan.affine)
    whole = reconstruct(network, scan, tokens, mask)
    estimates = {name: np.clip(images[..., hidden], *CLIP) for name, images in whole.items()}
    for name, predict in (DIRECTION_RIVALS if task.has_rivals else {}).items():
        try:
            estimates[name] = predict(visible, scan.gtab.select(hidden))
        except GradientError as error:
            logger.info("%s left out: %s", name, error.found)
    filled = {}
    for name, volumes in estimates.items():
        filled[name] = scan.signal.copy()
        filled[name][..., hidden] = volumes
    return {
        "rows": _rows(filled, scan, hidden, where),
        "tensors": _tensor_rows(filled, task, where),
        "authors": {
            "network": authors_scores(whole["network"], scan.signal * task.seen[..., None])
        },
    }


def _hide_places(network: Autoencoder, task: _Task, rng: np.random.Generator) -> dict[str, Any]:
    scan, tokens = task.scan, task.tokens
    n = len(scan.gtab)
    mask = draw_mask(
        rng, network.config, kind="spatial", n_directions=n, n_places=len(tokens.index)
    )
    visible = scan.mask & _seen_voxels(tokens, network, mask.kept[0].numpy())
    hidden = scan.mask & task.seen & ~visible
    if not hidden.any():
        raise ImageError(
            f"{scan.name}: {len(tokens.index)} patches with brain, none of which can be hidden",
            expected="several patches with brain",
        )
    whole = reconstruct(network, scan, tokens, mask)
    estimates = {
        name: np.where(hidden[..., None], np.clip(images, *CLIP), scan.signal)
        for name, images in whole.items()
    }
    for name, fill in (PLACE_RIVALS if task.has_rivals else {}).items():
        estimates[name] = np.clip(fill(scan.signal, visible, hidden), *CLIP)
    return {
        "rows": _rows(estimates, scan, np.arange(n), hidden),
        "tensors": _tensor_rows(estimates, task, hidden),
        "authors": {
            "network": authors_scores(whole["network"], scan.signal * task.seen[..., None])
        },
    }


def _hide_apart(network: Autoencoder, task: _Task, rng: np.random.Generator) -> dict[str, Any]:
    """Hide places of each direction by themselves, from plain methods."""
    scan, tokens = task.scan, task.tokens
    seen = scan.mask & task.seen
    flags = []
    for _ in range(len(scan.gtab)):
        mask = draw_mask(
            rng, network.config, kind="spatial", n_directions=1, n_places=len(tokens.index)
        )
        flags.append(seen & _seen_voxels(tokens, network, mask.kept[0].numpy()))
    visible = np.stack(flags, axis=3)
    filled = scan.signal.copy()
    for shell in scan.gtab.shells:
        index = list(shell.index)
        filled[..., index] = fill_by_directions(scan.signal[..., index], visible[..., index])
    rows: dict[str, list[Row]] = {"directions": [], "mean": [], "floor": []}
    for v in range(len(scan.gtab)):
        hidden = seen & ~visible[..., v]
        if not hidden.any() or not visible[..., v].any():
            continue
        target = scan.signal[..., v : v + 1]
        truth = None if scan.clean is None else scan.clean[..., v : v + 1]
        rows["directions"].append(
            hidden_scores(filled[..., v : v + 1], target, hidden, clean=truth)
        )
        means = PLACE_RIVALS["mean"](target, visible[..., v], hidden)
        rows["mean"].append(hidden_scores(means, target, hidden, clean=truth))
        rows["floor"].append(_floor(scan, np.array([v]), hidden))
    return {
        "rows": {name: {"all": mean_rows(found)} for name, found in rows.items()},
        "tensors": {},
        "authors": {},
    }


def _rows(
    filled: Mapping[str, _Image],
    scan: GridScan,
    volumes: NDArray[np.int_],
    where: NDArray[np.bool_],
) -> dict[str, dict[str, Row]]:
    """Score volumes by method and b-value."""
    groups = {"all": volumes}
    shells = scan.gtab.select(volumes).shells
    if len(shells) > 1:
        groups |= {f"{s.bval:.0f}": volumes[list(s.index)] for s in shells}
    rows: dict[str, dict[str, Row]] = {}
    for name, images in filled.items():
        rows[name] = {
            label: hidden_scores(
                images[..., index],
                scan.signal[..., index],
                where,
                clean=None if scan.clean is None else scan.clean[..., index],
            )
            for label, index in groups.items()
        }
    rows["floor"] = {label: _floor(scan, index, where) for label, index in groups.items()}
    return rows


def _floor(scan: GridScan, volumes: NDArray[np.int_], where: NDArray[np.bool_]) -> Row:
    if scan.clean is not None:
        return hidden_scores(
            scan.clean[..., volumes],
            scan.signal[..., volumes],
            where,
            clean=scan.clean[..., volumes],
        )
    error = scan.floor_rmse(volumes, where)
    return {"rmse": error, "psnr": psnr_db(error**2), "ssim": None, "rmse_truth": None}


def _fit(scan: GridScan, images: _Image) -> TensorMaps:
    return fit_normalised(Kept(images, scan.gtab, scan.mask, scan.affine))


def _reference(scan: GridScan) -> tuple[TensorMaps, Regions] | tuple[None, None]:
    try:
        reference = _fit(scan, scan.signal if scan.clean is None else scan.clean)
        return reference, reference_regions(reference, scan.mask)
    except (GradientError, ImageError) as error:
        logger.info("%s: no tensors, %s", scan.name, error.found)
        return None, None


def _tensor_rows(
    filled: Mapping[str, _Image], task: _Task, where: NDArray[np.bool_]
) -> dict[str, Row]:
    """Return errors of FA and MD, by method; empty where directions determine no tensor."""
    scan, reference, regions = task.scan, task.reference, task.regions
    if reference is None or regions is None:
        return {}
    tissue, white = regions.tissue & where, regions.white & where
    found = dict(filled)
    if scan.clean is not None:
        found["floor"] = scan.signal
    rows: dict[str, Row] = {}
    for name, images in found.items():
        maps = _fit(scan, images)
        rows[name] = {
            f"{scalar}{suffix}": _mean_absolute(maps, reference, scalar, region)
            for scalar in ("fa", "md")
            for suffix, region in (("", tissue), ("_white", white))
        }
    return rows


def _mean_absolute(
    maps: TensorMaps, reference: TensorMaps, name: str, region: NDArray[np.bool_]
) -> float | None:
    if not region.any():
        return None
    apart = getattr(maps, name)[region].astype(np.float64) - getattr(reference, name)[region]
    return float(np.abs(apart).mean())


def _mean_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average what every mask gave; what some masks did not give is averaged over the others."""
    methods = dict.fromkeys(m for r in records for m in r["rows"])
    shells = {m: dict.fromkeys(s for r in records for s in r["rows"].get(m, {})) for m in methods}
    return {
        "rows": {
            m: {
                s: mean_rows([r["rows"][m][s] for r in records if s in r["rows"].get(m, {})])
                for s in shells[m]
            }
            for m in methods
        },
        "tensors": _mean_by_method([r["tensors"] for r in records]),
        "authors": _mean_by_method([r["authors"] for r in records]),
    }


def _mean_by_method(records: Sequence[Mapping[str, Row]]) -> dict[str, Row]:
    methods = dict.fromkeys(m for record in records for m in record)
    return {m: mean_rows([r[m] for r in records if m in r]) for m in methods}


def score_scans(
    network: Autoencoder,
    scans: Iterable[GridScan],
    request: ReconstructionRequest,
    *,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Score every scan.

    Parameters
    ----------
    network
        With its decoder.
    scans
        On its encoder's grid.
    request
        What to hide.
    report
        Called with the record of each scan as soon as it is there.

    Returns
    -------
    dict
        JSON-ready: a record per scan. Scans are not pooled.

    Raises
    ------
    ConfigError
        If there is no scan.
    """
    records = []
    for scan in scans:
        record = score_scan(network, scan, request)
        records.append(record)
        if report is not None:
            report(record)
    if not any(record["results"] for record in records):
        raise ConfigError(
            "no scan with enough directions",
            expected=f"scans with {min(request.directions)} directions or more",
            advice="name a dataset, or ask for simulated scans",
        )
    config = network.config
    found: dict[str, Any] = clean(
        {
            "request": {
                "directions": list(request.directions),
                "n_masks": request.n_masks,
                "seed": request.seed,
                "spatial_ratio": config.spatial_ratio,
                "diffusion_ratio": config.diffusion_ratio,
            },
            "versions": versions(),
            "notes": _NOTES,
            "scans": records,
        }
    )
    return found
