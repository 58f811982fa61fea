from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.correlations import correlate, principal_components


def test_correlations_equal_those_of_scipy_and_missing_values_are_left_out() -> None:
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(40, 3)), columns=["a", "b", "c"])
    columns = pd.DataFrame(
        {
            "age": x["a"] + rng.normal(size=40),
            "site": pd.Series(rng.choice(["p", "q", "r"], 40)),
            "name": [f"n{i}" for i in range(40)],
            "one": 1.0,
        }
    )
    columns.loc[:4, "age"] = np.nan
    table, unused = correlate(x, columns)
    age = table[table["column"] == "age"].set_index("feature")
    theirs = stats.pearsonr(x["a"][5:], columns["age"][5:])
    assert age.loc["a", ["value", "p", "n"]].tolist() == pytest.approx([*theirs, 35])
    site = table[table["column"] == "site"].set_index("feature")
    groups = [x["b"][columns["site"] == s] for s in ("p", "q", "r")]
    assert site.loc["b", "p"] == pytest.approx(stats.f_oneway(*groups).pvalue)
    between = sum(len(g) * (g.mean() - x["b"].mean()) ** 2 for g in groups)
    eta = np.sqrt(between / ((x["b"] - x["b"].mean()) ** 2).sum())
    assert site.loc["b", "value"] == pytest.approx(eta)
    assert len(table) == 6
    assert (table["q"] >= table["p"]).all()
    assert unused == ("name (40 classes of 40 rows)", "one (40 values, 1 different)")
    with pytest.raises(ConfigError, match="no column to correlate with: one"):
        correlate(x, columns[["one"]])


def test_false_discoveries_are_rare_without_any_effect() -> None:
    rng = np.random.default_rng(1)
    x = pd.DataFrame(rng.normal(size=(60, 100)))
    table, _ = correlate(x, pd.DataFrame({"noise": rng.normal(size=60)}))
    # Five of 100 uncorrected; a discovery at all in one of 20 seeds.
    assert (table["q"] <= 0.05).sum() == 0


def test_a_constant_dimension_has_no_correlation() -> None:
    x = pd.DataFrame({"a": np.arange(10.0), "flat": 1.0})
    table, _ = correlate(x, pd.DataFrame({"y": 2 * np.arange(10.0)}))
    own = table.set_index("feature")
    assert own.loc["a", "value"] == pytest.approx(1.0)
    assert np.isnan(own.loc["flat", ["value", "p", "q"]].astype(float)).all()


def test_components_are_of_standardised_vectors() -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=50)
    x = np.column_stack([latent, 100 * latent, rng.normal(size=50)])
    scores, shares = principal_components(x, 10)
    assert scores.shape == (50, 3)
    assert shares[0] == pytest.approx(2 / 3, abs=0.05)
    assert abs(np.corrcoef(scores[:, 0], latent)[0, 1]) > 0.99
