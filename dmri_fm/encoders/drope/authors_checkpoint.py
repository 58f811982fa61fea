"""Checkpoints of the D-RoPE authors' own code.

Written from the names and shapes of its parameters alone
(https://github.com/gustavochau/D-RoPE).
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dmri_fm.encoders.drope.config import PAPER, DropeConfig
from dmri_fm.encoders.drope.mae import MaeConfig, MaskedAutoencoder, split_autoencoder
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.volume_encoder import VolumeEncoder
from dmri_fm.errors import WeightsError
from dmri_fm.weights import save_weights

#: Parameters that their code registers and does not use.
DEAD = ("patch_embedding.", "pos_embedding", "decoder_pos_embedding")

#: Parameters of their decoder; released checkpoints have no `decoder_conv`.
DECODER = ("mask_tokens", "decoder_embed.", "decoder_blocks.", "ln2.", "decoder_pred.")
DECODER_CONVOLUTIONS = ("decoder_conv.",)

#: Beginnings of the names of their decoder, and those of :class:`MaskedAutoencoder`.
DECODER_NAMES = (
    ("decoder_embed.", "decoder.embed."),
    ("decoder_blocks.", "decoder.blocks."),
    ("ln2.", "decoder.ln."),
    ("decoder_pred.0.", "decoder_pred."),
)

#: Prefix of every name that PyTorch's wrapper for several processors adds.
WRAPPER = "module."

#: Largest number of names in a message.
_LISTED = 12


class _Loaded(NamedTuple):
    """Size of an encoder or decoder in a checkpoint, and parameters by the names used here."""

    dim: int
    depth: int
    mlp_ratio: int
    tensors: dict[str, Tensor]


def convert_authors_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    num_heads: int = PAPER.heads,
    patch_size: tuple[int, int, int] = PAPER.patch,
    pos_scale: float = PAPER.pos_scale,
) -> Path:
    """Convert a checkpoint of the authors' code, decoder included, to weights of `drope-paper`.

    Parameters
    ----------
    checkpoint
        The file that their training saves: a state_dict, read as tensors alone, so that nothing
        in it can run code.
    out
        A `.safetensors` path; the JSON is written beside it.
    num_heads, patch_size, pos_scale
        See :func:`from_authors`.

    Returns
    -------
    Path
        `out`. Weights are in half precision, as all weights files of this package.

    Raises
    ------
    WeightsError
        If the checkpoint cannot be read, or a parameter is missing, unknown, of another shape or
        not finite.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"cannot be read ({why})",
            path=Path(checkpoint),
            expected="a state_dict of the D-RoPE authors' masked autoencoder",
        ) from None
    if not isinstance(state, Mapping):
        raise WeightsError(
            f"holds a {type(state).__name__}", path=Path(checkpoint), expected="a state_dict"
        )
    encoder = from_authors(
        state, num_heads=num_heads, patch_size=patch_size, pos_scale=pos_scale
    ).encoder
    config = replace(
        encoder.config, grid_shape=PAPER.grid_shape, voxel_size_mm=PAPER.voxel_size_mm
    )
    whole = Drope(config)
    whole.load_state_dict(encoder.state_dict())
    network = add_authors_decoder(whole, state)
    return save_weights(
        out,
        whole,
        name="drope-paper",
        version="authors",
        training={"data": f"converted from {Path(checkpoint).name} of the D-RoPE authors' code"},
        pretraining=None if network is None else split_autoencoder(network),
        license="",
    )


def from_authors(
    state_dict: Mapping[str, Tensor],
    num_heads: int = PAPER.heads,
    patch_size: tuple[int, int, int] = PAPER.patch,
    pos_scale: float = PAPER.pos_scale,
) -> VolumeEncoder:
    """Build an encoder from a state_dict of the authors' masked autoencoder.

    Parameters
    ----------
    state_dict
        As their code saves it; parameters of the decoder and dead ones are ignored, see
        :func:`add_authors_decoder`.
    num_heads
        Attention heads, which the state_dict does not tell.
    patch_size
        Voxels of a patch.
    pos_scale
        Factor on the positions: 1 / 300 in their pretraining, 1 in their feature extraction.

    Returns
    -------
    VolumeEncoder
        In evaluation mode. Their dropout, which stays on in evaluation in spatial attention, is
        off here.

    Raises
    ------
    WeightsError
        If a parameter is missing, unknown, of another shape or not finite; its name is told.
    """
    patch = (int(patch_size[0]), int(patch_size[1]), int(patch_size[2]))
    loaded = _read_encoder(state_dict, patch)
    try:
        config = DropeConfig(
            grid_shape=patch,
            voxel_size_mm=1.0,
            patch=patch,
            dim=loaded.dim,
            depth=loaded.depth,
            heads=num_heads,
            mlp_ratio=loaded.mlp_ratio,
            base=0.3,
            rotary="tiled",
            direction_code="spherical",
            pos_scale=pos_scale,
            patch_centre="voxel",
            is_packed=False,
        )
    except (ValueError, ZeroDivisionError) as error:
        raise WeightsError(
            f"patch_mlp.weight has {loaded.dim} rows ({error})",
            expected=f"a width that {num_heads} heads and three axes divide",
        ) from None
    encoder = Drope(config)
    encoder.load_state_dict(loaded.tensors)
    return VolumeEncoder(encoder).eval()


