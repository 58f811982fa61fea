"""A cohort with measures, as tables on disk and joined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmri_fm_lab.exports import Source, read_source
from dmri_fm_lab.scan_tables import Cohort

N = 40


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return tables of scans and participants: one is excluded by QC, one has no age."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(5)
    names = [f"sub-{i:03d}" for i in range(N)]
    scans = pd.DataFrame(
        {
            "scan_id": names,
            "participant_id": names,
            "qc_exclude": ["mean_fd > 1"] + ["n/a"] * (N - 1),
            "fa_left": rng.normal(0.4, 0.05, N),
            "fa_right": rng.normal(0.4, 0.05, N),
            "n_bad": rng.integers(0, 3, N),
        }
    )
    scans.loc[3, "fa_left"] = np.nan
    people = pd.DataFrame(
        {
            "participant_id": names,
            "age": rng.integers(40, 80, N),
            "sex": np.where(np.arange(N) % 2, "F", "M"),
            "site": np.arange(N) % 3 + 1,
            "diagnosis": np.where(np.arange(N) % 4 < 2, "AD", "CN"),
            "genotype": [f"{i:07d}" for i in range(N)],
            "family": [f"f{i // 2}" for i in range(N)],
        }
    ).astype(object)
    people.loc[5, "age"] = "n/a"
    scans.to_csv(folder / "scans.tsv", sep="\t", index=False, na_rep="n/a")
    people.to_csv(folder / "participants.tsv", sep="\t", index=False)
    return folder / "scans.tsv", folder / "participants.tsv"


@pytest.fixture
def cohort(tables: tuple[Path, Path]) -> Cohort:
    return read_source(Source([tables[0]], tables[1], text=("genotype", "family", "site")))
