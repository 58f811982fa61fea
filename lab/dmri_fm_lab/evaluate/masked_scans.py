"""Mask a part of a scan, and score what a network and the baselines fill in."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.encoders.drope.guided_mae import Autoencoder, GuidedAutoencoder, Reconstruction
from dmri_fm.encoders.drope.mae import Mask, draw_mask
from dmri_fm.encoders.drope.patches import unpatchify
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.signal import CLIP
from dmri_fm.qspace import condition_number
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.inpainting import fill_by_directions
from dmri_fm_lab.evaluate.reconstruction_baselines import (
    DIRECTION_BASELINES,
    PATCH_BASELINES,
    Kept,
    fit_normalised,
)
from dmri_fm_lab.evaluate.reconstruction_scores import authors_scores, masked_scores, psnr_db
from dmri_fm_lab.evaluate.regions import Regions, reference_regions
from dmri_fm_lab.evaluate.scores import Row, mean_rows
from dmri_fm_lab.grid_scans import GridScan

__all__ = [
    "PreparedScan",
    "draw_direction_mask",
    "mask_directions",
    "mask_patches",
    "mask_patches_apart",
    "prepare_scan",
    "reconstruct",
    "to_volumes",
]

logger = logging.getLogger(__name__)

#: Draws of visible directions, of which the best for a tensor is taken.
N_DRAWS = 20


_Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan with what every mask of it shares.

    Attributes
    ----------
    scan, tokens
        The scan, and its patches.
    seen
        Shape (X, Y, Z): voxels of the patches that the encoder is given.
    reference, regions
        Tensors that others are compared with, and where; None where the directions determine
        none.
    has_baselines
        Whether baselines are scored, too.
    """

    scan: GridScan
    tokens: ScanTokens
    seen: NDArray[np.bool_]
    reference: TensorMaps | None
    regions: Regions | None
    has_baselines: bool


