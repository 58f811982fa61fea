"""Gibbs ringing is removed from images of full k-space only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.plan import ParticipantPlan
from tests.dmri_fm_workflows.tiny_series import make_run, plan_for


def plan_with(root: Path, *metadata: dict[str, Any], unring: bool = True) -> ParticipantPlan:
    """Plan a series of runs with these entries in their sidecars."""
    runs = (
        replace(make_run(root / "raw", direction), metadata=entries)
        for direction, entries in zip(("AP", "PA"), metadata, strict=False)
    )
    return plan_for(DwiSeries(tuple(runs), {"subject": "01"}), root=root, unring=unring)


@pytest.mark.parametrize(
    ("entries", "shown"),
    [
        ({"PartialFourier": 0.75}, " (0.75 of k-space)"),
        ({"PartialFourierEnabled": "YES"}, ""),
    ],
)
def test_partial_fourier_is_refused_with_the_reason(
    tmp_path: Path, entries: dict[str, Any], shown: str
) -> None:
    planned = plan_with(tmp_path, {"PartialFourier": 1}, entries)
    assert not planned.series
    (problem,) = planned.problems
    said = str(problem.error)
    assert f"sub-01_dir-PA_dwi.nii.gz was acquired with partial Fourier{shown}: " in said
    assert "fit images of full k-space only" in said
    assert "RPG" in said


@pytest.mark.parametrize("entries", [{"PartialFourier": 1}, {"PartialFourierEnabled": "NO"}])
def test_full_kspace_is_unrung_without_a_word(tmp_path: Path, entries: dict[str, Any]) -> None:
    planned = plan_with(tmp_path, entries)
    assert not planned.problems
    assert not any("Gibbs" in w for w in planned.series[0].warnings)


@pytest.mark.parametrize("entries", [{}, {"PartialFourier": 6}, {"PartialFourier": "6/8"}])
def test_what_no_sidecar_tells_is_a_warning(tmp_path: Path, entries: dict[str, Any]) -> None:
    (plan,) = plan_with(tmp_path, entries, {"PartialFourier": 1}).series
    (warning,) = (w for w in plan.warnings if "Gibbs" in w)
    assert "the sidecar of sub-01_dir-AP_dwi.nii.gz has no PartialFourier" in warning


def test_without_unringing_partial_fourier_does_not_matter(tmp_path: Path) -> None:
    planned = plan_with(tmp_path, {"PartialFourier": 0.75}, unring=False)
    assert not planned.problems
    assert not any("Gibbs" in w for w in planned.series[0].warnings)
