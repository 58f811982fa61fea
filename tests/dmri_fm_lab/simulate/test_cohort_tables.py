"""Simulated tables: effects, sites, families and sessions are those of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dmri_fm_lab.scan_tables import join_people, read_people, read_scan_table
from dmri_fm_lab.simulate.cohort_tables import CohortModel, draw_cohort, write_cohort


def test_effects_and_variances_are_those_of_the_model():
    model = CohortModel(
        6000, 40, age_effect=0.5, group_effect=-0.4, n_affected=20, site_scales=(2.0, 1.0, 0.5)
    )
    cohort = draw_cohort(model, np.random.default_rng(0))
    people = cohort.people
    design = np.column_stack(
        [np.ones(6000), (people["age"] - 50) / 15, people["group"] == "patient"]
    ).astype(float)
    fitted, *_ = np.linalg.lstsq(design, cohort.values, rcond=None)
    # Standard errors: .017 and .034 for one outcome; outcomes share 30% of their noise.
    np.testing.assert_allclose(fitted[1:, :20].mean(axis=1), [0.5, -0.4], atol=0.08)
    np.testing.assert_allclose(fitted[1:, 20:].mean(axis=1), [0, 0], atol=0.08)
    residuals = pd.DataFrame(cohort.values - design @ fitted)
    spread = residuals.groupby(people["site"].to_numpy()).std().mean(axis=1)
    np.testing.assert_allclose(spread, [2, 1, 0.5], rtol=0.05)


def test_families_and_sessions_share_what_they_should():
    model = CohortModel(
        3000, 10, family_size=2, family_share=0.4, n_sessions=2, session_share=0.3, correlation=0.0
    )
    cohort = draw_cohort(model, np.random.default_rng(1))
    first, second = cohort.values[::2].ravel(), cohort.values[1::2].ravel()
    np.testing.assert_allclose(np.corrcoef(first, second)[0, 1], 0.7, atol=0.02)
    of_person = cohort.values[::2]
    within_family = np.corrcoef(of_person[::2].ravel(), of_person[1::2].ravel())[0, 1]
    np.testing.assert_allclose(within_family, 0.4, atol=0.03)
    assert (cohort.people.groupby("family_id")["site"].nunique() == 1).all()


def test_sites_are_confounded_with_age_and_patients_as_asked():
    model = CohortModel(3000, 1, site_age=0.6, patient_shares=(0.1, 0.5, 0.9))
    people = draw_cohort(model, np.random.default_rng(2)).people
    number = people["site"].str.removeprefix("site").astype(int)
    np.testing.assert_allclose(np.corrcoef(number, people["age"])[0, 1], 0.6, atol=0.05)
    shares = (people["group"] == "patient").groupby(people["site"]).mean()
    np.testing.assert_allclose(shares, [0.1, 0.5, 0.9], atol=0.05)


def test_written_tables_join(tmp_path: Path):
    cohort = draw_cohort(CohortModel(12, 3, n_sessions=2), np.random.default_rng(3))
    people, table = write_cohort(cohort, tmp_path)
    joined = join_people(read_scan_table(table), read_people(people))
    assert len(joined) == 24
    assert joined.left_out == ()
    np.testing.assert_allclose(joined.values, 0.45 + 0.03 * cohort.values, rtol=1e-5)
