"""Tensor networks that run on a scan block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dmri_fm.identity import identity
from dmri_fm.out_of_distribution import FEATURE_STATISTICS, percentile_of, score_features
from dmri_fm.tensor_networks.base import TensorPrediction
from dmri_fm.tensor_networks.inputs import TensorEstimate, TensorInputs
from dmri_fm.weights import Weights

#: Side of a block, voxels; its inner part is kept.
BLOCK_VOXELS = 128

#: Statistic of the weights that calibrates half-widths of FA and MD, shape (2,).
WIDTH_FACTOR = "width_factor"


class BlockwiseNetwork:
    """Adapter of networks from :class:`TensorInputs` to :class:`TensorEstimate`.

    Sides of their blocks are multiples of `config.stride`, and `config.margin_voxels` at their
    borders are computed and thrown away.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.name = weights.name
        record, statistics = identity(weights.name), weights.statistics
        self.has_intervals = record.has_intervals and WIDTH_FACTOR in statistics
        self.has_ood = record.has_ood and statistics.keys() >= {*FEATURE_STATISTICS}
        self._stride: int = weights.config.stride
        self._margin: int = weights.config.margin_voxels

    def predict(self, inputs: TensorInputs) -> TensorPrediction:
        """Estimate the tensors of a scan, a batch of one, in overlapping blocks."""
        return TensorPrediction(
            **run_in_blocks(
                inputs,
                self._predict_block,
                stride=self._stride,
                margin_voxels=self._margin,
                block_voxels=BLOCK_VOXELS,
            )
        )

    @torch.inference_mode()
    def _predict_block(self, inputs: TensorInputs) -> dict[str, Tensor]:
        """Return the images of :class:`TensorPrediction` for a batch of one, on the CPU."""
        device = next(self.weights.model.parameters()).device
        inputs = inputs.to(device)
        estimate: TensorEstimate = self.weights.model(inputs)
        images = {"tensor": estimate.tensor[0]}
        statistics = self.weights.statistics
        if self.has_intervals:
            assert estimate.width is not None
            factor = statistics[WIDTH_FACTOR].to(device)[:, None, None, None]
            images["half_width"] = estimate.width[0] * factor
        if self.has_ood:
            assert estimate.code is not None
            scores = score_features(estimate.code[0].movedim(0, 3).cpu().numpy(), statistics)
            coarse = torch.from_numpy(percentile_of(scores, statistics)).to(inputs.mask)
            fine = functional.interpolate(coarse[None, None], size=tuple(inputs.mask.shape[2:]))
            images["ood_percentile"] = (fine[0] * inputs.mask[0])[0]
        return {name: image.cpu() for name, image in images.items()}


def run_in_blocks(
    inputs: TensorInputs,
    predict: Callable[[TensorInputs], dict[str, Tensor]],
    *,
    stride: int,
    margin_voxels: int,
    block_voxels: int,
) -> dict[str, Tensor]:
    """Compute images of a scan in overlapping blocks of the box around its brain.

    Parameters
    ----------
    inputs
        A batch of one, whose mask holds at least one voxel.
    predict
        From a block to its images, by name, shapes (..., x, y, z). Blocks without brain are
        skipped.
    stride
        Sides of blocks are multiples of it, and so is where they begin.
    margin_voxels
        Voxels at the borders of a block that are computed and thrown away.
    block_voxels
        Side of a block; a larger brain is cut.

    Returns
    -------
    dict
        Images of the whole scan, shapes (..., X, Y, Z); zero where nothing was computed.
    """
    mask = inputs.mask
    where = torch.nonzero(mask[0, 0])
    first = (where.amin(dim=0) // stride * stride).tolist()
    sizes = [int(n) - f for n, f in zip(where.amax(dim=0) + 1, first, strict=True)]
    box: tuple[Any, ...] = (..., *(slice(f, f + n) for f, n in zip(first, sizes, strict=True)))
    cropped = inputs.map_images(lambda t: t[box])
    whole: dict[str, Tensor] = {}
    cuts = [list(_spans(n, stride, margin_voxels, block_voxels)) for n in sizes]
    for spans in product(*cuts):
        block, kept, inner = ((..., *part) for part in zip(*spans, strict=True))
        if not cropped.mask[kept].any():
            continue
        padding = [p for s in reversed(spans) for p in (0, -(s[0].stop - s[0].start) % stride)]
        part = cropped.map_images(lambda t: functional.pad(t[block], padding))  # noqa: B023
        for name, image in predict(part).items():
            if name not in whole:
                whole[name] = torch.zeros(*image.shape[:-3], *mask.shape[2:])
            whole[name][box][kept] = image[inner]
    return whole


def _spans(
    size: int, stride: int, margin: int, block: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Yield (block, kept part in the volume, kept part in the block) along one axis."""
    core = (block - 2 * margin) // stride * stride if size > block else size
    for start in range(0, size, core):
        stop = min(start + core, size)
        low = max(0, start - margin) // stride * stride
        high = min(size, stop + margin)
        yield slice(low, high), slice(start, stop), slice(start - low, stop - low)
