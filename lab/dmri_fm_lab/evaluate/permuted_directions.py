"""Networks that are told which direction is which wrongly, to see what they need it for.

A D-RoPE network reads directions in two ways: by their distances in q-space, which turn queries
against keys, and by a code that is added to the tokens. Either is permuted here, or both, in the
encoder alone or in the decoder, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dmri_fm.encoders.drope.mae import MaskedAutoencoder
from dmri_fm.gradients import GradientTable

Permuted = Literal["distances", "code", "both"]


def draw_permutation(rng: np.random.Generator, gtab: GradientTable) -> NDArray[np.int_]:
    """Permute the measurements of each shell, so that none keeps its direction.

    One cycle through each shell. A measurement that is alone in its shell keeps its direction.

    Parameters
    ----------
    rng
        Source of the cycles.
    gtab
        Table of K weighted measurements.

    Returns
    -------
    ndarray
        Shape (K,): measurement k is given the direction of measurement `order[k]`.
    """
    order = np.arange(len(gtab))
    for shell in gtab.shells:
        cycle = rng.permutation(np.array(shell.index))
        order[cycle] = np.roll(cycle, 1)
    return order


@contextmanager
def permute_directions(
    network: MaskedAutoencoder,
    order: NDArray[np.int_],
    *,
    kept: NDArray[np.int_],
    n_directions: int,
    what: Permuted,
    in_decoder: bool,
) -> Iterator[None]:
    """Give a network the directions of visible volumes in another order, within the block.

    Images stay where they are, and so do the directions of masked volumes.

    Parameters
    ----------
    network
        Autoencoder, whose scans have one mask of directions.
    order
        Shape (K,): see :func:`draw_permutation`; numbers of visible volumes.
    kept
        Shape (K,): indices of the visible volumes among all.
    n_directions
        Number of all volumes.
    what
        "distances": the rotations between directions; "code": the code that is added to tokens.
    in_decoder
        Permute in the decoder as in the encoder; if not, the decoder is told the truth.
    """
    everywhere = np.arange(n_directions)
    everywhere[kept] = kept[order]
    # Number of the argument that holds q-space coordinates, see the two networks' `forward`.
    parts: list[tuple[Any, int, NDArray[np.int_]]] = [(network.encoder, 1, order)]
    if in_decoder:
        parts.append((network.decoder, 3, everywhere))
    handles = []
    for part, argument, index in parts:
        code: nn.Module = part.position.qpos_embed
        if what != "code":
            handles.append(part.register_forward_pre_hook(_Reorder(index, argument)))
        if what != "both":
            # The code of permuted directions is put back in order where only distances change.
            own = index if what == "code" else np.argsort(index)
            handles.append(code.register_forward_pre_hook(_Reorder(own, 0)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Reorder:
    """Hook that reorders the measurements (..., T, C) in one of a module's arguments."""

    def __init__(self, index: NDArray[np.int_], argument: int) -> None:
        self.index, self.argument = torch.from_numpy(index), argument

    def __call__(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        new = list(arguments)
        given = new[self.argument]
        new[self.argument] = given[..., self.index.to(given.device), :]
        return tuple(new)
