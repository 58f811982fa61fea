from __future__ import annotations

import numpy as np
import pytest
import torch

from dmri_fm_lab.realism.classifiers import (
    Effort,
    build_network,
    judge,
    judge_network,
    judge_regression,
)


def test_verdicts_of_known_scores() -> None:
    is_real = np.array([True, True, False, False])
    assert judge(np.array([2.0, 1.0, -1.0, -2.0]), is_real) == (1.0, 1.0)
    assert judge(np.array([-2.0, -1.0, 1.0, 2.0]), is_real) == (0.0, 0.0)


@pytest.mark.parametrize(("shift", "expected"), [(3.0, 1.0), (0.0, 0.5)])
def test_regression_tells_a_held_out_scanner_by_what_differs(shift, expected) -> None:
    rng = np.random.default_rng(0)
    real, simulated = (
        {s: rng.normal(mean, 1.0, (80, 3)) for s in ("a", "b", "c")} for mean in (shift, 0.0)
    )
    assert judge_regression(real, simulated, "c").auroc == pytest.approx(expected, abs=0.12)


def test_a_network_is_judged_on_the_held_out_scanner() -> None:
    generator = torch.Generator().manual_seed(0)
    real, simulated = (
        {s: level + torch.randn(6, 7, 8, 8, 8, generator=generator) for s in ("a", "b")}
        for level in (1.0, -1.0)
    )
    effort = Effort(patches=6, sets=1, networks=1, steps=15, batch=4)
    assert judge_network(real, simulated, "b", effort).auroc > 0.9
    assert build_network()(torch.zeros(2, 7, 8, 8, 8)).shape == (2, 1)
