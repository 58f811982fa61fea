from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.evaluate.baselines import fit_gaussian
from dmri_fm_lab.evaluate.coverage import coverage_table, judge_coverage
from dmri_fm_lab.evaluate.reference import make_reference
from dmri_fm_lab.evaluate.scores import score
from dmri_fm_lab.evaluate.subsets import choose_subsets
from dmri_fm_lab.evaluate.verdicts import (
    difference_uncertainty,
    error_draws,
    judge,
    uncertainties,
    verdict_line,
)

LOW = {"fa": 0.1, "md": 1e-4, "v1_deg_fa03": 10.0}
HIGH = {"fa": 0.2, "md": 2e-4, "v1_deg_fa03": 20.0}
SURE = {"WLS": dict.fromkeys(LOW, 0.0)}


def test_all_errors_have_to_be_lower() -> None:
    assert judge(LOW, {"WLS": HIGH}, SURE).outcome == "pass"
    assert judge(HIGH, {"WLS": LOW}, SURE).outcome == "fail"
    one = judge({**LOW, "md": 3e-4}, {"WLS": HIGH}, SURE)
    assert (one.outcome, one.is_not_worse) == ("fail", False)
    assert one.reasons == ("MD .3000 against .2000 of WLS",)
    # An equal error is not lower.
    assert judge(LOW, {"WLS": LOW}, SURE).outcome == "fail"


def test_doubt_decides_nothing() -> None:
    doubt = {"WLS": {"fa": 0.15, "md": 0.0, "v1_deg_fa03": 0.0}}
    found = judge(LOW, {"WLS": HIGH}, doubt)
    assert (found.outcome, found.is_not_worse) == ("undecided", True)
    unknown = judge(LOW, {"WLS": HIGH}, {"WLS": {"fa": None, "md": 0.0, "v1_deg_fa03": 0.0}})
    assert (unknown.outcome, unknown.is_not_worse) == ("undecided", None)
    # A failure is one whatever else is in doubt.
    worse = judge({**LOW, "md": 3e-4}, {"WLS": HIGH}, doubt)
    assert (worse.outcome, worse.is_not_worse) == ("fail", False)


def test_every_baseline_counts() -> None:
    sure = {**SURE, "smooth": SURE["WLS"]}
    found = judge(LOW, {"WLS": HIGH, "smooth": {**HIGH, "fa": 0.05}}, sure)
    assert found.outcome == "fail"
    assert "of smooth" in found.reasons[0]


def test_what_a_region_lacks_decides_nothing() -> None:
    rows = [{**row, "v1_deg_fa03": None} for row in (LOW, HIGH)]
    assert judge(rows[0], {"WLS": rows[1]}, SURE).outcome == "pass"
    assert judge({}, {"WLS": HIGH}, SURE).outcome == "none"
    line = verdict_line("net", "grey", judge(rows[0], {"WLS": rows[1]}, SURE), bval=1000)
    assert "PASS (FA, MD at once; no V1)" in line


def test_high_bvals_are_reported_only() -> None:
    verdict = judge(LOW, {"WLS": HIGH}, SURE)
    assert "PASS (FA, MD, V1 at once)" in verdict_line("net", "white", verdict, bval=1500)
    assert "reported only" in verdict_line("net", "white", verdict, bval=2000)


@pytest.fixture(scope="module")
def compared(noisy):
    """Reference of a noisy series, and two estimates of the volumes that it does not hold."""
    dwi = noisy[0]
    subset = choose_subsets(dwi.gtab, n_subsets=1)[0]
    reference = make_reference(
        dwi, subset, brain=dwi.mask, rng=np.random.default_rng(0), n_replicates=12
    )
    test = dwi.select(subset.volumes)
    return reference, {"wls": fit_tensor(test, shell="all"), "net": fit_gaussian(test, 0.6)}


