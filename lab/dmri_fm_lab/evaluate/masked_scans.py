"""Masked parts of a scan: masks, reconstructions by network and baselines, their scores."""

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

from dmri_fm.encoders.drope.mae import Mask, MaskedAutoencoder, draw_mask
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.encoders.patches import unpatchify
from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.signal import CLIP
from dmri_fm.qspace import choose_spread, condition_number, one_of_each_direction
from dmri_fm.series import Dwi
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.inpainting import fill_by_directions
from dmri_fm_lab.evaluate.reconstruction_baselines import (
    DIRECTION_BASELINES,
    PATCH_BASELINES,
)
from dmri_fm_lab.evaluate.reconstruction_scores import authors_scores, masked_scores, psnr_db
from dmri_fm_lab.evaluate.regions import Regions, reference_regions
from dmri_fm_lab.evaluate.scores import Row, mean_rows
from dmri_fm_lab.evaluate.tensor_errors import scalar_errors
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.normalised_fit import fit_normalised

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
        Reference tensors and the regions of the comparison; None where the directions determine
        no tensor.
    has_baselines
        Whether baselines are scored, too.
    """

    scan: GridScan
    tokens: ScanTokens
    seen: NDArray[np.bool_]
    reference: TensorMaps | None
    regions: Regions | None
    has_baselines: bool


def choose_directions(
    scan: GridScan, n_directions: int, *, gamma: float, seed: int = 0
) -> GridScan | None:
    """Return a scan with one volume each of some distinct directions, spread over q-space.

    A direction that was measured twice would otherwise be visible where it is masked. None, with
    a warning, if the scan has fewer.
    """
    distinct = scan.select(one_of_each_direction(scan.gtab))
    if n_directions > len(distinct.gtab):
        logger.warning(
            "%s: skipped with %d directions, it has %d distinct ones",
            scan.name,
            n_directions,
            len(distinct.gtab),
        )
        return None
    return distinct.select(choose_spread(distinct.gtab, n_directions, seed=seed, gamma=gamma))


def reconstruct(
    network: MaskedAutoencoder, scan: GridScan, tokens: ScanTokens, mask: Mask
) -> _Image:
    """Return the network's reconstruction of a scan, (X, Y, Z, T), zero outside the brain."""
    device = next(network.parameters()).device
    moved = tokens.to(device)
    mask = mask._replace(kept=mask.kept.to(device))
    with torch.inference_mode():
        patches = network(moved.patches[None], moved.qspace[None], moved.positions[None], mask)
    return to_volumes(patches[0].cpu(), tokens, network) * scan.mask[..., None]


def to_volumes(patches: Tensor, tokens: ScanTokens, network: MaskedAutoencoder) -> _Image:
    """Put patches (T, S, P) back on the grid, (X, Y, Z, T); zero where there is none."""
    config = network.config.encoder
    full = torch.zeros(len(patches), math.prod(config.patch_grid), patches.shape[2])
    full[:, torch.from_numpy(tokens.index)] = patches.float()
    volumes = unpatchify(full[None], config.patch, config.patch_grid)[0]
    return np.ascontiguousarray(np.moveaxis(volumes.numpy(), 0, 3))


def seen_voxels(
    tokens: ScanTokens, network: MaskedAutoencoder, kept: NDArray[np.int_] | None = None
) -> NDArray[np.bool_]:
    """Return the voxels of the patches that the encoder is given, all or those of an index."""
    flags = torch.zeros(1, len(tokens.index), tokens.patches.shape[2])
    flags[:, slice(None) if kept is None else torch.from_numpy(kept)] = 1.0
    return to_volumes(flags, tokens, network)[..., 0] > 0


def prepare_scan(
    network: MaskedAutoencoder, scan: GridScan, *, has_baselines: bool
) -> PreparedScan:
    """Cut a scan into patches, and fit its reference tensors.

    Raises
    ------
    ImageError
        If no patch holds brain.
    """
    tokens = tokenise(scan.signal, scan.gtab, scan.mask, network.config.encoder)
    if not tokens.index.size:
        raise ImageError(f"{scan.name}: no patch holds brain", expected="a brain")
    reference, regions = fit_reference(scan)
    return PreparedScan(
        scan, tokens, seen_voxels(tokens, network), reference, regions, has_baselines
    )


