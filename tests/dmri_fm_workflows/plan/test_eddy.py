"""What eddy is told about directions."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.gradients import GradientTable
from dmri_fm_workflows.plan.eddy import choose_slm


@pytest.mark.parametrize(
    ("n", "is_half", "slm"), [(64, False, "none"), (64, True, "linear"), (30, False, "linear")]
)
def test_few_directions_or_half_a_sphere_tie_eddy_currents_to_gradients(
    n: int, is_half: bool, slm: str
) -> None:
    z = 1 - 2 * (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    bvecs = np.stack([np.cos(turn), np.sin(turn), z], axis=1)
    bvecs[:, :2] *= np.sqrt(1 - z**2)[:, None]
    if is_half:
        bvecs *= np.where(bvecs[:, 1] < 0, -1.0, 1.0)[:, None]
    gtab = GradientTable([0, *[1000] * n], np.vstack([np.zeros(3), bvecs]))
    assert choose_slm(gtab) == slm
