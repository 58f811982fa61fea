"""Simulated tables of a cohort whose effects are known: participants and regional measures.

No image is made: measures of regions are drawn directly, from effects of age, group and site,
families, repeated sessions and correlated noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CohortModel:
    """What a cohort is drawn from; effects are in units of the noise's standard deviation.

    Attributes
    ----------
    n_participants, n_outcomes
        Numbers.
    age_effect
        Change by one standard deviation of age, 15 years.
    group_effect
        Patients minus controls.
    n_affected
        Number of outcomes that have these effects, the first ones; None: all.
    site_shift
        Standard deviation of a site's shift of an outcome.
    site_scales
        Standard deviation of the noise of each site; their number is that of sites.
    site_age
        Correlation of age with the site's number, 0: balanced.
    family_size
        Members of a family; families lie within a site.
    family_share
        Share of the noise's variance that a family has in common.
    patient_shares
        Share of patients at each site; empty: half everywhere.
    correlation
        Share of the noise's variance that outcomes have in common.
    n_sessions, session_share
        Scans of a participant, and the share of the noise's variance that differs between them.
    """

    n_participants: int = 200
    n_outcomes: int = 24
    age_effect: float = 0.0
    group_effect: float = 0.0
    n_affected: int | None = None
    site_shift: float = 0.0
    site_scales: tuple[float, ...] = (1.0, 1.0, 1.0)
    site_age: float = 0.0
    family_size: int = 1
    family_share: float = 0.0
    patient_shares: tuple[float, ...] = ()
    correlation: float = 0.3
    n_sessions: int = 1
    session_share: float = 0.2


@dataclass(frozen=True, eq=False)
class CohortTables:
    """A drawn cohort.

    Attributes
    ----------
    people
        A row per participant: `participant_id`, `age`, `sex`, `group`, `site`, `family_id`.
    scans
        A row per scan: `participant_id`, `session_id`.
    values
        Shape (scans, outcomes), a row of each of `scans`.
    """

    people: pd.DataFrame
    scans: pd.DataFrame
    values: Floats


def draw_people(model: CohortModel, rng: np.random.Generator) -> pd.DataFrame:
    """Draw participants; members of a family are of similar age and of one site."""
    n = model.n_participants
    family = np.arange(n) // model.family_size
    n_families, n_sites = family[-1] + 1, len(model.site_scales)
    site = rng.permutation(np.arange(n_families) % n_sites)
    number = (site - site.mean()) / max(site.std(), 1e-9)
    of_family = model.site_age * number + np.sqrt(1 - model.site_age**2) * rng.normal(
        size=n_families
    )
    age = of_family[family]
    if model.family_size > 1:
        age = np.sqrt(0.8) * age + np.sqrt(0.2) * rng.normal(size=n)
    shares = np.asarray(model.patient_shares or (0.5,) * n_sites)
    is_patient = rng.random(n) < shares[site[family]]
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i:05d}" for i in range(n)],
            "age": 50 + 15 * age,
            "sex": rng.choice(["F", "M"], n),
            "group": np.where(is_patient, "patient", "control"),
            "site": np.array([f"site{s + 1}" for s in range(n_sites)])[site[family]],
            "family_id": [f"fam-{f:05d}" for f in family],
        }
    )


def draw_values(
    model: CohortModel,
    people: pd.DataFrame,
    rng: np.random.Generator,
    *,
    n_outcomes: int | None = None,
    site_shifts: Floats | None = None,
) -> Floats:
    """Draw the measures of each participant's sessions.

    Parameters
    ----------
    model
        Model.
    people
        Of :func:`draw_people`.
    rng
        Generator.
    n_outcomes
        In place of the model's number: repetitions of an experiment, for example.
    site_shifts
        Shape (sites, outcomes): shifts of sites that were drawn before, for new participants.

    Returns
    -------
    ndarray
        Shape (participants * sessions, outcomes), the sessions of a participant in sequence.
    """
    n, d = len(people), n_outcomes or model.n_outcomes
    site = people["site"].str.removeprefix("site").astype(int).to_numpy() - 1
    family = people["family_id"].str.removeprefix("fam-").astype(int).to_numpy()
    shares = {
        "family": model.family_share,
        "session": model.session_share if model.n_sessions > 1 else 0.0,
    }
    parts = {
        "family": _noise(rng, family.max() + 1, d, model.correlation)[family],
        "person": _noise(rng, n, d, model.correlation),
    }
    noise = np.sqrt(shares["family"]) * parts["family"]
    noise = noise + np.sqrt(1 - sum(shares.values())) * parts["person"]
    noise = np.repeat(noise, model.n_sessions, axis=0)
    if model.n_sessions > 1:
        noise += np.sqrt(shares["session"]) * _noise(rng, len(noise), d, model.correlation)
    affected = np.arange(d) < (d if model.n_affected is None else model.n_affected)
    effects = model.age_effect * (people["age"].to_numpy() - 50) / 15
    effects = effects + model.group_effect * (people["group"] == "patient").to_numpy()
    shifts = draw_site_shifts(model, rng, d) if site_shifts is None else site_shifts
    fixed = np.outer(effects, affected) + shifts[site]
    scales = np.asarray(model.site_scales)[np.repeat(site, model.n_sessions)]
    return np.asarray(np.repeat(fixed, model.n_sessions, axis=0) + scales[:, None] * noise)


def draw_site_shifts(model: CohortModel, rng: np.random.Generator, n_outcomes: int) -> Floats:
    """Draw the shift of each site in each outcome, shape (sites, outcomes)."""
    return model.site_shift * rng.normal(size=(len(model.site_scales), n_outcomes))


def draw_cohort(model: CohortModel, rng: np.random.Generator) -> CohortTables:
    """Draw participants and their measures."""
    people = draw_people(model, rng)
    scans = pd.DataFrame(
        {
            "participant_id": np.repeat(people["participant_id"].to_numpy(), model.n_sessions),
            "session_id": [f"ses-{s + 1}" for s in range(model.n_sessions)] * len(people),
        }
    )
    return CohortTables(people, scans, draw_values(model, people, rng))


def write_cohort(cohort: CohortTables, folder: Path) -> tuple[Path, Path]:
    """Write `participants.tsv` and `regions.tsv`; return their paths.

    Measures look like mean FA of regions: 0.45 with a noise of 0.03.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"fa_region{i + 1:03d}" for i in range(cohort.values.shape[1])]
    table = pd.DataFrame(0.45 + 0.03 * cohort.values, columns=names)
    scans = cohort.scans if cohort.scans["session_id"].nunique() > 1 else cohort.scans.iloc[:, :1]
    table = pd.concat([scans, table], axis=1)
    paths = (folder / "participants.tsv", folder / "regions.tsv")
    for frame, path in zip((cohort.people, table), paths, strict=True):
        frame.to_csv(path, sep="\t", index=False, float_format="%.6g")
    return paths


def _noise(rng: np.random.Generator, n: int, d: int, correlation: float) -> Floats:
    """Return noise of variance one whose columns have a share of it in common."""
    shared = np.sqrt(correlation) * rng.normal(size=(n, 1))
    return np.asarray(shared + np.sqrt(1 - correlation) * rng.normal(size=(n, d)))