def draw_direction_mask(
    rng: np.random.Generator, network: MaskedAutoencoder, gtab: GradientTable, *, n_patches: int
) -> Mask:
    """Draw several sets of visible directions, and take the best one for a tensor.

    A random six of twelve directions often determine no tensor, or one full of noise, which would
    put baselines at a disadvantage.
    """
    masks = [
        draw_mask(
            rng, network.config, kind="diffusion", n_directions=len(gtab), n_patches=n_patches
        )
        for _ in range(N_DRAWS)
    ]
    return min(masks, key=lambda m: condition_number(gtab.bvecs_ras[m.kept[0].numpy()]))


def mask_directions(
    network: MaskedAutoencoder, prepared: PreparedScan, rng: np.random.Generator
) -> dict[str, Any]:
    """Mask whole directions, and score their reconstructions."""
    scan, tokens = prepared.scan, prepared.tokens
    mask = draw_direction_mask(rng, network, scan.gtab, n_patches=len(tokens.index))
    kept = mask.kept[0].numpy()
    masked = np.setdiff1d(np.arange(len(scan.gtab)), kept)
    visible = series(scan, scan.signal).select(kept)
    whole = reconstruct(network, scan, tokens, mask)
    estimates = {"network": np.clip(whole[..., masked], *CLIP)}
    for name, baseline in (DIRECTION_BASELINES if prepared.has_baselines else {}).items():
        try:
            estimates[name] = baseline.apply(visible, scan.gtab.select(masked))
        except GradientError as error:
            logger.info("%s skipped: %s", name, error.found)
    filled = {}
    for name, volumes in estimates.items():
        filled[name] = scan.signal.copy()
        filled[name][..., masked] = volumes
    return _score(filled, prepared, whole, masked, scan.mask & prepared.seen)


def mask_patches(
    network: MaskedAutoencoder, prepared: PreparedScan, rng: np.random.Generator
) -> dict[str, Any]:
    """Mask patches, the same in all directions, and score their reconstructions."""
    scan, tokens = prepared.scan, prepared.tokens
    n, n_patches = len(scan.gtab), len(tokens.index)
    mask = draw_mask(rng, network.config, kind="spatial", n_directions=n, n_patches=n_patches)
    visible = scan.mask & seen_voxels(tokens, network, mask.kept[0].numpy())
    masked = scan.mask & prepared.seen & ~visible
    if not masked.any():
        raise ImageError(
            f"{scan.name}: {n_patches} patches with brain, none of which can be masked",
            expected="several patches with brain",
        )
    whole = reconstruct(network, scan, tokens, mask)
    estimates = {"network": np.where(masked[..., None], np.clip(whole, *CLIP), scan.signal)}
    for name, baseline in (PATCH_BASELINES if prepared.has_baselines else {}).items():
        estimates[name] = np.clip(baseline.apply(scan.signal, visible, masked), *CLIP)
    return _score(estimates, prepared, whole, np.arange(n), masked)