def test_replicates_are_further_away_than_the_reference(compared) -> None:
    reference, estimates = compared
    rows = {name: score(maps, reference) for name, maps in estimates.items()}
    draws = error_draws(estimates, reference)
    assert draws["net"]["tissue"]["fa"].shape == (12,)
    for key in ("md", "tensor", "v1_deg_fa03"):
        assert draws["net"]["tissue"][key].mean() > rows["net"]["tissue"][key]
    doubts = uncertainties(rows, draws, reference, networks=["net"])
    assert set(doubts) == {"net"}
    assert 0 < doubts["net"]["tissue"]["wls"]["md"] < 1e-4


def differ(rng, errors, own_noise) -> tuple[float, float]:
    """Return the difference of two estimates of known errors, and its uncertainty."""
    truth = rng.normal(0, 1, 2000)
    reference = truth + rng.normal(0, own_noise, truth.shape)
    estimates = [truth + rng.normal(0, size, truth.shape) for size in errors]
    replicates = [reference + rng.normal(0, own_noise, truth.shape) for _ in range(20)]
    draws = [np.array([np.abs(e - r).mean() for r in replicates]) for e in estimates]
    first, second = (np.abs(e - reference).mean() for e in estimates)
    return first - second, difference_uncertainty(*draws, difference=first - second)


def test_noise_of_the_reference_does_not_decide() -> None:
    rng = np.random.default_rng(0)
    equal = [differ(rng, (0.5, 0.5), 0.5) for _ in range(40)]
    decided = [abs(apart) >= doubt for apart, doubt in equal]
    # Two estimates of one error: 5 % at two deviations, fewer with the shift.
    assert sum(decided) <= 5
    for own_noise, errors in ((0.5, (0.3, 0.9)), (0.2, (0.5, 0.7)), (0.3, (1.0, 0.2))):
        apart, doubt = differ(rng, errors, own_noise)
        assert abs(apart) > doubt
        assert (apart < 0) == (errors[0] < errors[1])
    # Where its noise is twice the errors, a reference cannot tell them apart.
    apart, doubt = differ(rng, (0.5, 0.52), 1.0)
    assert abs(apart) < doubt


def test_truth_leaves_no_doubt(compared) -> None:
    reference, estimates = compared
    exact = replace(reference, noise=None, is_truth=True)
    assert error_draws(estimates, exact) == {}
    rows = {name: score(maps, exact) for name, maps in estimates.items()}
    assert uncertainties(rows, {}, exact, networks=["net"])["net"]["white"]["wls"]["fa"] == 0.0
    unknown = replace(reference, noise=None)
    doubts = uncertainties(rows, {}, unknown, networks=["net"])
    assert doubts["net"]["white"]["wls"]["fa"] is None


def test_coverage_is_judged_in_all_cells_and_in_each() -> None:
    cells = {
        ("SNR 20", "tissue"): (
            200.0,
            {"fa_coverage": 0.898, "fa_half_width": 0.12, "md_coverage": 0.99},
        ),
        ("SNR 20", "white"): (
            80.0,
            {"fa_coverage": 0.92, "fa_half_width": 0.1, "md_coverage": 0.99},
        ),
        ("SNR 20", "grey"): (
            20.0,
            {"fa_coverage": 0.81, "fa_half_width": 0.2, "md_coverage": 0.99},
        ),
    }
    lines = judge_coverage("net", cells)
    assert [line.split(": ")[1].split(",")[0] for line in lines] == [
        "PASS",
        "PASS",
        "FAIL",
        "PASS",
    ]
    table = coverage_table(cells)
    # Voxels of mixed tissue are in no pure cell, and in the row and the bar of all tissue.
    assert "| all tissue | 200 | 0.898 | 0.1200 | 0.990 |" in table
    assert "| SNR 20, tissue | 200 |" in table
    mixed = {**cells, ("SNR 20", "tissue"): (200.0, {"fa_coverage": 0.75})}
    lines = judge_coverage("net", mixed)
    assert lines[0].startswith("verdict, net, FA intervals, all tissue: FAIL, 75.0 %")
    assert "lowest SNR 20, tissue, 75.0 %" in lines[1]
