"""Multiply-adds that a network takes for a scan: those of convolutions and matrix products.

A scan is the brain of MNI152NLin2009aSym. Tensor networks read six directions at 2 mm in one
block around it; D-RoPE encoders 12 directions of the patches that they read, rotations of queries
not counted; SSDiff encoders :data:`N_VOLUMES` volumes; the artefact-removal U-Net its whole grid,
the bridge being where its features come from.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dmri_fm.encoders.artefact_unet.network import ArtefactUnet
from dmri_fm.encoders.drope.block import pass_blocks
from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.extraction import check_region, patches_of_region
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.rotary import RotaryTables
from dmri_fm.encoders.patches import patchify
from dmri_fm.encoders.ssdiff.blocks import brain_blocks
from dmri_fm.encoders.ssdiff.network import Ssdiff
from dmri_fm.identity import identity
from dmri_fm.normalise.grid import resample_image
from dmri_fm.normalise.template import load_template
from dmri_fm.qspace import FEATURE_DIRECTIONS, SKARE_DIRECTIONS
from dmri_fm.registry import MODELS
from dmri_fm.tensor_networks.inputs import TensorInputs

#: Weighted volumes of the scan that SSDiff encoders read.
N_VOLUMES = 30

#: Side of the block on which tensor networks are counted, voxels: cost follows the number of
#: voxels. The meta device, which has shapes alone, lacks eigenvectors.
SIDE = 16

#: Multiply-adds of a scan by network, 1e9, as :func:`scan_gmacs` counts them: a second each.
SCAN_GMACS: dict[str, float] = {
    "tensor-refiner": 52.18,
    "qcg-dti": 348.1,
    "qcg-dti-paper": 1148.0,
    "qcg-dti-ablation-whole": 225.0,
    "qcg-dti-ablation-no-qcf": 222.5,
    "qcg-dti-ablation-no-strategy": 111.7,
    "qcg-dti-ablation-no-mrd": 234.1,
    "qcg-dti-ablation-baseline": 111.1,
    "drope": 219.8,
    "drope-paper": 12180.0,
    "ssdiff": 0.1688,
    "ssdiff-paper": 54.86,
    "artefact-unet": 26.81,
    "drope-ablation": 18.82,
    "drope-ablation-plain": 18.82,
}


def scan_gmacs(name: str) -> float:
    """Count the multiply-adds of a network of the registry for a scan, 1e9."""
    config, make = MODELS[name].config, MODELS[name].network
    if make not in (Drope, Ssdiff, ArtefactUnet):
        return block_gmacs(make(config), _brain_box(config.stride))
    with torch.device("meta"):
        network = make(config).to("meta")
        if isinstance(network, Drope):
            n_patches = _count_patches(config, identity(name).extraction.region)
            return _gmacs(lambda: _encode_patches(network, n_patches))
        if isinstance(network, ArtefactUnet):
            shell = torch.ones(1, network.config.n_directions, *network.config.grid_shape)
            return _gmacs(lambda: network.encode(shell))
        assert isinstance(network, Ssdiff)
        volumes = torch.ones(1, N_VOLUMES, network.n_places)
        directions = torch.ones(1, N_VOLUMES, len(brain_blocks(config, config.direction_block)), 3)
        return _gmacs(lambda: network.encode(volumes, directions, torch.ones(1, N_VOLUMES)))


def block_gmacs(network: nn.Module, sides: tuple[int, int, int]) -> float:
    """Count the multiply-adds of a tensor network for a block of voxels, 1e9."""
    inputs = block_inputs(SIDE)
    with torch.inference_mode():
        return _gmacs(lambda: network(inputs)) * prod(sides) / SIDE**3


def block_inputs(side: int) -> TensorInputs:
    """Return the input of tensor networks for a block of side^3 voxels, six directions."""
    shape = (1, 1, side, side, side)
    q = torch.tensor(SKARE_DIRECTIONS.tolist())
    return TensorInputs(
        s0=torch.ones(shape),
        ratios=torch.full((1, 6, *shape[2:]), 0.5),
        q=torch.cat([q, torch.ones(6, 1)], dim=1)[None],
        mask=torch.ones(shape),
        noise=torch.full(shape, 0.05),
        n_b0=torch.ones(1),
        voxel_mm=torch.full((1, 3), 2.0),
    )


def _gmacs(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops() / 2e9)


def _brain_box(stride: int) -> tuple[int, int, int]:
    """Return the sides of the box around the template's brain, multiples of a stride."""
    where = np.argwhere(load_template(2).brain_mask)
    x, y, z = (int(-(-n // stride) * stride) for n in np.ptp(where, axis=0) + 1)
    return x, y, z


def _count_patches(config: DropeConfig, region: str) -> int:
    """Return the number of patches that an encoder reads of the template's brain."""
    template, is_read = load_template(2), patches_of_region(config, check_region(region))
    if config.is_packed:
        brain = resample_image(
            template.brain_mask.astype(np.float32), template.grid.affine, config.grid
        )
        inside = torch.from_numpy(brain > 0.5).to("cpu")[None, None]
        is_read = is_read & patchify(inside, config.patch)[0, 0].any(dim=1).numpy()
    return int(is_read.sum())


def _encode_patches(network: Drope, n_patches: int) -> None:
    """Pass patches without content through an encoder; queries are not rotated."""
    config, n = network.config, FEATURE_DIRECTIONS
    patches, positions = torch.ones(1, n, n_patches, prod(config.patch)), torch.ones(n_patches, 3)
    x = network.patch_mlp(patches) + network.position(torch.ones(1, n, 3), positions[None])
    channels = torch.ones(1, 1, config.dim // config.heads)
    tables = RotaryTables(torch.ones(1, 1, n, n), channels, channels)
    pass_blocks(network.blocks, network.cls_token, x, tables, is_checkpointed=False)
