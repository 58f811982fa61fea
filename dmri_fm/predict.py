"""Run the trained networks on a scan."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from dmri_fm.encoders.drope.guided_mae import restore_autoencoder
from dmri_fm.encoders.drope.masked_directions import direction_errors
from dmri_fm.encoders.drope.network import Drope, DropeConfig
from dmri_fm.encoders.drope.tokens import feature_grid, patch_centres, tokenise
from dmri_fm.encoders.features import ScanFeatures
from dmri_fm.encoders.out_of_distribution import ScanCode, encode_tokens, judge_scan_code
from dmri_fm.errors import ConfigError, GradientError, ImageError, WeightsError
from dmri_fm.gradients import rotation_part
from dmri_fm.identity import about_model, label_of
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.out_of_distribution import percentile_of, score_features
from dmri_fm.qspace import (
    FEATURE_DIRECTIONS,
    choose_six,
    choose_spread,
    skare_angle_deg,
)
from dmri_fm.registry import find_model
from dmri_fm.series import Dwi
from dmri_fm.tensor_maps import NORMAL_90, TensorMaps
from dmri_fm.tensor_networks.gate import judge_scan
from dmri_fm.tensor_networks.inputs import (
    TensorInputs,
    tensor_inputs,
    turn_tensors,
)
from dmri_fm.tensor_networks.qcg_dti import QcgDti, QcgDtiConfig
from dmri_fm.tensor_networks.quality import UNFAMILIAR_PERCENTILE
from dmri_fm.tensor_networks.refiner import RefinerConfig, TensorRefiner
from dmri_fm.weights import Weights, load_weights

__all__ = ["ScanFeatures", "extract_features", "feature_grid", "predict_tensor"]

logger = logging.getLogger(__name__)

#: The tensor network runs on blocks of this side, voxels, of which the inner part is kept.
BLOCK_VOXELS = 128

#: Border of a block that is computed and thrown away, voxels.
MARGIN_VOXELS = 24

#: Without a mask, voxels whose b=0 signal is above this share of its 98th percentile count.
SIGNAL_SHARE = 0.1


def predict_tensor(
    dwi: Dwi,
    *,
    model: str = "tensor-refiner",
    weights: str | Path | None = None,
    mask: ArrayLike | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> TensorMaps:
    """Estimate diffusion tensors from the b=0 mean and six directions of one shell.

    The six are those of lowest condition number, of the shell nearest to b = 1000 that has a
    set below 3. Where the network is worth using says its model card; compare with
    :func:`dmri_fm.fit_tensor`.

    Parameters
    ----------
    dwi
        The series, with one b=0 volume or more.
    model
        Name in the registry.
    weights
        A `.safetensors` file in place of the weights that ship with the package.
    mask
        Shape (X, Y, Z): the brain. The series' own mask if None, or every voxel with signal
        (see :data:`SIGNAL_SHARE`).
    device
        A torch device.
    seed
        Of the search for six directions in large shells.

    Returns
    -------
    TensorMaps
        mm^2/s, RAS+. `metadata` holds the volumes used, their condition number, the shell, the
        checksum of the weights, device and precision.

    Raises
    ------
    GradientError
        If there is no b=0 volume, or no shell has six directions that determine a tensor.
    ImageError
        If the mask is empty or on another grid.
    ConfigError, WeightsError
        If the model is unknown or no tensor network, or its weights cannot be used.
    """
    if not isinstance(find_model(model)[0], (QcgDtiConfig, RefinerConfig)):
        raise ConfigError(
            f"model {model!r} estimates no tensor", expected="tensor-refiner or qcg-dti-paper"
        )
    loaded = load_weights(model if weights is None else weights, model=model, device=device)
    assert isinstance(loaded.model, (QcgDti, TensorRefiner))
    six = choose_six(dwi.gtab, seed=seed)
    dwi.mean_b0()
    b0_volumes = np.flatnonzero(dwi.gtab.is_b0)
    volumes = np.concatenate([b0_volumes, six.index])
    inside = _brain(dwi, mask)
    inputs = tensor_inputs(dwi.data[..., volumes], dwi.gtab.select(volumes), inside, dwi.affine)
    if not inputs.mask.any():
        raise ImageError(
            "no voxel of the brain has b=0 signal", expected="b=0 volumes that hold signal"
        )
    with torch.inference_mode():
        images = _run_in_blocks(loaded.model, inputs, loaded.statistics, device)
    tensor = turn_tensors(images[:6], rotation_part(dwi.affine))
    has_more = len(images) > 6
    unfamiliar = images[8][inputs.mask[0, 0] > 0] >= UNFAMILIAR_PERCENTILE if has_more else None
    status, reasons = judge_scan(
        loaded.gate,
        bval=six.bval,
        snr=1.0 / max(float(inputs.noise), 1e-6),
        n_directions=dwi.gtab.count_directions(),
        unfamiliar=0.0 if unfamiliar is None else float(unfamiliar.float().mean()),
    )
    return TensorMaps.from_tensor(
        np.moveaxis(tensor.numpy(), 0, 3).astype(np.float64) * 1e-3,
        inside,
        affine=dwi.affine,
        model=label_of(loaded.name),
        std=_deviations(images[6:8], loaded.statistics) if has_more else None,
        unfamiliarity=images[8].numpy() if has_more else None,
        metadata={
            **loaded.describe(),
            "Status": status,
            "StatusReasons": reasons,
            "Device": device,
            "Precision": "float32",
            "Volumes": [int(i) for i in six.index],
            "B0Volumes": [int(i) for i in b0_volumes],
            "UsesAllDirections": dwi.gtab.count_directions() == len(six.index),
            "BValue": round(six.bval),
            "ConditionNumber": round(six.condition_number, 3),
            "AngleToSkare": round(skare_angle_deg(dwi.gtab.bvecs_ras[list(six.index)]), 1),
            "NoiseOverMeanB0": round(float(inputs.noise), 4),
            "Seed": seed,
        },
    )


def _brain(dwi: Dwi, mask: ArrayLike | None) -> NDArray[np.bool_]:
    inside = dwi.mask if mask is None else np.asarray(mask) > 0
    if inside is None:
        b0 = dwi.mean_b0()
        inside = b0 > SIGNAL_SHARE * np.percentile(b0, 98)
        logger.warning("no brain mask: every voxel with b=0 signal counts as brain")
    if inside.shape != dwi.shape[:3] or not inside.any():
        raise ImageError(
            f"mask of shape {inside.shape} with {int(inside.sum())} voxels",
            expected=f"some voxels on the series' grid, {dwi.shape[:3]}",
        )
    return inside


def _spans(size: int, stride: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield (block, kept part in the volume, kept part in the block) along one axis."""
    core = BLOCK_VOXELS - 2 * MARGIN_VOXELS if size > BLOCK_VOXELS else size
    for start in range(0, size, core):
        stop = min(start + core, size)
        low = max(0, start - MARGIN_VOXELS) // stride * stride
        high = min(size, stop + MARGIN_VOXELS)
        yield slice(low, high), slice(start, stop), slice(start - low, stop - low)


