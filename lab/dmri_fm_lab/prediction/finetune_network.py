"""The parts of an encoder in fine-tuning: a frozen front, blocks that are tuned, and a head.

The front gives the same for a scan in every step, so it runs without gradients, on the encoder's
fast path, and its result can be kept. The tuned blocks and the head run on the training path.
With LoRA (Hu et al. 2021, https://doi.org/10.48550/arXiv.2106.09685) the projections of attention
in the tuned blocks get a low-rank addend each; everything else stays frozen. The fast path of
:class:`~dmri_fm.encoders.drope.network.Drope` reads weights without their addends, so these are
merged (:func:`merge_lora`) before it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from dmri_fm.encoders.drope.block import pass_blocks
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.errors import ConfigError

#: Layers that LoRA changes: the projections of both attentions of a block.
LORA_LAYERS = r"blocks\.\d+\.attn_\w+\.(qkv|out_proj)"

Mode = Literal["last-layer", "lora"]
HeadType = Literal["linear", "mlp"]
HeadInput = Literal["cls", "pooled"]


@dataclass(frozen=True)
class Tuning:
    """What is trained.

    Attributes
    ----------
    mode
        "last-layer": the last blocks and the final LayerNorm; "lora": low-rank addends to the
        attention of the last blocks. The head is trained in both.
    blocks
        Number of last blocks that are tuned; 0: all.
    lora_rank, lora_alpha
        Rank of the addends, and their scale, which is alpha / rank.
    head
        "linear", or "mlp": one inner layer as wide as its input, with GELU.
    head_input
        "cls": the class token; "pooled": the mean patch token. Deviations over directions, the
        second half of pooled features, are left out: their gradient is infinite at zero.
    """

    mode: Mode = "last-layer"
    blocks: int = 1
    lora_rank: int = 12
    lora_alpha: int = 12
    head: HeadType = "mlp"
    head_input: HeadInput = "cls"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("mode", self.mode, get_args(Mode)),
            ("head", self.head, get_args(HeadType)),
            ("head_input", self.head_input, get_args(HeadInput)),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} {value!r}", expected=" or ".join(allowed))
        if self.blocks < 0 or self.lora_rank < 1:
            raise ConfigError(
                f"{self.blocks} tuned blocks, LoRA of rank {self.lora_rank}",
                expected="0 (all) or more blocks, and rank 1 or more",
            )


class FrontTokens(NamedTuple):
    """A scan, or a slab of it, behind the frozen front.

    Attributes
    ----------
    cls
        Shape (1, 1, d): class token.
    patches
        Shape (1, T, S, d): patch tokens.
    qspace
        Shape (1, T, 3): rho = b / 1000, theta, phi.
    """

    cls: Tensor
    patches: Tensor
    qspace: Tensor


class Head(nn.Module):
    """Features (B, d), standardised by the training set, to one number each (B,)."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, head: HeadType) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        last = nn.Linear(dim, 1)
        self.layers: nn.Module = (
            last if head == "linear" else nn.Sequential(nn.Linear(dim, dim), nn.GELU(), last)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, d) to (B,)."""
        out: Tensor = self.layers((features - self.mean) / self.std)
        return out[:, 0]


class TunedEncoder(nn.Module):
    """Last blocks, final LayerNorm and head: :class:`FrontTokens` to a number each."""

    def __init__(self, encoder: Drope, tuning: Tuning) -> None:
        super().__init__()
        self.config, self.tuning = encoder.config, tuning
        self.blocks = deepcopy(encoder.blocks[_first_tuned(encoder, tuning) :])
        self.ln = deepcopy(encoder.ln)
        self.head = Head(encoder.config.dim, tuning.head)
        self.requires_grad_(True)
        if tuning.mode == "lora":
            _add_lora(self, tuning)

    def encode(self, tokens: FrontTokens) -> Tensor:
        """Return the features (1, d) that enter the head."""
        config, cls, x = self.config, tokens.cls, tokens.patches
        tables = config.rotary_tables(tokens.qspace, config.dim // config.heads, dtype=x.dtype)
        cls, x = pass_blocks(self.blocks, cls, x, tables, is_checkpointed=False)
        if self.tuning.head_input == "cls":
            out: Tensor = self.ln(cls)[:, 0]
        else:
            out = self.ln(x).mean(dim=(1, 2))
        return out

    def forward(self, scans: Sequence[FrontTokens]) -> Tensor:
        """Return the outputs (B,) of B scans, which may differ in their numbers of tokens."""
        device = self.head.mean.device
        moved = (FrontTokens(*(t.to(device) for t in scan)) for scan in scans)
        out: Tensor = self.head(torch.cat([self.encode(scan) for scan in moved]))
        return out


def frozen_front(encoder: Drope, tuning: Tuning) -> Drope:
    """Return the encoder up to the blocks that are tuned, without the final LayerNorm."""
    front = deepcopy(encoder)
    front.blocks = front.blocks[: _first_tuned(encoder, tuning)]
    front.ln = nn.Identity()  # type: ignore[assignment]
    return front.eval().requires_grad_(False)


def pass_front(front: Drope, scan: ScanTokens) -> FrontTokens:
    """Pass a scan through the frozen front, on its device, without gradients."""
    own = scan.to(front.cls_token.device)
    with torch.no_grad():
        cls, patches = front(own.patches[None], own.qspace[None], own.positions[None])
    return FrontTokens(cls[:, None], patches, own.qspace[None])


def merge_lora(tuned: TunedEncoder) -> TunedEncoder:
    """Return a copy whose LoRA addends are added to the weights: plain layers, same outputs."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = deepcopy(tuned)
    for name, layer in list(merged.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            merged.set_submodule(name, layer.get_base_layer())
    return merged


def join_encoder(encoder: Drope, tuned: TunedEncoder) -> Drope:
    """Return the whole encoder with its tuned blocks, LoRA merged, on the CPU.

    It runs on all paths, the fast one included, and can be saved as weights.
    """
    merged = merge_lora(tuned).cpu() if tuned.tuning.mode == "lora" else deepcopy(tuned).cpu()
    whole = deepcopy(encoder).cpu()
    for number, block in enumerate(merged.blocks, start=_first_tuned(encoder, tuned.tuning)):
        whole.blocks[number] = block
    whole.ln = merged.ln
    return whole.eval().requires_grad_(False)


def count_tuned(tuned: TunedEncoder, encoder: Drope) -> tuple[int, int]:
    """Return how many numbers of the encoder are trained, head not counted, and of how many."""
    trained = sum(
        p.numel()
        for name, p in tuned.named_parameters()
        if p.requires_grad and not name.startswith("head.")
    )
    return trained, sum(p.numel() for p in encoder.parameters())


def _first_tuned(encoder: Drope, tuning: Tuning) -> int:
    depth = len(encoder.blocks)
    if tuning.blocks > depth:
        raise ConfigError(
            f"{tuning.blocks} tuned blocks", expected=f"up to {depth}, those of the encoder"
        )
    return depth - tuning.blocks if tuning.blocks else 0


def _add_lora(tuned: TunedEncoder, tuning: Tuning) -> None:
    """Put LoRA into the attention of the blocks; nothing but it and the head is trained."""
    # peft brings transformers and accelerate: seconds that other commands need not spend.
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=tuning.lora_rank, lora_alpha=tuning.lora_alpha, target_modules=LORA_LAYERS
    )
    inject_adapter_in_model(settings, tuned)
    tuned.head.requires_grad_(True)
