"""Tensor networks of training runs, as methods of a comparison: no weights file is needed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dmri_fm.brain import find_brain
from dmri_fm.errors import WeightsError
from dmri_fm.gradients import rotation_part
from dmri_fm.series import Dwi
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm.tensor_networks.blocks import run_in_blocks
from dmri_fm.tensor_networks.inputs import TensorInputs, tensor_inputs, turn_tensors
from dmri_fm_lab.baseline_networks import find_tensor_network
from dmri_fm_lab.train.loop import CHECKPOINT

#: Prefix of the weights' names in the running average.
_PREFIX = "module."


def load_tensor_run(folder: str | Path) -> nn.Module:
    """Load the network of a run of `dmri-fm train`, finished or not, in evaluation mode.

    The weights are those of the lowest validation error, or the running average where the run has
    no validation.

    Raises
    ------
    WeightsError
        If the folder holds no checkpoint of a tensor network that this version knows.
    """
    path = Path(folder) / CHECKPOINT
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = find_tensor_network(state["settings"]["recipe"]["model"])
        average = state["average"]
        kept = (state.get("best") or {}).get("weights") or {
            k.removeprefix(_PREFIX): v for k, v in average.items() if k.startswith(_PREFIX)
        }
        network = found.network(found.config)
        network.load_state_dict(kept, strict=True)
    except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"cannot be read ({why})", path=path, expected="the checkpoint of `dmri-fm train`"
        ) from None
    return network.eval().requires_grad_(False)


def estimate_tensors(network: nn.Module, dwi: Dwi) -> TensorMaps:
    """Estimate tensors from a series of b=0 volumes and as many others as the network reads.

    Parameters
    ----------
    network
        From :class:`TensorInputs` to :class:`~dmri_fm.tensor_networks.inputs.TensorEstimate`.
    dwi
        With a brain mask, or signal in the brain alone.

    Returns
    -------
    TensorMaps
        mm^2/s, RAS+.
    """
    inside = find_brain(dwi, None)
    inputs = tensor_inputs(dwi.data, dwi.gtab, inside, dwi.affine)

    @torch.inference_mode()
    def estimate(part: TensorInputs) -> dict[str, torch.Tensor]:
        return {"tensor": network(part).tensor[0]}

    config: Any = network.config
    # One block: networks of baselines pool over all that they see.
    whole = run_in_blocks(
        inputs, estimate, stride=config.stride, margin_voxels=0, block_voxels=max(inside.shape)
    )
    turned = turn_tensors(whole["tensor"], rotation_part(dwi.affine)).numpy()
    elements = np.moveaxis(turned, 0, 3).astype(np.float64) * 1e-3
    return TensorMaps.from_tensor(elements, inside, affine=dwi.affine, model="tensor")
