"""Names and shapes in the checkpoints of the D-RoPE authors' own code.

Written from the names and shapes alone (https://github.com/gustavochau/D-RoPE).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dmri_fm.errors import WeightsError

__all__ = ["AuthorsEncoder", "read_encoder"]

#: Parameters that their code registers and does not use.
DEAD = ("patch_embedding.", "pos_embedding", "decoder_pos_embedding")

#: Parameters of their decoder; released checkpoints have no `decoder_conv`.
DECODER = ("mask_tokens", "decoder_embed.", "decoder_blocks.", "ln2.", "decoder_pred.")
DECODER_CONVOLUTIONS = ("decoder_conv.",)

#: What they wrap a model in for several processors puts this before every name.
WRAPPER = "module."

#: So many names are spelt out in a message.
_LISTED = 12


@dataclass(frozen=True)
class AuthorsEncoder:
    """The encoder's part of a checkpoint.

    Attributes
    ----------
    dim, depth, mlp_ratio
        Its size.
    tensors
        Parameters of :class:`dmri_fm.encoders.drope.network.Drope`, by its names, float32.
    """

    dim: int
    depth: int
    mlp_ratio: int
    tensors: dict[str, Tensor]


def read_encoder(
    state_dict: Mapping[str, Tensor], *, patch_size: tuple[int, int, int]
) -> AuthorsEncoder:
    """Pick the encoder out of a state_dict and check it strictly.

    Parameters
    ----------
    state_dict
        As their code saves it. Dead parameters and the decoder's may be there or not.
    patch_size
        Voxels of a patch.

    Raises
    ------
    WeightsError
        If a parameter is missing, unknown, of another shape or not finite; its name is told.
    """
    named = {k.removeprefix(WRAPPER): v for k, v in state_dict.items()}
    ignored = DEAD + DECODER + DECODER_CONVOLUTIONS
    found = {k: v for k, v in named.items() if not k.startswith(ignored)}
    _refuse("no tensors under these names", [k for k, v in found.items() if not _is_tensor(v)])
    numbers = [int(m[1]) for k in found if (m := re.match(r"blocks\.(\d+)\.", k))]
    depth = max(numbers, default=0) + 1
    dim, hidden = (_rows_of(found, k) for k in ("patch_mlp.weight", _FIRST_MLP))
    if dim % 2 or hidden % dim:
        raise WeightsError(
            f"patch_mlp.weight has {dim} rows and {_FIRST_MLP} has {hidden}",
            expected="an even number, and a multiple of it",
        )
    expected = _expected_shapes(dim, depth, hidden, math.prod(patch_size))
    _refuse("parameters are missing", expected.keys() - found.keys())
    _refuse("unknown parameters", found.keys() - expected.keys())
    wrong = [
        f"{k}: {tuple(found[k].shape)} instead of {shape}"
        for k, shape in expected.items()
        if tuple(found[k].shape) != shape
    ]
    _refuse(f"shapes do not fit (dim {dim}, patch {tuple(patch_size)})", wrong)
    _refuse("numbers are not finite", [k for k, v in found.items() if not v.isfinite().all()])
    tensors = {re.sub(r"^qpos_embed", "position.qpos_embed", k): v for k, v in found.items()}
    return AuthorsEncoder(
        dim, depth, hidden // dim, {k: v.detach().float() for k, v in tensors.items()}
    )


_FIRST_MLP = "blocks.0.mlp_diffusion.linear1.weight"


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _rows_of(found: Mapping[str, Tensor], name: str) -> int:
    if name not in found:
        _refuse("parameters are missing", [name])
    if found[name].ndim != 2 or 0 in found[name].shape:
        raise WeightsError(f"{name} has shape {tuple(found[name].shape)}", expected="a matrix")
    return found[name].shape[0]


def _expected_shapes(
    dim: int, depth: int, hidden: int, n_voxels: int
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "patch_mlp.weight": (dim, n_voxels),
        "patch_mlp.bias": (dim,),
        "qpos_embed.weight": (dim // 2, 3),
        "qpos_embed.bias": (dim // 2,),
        "ln.weight": (dim,),
        "ln.bias": (dim,),
    }
    for i in range(depth):
        for axis in ("diffusion", "space"):
            for norm in (f"norm1_{axis}", f"norm2_{axis}"):
                shapes |= {f"blocks.{i}.{norm}.{p}": (dim,) for p in ("weight", "bias")}
            attention, mlp = f"blocks.{i}.attn_{axis}", f"blocks.{i}.mlp_{axis}"
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
