from __future__ import annotations

import math

import numpy as np

from dmri_fm_lab.prediction.permutation import Exchange, permutation_p


def test_blocks_of_one_size_are_exchanged_within_their_sites() -> None:
    groups = np.array(["a", "b", "a", "b", "c", "d", "e", "e"])
    sites = np.array([1, 1, 1, 1, 1, 1, 2, 2])
    exchange = Exchange.of(groups, sites)
    rng = np.random.default_rng(0)
    draws = {tuple(exchange.draw(rng).tolist()) for _ in range(50)}
    # a and b change places, c and d change places; e is alone at its site.
    first = {(0, 1, 2, 3), (1, 0, 3, 2)}
    assert draws == {(*own, *other, 6, 7) for own in first for other in ((4, 5), (5, 4))}
    assert exchange.n_fixed == 2
    free = Exchange.of(np.arange(6))
    assert sorted(free.draw(rng)) == list(range(6))
    assert free.n_fixed == 0


def test_p_counts_the_observed_order_and_undefined_scores() -> None:
    assert permutation_p(1.0, []) == 1.0
    assert permutation_p(1.0, [0.0] * 99) == 0.01
    assert permutation_p(1.0, [math.nan]) == 1.0
