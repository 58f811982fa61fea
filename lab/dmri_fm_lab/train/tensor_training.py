"""Train a tensor network on simulated patches with known tensors, and on patches of scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import identity
from dmri_fm.out_of_distribution import fit_reference
from dmri_fm.qspace import SKARE_DIRECTIONS, choose_six
from dmri_fm.tensor_networks.inputs import (
    TensorEstimate,
    fit_least_squares,
    mean_diffusivity,
    tensor_fa,
)
from dmri_fm.tensor_networks.refiner import coarse_codes
from dmri_fm.weights import save_weights
from dmri_fm_lab.baseline_networks import BASELINE_NETWORKS, find_tensor_network
from dmri_fm_lab.simulate import draw_batch, draw_protocol
from dmri_fm_lab.simulate.batch import Batch
from dmri_fm_lab.train.config import TensorTraining
from dmri_fm_lab.train.description import describe_recipe, describe_run
from dmri_fm_lab.train.loop import (
    CPU,
    HELD_OUT,
    REFERENCE,
    TRAINING,
    VALIDATION,
    Hardware,
    Run,
    run_training,
)
from dmri_fm_lab.train.losses import COVERAGE, refinement_losses, squared_loss, tensor_error
from dmri_fm_lab.train.raw_patch import MARGIN, RawPatch
from dmri_fm_lab.train.scan_patches import TrainingScan, draw_scan_patch
from dmri_fm_lab.train.tensor_batch import TensorBatch
from dmri_fm_lab.train.validation import make_validation, split_scans, standardise_target

#: Smallest share of brain in a patch; patches below it are drawn again.
FEWEST_BRAIN = 0.2

#: Smallest side of patches in half precision on a processor: there, gradients of convolutions are
#: wrong or not finite on the grids of a few voxels that smaller patches have at coarse levels.
LEAST_HALF_PATCH = 32

#: Coarse voxels of a patch that serve the statistics of features.
CODES_PER_PATCH = 100


def draw_n_b0(rng: np.random.Generator) -> int:
    """Draw a number of b=0 volumes, one to four."""
    return int(rng.choice([1, 1, 2, 4]))


def draw_training_protocol(
    rng: np.random.Generator,
    *,
    spread_share: float,
    n_b0: int,
    n_directions: int = 6,
    is_fixed: bool = False,
) -> GradientTable:
    """Draw a table of b=0 volumes and one shell, b 400 to 3000 s/mm^2.

    Half of the b-values lie between 700 and 1300, where most tensors are measured. Fixed
    directions are those of Skare.
    """
    bval = float(rng.uniform(700, 1300) if rng.uniform() < 0.5 else rng.uniform(400, 3000))
    if is_fixed:
        axes = np.concatenate([np.zeros((n_b0, 3)), SKARE_DIRECTIONS])
        return GradientTable(np.repeat([0.0, bval], [n_b0, 6]), axes)
    if n_directions > 6:
        return draw_protocol(rng, scheme="shell", n_directions=n_directions, bvals=bval, n_b0=n_b0)
    if rng.uniform() >= spread_share:
        return draw_protocol(rng, scheme="skare6", bvals=bval, n_b0=n_b0)
    while True:
        n_available = int(rng.integers(12, 33))
        table = draw_protocol(rng, scheme="shell", n_directions=n_available, bvals=bval, n_b0=n_b0)
        six = choose_six(table, seed=int(rng.integers(2**31)))
        if six.condition_number < 3.0:
            return table.select([*range(n_b0), *six.index])


def draw_tensor_batch(
    rng: np.random.Generator,
    *,
    batch: int,
    patch_voxels: int,
    spread_share: float,
    more_share: float = 0.0,
    is_fixed: bool = False,
    interpolated_share: float = 0.0,
    device: torch.device | str = "cpu",
) -> TensorBatch:
    """Draw simulated patches, with one number of b=0 volumes and of directions per batch.

    The share `interpolated_share` of them has been interpolated as the app does it.
    """
    n_b0 = draw_n_b0(rng)
    n_directions = int(rng.integers(7, 17)) if rng.uniform() < more_share else 6
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
    side = patch_voxels + (MARGIN if interpolated_share > 0 else 0)
    parts: list[TensorBatch] = []
    while len(parts) < batch:
        gtabs = [
            draw_training_protocol(
                rng,
                spread_share=spread_share,
                n_b0=n_b0,
                n_directions=n_directions,
                is_fixed=is_fixed,
            )
            for _ in range(batch - len(parts))
        ]
        drawn = draw_batch(generator, gtabs, shape=(side,) * 3)
        for k in range(len(gtabs)):
            patch = _raw_patch(drawn, k, gtabs[0]).placed(rng, patch_voxels, interpolated_share)
            if patch.mask.mean() >= FEWEST_BRAIN:
                parts.append(patch.as_batch(rng))
    return TensorBatch.join(parts)


def _raw_patch(drawn: Batch, k: int, gtab: GradientTable) -> RawPatch:
    assert drawn.truth_tensor is not None
    # The grid's axes are those of the b-vectors and of the truth.
    return RawPatch(
        images=drawn.signal[k],
        q=torch.cat([drawn.bvecs[k], drawn.bvals[k, :, None] / 1000.0], dim=1),
        is_b0=gtab.is_b0,
        n_b0=int(gtab.is_b0.sum()),
        mask=drawn.mask[k].float(),
        noise=drawn.noise[k],
        truth=1000.0 * drawn.truth_tensor[k],
        csf=drawn.fractions[k, 2],
        voxel_mm=drawn.affine[k, :3, :3].diagonal(),
    )


def train_tensor_network(
    config: TensorTraining,
    folder: str | Path,
    *,
    scans: Sequence[TrainingScan] = (),
    hardware: Hardware = CPU,
    weights: str | Path | None = None,
    version: str = "0.1.0",
) -> Run:
    """Train a network on simulation, drawn on the fly, and on scans if there are any.

    Parameters
    ----------
    config
        Settings; see :func:`dmri_fm_lab.train.config.read_training`.
    folder
        For the log and the checkpoint; a run in it is continued.
    scans
        Real scans, see :func:`~dmri_fm_lab.train.scan_patches.read_training_scans`, from which the
        share `config.scan_share` of the batches is drawn. None: simulation alone.
    hardware
        Processors.
    weights, version
        File of the weights (.safetensors) to write afterwards, and their version.

    Raises
    ------
    ConfigError
        If the model estimates no tensor, the patch does not fit its levels, or settings contradict
        one another, the scans or the weights file.
    """
    registered = find_tensor_network(config.model)
    is_cuda = hardware.accelerator != "cpu" and torch.cuda.is_available()
    _check_settings(config, registered.config.stride, is_cuda=is_cuda)
    if weights is not None and config.model in BASELINE_NETWORKS:
        raise ConfigError(
            f"a weights file of {config.model}",
            expected="none: networks to compare with stay in the folder of their run",
        )
    if scans and config.directions == "fixed":
        raise ConfigError("scans, and fixed directions", expected="simulation alone")
    torch.manual_seed(config.optimisation.seed)
    model = registered.network(registered.config)
    model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    # Data are drawn on this device; the network follows them.
    device = torch.device("cuda" if is_cuda else "cpu")
    brains = sorted({scan.brain_name for scan in scans}) if config.scan_share > 0 else []
    scans, held_out = split_scans(scans if brains else (), config)
    draw, losses = partial(_draw_step, config, scans, device), partial(_step_losses, config)
    standardise_target(model, draw, config.n_validation)
    run = run_training(
        model,
        draw,
        losses,
        settings=config.optimisation,
        folder=folder,
        hardware=hardware,
        data={"scans": brains, "recipe": describe_recipe(config)},
        validation=make_validation(
            config, partial(_draw_step, config, held_out, device, purpose=VALIDATION), losses
        ),
    )
    if weights is not None and run.is_main:
        model, share = run.model, config.scan_share
        has_intervals = identity(config.model).has_intervals
        save_weights(
            weights,
            model,
            name=config.model,
            version=version,
            training=describe_run(config, run, scans=brains, scan_share=share, noun="brain"),
            statistics=calibrate(model, config) if has_intervals else None,
        )
    return run


def _check_settings(config: TensorTraining, stride: int, *, is_cuda: bool) -> None:
    if config.patch_voxels % stride:
        raise ConfigError(
            f"patches of {config.patch_voxels} voxels", expected=f"a multiple of {stride}"
        )
    precision = config.optimisation.precision
    if precision != "32-true" and not is_cuda and config.patch_voxels < LEAST_HALF_PATCH:
        raise ConfigError(
            f"patches of {config.patch_voxels} voxels in {precision} on a processor",
            expected=f"{LEAST_HALF_PATCH} voxels or more, or 32-true",
        )
    if config.directions not in ("fixed", "flexible"):
        raise ConfigError(f"directions {config.directions!r}", expected="'fixed' or 'flexible'")
    if config.loss not in LOSSES:
        raise ConfigError(f"loss {config.loss!r}", expected=f"one of {', '.join(LOSSES)}")


def _step_losses(
    config: TensorTraining, network: nn.Module, batch: TensorBatch, step: int
) -> dict[str, Tensor]:
    batch = batch.to(next(network.parameters()).device)
    weight = batch.inputs.mask[:, 0] * (1.0 - (1.0 - config.csf_weight) * batch.csf)
    return LOSSES[config.loss](network(batch.inputs), batch, weight)


def _draw_step(
    config: TensorTraining,
    scans: Sequence[TrainingScan],
    device: torch.device,
    number: int,
    *,
    purpose: int = TRAINING,
) -> TensorBatch:
    """Draw a batch, simulated or from scans; it depends on purpose and number alone."""
    rng = np.random.default_rng([config.optimisation.seed, purpose, number])
    if scans and rng.uniform() < config.scan_share:
        patches = (
            draw_scan_patch(
                rng,
                scans,
                patch_voxels=config.patch_voxels,
                interpolated_share=config.interpolated_share,
            )
            for _ in range(config.batch)
        )
        return TensorBatch.join(list(patches))
    return draw_tensor_batch(
        rng,
        batch=config.batch,
        patch_voxels=config.patch_voxels,
        spread_share=config.spread_share,
        more_share=config.more_share,
        is_fixed=config.directions == "fixed",
        interpolated_share=config.interpolated_share,
        device=device,
    )


def _relative(estimate: TensorEstimate, batch: TensorBatch, weight: Tensor) -> dict[str, Tensor]:
    inputs = batch.inputs
    baseline = fit_least_squares(inputs.ratios, inputs.q) * inputs.mask
    return refinement_losses(estimate, batch.truth, baseline=baseline, weight=weight)


def _squared(estimate: TensorEstimate, batch: TensorBatch, weight: Tensor) -> dict[str, Tensor]:
    loss = squared_loss(estimate.tensor, batch.truth, weight=weight)
    error = tensor_error(estimate.tensor.detach(), batch.truth)
    return {"loss": loss, "tensor": (error * weight).sum() / weight.sum().clamp(min=1.0)}


#: Losses by the name that settings give them.
LOSSES: dict[str, Callable[[TensorEstimate, TensorBatch, Tensor], dict[str, Tensor]]] = {
    "relative": _relative,
    "squared": _squared,
}


def calibrate(network: nn.Module, config: TensorTraining) -> dict[str, Tensor]:
    """Calibrate the network's intervals and its out-of-distribution score on simulated patches.

    Returns
    -------
    dict
        `width_factor` (2,): factors of the half-widths of FA and MD by which nine errors in ten
        lie within; the statistics of :func:`~dmri_fm.out_of_distribution.fit_reference`
        of the coarse features of voxels in the brain.
    """
    network = network.cpu()

    def rows(purpose: int, number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([config.optimisation.seed, purpose, number])
        batch = draw_tensor_batch(
            rng,
            batch=1,
            patch_voxels=config.patch_voxels,
            spread_share=config.spread_share,
            interpolated_share=config.interpolated_share,
        )
        with torch.inference_mode():
            estimate: TensorEstimate = network(batch.inputs)
        assert estimate.width is not None
        assert estimate.code is not None
        tissue = (batch.inputs.mask[:, 0] > 0) & (batch.csf < 0.5)
        difference = mean_diffusivity(estimate.tensor - batch.truth)[:, 0]
        error = torch.stack([tensor_fa(estimate.tensor) - tensor_fa(batch.truth), difference])
        share = error.abs()[:, tissue] / estimate.width.movedim(1, 0)[:, tissue]
        codes = coarse_codes(estimate.code, batch.inputs.mask)
        chosen = torch.from_numpy(rng.permutation(len(codes))[:CODES_PER_PATCH])
        return share, codes[chosen]

    reference = [rows(REFERENCE, k)[1] for k in range(config.n_reference)]
    held_out = [rows(HELD_OUT, k) for k in range(config.n_held_out)]
    shares = torch.cat([share for share, _ in held_out], dim=1)
    factor = torch.tensor(np.quantile(shares.numpy(), COVERAGE, axis=1), dtype=torch.float32)
    return {
        "width_factor": factor,
        **fit_reference(
            torch.cat(reference).numpy(), torch.cat([code for _, code in held_out]).numpy()
        ),
    }
