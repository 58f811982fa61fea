"""Train a QCG-DTI network on simulated patches with known tensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.models.directions import choose_six
from dmri_fm.models.predict import tensor_inputs
from dmri_fm.models.qcg_dti import QcgDti, QcgDtiConfig, estimate_noise, fit_least_squares
from dmri_fm.models.registry import find_model
from dmri_fm.models.weights import save_weights
from dmri_fm.simulate import draw_batch, draw_protocol
from dmri_fm.train.config import QcgDtiTraining
from dmri_fm.train.loop import Run, run_training
from dmri_fm.train.losses import relative_tensor_loss

__all__ = ["TensorBatch", "draw_tensor_batch", "train_qcg_dti"]

#: A patch with a smaller share of brain is drawn again.
FEWEST_BRAIN = 0.2

#: What the network expects, written beside the weights.
NORMALISATION = {
    "s0": "b=0 image over its mean within the brain",
    "ratios": "weighted images over the b=0 image, clipped to 0..1.5",
    "q": "unit b-vector (RAS) and b in ms/um^2",
    "output": "um^2/ms, order xx, xy, xz, yy, yz, zz, RAS",
}


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """Inputs of the network and the truth; shapes as :meth:`QcgDti.forward` takes them.

    Attributes
    ----------
    s0, ratios, q, mask, noise
        Inputs.
    truth
        Shape (B, 6, X, Y, Z), um^2/ms.
    csf
        Shape (B, X, Y, Z): volume fraction of CSF.
    """

    s0: Tensor
    ratios: Tensor
    q: Tensor
    mask: Tensor
    noise: Tensor
    truth: Tensor
    csf: Tensor


def draw_n_b0(rng: np.random.Generator) -> int:
    """Draw a number of b=0 volumes, one to four."""
    return int(rng.choice([1, 1, 2, 4]))


def draw_training_protocol(
    rng: np.random.Generator, *, spread_share: float, n_b0: int | None = None
) -> GradientTable:
    """Draw b=0 volumes (one to four if None) and six directions of one shell, b 400 to 3000.

    Half of the b-values lie between 700 and 1300, where most tensors are measured.
    """
    if n_b0 is None:
        n_b0 = draw_n_b0(rng)
    bval = float(rng.uniform(700, 1300) if rng.uniform() < 0.5 else rng.uniform(400, 3000))
    if rng.uniform() >= spread_share:
        return draw_protocol(rng, kind="skare6", bvals=bval, n_b0=n_b0)
    while True:
        n_directions = int(rng.integers(12, 33))
        table = draw_protocol(rng, kind="shell", n_directions=n_directions, bvals=bval, n_b0=n_b0)
        six = choose_six(table, seed=int(rng.integers(2**31)))
        if six.condition_number < 3.0:
            return table.select([*range(n_b0), *six.index])


def draw_tensor_batch(
    rng: np.random.Generator, *, batch: int, patch_voxels: int, spread_share: float
) -> TensorBatch:
    """Draw simulated patches; all of a batch have one to four b=0 volumes."""
    n_b0 = draw_n_b0(rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    parts: list[tuple[torch.Tensor, ...]] = []
    while len(parts) < batch:
        gtabs = [
            draw_training_protocol(rng, spread_share=spread_share, n_b0=n_b0)
            for _ in range(batch - len(parts))
        ]
        drawn = draw_batch(generator, gtabs, shape=(patch_voxels,) * 3)
        assert drawn.truth_tensor is not None
        for k, gtab in enumerate(gtabs):
            if drawn.mask[k].float().mean() < FEWEST_BRAIN:
                continue
            signal = drawn.signal[k].movedim(0, 3).numpy()
            s0, ratios, q, mask = tensor_inputs(signal, gtab, drawn.mask[k].numpy())
            truth = 1000.0 * drawn.truth_tensor[k : k + 1]
            csf = drawn.fractions[k : k + 1, 2]
            parts.append((s0, ratios, q, mask, estimate_noise(ratios * s0, mask), truth, csf))
    return TensorBatch(*(torch.cat(column) for column in zip(*parts, strict=True)))


def train_qcg_dti(
    config: QcgDtiTraining,
    folder: str | Path,
    *,
    accelerator: str = "cpu",
    weights: str | Path | None = None,
    version: str = "0.1.0",
) -> Run:
    """Train a network on simulation, drawn on the fly.

    Parameters
    ----------
    config
        Settings; see :func:`dmri_fm.train.config.read_training`.
    folder
        For the log and the checkpoint; a run found there is continued.
    accelerator
        "cpu", "cuda" or "auto".
    weights
        Where to write the weights (.safetensors) afterwards.
    version
        Of the weights.

    Raises
    ------
    ConfigError
        If the model is not a QCG-DTI, or the patch does not fit its levels.
    """
    architecture, kind = find_model(config.model)
    if not isinstance(architecture, QcgDtiConfig):
        raise ConfigError(f"model {config.model!r} estimates no tensor", expected="a QCG-DTI")
    if config.patch_voxels % architecture.stride:
        raise ConfigError(
            f"patches of {config.patch_voxels} voxels",
            expected=f"a multiple of {architecture.stride}",
        )
    seed = config.optimisation.seed
    torch.manual_seed(seed)
    model = kind(architecture).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    assert isinstance(model, QcgDti)

    def step_losses(network: nn.Module, step: int) -> dict[str, Tensor]:
        batch = draw_tensor_batch(
            np.random.default_rng([seed, step]),
            batch=config.batch,
            patch_voxels=config.patch_voxels,
            spread_share=config.spread_share,
        )
        device = next(network.parameters()).device
        s0, ratios, q, mask, noise, truth, csf = (
            t.to(device)
            for t in (
                batch.s0,
                batch.ratios,
                batch.q,
                batch.mask,
                batch.noise,
                batch.truth,
                batch.csf,
            )
        )
        estimate = network(s0, ratios, q, mask, noise)
        loss, error = relative_tensor_loss(
            estimate,
            truth,
            rival=fit_least_squares(ratios, q) * mask,
            weight=mask[:, 0] * (1.0 - (1.0 - config.csf_weight) * csf),
        )
        return {"loss": loss, "error": error}

    run = run_training(
        model,
        step_losses,
        settings=config.optimisation,
        folder=folder,
        accelerator=accelerator,
    )
    if weights is not None:
        save_weights(
            weights,
            run.model,
            name=config.model,
            config=architecture,
            version=version,
            normalisation=NORMALISATION,
            training={
                "data": "simulation (dmri_fm.simulate), drawn on the fly; no real scan",
                "steps": run.steps,
                "minutes": round(run.minutes, 1),
                "settings": asdict(config),
                "last": {k: round(v, 4) for k, v in run.last.items()},
            },
        )
    return run
