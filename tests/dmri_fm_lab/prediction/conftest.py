"""A cohort on disk whose vectors hold age, sex and site in known parts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from tests.dmri_fm_lab.prediction.tiny_cohort import write_cohort

N, N_COLUMNS = 90, 12


class CohortFiles(NamedTuple):
    """Files of a cohort, and the vectors (N, D)."""

    features: Path
    participants: Path
    qc: Path
    vectors: np.ndarray
    people: pd.DataFrame

    @property
    def options(self) -> list[str]:
        """Options of a command that reads them."""
        return ["--features", str(self.features), "--participants", str(self.participants)]


@pytest.fixture(scope="session")
def cohort_files(tmp_path_factory) -> CohortFiles:
    """90 participants of two sites, in families of two; column 0 is age, column 1 sex."""
    folder = tmp_path_factory.mktemp("cohort") / "group"
    folder.mkdir()
    rng = np.random.default_rng(0)
    people = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:03d}" for i in range(N)],
            "age": rng.uniform(20, 80, N).round(1),
            "sex": rng.choice(["F", "M"], N),
            "dx": rng.choice(["CN", "MCI"], N, p=[0.7, 0.3]),
            "site": np.repeat(["a", "b"], N // 2),
            "family": [f"f{i // 2}" for i in range(N)],
        }
    )
    people.loc[:3, "dx"] = "AD"
    vectors = rng.normal(size=(N, N_COLUMNS))
    vectors[:, 0] += (people["age"] - 50) / 10
    vectors[:, 1] += 2.0 * (people["sex"] == "M")
    vectors[:, 2] += 3.0 * (people["site"] == "b")
    table = pd.DataFrame(vectors, columns=[f"cls{i:03d}" for i in range(N_COLUMNS)])
    table.insert(0, "participant_id", people["participant_id"])
    features = folder / "model-drope_desc-scan_features.tsv"
    table.to_csv(features, sep="\t", index=False)
    people.to_csv(folder / "participants.tsv", sep="\t", index=False)
    qc = pd.DataFrame(
        {"participant_id": people["participant_id"], "mean_fd": rng.gamma(2.0, 0.1, N)}
    )
    qc.to_csv(folder / "desc-image_qc.tsv", sep="\t", index=False)
    paths = (features, folder / "participants.tsv", folder / "desc-image_qc.tsv")
    return CohortFiles(*paths, vectors, people)


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """Eight participants with series and maps in the template's space, read only."""
    return write_cohort(tmp_path_factory.mktemp("tiny-cohort"))
