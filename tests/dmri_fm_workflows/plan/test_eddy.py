"""What eddy is told about directions."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.gradients import GradientTable
from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.plan.eddy import choose_slm, explain_no_shells
from dmri_fm_workflows.plan.engines import Engines
from tests.dmri_fm_workflows.tiny_series import make_run, plan_for


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


def spread(n: int) -> np.ndarray:
    """Return directions all over the sphere."""
    z = 1 - 2 * (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    return np.stack([np.cos(turn), np.sin(turn), z], axis=1) * np.sqrt(
        np.stack([1 - z**2, 1 - z**2, np.ones(n)], axis=1)
    )


def make_shells(*shells: tuple[float, int], scatter: float = 0.0) -> GradientTable:
    """Return a table with a b=0 volume and shells of a b-value and a number of directions."""
    bvals = np.concatenate([np.linspace(b - scatter, b + scatter, n) for b, n in shells])
    bvecs = np.concatenate([spread(n) for _, n in shells])
    return GradientTable([0, *bvals], np.vstack([np.zeros(3), bvecs]))


def make_grid(b_of_one: float, radius: int) -> GradientTable:
    """Return the Cartesian grid of diffusion spectrum imaging."""
    steps = range(-radius, radius + 1)
    points = np.array([p for p in itertools.product(steps, repeat=3) if any(p)])
    points = points[np.sum(points**2, axis=1) <= radius**2]
    lengths = np.linalg.norm(points, axis=1)
    return GradientTable(
        [0, *(b_of_one * lengths**2)], np.vstack([np.zeros(3), points / lengths[:, None]])
    )


@pytest.mark.parametrize(
    ("gtab", "words"),
    [
        (make_shells((1000, 6)), None),
        (make_shells((500, 6), (1000, 15), (2000, 15), (3000, 60)), None),  # ABCD
        (make_shells((2000, 30), scatter=90), None),
        (make_shells((1000, 5)), "too few directions (b = 1000: 5)"),
        (make_shells((500, 3), (1000, 30)), "too few directions (b = 500: 3)"),
        (make_shells(*((b, 10) for b in range(500, 3500, 500))), "6 different b-values"),
        (make_shells((2000, 40), scatter=400), "without gaps from 1600 to 2400"),
        (make_grid(300, 3), "different b-values"),
        (make_grid(800, 2), "too few directions (b = 800: 3"),
        (make_grid(60, 5), "without gaps"),
        (make_shells((90, 12)), "no b-value above 100"),
    ],
)
def test_shells_are_told_from_grids(gtab: GradientTable, words: str | None) -> None:
    found = explain_no_shells(gtab)
    assert found is None if words is None else words in (found or "")


def test_eddy_is_not_told_that_a_grid_is_shelled(tmp_path: Path) -> None:
    """The engine of our own corrects it, unless the user says so or lets eddy check."""
    run = make_run(tmp_path / "raw", "PA")
    gradients = replace(run.gradients, gtab=make_grid(800, 2))
    series = DwiSeries((replace(run, gradients=gradients),), {"subject": "01"})
    engines = Engines("none", ("none",), "eddy", hmc_fallbacks=("builtin", "none"))

    def plan(**config: bool):
        options = {"models": (), "eddy_config": config, "t1w": False}
        return plan_for(series, root=tmp_path, engines=engines, **options).series[0]

    found = plan()
    assert (found.engines.hmc, found.eddy) == ("builtin", None)
    assert any("eddy models shells" in text for text in found.warnings)
    assert plan(is_shelled=True).eddy.options["is_shelled"] is True
    assert plan(is_shelled=False).eddy.options["is_shelled"] is False
