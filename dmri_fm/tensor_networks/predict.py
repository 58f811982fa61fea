"""Diffusion tensors of a scan by any tensor network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dmri_fm.brain import find_brain
from dmri_fm.errors import ImageError
from dmri_fm.gradients import rotation_part
from dmri_fm.identity import DEFAULT_MODELS, label_of
from dmri_fm.model_metadata import STATUS_BY_MAP
from dmri_fm.registry import load_tensor_network
from dmri_fm.series import Dwi
from dmri_fm.tensor_maps import NORMAL_90, TensorMaps
from dmri_fm.tensor_networks.base import TensorNetwork, TensorPrediction
from dmri_fm.tensor_networks.gate import (
    NEVER_PRIMARY_IN,
    OOD_PERCENTILE,
    judge_scan,
    summarise,
)
from dmri_fm.tensor_networks.inputs import TensorInputs, tensor_inputs, turn_tensors
from dmri_fm.tensor_networks.volumes import ChosenVolumes, choose_volumes


def predict_tensor(
    dwi: Dwi,
    *,
    model: str = DEFAULT_MODELS[0],
    weights: str | Path | None = None,
    mask: ArrayLike | None = None,
    noise: ArrayLike | None = None,
    exclude: Sequence[int] = (),
    device: str = "cpu",
    seed: int = 0,
) -> TensorMaps:
    """Estimate diffusion tensors from the b=0 mean and six directions of one shell.

    The six are those of lowest condition number, of the shell nearest to b = 1000 that has a
    set below 3. The model card says for which scans the network is worth using; compare with
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
        (see :func:`dmri_fm.brain.find_brain`).
    noise
        Shape (X, Y, Z): standard deviation of one volume's noise, in the units of the series. It
        is estimated as one number if None.
    exclude
        Volumes that are not to be among the six, see :func:`.volumes.choose_volumes`.
    device
        A torch device.
    seed
        Seed of the search for six directions in large shells.

    Returns
    -------
    TensorMaps
        mm^2/s, RAS+; `std` and `ood_percentile` where the network and its weights have them.
        `metadata` holds the volumes used, their condition number, the shell, the
        checksum of the weights, device and precision; `Status` of all maps, and `StatusByMap`.

    Raises
    ------
    GradientError
        If there is no b=0 volume, or no shell has six directions that determine a tensor.
    ImageError
        If the mask is empty or on another grid.
    ConfigError, WeightsError
        If the model is unknown or no tensor network, or its weights cannot be used.
    """
    chosen = choose_volumes(dwi.gtab, exclude=exclude, seed=seed)
    part = dwi.with_mask(find_brain(dwi, mask)).select(chosen.index)
    return predict_chosen(part, chosen, model=model, weights=weights, noise=noise, device=device)


def predict_chosen(
    dwi: Dwi,
    chosen: ChosenVolumes,
    *,
    model: str = DEFAULT_MODELS[0],
    weights: str | Path | None = None,
    noise: ArrayLike | None = None,
    reasons: Sequence[str] = (),
    device: str = "cpu",
) -> TensorMaps:
    """Estimate diffusion tensors from volumes that were chosen from a series before.

    Parameters
    ----------
    dwi
        The chosen volumes alone, in the order of `chosen.index`, with the brain mask.
    chosen
        Their choice from the whole series.
    reasons
        Further reasons why the maps are experimental.
    model, weights, noise, device
        Those of :func:`predict_tensor`, which says what is returned and raised.
    """
    network = load_tensor_network(model, weights=weights, device=device)
    inputs = tensor_inputs(dwi.data, dwi.gtab, dwi.brain, dwi.affine, noise=noise)
    if not inputs.mask.any():
        raise ImageError(
            "no voxel of the brain has b=0 signal", expected="b=0 volumes that hold signal"
        )
    prediction = network.predict(inputs)
    tensor = turn_tensors(prediction.tensor, rotation_part(dwi.affine))
    maps = TensorMaps.from_tensor(
        np.moveaxis(tensor.numpy(), 0, 3).astype(np.float64) * 1e-3,
        dwi.brain,
        affine=dwi.affine,
        model=label_of(network.name),
        metadata={
            **network.weights.describe(),
            **_judge(network, chosen, inputs, prediction, reasons),
            "NeverPrimaryIn": NEVER_PRIMARY_IN,
            "Device": device,
            "Precision": "float32",
            **chosen.describe(),
            "NoiseOverMeanB0": round(_noise_level(inputs), 4),
            "NoiseSource": "one number, from the input" if noise is None else "map",
        },
    )
    width, ood = prediction.half_width, prediction.ood_percentile
    return maps.with_uncertainty(
        std=None if width is None else _deviations(width),
        ood_percentile=None if ood is None else ood.numpy(),
    )


def _judge(
    network: TensorNetwork,
    chosen: ChosenVolumes,
    inputs: TensorInputs,
    prediction: TensorPrediction,
    reasons: Sequence[str],
) -> dict[str, Any]:
    """Return the status of the maps together and of each, with the reasons, and the OOD share."""
    ood_share = None
    if prediction.ood_percentile is not None:
        inside = prediction.ood_percentile[inputs.mask[0, 0] > 0]
        ood_share = float((inside >= OOD_PERCENTILE).float().mean())
    judged = judge_scan(
        network.weights.gate,
        bval=chosen.six.bval,
        snr=1.0 / max(_noise_level(inputs), 1e-6),
        n_weighted=chosen.n_weighted,
        ood_share=ood_share,
        voxel_mm=inputs.voxel_mm[0].tolist(),
        reasons=[*chosen.reasons, *reasons],
    )
    status, found = summarise(judged)
    return {
        "Status": status,
        "StatusReasons": found,
        STATUS_BY_MAP: {
            name: {"Status": one.status, "StatusReasons": one.reasons}
            for name, one in judged.items()
        },
        **({} if ood_share is None else {"OODFraction": round(ood_share, 4)}),
    }


def _noise_level(inputs: TensorInputs) -> float:
    """Return the median noise of the brain, in units of the mean b=0."""
    return float(inputs.noise[inputs.mask > 0].median())


def _deviations(half_width: Tensor) -> dict[str, NDArray[np.float32]]:
    """Return standard deviations of FA and MD (mm^2/s) from calibrated half-widths."""
    fa, md = (half_width / NORMAL_90).numpy()
    return {"fa": fa, "md": np.float32(1e-3) * md}
