"""ComBat against pycombat, its laws, and what it refuses."""

import numpy as np
import pycombat
import pytest

from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.harmonise import Combat


def cohort(seed=0, n=90, d=12):
    """Return measures, sites and ages: three sites that differ in location and scale."""
    rng = np.random.default_rng(seed)
    site = np.array(["A", "B", "C"])[np.arange(n) % 3]
    age = rng.uniform(20, 80, (n, 1))
    number = np.arange(n) % 3
    noise = rng.normal(size=(n, d)) * np.array([1.0, 1.5, 0.7])[number, None]
    shift = rng.normal(size=(3, d))[number] + np.array([0.0, 2.0, -1.0])[number, None]
    return 10 + 0.03 * age + shift + noise, site, age


@pytest.mark.parametrize("is_preserved", [True, False])
def test_numbers_are_those_of_pycombat(is_preserved):
    values, site, age = cohort()
    covariates = age if is_preserved else None
    ours = Combat.fit(values, site, covariates).transform(values, site, covariates)
    # pycombat's criterion ignores changes of negative locations: let it go on for longer.
    theirs = pycombat.Combat(conv=1e-8).fit_transform(values, site, covariates)
    # Our iteration stops at relative changes of 1e-4.
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_new_scans_lose_location_and_scale_of_their_site():
    values, site, age = cohort(n=3000)
    fitted = Combat.fit(values[:1500], site[:1500], age[:1500])
    new = fitted.transform(values[1500:], site[1500:], age[1500:]) - 0.03 * age[1500:]
    means = np.stack([new[site[1500:] == s].mean(axis=0) for s in "ABC"])
    spreads = np.stack([new[site[1500:] == s].std(axis=0) for s in "ABC"])
    # Standard errors of means and standard deviations of 500 scans, in fit and test.
    assert np.ptp(means, axis=0).max() < 0.35
    assert (np.ptp(spreads, axis=0) / spreads.mean(axis=0)).max() < 0.15


def test_rows_are_transformed_one_by_one():
    values, site, age = cohort()
    fitted = Combat.fit(values, site, age)
    whole = fitted.transform(values, site, age)
    np.testing.assert_array_equal(fitted.transform(values[:1], site[:1], age[:1]), whole[:1])


def test_missing_values_stay_missing_and_change_their_column_alone_before_sharing():
    values, site, _ = cohort(d=1)
    holed = values.copy()
    holed[5] = np.nan
    kept = np.arange(len(values)) != 5
    ours = Combat.fit(holed, site).transform(holed, site)
    assert np.isnan(ours[5])
    np.testing.assert_allclose(
        ours[kept], Combat.fit(values[kept], site[kept]).transform(values[kept], site[kept])
    )


def test_what_cannot_be_harmonised_is_refused():
    values, site, age = cohort()
    with pytest.raises(InputError, match="one site"):
        Combat.fit(values, ["A"] * len(values))
    with pytest.raises(InputError, match="fewer than two scans with values at site D"):
        Combat.fit(values, ["D", *site[1:]])
    with pytest.raises(InputError, match="cannot be told from sites"):
        Combat.fit(values, site, (site == "A").astype(float))
    with pytest.raises(InputError, match="constant within sites"):
        Combat.fit(np.where(np.arange(12) == 3, 1.0, values), site)
    with pytest.raises(InputError, match="constant within sites"):
        Combat.fit(np.where(site == "A", 1.0, values[:, 0])[:, None], site)
    with pytest.raises(InputError, match="missing covariates"):
        Combat.fit(values, site, np.where(age == age[0], np.nan, age))
    fitted = Combat.fit(values, site, age)
    with pytest.raises(InputError, match="site D was not among"):
        fitted.transform(values[:1], ["D"], age[:1])
    with pytest.raises(ConfigError, match="12 measures and 0 covariates"):
        fitted.transform(values, site)