def add_authors_decoder(
    encoder: Drope, state_dict: Mapping[str, Tensor]
) -> MaskedAutoencoder | None:
    """Put an encoder and the decoder of the authors' masked autoencoder together.

    The decoder has as many attention heads as the encoder. Their ReLU after the last convolution
    is left out: a reconstruction below zero stays below zero.

    Parameters
    ----------
    encoder
        See :func:`from_authors`.
    state_dict
        The checkpoint that it comes from.

    Returns
    -------
    MaskedAutoencoder or None
        In evaluation mode; without convolutions where the checkpoint has none. None if it has no
        decoder at all.

    Raises
    ------
    WeightsError
        As of :func:`from_authors`.
    """
    named = {k.removeprefix(WRAPPER): v for k, v in state_dict.items()}
    found = {k: v for k, v in named.items() if k.startswith(DECODER + DECODER_CONVOLUTIONS)}
    if not found:
        return None
    loaded = _read_decoder(found, encoder.config.dim, math.prod(encoder.config.patch))
    convolution = loaded.tensors.get("decoder_conv.0.bias")
    config = MaeConfig(
        encoder.config,
        decoder_dim=loaded.dim,
        decoder_depth=loaded.depth,
        decoder_heads=encoder.config.heads,
        decoder_mlp_ratio=loaded.mlp_ratio,
        conv_channels=0 if convolution is None else len(convolution),
    )
    network = MaskedAutoencoder(config)
    network.encoder = encoder
    own = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    # Their decoder encodes directions by the layer of the encoder.
    shared = {
        f"decoder.{k}": v
        for k, v in encoder.state_dict().items()
        if k.startswith("position.qpos_embed.")
    }
    network.load_state_dict(own | shared | loaded.tensors)
    return network.eval()


