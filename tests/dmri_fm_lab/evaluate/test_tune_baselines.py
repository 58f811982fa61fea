from __future__ import annotations

import numpy as np

from dmri_fm_lab.evaluate.baselines import CANDIDATES, SNR_EDGES
from dmri_fm_lab.evaluate.tune_baselines import draw_case, errors, tune


def test_candidates_are_compared_with_weighted_least_squares() -> None:
    found = tune(2, 10)
    assert {name for name, _ in found} == set(CANDIDATES)
    for (name, snr_bin), rows in found.items():
        assert 0 <= snr_bin <= len(SNR_EDGES)
        assert rows.shape[1] == len(CANDIDATES[name])
        assert np.isfinite(rows).all()
        # A strength of zero is weighted least squares.
        np.testing.assert_allclose(rows[:, CANDIDATES[name].index(0.0)], 1.0, rtol=1e-3)


def test_the_truth_has_no_error() -> None:
    case = next(case for number in range(9) if (case := draw_case(number, 12)))
    _, truth, where = case
    np.testing.assert_array_equal(errors(truth, truth, where), 0.0)