def mask_patches_apart(
    network: MaskedAutoencoder, prepared: PreparedScan, rng: np.random.Generator
) -> dict[str, Any]:
    """Mask patches of each direction by themselves, and score baselines alone."""
    scan, tokens = prepared.scan, prepared.tokens
    seen, n_patches = scan.mask & prepared.seen, len(tokens.index)
    masks = [
        draw_mask(rng, network.config, kind="spatial", n_directions=1, n_patches=n_patches)
        for _ in range(len(scan.gtab))
    ]
    visible = np.stack(
        [seen & seen_voxels(tokens, network, mask.kept[0].numpy()) for mask in masks], axis=3
    )
    filled = scan.signal.copy()
    for shell in scan.gtab.shells:
        index = list(shell.index)
        filled[..., index] = fill_by_directions(scan.signal[..., index], visible[..., index])
    rows: dict[str, list[Row]] = {"directions": [], "mean": [], "floor": []}
    for v in range(len(scan.gtab)):
        masked = seen & ~visible[..., v]
        if not masked.any() or not visible[..., v].any():
            continue
        volume = np.array([v])
        means = PATCH_BASELINES["mean"].apply(scan.signal[..., volume], visible[..., v], masked)
        rows["directions"].append(_masked_row(filled[..., volume], scan, volume, masked))
        rows["mean"].append(_masked_row(means, scan, volume, masked))
        rows["floor"].append(_floor(scan, volume, masked))
    return {
        "rows": {name: {"all": mean_rows(of_name)} for name, of_name in rows.items()},
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
    scan = prepared.scan
    seen = scan.signal * prepared.seen[..., None]
    authors = {
        label: authors_scores(network[..., index], seen[..., index])
        for label, index in _shell_groups(scan.gtab, np.arange(len(scan.gtab))).items()
    }
    return {
        "rows": _rows(filled, scan, volumes, where),
        "tensors": _tensor_rows(filled, prepared, where),
        "authors": {"network": authors},
    }


def _shell_groups(gtab: GradientTable, volumes: NDArray[np.int_]) -> dict[str, NDArray[np.int_]]:
    """Return all of some volumes, and where they are of several shells those of each."""
    groups = {"all": volumes}
    shells = gtab.select(volumes).shells
    if len(shells) > 1:
        groups |= {f"{s.bval:.0f}": volumes[list(s.index)] for s in shells}
    return groups


def _rows(
    filled: Mapping[str, _Image],
    scan: GridScan,
    volumes: NDArray[np.int_],
    where: NDArray[np.bool_],
) -> dict[str, dict[str, Row]]:
    """Score volumes by method and b-value."""
    groups = _shell_groups(scan.gtab, volumes)
    rows = {
        name: {
            label: _masked_row(images[..., index], scan, index, where)
            for label, index in groups.items()
        }
        for name, images in filled.items()
    }
    rows["floor"] = {label: _floor(scan, index, where) for label, index in groups.items()}
    return rows


def _masked_row(
    estimate: _Image, scan: GridScan, volumes: NDArray[np.int_], where: NDArray[np.bool_]
) -> Row:
    """Score estimates of some volumes of a scan."""
    clean = None if scan.clean is None else scan.clean[..., volumes]
    return masked_scores(estimate, scan.signal[..., volumes], where, clean=clean)


def _floor(scan: GridScan, volumes: NDArray[np.int_], where: NDArray[np.bool_]) -> Row:
    """Score the signal without noise; from the estimated noise where it is not known."""
    if scan.clean is not None:
        return _masked_row(scan.clean[..., volumes], scan, volumes, where)
    error = scan.floor_rmse(volumes, where)
    return {"rmse": error, "psnr": psnr_db(error**2), "ssim": None, "rmse_truth": None}


def series(scan: GridScan, images: _Image) -> Dwi:
    """Return images of a scan's volumes as a series."""
    return Dwi.from_arrays(images, scan.affine, scan.gtab, mask=scan.mask)


def fit_reference(scan: GridScan) -> tuple[TensorMaps, Regions] | tuple[None, None]:
    """Fit tensors to a scan, without its noise where that is known, and find its tissue.

    None where its directions determine no tensor, or there is no tissue.
    """
    images = scan.signal if scan.clean is None else scan.clean
    try:
        reference = fit_normalised(series(scan, images))
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
    regions_by_suffix = {"": regions.tissue & where, "_white": regions.white & where}
    floor = {} if scan.clean is None else {"floor": scan.signal}
    rows: dict[str, Row] = {}
    for name, images in {**filled, **floor}.items():
        maps = fit_normalised(series(scan, images)).scalars
        rows[name] = {
            f"{scalar}{suffix}": scalar_errors(
                maps[scalar], reference.scalars[scalar], mask=region
            ).mean_absolute
            if region.any()
            else None
            for scalar in ("fa", "md")
            for suffix, region in regions_by_suffix.items()
        }
    return rows
