"""Normative scores against a simulated truth."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.stats import norm

from benchmarks.norms import simulate
from dmri_fm.errors import ConfigError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.exports import NormsRequest
from dmri_fm_lab.exports.calibration import check_calibration
from dmri_fm_lab.exports.location_scale import fit_log_variance
from dmri_fm_lab.exports.norms import compute_norms
from dmri_fm_lab.scan_tables import Cohort

REQUEST = NormsRequest(["fa"], "group == control")


def test_scores_are_calibrated_in_new_controls() -> None:
    """Controls that no fit has seen, as a second cohort: mean 0, sd 1, 5% beyond each centile."""
    cohort, truth = simulate({"control": 1000, "held-out": 500, "patient": 300})
    norms = compute_norms(cohort, REQUEST)
    z, known = norms.scores["fa"], norms.cohort.people["group"]
    new = z[known == "held-out"]
    assert len(new) > 490
    # Intervals of four standard errors for 500 scores.
    assert abs(new.mean()) < 4 / np.sqrt(500)
    assert abs(new.std() - 1) < 4 / np.sqrt(1000)
    for share in ((new < norm.ppf(0.05)).mean(), (new > norm.ppf(0.95)).mean()):
        assert abs(share - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 500)
    # And each is near the truth, patients included.
    error = z - pd.Series(truth, cohort.people.index)[z.index]
    assert error.std() < 0.15
    assert z[known == "patient"].mean() == pytest.approx(-1, abs=4 / np.sqrt(300))


def test_held_out_scores_of_the_reference_itself_are_calibrated() -> None:
    cohort, truth = simulate({"control": 400, "patient": 50}, seed=1)
    norms = compute_norms(cohort, REQUEST)
    found = norms.calibration["fa"]
    assert found.faults == ()
    assert abs(found.mean) < 0.1
    assert found.sd == pytest.approx(1, abs=0.1)
    # Scores out of folds: those of a fit on everybody would be closer to the truth than is honest.
    z = norms.scores["fa"][norms.is_reference]
    assert 0.01 < (z - pd.Series(truth, cohort.people.index)[z.index]).std() < 0.3


def test_the_variance_is_that_of_gamma_regression() -> None:
    rng = np.random.default_rng(7)
    columns = np.column_stack([np.ones(300), rng.normal(size=300), rng.random(300) < 0.3])
    squares = np.exp(columns @ [-1, 0.5, 1]) * rng.normal(size=300) ** 2
    family = sm.families.Gamma(sm.families.links.Log())
    expected = sm.GLM(squares, columns, family=family).fit().params
    np.testing.assert_allclose(fit_log_variance(columns, squares), expected, atol=1e-4)


def test_units_do_not_matter() -> None:
    cohort, _ = simulate({"control": 200, "patient": 20}, seed=2)
    small = Cohort(cohort.people, cohort.values * 1e-7)
    np.testing.assert_allclose(
        compute_norms(cohort, REQUEST).scores, compute_norms(small, REQUEST).scores, rtol=1e-6
    )


def test_measures_that_are_not_calibrated_are_refused() -> None:
    cohort, _ = simulate({"control": 300, "patient": 20}, seed=3)
    norms = compute_norms(cohort, NormsRequest(["fa", "skewed"], "group == control"))
    assert list(norms.scores) == ["fa"]
    assert norms.calibration["skewed"].faults
    with pytest.raises(ConfigError, match=r"no measure is calibrated .*skewed: "):
        compute_norms(cohort, NormsRequest(["skewed"], "group == control"))


def test_tails_that_are_too_heavy_are_seen() -> None:
    good = norm.ppf((np.arange(1000) + 0.5) / 1000)
    assert check_calibration(good).faults == ()
    assert "mean 0.50" in check_calibration(good + 0.5).faults
    assert any("standard deviation" in f for f in check_calibration(1.5 * good).faults)
    heavy = np.where(np.abs(good) > 1.3, 2 * good, 0.6 * good)
    assert any("below the 5%" in f for f in check_calibration(heavy).faults)


def test_who_has_no_reference_is_left_out_by_name() -> None:
    cohort, _ = simulate({"control": 300, "patient": 60}, seed=4)
    patients = cohort.people.index[cohort.people["group"] == "patient"]
    cohort.people.loc[patients[:3], "site"] = "Z"
    cohort.people.loc[patients[3], "age"] = 95
    cohort.people.loc[patients[4], "sex"] = np.nan
    norms = compute_norms(cohort, REQUEST)
    reasons = dict(norms.cohort.left_out)
    assert reasons[patients[0]] == "fewer than 10 reference participants of the same site"
    assert reasons[patients[3]].startswith("age outside the reference cohort's 20")
    assert reasons[patients[4]] == "no value of sex"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (NormsRequest(["fa"], "group == nobody"), "no reference participant|nobody"),
        (NormsRequest(["fa"], "group"), "condition 'group'"),
        (NormsRequest(["fb"], "group == control"), "no column fb"),
        (NormsRequest(["fa"], "group == control", age="sex"), "sex is text"),
        (NormsRequest(["fa"], "age < 40"), "reference participants"),
    ],
)
def test_norms_that_cannot_be_made(request_: NormsRequest, message: str) -> None:
    cohort, _ = simulate({"control": 100, "patient": 10}, seed=5)
    with pytest.raises(ConfigError, match=message):
        compute_norms(cohort, request_)


def test_the_command(tmp_path: Path, capsys) -> None:
    cohort, _ = simulate({"control": 200, "patient": 30}, seed=6)
    table = cohort.values.assign(participant_id=cohort.people.index)
    table.to_csv(tmp_path / "s.tsv", sep="\t", index=False)
    cohort.people.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    words = ["export", "norms", str(tmp_path / "s.tsv"), "--participants", str(tmp_path / "p.tsv"),
             "--columns", "fa", "skewed", "--reference", "group == control", "--site", "site",
             "--out", str(tmp_path / "z")]  # fmt: skip
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "200 of them the reference" in out
    assert "skewed" in out
    assert "REFUSED" in out
    # A share is printed with the interval that decides.
    assert "95% interval of each tail's share that reaches into 3% to 7.5%" in out
    (line,) = re.findall(r"  fa: .*", out)
    shares = re.findall(r"(\d+\.\d)% \((\d+\.\d) to (\d+\.\d)\)", line)
    assert [0 < float(low) < float(p) < float(high) for p, low, high in shares] == [True, True]
    assert all(float(low) <= 7.5 and float(high) >= 3.0 for _, low, high in shares)
    written = pd.read_csv(tmp_path / "z.tsv", sep="\t")
    assert list(written) == ["scan_id", "participant_id", "is_reference", "fa_z"]
    record = json.loads((tmp_path / "z.json").read_text())
    assert record["Refused"] == ["skewed"]
    assert record["Use"].startswith(RESEARCH_ONLY)
    first = (tmp_path / "z_calibration.svg").read_bytes()
    for text in ("skewed (refused)", RESEARCH_ONLY):  # outlines of letters, named in a comment
        assert f"<!-- {text} -->".encode() in first
    assert main(words) == 0
    assert (tmp_path / "z_calibration.svg").read_bytes() == first