def _read_encoder(state_dict: Mapping[str, Tensor], patch_size: tuple[int, int, int]) -> _Loaded:
    """Pick the encoder out of a state_dict and check it strictly."""
    named = {k.removeprefix(WRAPPER): v for k, v in state_dict.items()}
    ignored = DEAD + DECODER + DECODER_CONVOLUTIONS
    found = {k: v for k, v in named.items() if not k.startswith(ignored)}
    _refuse_others(found)
    dim, depth, hidden = _read_size(found, "patch_mlp.weight", "blocks")
    n_voxels = math.prod(patch_size)
    expected = {
        "cls_token": (1, 1, dim),
        "patch_mlp.weight": (dim, n_voxels),
        "patch_mlp.bias": (dim,),
        "qpos_embed.weight": (dim // 2, 3),
        "qpos_embed.bias": (dim // 2,),
        "ln.weight": (dim,),
        "ln.bias": (dim,),
    } | _block_shapes("blocks", depth, dim, hidden)
    _check(found, expected, f"dim {dim}, patch {tuple(patch_size)}")
    tensors = {re.sub(r"^qpos_embed", "position.qpos_embed", k): v for k, v in found.items()}
    return _Loaded(dim, depth, hidden // dim, {k: v.detach().float() for k, v in tensors.items()})


def _read_decoder(found: dict[str, Tensor], dim: int, n_voxels: int) -> _Loaded:
    """Check a decoder strictly; its kernels' axes are turned to those of the network here."""
    _refuse_others(found)
    _, depth, hidden = _read_size(found, "decoder_embed.weight", "decoder_blocks")
    expected: dict[str, tuple[int, ...]] = {
        "mask_tokens": (1, 1, dim),
        "decoder_embed.weight": (dim, dim),
        "decoder_embed.bias": (dim,),
        "ln2.weight": (dim,),
        "ln2.bias": (dim,),
        "decoder_pred.0.weight": (n_voxels, dim),
        "decoder_pred.0.bias": (n_voxels,),
    } | _block_shapes("decoder_blocks", depth, dim, hidden)
    if any(k.startswith(DECODER_CONVOLUTIONS) for k in found):
        first = found.get("decoder_conv.0.bias")
        c = 8 if first is None else first.numel()
        for i, (n_out, n_in) in zip((0, 2, 4), ((c, 1), (c, c), (1, c)), strict=True):
            expected |= {f"decoder_conv.{i}.weight": (n_out, n_in, 3, 3, 3)}
            expected |= {f"decoder_conv.{i}.bias": (n_out,)}
        if c < 2:
            raise WeightsError("decoder_conv has one channel", expected="two or more")
    _check(found, expected, f"dim {dim}, patches of {n_voxels} voxels")
    tensors = {"decoder.mask_token": found["mask_tokens"].reshape(dim)}
    for name, tensor in found.items():
        for theirs, ours in DECODER_NAMES:
            if name.startswith(theirs):
                tensors[ours + name.removeprefix(theirs)] = tensor
        if name.startswith(DECODER_CONVOLUTIONS):
            # Theirs run over x, y, z; ours over z, x, y.
            turned = rearrange(tensor, "o i x y z -> o i z x y") if tensor.ndim == 5 else tensor
            tensors[name] = turned
    return _Loaded(dim, depth, hidden // dim, {k: v.detach().float() for k, v in tensors.items()})


def _read_size(found: Mapping[str, Tensor], first: str, blocks: str) -> tuple[int, int, int]:
    """Return width, number of blocks and width of their MLPs."""
    numbers = [int(m[1]) for k in found if (m := re.match(rf"{blocks}\.(\d+)\.", k))]
    mlp = f"{blocks}.0.mlp_diffusion.linear1.weight"
    dim, hidden = (_rows_of(found, k) for k in (first, mlp))
    if dim % 2 or hidden % dim:
        raise WeightsError(
            f"{first} has {dim} rows and {mlp} has {hidden}",
            expected="an even number, and a multiple of it",
        )
    return dim, max(numbers, default=0) + 1, hidden


def _refuse_others(found: Mapping[str, Tensor]) -> None:
    others = [k for k, v in found.items() if not torch.is_tensor(v)]
    _refuse("no tensors under these names", others)


def _check(
    found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], sizes: str
) -> None:
    """Refuse missing, unknown, wrongly shaped and infinite parameters."""
    _refuse("parameters are missing", expected.keys() - found.keys())
    _refuse("unknown parameters", found.keys() - expected.keys())
    wrong = [
        f"{k}: {tuple(found[k].shape)} instead of {shape}"
        for k, shape in expected.items()
        if tuple(found[k].shape) != shape
    ]
    _refuse(f"shapes do not fit ({sizes})", wrong)
    _refuse("numbers are not finite", [k for k, v in found.items() if not v.isfinite().all()])


def _rows_of(tensors: Mapping[str, Tensor], name: str) -> int:
    if name not in tensors:
        _refuse("parameters are missing", [name])
    shape = tuple(tensors[name].shape)
    if len(shape) != 2 or 0 in shape:
        raise WeightsError(f"{name} has shape {shape}", expected="a matrix")
    return shape[0]


def _block_shapes(stem: str, depth: int, dim: int, hidden: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        for axis in ("diffusion", "space"):
            for norm in (f"norm1_{axis}", f"norm2_{axis}"):
                shapes |= {f"{stem}.{i}.{norm}.{p}": (dim,) for p in ("weight", "bias")}
            attention, mlp = f"{stem}.{i}.attn_{axis}", f"{stem}.{i}.mlp_{axis}"
            shapes |= {
                f"{attention}.qkv.weight": (3 * dim, dim),
                f"{attention}.out_proj.weight": (dim, dim),
                f"{attention}.out_proj.bias": (dim,),
                f"{mlp}.linear1.weight": (hidden, dim),
                f"{mlp}.linear1.bias": (hidden,),
                f"{mlp}.linear2.weight": (dim, hidden),
                f"{mlp}.linear2.bias": (dim,),
            }
    return shapes


def _refuse(what: str, names: Iterable[str]) -> None:
    """Raise an error that tells the names, if there are any."""
    names = sorted(names)
    if names:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        raise WeightsError(
            f"{what}: {', '.join(names[:_LISTED])}{more}",
            expected="a state_dict of the D-RoPE authors' masked autoencoder",
        )
