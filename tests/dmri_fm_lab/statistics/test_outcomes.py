"""Tables of results: numbers of statsmodels, missing values, effect sizes, mixed models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from dmri_fm.errors import ConfigError
from dmri_fm_lab.simulate.cohort_tables import CohortModel, draw_cohort
from dmri_fm_lab.statistics.design_matrix import build_design
from dmri_fm_lab.statistics.outcomes import Dependence, Permutations, score_outcomes


@pytest.fixture
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 60
    frame = pd.DataFrame({"age": rng.normal(50, 10, n), "group": np.tile(["a", "b"], n // 2)})
    for k in range(4):
        effect = 0.05 * frame["age"] * (k == 0) + 1.5 * (frame["group"] == "b") * (k == 1)
        frame[f"y{k}"] = effect + rng.normal(size=n)
    return frame


def score(data, **options):
    design = build_design("value ~ age + C(group)", data)
    values = data[[c for c in data if c.startswith("y")]]
    contrasts = design.contrasts(["age", "C(group)"], {})
    return score_outcomes(values, design, contrasts, Dependence(np.arange(len(data))), **options)


def test_numbers_are_those_of_statsmodels(data):
    found = score(data).set_index(["outcome", "effect"])
    fit = smf.ols("y1 ~ age + C(group)", data).fit(cov_type="HC2")
    row = found.loc[("y1", "C(group)[T.b]")]
    np.testing.assert_allclose(row["estimate"], fit.params["C(group)[T.b]"])
    np.testing.assert_allclose(row["standard_error"], fit.bse["C(group)[T.b]"])
    deviation = np.sqrt(fit.ssr / fit.df_resid)
    np.testing.assert_allclose(row["cohens_d"], fit.params["C(group)[T.b]"] / deviation)
    is_b = (data["group"] == "b").astype(float)
    parts = [
        smf.ols(f"{name} ~ C(group)", data.assign(b=is_b)).fit().resid for name in ("y0", "age")
    ]
    r = stats.pearsonr(*parts).statistic
    np.testing.assert_allclose(found.loc[("y0", "age"), "partial_r"], r)
    assert np.isnan(found.loc[("y0", "age"), "cohens_d"])
    p = found.xs("age", level="effect")["p"]
    np.testing.assert_allclose(
        found.xs("age", level="effect")["p_fdr"], stats.false_discovery_control(p)
    )


def test_missing_values_leave_a_scan_out_of_that_outcome_alone(data):
    holed = data.copy()
    holed.loc[[1, 5], "y1"] = np.nan
    found, whole = score(holed), score(data)
    kept = data.drop(index=[1, 5])
    other = found["outcome"] != "y1"
    pd.testing.assert_frame_equal(
        found[other].drop(columns="p_fdr"), whole[other].drop(columns="p_fdr")
    )
    expected = score(kept)
    for column in ("estimate", "standard_error", "df", "p"):
        np.testing.assert_allclose(found.loc[~other, column], expected.loc[~other, column])
    assert (found.loc[~other, "n_missing"] == 2).all()


def test_outcomes_that_cannot_be_tested_are_named(data):
    data["y1"], data["y2"] = 3.0, np.nan
    data.loc[data["group"] == "b", "y3"] = np.nan
    found = score(data, permutations=Permutations(19)).set_index(["outcome", "effect"])
    assert found.loc[("y1", "age"), "problem"] == "constant"
    assert found.loc[("y2", "age"), "problem"] == "no value in any scan"
    assert "of the design is zero" in found.loc[("y3", "age"), "problem"]
    assert np.isfinite(found.loc[("y0", "age"), ["p", "p_fdr", "p_fwe"]].astype(float)).all()


def test_family_wise_p_is_no_smaller_than_p_and_finds_a_large_effect(data):
    found = score(data, permutations=Permutations(199)).set_index(["outcome", "effect"])
    assert found.loc[("y1", "C(group)[T.b]"), "p_fwe"] == 1 / 200
    assert (found["p_fwe"] > 0.8 * found["p"]).all()


def test_weights_of_sites_and_families_find_more():
    model = CohortModel(
        120, 30, group_effect=0.5, site_scales=(3.0, 1.0, 0.4), family_size=2, family_share=0.4
    )
    cohort = draw_cohort(model, np.random.default_rng(3))
    people, values = cohort.people, pd.DataFrame(cohort.values)
    design = build_design("value ~ age + C(group) + C(site)", people)
    contrasts = design.contrasts(["C(group)"], {})
    numbers = [np.unique(people[c], return_inverse=True)[1] for c in ("family_id", "site")]
    plain = score_outcomes(values, design, contrasts, Dependence(numbers[0]))
    weighted = score_outcomes(values, design, contrasts, Dependence(*numbers, is_estimated=True))
    assert weighted["standard_error"].median() < 0.6 * plain["standard_error"].median()
    # 30 outcomes that share 30% of their noise.
    assert abs(weighted["estimate"].mean() - 0.5) < 0.25


def test_mixed_models_are_those_of_statsmodels_and_failures_are_named():
    model = CohortModel(30, 2, age_effect=-1.0, n_sessions=3, session_share=0.5)
    cohort = draw_cohort(model, np.random.default_rng(4))
    people = cohort.scans.merge(cohort.people, on="participant_id")
    values = pd.DataFrame(1e-3 * cohort.values, columns=["md", "ad"])  # diffusivities
    values["exact"] = people["age"]
    design = build_design("value ~ age + C(group)", people)
    who = np.unique(people["participant_id"], return_inverse=True)[1]
    found = score_outcomes(
        values, design, design.contrasts(["age"], {}), Dependence(who, participants=who)
    ).set_index("outcome")
    # The model of statsmodels in units in which its optimiser works.
    frame = people.assign(md=1e3 * values["md"])
    fit = smf.mixedlm("md ~ age + C(group)", frame, groups="participant_id").fit()
    np.testing.assert_allclose(found.loc["md", "estimate"], 1e-3 * fit.params["age"], rtol=1e-3)
    np.testing.assert_allclose(found.loc["md", "standard_error"], 1e-3 * fit.bse["age"], rtol=1e-3)
    assert found.loc["md", "df"] == 30 - 3
    assert found.loc["exact", "problem"]
    assert np.isnan(found.loc["exact", "p"])
    once = Dependence(np.arange(90), participants=np.arange(90))
    with pytest.raises(ConfigError, match="every participant has one scan"):
        score_outcomes(values, design, design.contrasts(["age"], {}), once)
