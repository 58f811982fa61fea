"""Convolutions that weigh alternatives to an estimate voxel by voxel, modulated by tokens."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.layers import conv3d

#: Widths by which an estimate of hidden directions, and the difference of the second one from it,
#: are smoothed; and by which what visible voxels miss is carried into hidden places; voxels.
SMOOTHING_VOXELS, OTHER_VOXELS = (0.7, 1.5), (1.0, 2.0)
FILLING_VOXELS = (1.0, 1.7, 3.0, 5.0, 8.0)

#: How much of each of the alternatives is taken before anything is learnt.
START = (0.0, 0.0, 0.0, 0.0, 0.0, 0.7, 0.2, 0.2, 0.0, 0.0)

#: Added to, or least, share of a Gaussian on known voxels.
LEAST_SHARE = 0.02

#: Images that the convolutions see, beside the border: estimate with the tokens' correction, first
#: and second estimate, mean of the visible directions, what is hidden, brain, tissue (2).
N_IMAGES = 8


class GuidedRefiner(nn.Module):
    """Three convolutions, modulated by tokens, that weigh what neighbours and estimates add."""

    def __init__(self, channels: int, token_dim: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.first = conv3d(N_IMAGES + 1, channels, 3)
        self.second = conv3d(channels, channels, 3, dilation=2)
        self.last = conv3d(channels, 1 + len(START), 3)
        self.modulation = nn.Linear(token_dim, 4 * channels)
        for layer in (self.last, self.modulation):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        assert self.last.bias is not None
        with torch.no_grad():
            self.last.bias[1:] = torch.tensor(START)

    def forward(self, images: Tensor, tokens: Tensor, changes: Tensor) -> Tensor:
        """Return corrections (N, 1, X, Y, Z), in deviations of the signal.

        Parameters
        ----------
        images
            Shape (N, 9, X, Y, Z).
        tokens
            Shape (N, h, w, z, dim), of the patches that the images are made of.
        changes
            Shape (N, 10, X, Y, Z): what each alternative would change; they are weighed voxel by
            voxel, and one more change is free.
        """
        parts = rearrange(self.modulation(tokens), "n h w z (k c) -> k n c h w z", k=4)
        for axis, size in enumerate(self.patch):
            parts = parts.repeat_interleave(size, dim=3 + axis)
        scale, shift, scale_2, shift_2 = parts
        x = functional.gelu(self.first(images) * (1.0 + scale) + shift)
        x = functional.gelu(self.second(x) * (1.0 + scale_2) + shift_2)
        weights: Tensor = self.last(x)
        out: Tensor = weights[:, :1] + (weights[:, 1:] * changes).sum(dim=1, keepdim=True)
        return out


def find_alternatives(images: Tensor, *, is_whole: Tensor) -> Tensor:
    """Return what alternatives to an estimate would change, (N, 10, X, Y, Z).

    Five for directions that are hidden everywhere: the estimate smoothed, twice, and the second
    estimate, as it is and its difference smoothed, twice. Five for hidden places: what the
    regression misses in the visible voxels around, by normalised convolutions (Knutsson & Westin
    1993, doi:10.1109/CVPR.1993.341081).

    Parameters
    ----------
    images
        Shape (N, 9, X, Y, Z): see :data:`N_IMAGES`; standardised.
    is_whole
        Shape (N,), bool: whether the direction is hidden everywhere.
    """
    _, first, second, _, flags, brain = images[:, :6].unsqueeze(2).unbind(dim=1)

    visible = brain * (1.0 - flags)
    other, missing = second - first, (first - second) * visible
    for_directions = [
        *(blur_within(first, brain, width) - first for width in SMOOTHING_VOXELS),
        other,
        *(blur_within(other, brain, width) for width in OTHER_VOXELS),
    ]
    for_places = [
        _blur(missing, width) / (_blur(visible, width) + LEAST_SHARE) for width in FILLING_VOXELS
    ]
    which = is_whole[:, None, None, None, None]
    parts = [c * which for c in for_directions] + [c * ~which for c in for_places]
    return torch.cat(parts, dim=1) * brain


def blur_within(images: Tensor, inside: Tensor, width: float) -> Tensor:
    """Blur images (N, 1, X, Y, Z) as if there were nothing where `inside` is zero."""
    return _blur(images * inside, width) / _blur(inside, width).clamp(min=LEAST_SHARE)


def _blur(images: Tensor, width: float) -> Tensor:
    """Convolve (N, 1, X, Y, Z) with a Gaussian of so many voxels, zero beyond the border."""
    reach = max(1, round(2.5 * width))
    x = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (x / width).square())
    kernel = kernel / kernel.sum()
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = len(x), reach
        images = functional.conv3d(images, kernel.reshape(shape), padding=padding)
    return images
