"""Maps of one scan: what a prediction loses where patches are masked, and what the CLS attends to.

Both show what a network reads, not where a disease is: patches see one another, and a head fits
what goes with its target in the cohort, motion and head size included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.encoder import run_network
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.pooling import pool_tokens
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.encoders.features import FeatureType
from dmri_fm.encoders.patches import unpatchify
from dmri_fm.errors import ConfigError, OutputError
from dmri_fm.identity import RESEARCH_ONLY

#: From a vector (D,) of a scan to a number.
Predict = Callable[[NDArray[np.float64]], float]

_Array = NDArray[np.float64]


def scan_vector(network: Drope, tokens: ScanTokens, feature: FeatureType) -> _Array:
    """Return the class token (d,) or the pooled tokens (2 d,) of a scan."""
    cls, patches = run_network(network, tokens)
    with torch.inference_mode():
        vector = cls if feature == "cls" else pool_tokens(patches, tokens.qspace)
    return np.asarray(vector.double().cpu().numpy())


def occlude(
    network: Drope,
    tokens: ScanTokens,
    predict: Predict,
    *,
    feature: FeatureType,
    block: int = 2,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> _Array:
    """Return by how much a prediction changes where blocks of patches are masked.

    Masked patches are left out of the encoder's input, as in pretraining.

    Parameters
    ----------
    network
        The encoder.
    tokens
        A scan.
    predict
        A fitted head.
    feature
        What the head reads.
    block
        Patches of a block along each axis.
    report
        Is told how many blocks are done, of how many.

    Returns
    -------
    ndarray
        Shape (S,): prediction of the scan without a patch's block minus that of the whole.

    Raises
    ------
    ConfigError
        If blocks are smaller than a patch, or one holds the whole scan.
    """
    if block < 1:
        raise ConfigError(f"blocks of {block} patches", expected="one or more along each axis")
    ijk = np.stack(np.unravel_index(tokens.index, network.config.patch_grid), axis=1) // block
    blocks, number = np.unique(ijk, axis=0, return_inverse=True)
    if len(blocks) < 2:
        raise ConfigError(
            f"one block of {block} patches along each axis holds the scan", expected="smaller ones"
        )
    whole = predict(scan_vector(network, tokens, feature))
    changes = np.zeros(len(tokens.index))
    for k in range(len(blocks)):
        inside = number == k
        rest = tokens.select_patches(np.flatnonzero(~inside))
        changes[inside] = predict(scan_vector(network, rest, feature)) - whole
        report(k + 1, len(blocks))
    return changes


def cls_attention(network: Drope, tokens: ScanTokens, *, block: int = -1) -> _Array:
    """Return how much the class token attends to each patch position in one block.

    Parameters
    ----------
    network
        The encoder.
    tokens
        A scan.
    block
        Of the encoder; the last by default.

    Returns
    -------
    ndarray
        Shape (S,): attention weights, mean over attention heads and directions. With the weight
        of the class token on itself they sum to 1.

    Raises
    ------
    ConfigError
        If there is no such block.
    """
    if not -len(network.blocks) <= block < len(network.blocks):
        raise ConfigError(f"block {block}", expected=f"one of {len(network.blocks)}")
    layer: Any = network.blocks[block].attn_space  # type: ignore[union-attr]
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    own = tokens.to(network.cls_token.device)
    needed = {name: p.requires_grad for name, p in network.named_parameters()}
    network.requires_grad_(False)
    try:
        # With gradients enabled, though none is needed, a scan passes the layers themselves.
        with torch.enable_grad():
            network.encode_cls(own.patches[None], own.qspace[None], own.positions[None])
    finally:
        hook.remove()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(needed[name])
    (rows,) = seen
    with torch.inference_mode():
        q, k, _ = rearrange(
            layer.qkv(rows), "t n (three h d) -> three h t n d", three=3, h=layer.heads
        )
        scores = (q[:, :, :1] @ k.transpose(-1, -2)) / k.shape[-1] ** 0.5
        weights = scores.softmax(dim=-1)[:, :, 0, 1:].mean(dim=(0, 1))
    return np.asarray(weights.double().cpu().numpy())


def patch_image(values: _Array, tokens: ScanTokens, config: DropeConfig) -> nib.Nifti1Image:
    """Return values (S,) of patches as an image on the encoder's grid; 0 outside the patches."""
    full = torch.zeros(1, 1, int(np.prod(config.patch_grid)), int(np.prod(config.patch)))
    full[0, 0, torch.from_numpy(tokens.index)] = torch.from_numpy(values).float()[:, None]
    data = unpatchify(full, config.patch, config.patch_grid)[0, 0].numpy()
    image = nib.Nifti1Image(data, config.grid.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(config.grid.affine, code="mni")
    image.set_qform(config.grid.affine, code="mni")
    return image


def write_map(image: nib.Nifti1Image, path: Path, about: Mapping[str, Any]) -> Path:
    """Write an image (.nii.gz) and its sidecar, which says that it is for research only.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    sidecar = {"Use": RESEARCH_ONLY, "Space": "MNI152NLin2009aSym", **about}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        text = json.dumps(sidecar, indent=2, sort_keys=True, allow_nan=False) + "\n"
        path.with_name(path.name.removesuffix(".nii.gz") + ".json").write_text(text)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error})", path=path, expected="a folder that you may write to"
        ) from None
    return path
