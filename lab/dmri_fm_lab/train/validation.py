"""What a training takes from data before it starts: held-out scans, validation, standardisation.

Validation is the loss of batches that are drawn once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dmri_fm.tensor_networks.qcg_dti import QcgDti
from dmri_fm_lab.train.config import TensorTraining
from dmri_fm_lab.train.loop import VALIDATION, Validation
from dmri_fm_lab.train.scan_patches import TrainingScan
from dmri_fm_lab.train.tensor_batch import TensorBatch

logger = logging.getLogger(__name__)


def split_scans(
    scans: Sequence[TrainingScan], config: TensorTraining
) -> tuple[list[TrainingScan], list[TrainingScan]]:
    """Split scans by brain into those of training and those of validation.

    The share `config.validation_share` of the brains, rounded, is held out, by the seed of the
    run; none without validation.
    """
    brains = sorted({scan.brain_name for scan in scans})
    share = config.validation_share if config.validation_steps else 0.0
    rng = np.random.default_rng([config.optimisation.seed, VALIDATION])
    held_out = {brains[k] for k in rng.permutation(len(brains))[: round(share * len(brains))]}
    if share and brains and not held_out:
        logger.warning(
            "%g of %d brains is none: validation is by simulation alone", share, len(brains)
        )
    return (
        [scan for scan in scans if scan.brain_name not in held_out],
        [scan for scan in scans if scan.brain_name in held_out],
    )


def make_validation(
    config: TensorTraining,
    draw: Callable[[int], TensorBatch],
    losses: Callable[[nn.Module, TensorBatch, int], dict[str, Tensor]],
) -> Validation | None:
    """Return the validation of a run: the mean loss of batches drawn once; None without.

    Parameters
    ----------
    config
        Settings of the run.
    draw, losses
        As of :func:`~dmri_fm_lab.train.loop.run_training`; `draw` on data that training does not
        see.
    """
    if not config.validation_steps:
        return None
    cpu = torch.device("cpu")
    batches = [draw(number).to(cpu) for number in range(config.n_validation)]

    def error(network: nn.Module) -> float:
        with torch.inference_mode():
            return float(np.mean([float(losses(network, b, 0)["loss"]) for b in batches]))

    return Validation(config.validation_steps, error)


def standardise_target(network: nn.Module, draw: Callable[[int], TensorBatch], n: int) -> None:
    """Give a network that standardises mean and deviation of the training tensors' elements.

    One mean and one deviation for all six elements, um^2/ms, over the brain of `n` batches; as
    weights files have half precision, so have these. Other networks are left alone.

    Parameters
    ----------
    network
        A :class:`~dmri_fm.tensor_networks.qcg_dti.QcgDti`, or another network.
    draw
        As of :func:`~dmri_fm_lab.train.loop.run_training`, training data.
    n
        Number of batches.
    """
    if not (isinstance(network, QcgDti) and network.config.is_standardised):
        return
    batches = (draw(number) for number in range(n))
    tensors = [b.truth.movedim(1, -1)[b.inputs.mask[:, 0] > 0] for b in batches]
    elements = torch.cat(tensors).double()
    found = torch.stack([elements.mean(), elements.std()])
    network.target.copy_(found.half())
    logger.info("target: mean %g, deviation %g um^2/ms", *network.target.tolist())