def _deviations(width: Tensor, statistics: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Return standard deviations of FA and MD (mm^2/s) from half-widths (2, X, Y, Z)."""
    calibrated = width * statistics["width_factor"][:, None, None, None] / NORMAL_90
    fa, md = calibrated.numpy()
    return {"fa": fa, "md": np.float32(1e-3) * md}


def _run_in_blocks(
    network: QcgDti | TensorRefiner,
    inputs: TensorInputs,
    statistics: Mapping[str, Tensor],
    device: str,
) -> Tensor:
    """Return the images of :func:`_run_block` for a scan, block by overlapping block."""
    stride = network.config.stride
    mask = inputs.mask
    where = torch.nonzero(mask[0, 0])
    first = (where.amin(dim=0) // stride * stride).tolist()
    sizes = [int(n) - f for n, f in zip(where.amax(dim=0) + 1, first, strict=True)]
    box: tuple[Any, ...] = (..., *(slice(f, f + n) for f, n in zip(first, sizes, strict=True)))
    cropped = inputs.map_images(lambda t: t[box])
    whole: Tensor | None = None
    for spans in product(*(list(_spans(n, stride)) for n in sizes)):
        block, kept, inner = ((..., *part) for part in zip(*spans, strict=True))
        if not cropped.mask[kept].any():
            continue
        padding = [p for s in reversed(spans) for p in (0, -(s[0].stop - s[0].start) % stride)]
        part = cropped.map_images(lambda t: functional.pad(t[block], padding))  # noqa: B023
        images = _run_block(network, part.to(device), statistics).cpu()
        if whole is None:
            whole = torch.zeros(len(images), *mask.shape[2:])
        whole[box][kept] = images[inner]
    assert whole is not None
    return whole


def _run_block(
    network: QcgDti | TensorRefiner, inputs: TensorInputs, statistics: Mapping[str, Tensor]
) -> Tensor:
    """Return images (C, X, Y, Z) of a batch of one.

    The tensor's six elements; if the network and its statistics give them, the half-widths of
    FA and of MD, and how unlike the training data the surroundings are (percentile).
    """
    estimate = network(inputs)
    images = [estimate.tensor[0]]
    if estimate.width is not None and "width_factor" in statistics:
        assert estimate.code is not None
        scores = score_features(estimate.code[0].movedim(0, 3).cpu().numpy(), statistics)
        coarse = torch.from_numpy(percentile_of(scores, statistics)).to(inputs.mask)
        fine = functional.interpolate(coarse[None, None], size=tuple(inputs.mask.shape[2:]))
        images += [estimate.width[0], fine[0] * inputs.mask[0]]
    return torch.cat(images)


def extract_features(
    dwi_mni: Dwi,
    *,
    model: str = "drope",
    weights: str | Path | None = None,
    device: str = "cpu",
    n_directions: int = FEATURE_DIRECTIONS,
    seed: int = 0,
) -> ScanFeatures:
    """Compute features of a scan with a D-RoPE encoder.

    Parameters
    ----------
    dwi_mni
        The series on the model's grid in MNI152NLin2009aSym, see :func:`feature_grid`,
        b-vectors in its RAS frame, scanner units (not yet divided by b=0), with a brain mask.
    model
        Name in the registry.
    weights
        A `.safetensors` file in place of the weights that ship with the package.
    device
        A torch device.
    n_directions
        Directions to use, spread over q-space; all there are if the series has fewer.
    seed
        Of the choice of directions.

    Returns
    -------
    ScanFeatures
        Features of the scan and of its patches.

    Raises
    ------
    ImageError
        If the series is on another grid, or no patch holds brain.
    GradientError
        If there is no b=0 volume, or no diffusion-weighted one.
    ConfigError, WeightsError
        If the model is unknown or no encoder, or its weights cannot be used.
    """
    if n_directions < 1:
        raise ConfigError(f"{n_directions} directions", expected="one or more")
    grid = feature_grid(model)
    _check_grid(dwi_mni, grid, model)
    loaded = load_weights(model if weights is None else weights, model=model, device=device)
    config, network = loaded.config, loaded.model
    assert isinstance(config, DropeConfig)
    assert isinstance(network, Drope)
    if not _is_same(feature_grid(config), grid):
        raise WeightsError("weights for another grid", expected=f"{grid.shape}")
    if not dwi_mni.gtab.is_b0.any():
        raise GradientError(
            "no b=0 volume",
            expected=f"at least one volume with b < {dwi_mni.gtab.b0_threshold:g} s/mm^2",
        )
    chosen = choose_spread(dwi_mni.gtab, n_directions, seed=seed, gamma=config.gamma)
    volumes = np.concatenate([np.flatnonzero(dwi_mni.gtab.is_b0), chosen])
    table = dwi_mni.gtab.select(volumes)
    mask = _brain(dwi_mni, None)
    normalised = normalise_b0(dwi_mni.data[..., volumes], table, mask=mask)
    signal = normalised.signal[..., ~table.is_b0]
    tokens = tokenise(signal, dwi_mni.gtab.select(chosen), mask, config).to(device)
    if not tokens.index.size:
        raise ImageError("no patch holds brain", expected="a brain mask on the model's grid")
    found = encode_tokens(network, tokens)
    error = np.full(len(tokens.index), np.nan, dtype=np.float32)
    if loaded.pretraining:
        autoencoder = restore_autoencoder(loaded)
        error = direction_errors(autoencoder, tokens, dwi_mni.gtab.select(chosen), seed=seed)
    return _collect(
        loaded,
        config,
        tokens.index,
        found,
        error,
        grid,
        bvals=dwi_mni.gtab.bvals[chosen],
        metadata={
            "Device": device,
            "Seed": seed,
            "Volumes": [int(i) for i in chosen],
            "ClippedFraction": float(normalised.clipped_fraction),
            "B0NormalizationScale": float(normalised.scale),
        },
    )


def _check_grid(dwi: Dwi, grid: Grid, model: str) -> None:
    if not _is_same(Grid(dwi.shape[:3], dwi.affine), grid):
        origin = np.round(dwi.affine[:3, 3], 2).tolist()
        raise ImageError(
            f"a series of {dwi.shape[:3]} voxels of {np.round(dwi.voxel_size_mm, 3).tolist()} mm "
            f"with origin {origin}",
            expected=f"the grid of {model!r}: {tuple(grid.shape)} voxels, origin "
            f"{np.round(grid.affine[:3, 3], 2).tolist()}, MNI152NLin2009aSym",
            advice="dmri_fm.resample_series, or --resample on the command line, puts it there",
        )


def _is_same(a: Grid, b: Grid) -> bool:
    return tuple(a.shape) == tuple(b.shape) and np.allclose(a.affine, b.affine, atol=1e-3)


def _collect(
    loaded: Weights,
    config: DropeConfig,
    index: NDArray[np.int_],
    found: ScanCode,
    error: NDArray[np.float32],
    grid: Grid,
    *,
    bvals: NDArray[np.float64],
    metadata: dict[str, Any],
) -> ScanFeatures:
    centres = patch_centres(config)
    tokens = np.zeros((len(centres), config.dim), dtype=np.float32)
    tokens[index] = found.patches
    errors = np.full(len(centres), np.nan, dtype=np.float32)
    errors[index] = error
    valid = np.zeros(len(centres), dtype=bool)
    valid[index] = True
    patch2voxel = np.diag([*(float(p) for p in config.patch), 1.0])
    patch2voxel[:3, 3] = (np.array(config.patch) - 1) / 2
    affine = np.asarray(grid.affine, dtype=np.float64) @ patch2voxel
    ijk = np.indices(config.patch_grid).reshape(3, -1).T
    score, percentile = float("nan"), float("nan")
    signs: dict[str, float | None] = {}
    if loaded.statistics:
        score, percentile, signs = judge_scan_code(found, loaded.statistics)
    return ScanFeatures(
        vector=found.scan,
        kind=config.features,
        model=label_of(loaded.name),
        tokens=tokens,
        ijk=ijk,
        xyz_mm=ijk @ affine[:3, :3].T + affine[:3, 3],
        valid=valid,
        grid_shape=config.patch_grid,
        affine=affine,
        ood_score=score,
        ood_percentile=percentile,
        n_directions=len(bvals),
        max_bval=float(bvals.max()),
        weights_sha256=loaded.sha256,
        error=errors,
        metadata={
            "Model": about_model(loaded.name)
            | loaded.describe()
            | {
                "Status": "experimental",
                "Features": config.features,
                "Precision": "float32",
            },
            "Preprocessing": loaded.normalisation,
            "Space": "MNI152NLin2009aSym",
            "UnusualSigns": signs,
            **metadata,
        },
    )