def reconstruct(
    network: Autoencoder, scan: GridScan, tokens: ScanTokens, mask: Mask
) -> dict[str, _Image]:
    """Return what a network makes of a scan, (X, Y, Z, T), zero outside the brain.

    `network`, and `start`: the baseline that it corrects, if it is one that does.
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


def prepare_scan(network: Autoencoder, scan: GridScan, *, has_baselines: bool) -> PreparedScan:
    """Cut a scan into patches, and fit its reference tensors.

    Raises
    ------
    ImageError
        If no patch holds brain.
    """
    tokens = tokenise(scan.signal, scan.gtab, scan.mask, network.config.encoder)
    if not tokens.index.size:
        raise ImageError(f"{scan.name}: no patch holds brain", expected="a brain")
    reference, regions = _reference(scan)
    return PreparedScan(
        scan, tokens, _seen_voxels(tokens, network), reference, regions, has_baselines
    )


def draw_direction_mask(
    rng: np.random.Generator, network: Autoencoder, gtab: GradientTable, *, n_places: int
) -> Mask:
    """Choose which directions stay visible: of some draws, the best for a tensor.

    A random six of twelve directions often determine no tensor, or one full of noise: baselines
    would look worse than they are.
    """
    masks = [
        draw_mask(rng, network.config, kind="diffusion", n_directions=len(gtab), n_places=n_places)
        for _ in range(N_DRAWS)
    ]
    return min(masks, key=lambda m: condition_number(gtab.bvecs_ras[m.kept[0].numpy()]))


def mask_directions(
    network: Autoencoder, prepared: PreparedScan, rng: np.random.Generator
) -> dict[str, Any]:
    """Mask whole directions, and score what comes back."""
    scan, tokens = prepared.scan, prepared.tokens
    n = len(scan.gtab)
    mask = draw_direction_mask(rng, network, scan.gtab, n_places=len(tokens.index))
    kept = mask.kept[0].numpy()
    masked = np.setdiff1d(np.arange(n), kept)
    where = scan.mask & prepared.seen
    visible = Kept(scan.signal[..., kept], scan.gtab.select(kept), scan.mask, scan.affine)
    whole = reconstruct(network, scan, tokens, mask)
    estimates = {name: np.clip(images[..., masked], *CLIP) for name, images in whole.items()}
    for name, baseline in (DIRECTION_BASELINES if prepared.has_baselines else {}).items():
        try:
            estimates[name] = baseline.apply(visible, scan.gtab.select(masked))
        except GradientError as error:
            logger.info("%s skipped: %s", name, error.found)
    filled = {}
    for name, volumes in estimates.items():
        filled[name] = scan.signal.copy()
        filled[name][..., masked] = volumes
    return _score(filled, prepared, whole["network"], masked, where)


def mask_patches(
    network: Autoencoder, prepared: PreparedScan, rng: np.random.Generator
) -> dict[str, Any]:
    """Mask patches, the same in all directions, and score what comes back."""
    scan, tokens = prepared.scan, prepared.tokens
    n = len(scan.gtab)
    mask = draw_mask(
        rng, network.config, kind="spatial", n_directions=n, n_places=len(tokens.index)
    )
    visible = scan.mask & _seen_voxels(tokens, network, mask.kept[0].numpy())
    masked = scan.mask & prepared.seen & ~visible
    if not masked.any():
        raise ImageError(
            f"{scan.name}: {len(tokens.index)} patches with brain, none of which can be masked",
            expected="several patches with brain",
        )
    whole = reconstruct(network, scan, tokens, mask)
    estimates = {
        name: np.where(masked[..., None], np.clip(images, *CLIP), scan.signal)
        for name, images in whole.items()
    }
    for name, baseline in (PATCH_BASELINES if prepared.has_baselines else {}).items():
        estimates[name] = np.clip(baseline.apply(scan.signal, visible, masked), *CLIP)
    return _score(estimates, prepared, whole["network"], np.arange(n), masked)


def mask_patches_apart(
    network: Autoencoder, prepared: PreparedScan, rng: np.random.Generator
) -> dict[str, Any]:
    """Mask patches of each direction by themselves, from baselines alone."""
    scan, tokens = prepared.scan, prepared.tokens
    seen = scan.mask & prepared.seen
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
        masked = seen & ~visible[..., v]
        if not masked.any() or not visible[..., v].any():
            continue
        target = scan.signal[..., v : v + 1]
        truth = None if scan.clean is None else scan.clean[..., v : v + 1]
        rows["directions"].append(
            masked_scores(filled[..., v : v + 1], target, masked, clean=truth)
        )
        means = PATCH_BASELINES["mean"].apply(target, visible[..., v], masked)
        rows["mean"].append(masked_scores(means, target, masked, clean=truth))
        rows["floor"].append(_floor(scan, np.array([v]), masked))
    return {
        "rows": {name: {"all": mean_rows(found)} for name, found in rows.items()},
        "tensors": {},
        "authors": {},
    }


def _score(
    filled: Mapping[str, _Image],
    prepared: PreparedScan,
    network: _Image,
    volumes: NDArray[np.int_],
    where: NDArray[np.bool_],
) -> dict[str, Any]:
    """Score volumes and voxels of every method, and the network's as the authors do."""
    seen = prepared.scan.signal * prepared.seen[..., None]
    return {
        "rows": _rows(filled, prepared.scan, volumes, where),
        "tensors": _tensor_rows(filled, prepared, where),
        "authors": {"network": authors_scores(network, seen)},
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
            label: masked_scores(
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
        return masked_scores(
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
    filled: Mapping[str, _Image], prepared: PreparedScan, where: NDArray[np.bool_]
) -> dict[str, Row]:
    """Return errors of FA and MD, by method; empty where directions determine no tensor."""
    scan, reference, regions = prepared.scan, prepared.reference, prepared.regions
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
