"""Maps of one scan: what a prediction loses where places are masked, and what the CLS attends to.

Both show what a network reads, not where a disease is: places see one another, and a head fits
what goes with its target in the cohort, motion and head size included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.encoders.drope.encoder import run_network
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.pooling import pool_tokens
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.encoders.features import FeatureType
from dmri_fm.encoders.patches import unpatchify
from dmri_fm.encoders.ssdiff.blocks import BrainBlocks, brain_blocks
from dmri_fm.encoders.ssdiff.encoder import SsdiffInput
from dmri_fm.encoders.ssdiff.network import Ssdiff
from dmri_fm.errors import ConfigError, OutputError
from dmri_fm.identity import RESEARCH_ONLY

#: From a vector (D,) of a scan to a number.
Predict = Callable[[NDArray[np.float64]], float]

_Array = NDArray[np.float64]


class MaskableScan(Protocol):
    """A scan as its encoder reads it, of which places can be masked as in pretraining."""

    @property
    def ijk(self) -> NDArray[np.int_]:
        """Shape (S, 3): indices of the places."""

    def vector(self, is_kept: NDArray[np.bool_] | None = None) -> _Array:
        """Return the scan's feature vector from some places (S,), or from all."""

    def image(self, values: _Array) -> nib.Nifti1Image:
        """Return values (S,) of the places in MNI152NLin2009aSym; 0 elsewhere."""


@dataclass(frozen=True, eq=False)
class DropeScan:
    """Tokens of a D-RoPE encoder; places are patches, and masked ones are left out.

    The vector is the class token (d,) or the pooled tokens (2 d,).
    """

    network: Drope
    tokens: ScanTokens
    feature: FeatureType

    @property
    def ijk(self) -> NDArray[np.int_]:
        """Indices of the patches."""
        grid = self.network.config.patch_grid
        return np.stack(np.unravel_index(self.tokens.index, grid), axis=1)

    def vector(self, is_kept: NDArray[np.bool_] | None = None) -> _Array:
        """Return the feature; see :class:`MaskableScan`."""
        tokens = self.tokens
        if is_kept is not None:
            tokens = tokens.select_patches(np.flatnonzero(is_kept))
        cls, patches = run_network(self.network, tokens)
        with torch.inference_mode():
            vector = cls if self.feature == "cls" else pool_tokens(patches, tokens.qspace)
        return np.asarray(vector.double().cpu().numpy())

    def image(self, values: _Array) -> nib.Nifti1Image:
        """Return an image on the encoder's grid."""
        config = self.network.config
        full = torch.zeros(1, 1, int(np.prod(config.patch_grid)), int(np.prod(config.patch)))
        full[0, 0, torch.from_numpy(self.tokens.index)] = torch.from_numpy(values).float()[:, None]
        data = unpatchify(full, config.patch, config.patch_grid)[0, 0].numpy()
        return _mni_image(data, config.grid.affine)


@dataclass(frozen=True, eq=False)
class SsdiffScan:
    """Input of an SSDiff encoder; places are its blocks, and masked ones lose their signal.

    The vector, (d,), is the class token or the mean of the volumes' tokens.
    """

    network: Ssdiff
    scan: SsdiffInput
    feature: FeatureType

    @property
    def ijk(self) -> NDArray[np.int_]:
        """Indices of the blocks."""
        return self._blocks.ijk

    @property
    def _blocks(self) -> BrainBlocks:
        return brain_blocks(self.network.config, self.network.config.block)

    def vector(self, is_kept: NDArray[np.bool_] | None = None) -> _Array:
        """Return the feature; see :class:`MaskableScan`."""
        scan = self.scan.to(self.network.cls_token.device)
        signal = scan.signal
        if is_kept is not None:
            signal = signal.masked_fill(torch.from_numpy(~is_kept).to(signal.device), torch.nan)
        with torch.inference_mode():
            cls, tokens = self.network(signal[None], scan.directions[None], scan.bvals[None])
        vector = cls[0] if self.feature == "cls" else tokens[0].mean(dim=0)
        return np.asarray(vector.double().cpu().numpy())

    def image(self, values: _Array) -> nib.Nifti1Image:
        """Return an image with a voxel per block."""
        return _mni_image(
            self._blocks.image(values), self._blocks.affine(self.network.config.grid)
        )


def occlude(
    scan: MaskableScan,
    predict: Predict,
    *,
    block: int = 2,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> _Array:
    """Return by how much a prediction changes where cubes of places are masked.

    Parameters
    ----------
    scan
        A scan; masked places are as in the encoder's pretraining.
    predict
        A fitted head, or a number of the vector.
    block
        Places of a cube along each axis.
    report
        Is told how many cubes are done, of how many.

    Returns
    -------
    ndarray
        Shape (S,): prediction of the scan without a place's cube minus that of the whole.

    Raises
    ------
    ConfigError
        If cubes are smaller than a place, or one holds the whole scan.
    """
    if block < 1:
        raise ConfigError(f"blocks of {block} places", expected="one or more along each axis")
    cubes, number = np.unique(scan.ijk // block, axis=0, return_inverse=True)
    if len(cubes) < 2:
        raise ConfigError(
            f"one block of {block} places along each axis holds the scan", expected="smaller ones"
        )
    whole = predict(scan.vector())
    changes = np.zeros(len(number))
    for k in range(len(cubes)):
        inside = number == k
        changes[inside] = predict(scan.vector(~inside)) - whole
        report(k + 1, len(cubes))
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


def _mni_image(data: NDArray[np.float32], affine: _Array) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="mni")
    image.set_qform(affine, code="mni")
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
