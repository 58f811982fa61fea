"""Permutations of a target that keep families, sessions and sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Exchange(NamedTuple):
    """Rows that may be exchanged.

    Attributes
    ----------
    blocks
        Rows of each block, such as a family; blocks are exchanged as a whole.
    kinds
        Of each block: only blocks of one kind, of one size and at the same sites, are exchanged.
    """

    blocks: tuple[NDArray[np.int_], ...]
    kinds: NDArray[np.int_]

    @classmethod
    def of(cls, groups: NDArray[Any], sites: NDArray[Any] | None = None) -> Exchange:
        """Find the blocks of groups (N,), and of sites (N,) within which targets stay."""
        blocks = tuple(
            np.asarray(rows)
            for rows in pd.Series(range(len(groups))).groupby(groups).groups.values()
        )
        where = np.zeros(len(groups)) if sites is None else np.asarray(sites)
        names = ["\0".join(map(str, where[rows])) for rows in blocks]
        kinds = np.unique(
            [f"{len(b)}\0{n}" for b, n in zip(blocks, names, strict=True)], return_inverse=True
        )[1]
        return cls(blocks, kinds)

    @property
    def n_fixed(self) -> int:
        """Rows that never move: their block is the only one of its kind."""
        sizes = np.bincount(self.kinds)
        return sum(len(b) for b, k in zip(self.blocks, self.kinds, strict=True) if sizes[k] == 1)

    def draw(self, rng: np.random.Generator) -> NDArray[np.int_]:
        """Return rows (N,) whose targets the rows get.

        Examples
        --------
        >>> exchange = Exchange.of(np.array([1, 1, 2, 2, 3]))
        >>> exchange.draw(np.random.default_rng(3)).tolist()
        [2, 3, 0, 1, 4]
        """
        source = np.empty(sum(map(len, self.blocks)), dtype=int)
        for kind in np.unique(self.kinds):
            own = np.flatnonzero(self.kinds == kind)
            for to, taken in zip(own, rng.permutation(own), strict=True):
                source[self.blocks[to]] = self.blocks[taken]
        return source


def permutation_p(observed: float, permuted: Sequence[float]) -> float:
    """Return the share of permutations, the observed order among them, that score as high.

    Permutations without a score (NaN) count as high: they do not speak for the prediction.

    Examples
    --------
    >>> permutation_p(0.5, [0.1, 0.6, 0.2])
    0.5
    """
    scores = np.asarray(permuted, dtype=float)
    return float((1 + (~(scores < observed)).sum()) / (1 + len(scores)))
