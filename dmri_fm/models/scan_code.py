"""What an encoder makes of a scan, in the forms that its users want."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.models.drope import Drope
from dmri_fm.models.tokens import ScanTokens

__all__ = ["ScanCode", "encode_tokens"]

_Array = NDArray[np.float32]


class ScanCode(NamedTuple):
    """Features of a scan with S places.

    Attributes
    ----------
    cls
        Shape (D,): of the scan.
    patches
        Shape (S, d): of the patches, mean over directions.
    code
        Shape (D + 3 d,): what tells unusual scans. Beside `cls`, mean and deviation of `patches`
        over places, and the deviation of the patch tokens over directions, which motion and lost
        signal change, mean over places.
    """

    cls: _Array
    patches: _Array
    code: _Array


def encode_tokens(network: Drope, tokens: ScanTokens) -> ScanCode:
    """Encode a scan on the device of its tokens."""
    with torch.inference_mode():
        cls, found = network(tokens.patches[None], tokens.qspace[None], tokens.positions[None])
        patches = found[0].mean(dim=0)
        code = torch.cat(
            [
                cls[0],
                patches.mean(dim=0),
                patches.std(dim=0, correction=0),
                found[0].std(dim=0, correction=0).mean(dim=0),
            ]
        )
    return ScanCode(*(t.float().cpu().numpy() for t in (cls[0], patches, code)))
