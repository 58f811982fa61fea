"""A small simulated cohort on disk, and its analysis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmri_fm_lab.simulate.cohort_tables import CohortModel, CohortTables, draw_cohort, write_cohort

MODEL = CohortModel(
    n_participants=120, n_outcomes=8, age_effect=-0.6, group_effect=-0.8, n_affected=3,
    site_shift=1.0, site_scales=(1.0, 1.5, 0.7), family_size=2, family_share=0.3,
)  # fmt: skip

DESIGN = """
tables = ["regions.tsv"]
participants = "participants.tsv"
formula = "value ~ age + C(sex) + C(group) + C(site)"
terms = ["age", "C(group)"]
site = ["scanner", "software"]
families = "family_id"
permutations = 99
"""


@pytest.fixture(scope="session")
def cohort() -> CohortTables:
    return draw_cohort(MODEL, np.random.default_rng(0))


@pytest.fixture(scope="session")
def folder(cohort: CohortTables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of the cohort: one scan excluded by QC, one unknown age, one unscanned person."""
    home = tmp_path_factory.mktemp("cohort")
    people_path, table_path = write_cohort(cohort, home)
    people = pd.read_csv(people_path, sep="\t").rename(columns={"site": "scanner"})
    people["software"] = np.where(people["scanner"] == "site1", "XA30", "VB17")
    people.loc[7, "age"] = np.nan
    people = pd.concat([people, people.tail(1).assign(participant_id="sub-99999")])
    people.to_csv(people_path, sep="\t", index=False, na_rep="n/a")
    table = pd.read_csv(table_path, sep="\t")
    table["qc_exclude"] = np.where(table.index == 3, "mean_fd > 1", "n/a")
    table["mean_fd"] = np.random.default_rng(1).random(len(table))
    table["flat"] = 1.0
    table.loc[20, "fa_region001"] = np.nan
    table.to_csv(table_path, sep="\t", index=False, na_rep="n/a")
    (home / "design.toml").write_text(DESIGN)
    return home
