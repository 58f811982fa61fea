"""Normative z-scores by age, sex and site: how far a measure lies from a reference cohort's.

Mean and variance of a measure are regressions on the reference participants alone (Davidian and
Carroll 1987, doi:10.1080/01621459.1987.10478543): the mean on a spline of age, sex and site by
weighted least squares; the variance on age, sex and site by a gamma regression with a logarithmic
link. Both are repeated in turn. A measure whose scores are not calibrated in reference
participants that the fit has not seen is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm_lab.exports.calibration import RULE, Calibration, check_calibration, draw_calibration
from dmri_fm_lab.exports.location_scale import Design, fit_location_scale
from dmri_fm_lab.exports.sources import USE
from dmri_fm_lab.scan_tables import Cohort, count_reasons
from dmri_fm_lab.table_selection import choose_columns, select_rows
from dmri_fm_workflows.outputs.publish import publish_json, publish_text
from dmri_fm_workflows.outputs.tsv import format_table

#: Fewest reference participants in all, for each column of the design, and at each site.
MIN_REFERENCE, MIN_PER_COLUMN, MIN_PER_SITE = 60, 10, 10

#: Folds of the reference participants by which calibration is judged.
N_FOLDS = 10


@dataclass(frozen=True)
class NormsRequest:
    """What norms are made of.

    Attributes
    ----------
    columns
        Names or patterns of measures.
    reference
        Condition on participants that the reference cohort fulfils, see
        :func:`~dmri_fm_lab.table_selection.select_rows`.
    age, sex, site
        Columns of participants; `site` None: all were scanned on one scanner.
    """

    columns: Sequence[str]
    reference: str
    age: str = "age"
    sex: str = "sex"
    site: str | None = "site"


@dataclass(frozen=True, eq=False)
class Norms:
    """Normative scores.

    Attributes
    ----------
    scores
        z, a column per measure; index `scan_id`. Of reference participants: from fits without
        them.
    is_reference
        Whether a participant is of the reference cohort.
    calibration
        Of each measure, refused ones included.
    cohort
        Participants with scores, and who is left out.
    """

    scores: pd.DataFrame
    is_reference: pd.Series
    calibration: dict[str, Calibration]
    cohort: Cohort


def compute_norms(cohort: Cohort, request: NormsRequest, *, seed: int = 0) -> Norms:
    """Compute normative scores, and judge their calibration.

    Parameters
    ----------
    cohort
        One scan per participant.
    request
        Measures, reference cohort and covariates.
    seed
        Of the folds.

    Raises
    ------
    ConfigError
        If a column is not there, the reference cohort is too small, or no measure is calibrated.
    """
    names = choose_columns(request.columns, list(cohort.values), where="the tables")
    cohort = cohort.complete([c for c in (request.age, request.sex, request.site) if c])
    if not pd.api.types.is_numeric_dtype(cohort.people[request.age]):
        raise ConfigError(f"{request.age} is text", expected="age in years, a number")
    cohort, is_reference = _restrict(cohort, request)
    design = Design.of(cohort.people[is_reference], request.age, request.sex, request.site)
    needed = max(MIN_REFERENCE, MIN_PER_COLUMN * design.n_columns)
    n_reference = int(is_reference.sum())
    if n_reference < needed:
        raise ConfigError(
            f"{n_reference} reference participants ({request.reference})",
            expected=f"at least {needed} for {design.n_columns} columns of the design",
        )
    folds = _folds(cohort.people, is_reference, request.site, np.random.default_rng(seed))
    scores, calibration = {}, {}
    for name in names:
        z = _score(cohort.people, cohort.values[name].to_numpy(), is_reference, folds, request)
        calibration[name] = check_calibration(z[is_reference])
        scores[name] = z
    good = [name for name in names if not calibration[name].faults]
    if not good:
        reasons = "; ".join(f"{n}: {', '.join(calibration[n].faults)}" for n in names[:3])
        raise ConfigError(
            f"no measure is calibrated in held-out reference participants ({reasons})",
            expected="z-scores of mean 0, standard deviation 1, 5% beyond each of the 5% centiles",
            advice="look at the distribution of the measure: skewed ones need a transform",
        )
    index = cohort.people.index
    return Norms(
        pd.DataFrame({n: scores[n] for n in good}, index),
        pd.Series(is_reference, index),
        calibration,
        cohort,
    )


def _restrict(cohort: Cohort, request: NormsRequest) -> tuple[Cohort, NDArray[np.bool_]]:
    """Leave out whom the reference cohort says nothing about: site, sex, age."""
    is_reference = select_rows(cohort.people, request.reference)
    for column, minimum in ((request.site, MIN_PER_SITE), (request.sex, MIN_PER_SITE)):
        if column is None:
            continue
        counts = cohort.people[column][is_reference].value_counts()
        enough = counts.index[counts >= minimum]
        cohort = cohort.keep(
            cohort.people[column].isin(enough),
            f"fewer than {minimum} reference participants of the same {column}",
        )
        is_reference = select_rows(cohort.people, request.reference)
    if not is_reference.any():
        raise ConfigError(
            f"no reference participant: {request.reference}",
            expected=f"at least {MIN_PER_SITE} at a site",
        )
    ages = cohort.people[request.age]
    low, high = ages[is_reference].min(), ages[is_reference].max()
    cohort = cohort.keep(
        ages.between(low, high),
        f"{request.age} outside the reference cohort's {low:g} to {high:g}",
    )
    return cohort, select_rows(cohort.people, request.reference)


def _folds(
    people: pd.DataFrame,
    is_reference: NDArray[np.bool_],
    site: str | None,
    rng: np.random.Generator,
) -> NDArray[np.int_]:
    """Return a fold of each reference participant, spread over each site; -1 of the others."""
    folds = np.full(len(people), -1)
    sites = people[site].astype(str).to_numpy() if site else np.full(len(people), "")
    for name in np.unique(sites):
        rows = np.flatnonzero(is_reference & (sites == name))
        folds[rng.permutation(rows)] = np.arange(len(rows)) % N_FOLDS
    return folds


def _score(
    people: pd.DataFrame,
    values: NDArray[np.float64],
    is_reference: NDArray[np.bool_],
    folds: NDArray[np.int_],
    request: NormsRequest,
) -> NDArray[np.float64]:
    """Return z of everybody: of each fold from a fit on the others, NaN without a value."""
    z = np.full(len(values), np.nan)
    known = np.isfinite(values)
    for fold in (-1, *range(N_FOLDS)):
        train = is_reference & known & (folds != fold)
        rows = known & (folds == fold)
        if rows.any():
            design = Design.of(people[train], request.age, request.sex, request.site)
            model = fit_location_scale(design, people[train], values[train])
            z[rows] = model.score(people[rows], values[rows])
    return z


def export_norms(
    cohort: Cohort, request: NormsRequest, prefix: Path, *, seed: int = 0
) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """Write normative scores, their calibration as JSON, and its plot.

    Returns paths and the contents of the JSON file; see :func:`compute_norms`.
    """
    norms = compute_norms(cohort, request, seed=seed)
    keys = [c for c in ("participant_id", "session_id") if c in norms.cohort.people]
    table = norms.cohort.people[keys].copy()
    table.insert(0, "scan_id", table.index)
    table["is_reference"] = norms.is_reference.astype(int)
    table = pd.concat([table, norms.scores.add_suffix("_z")], axis=1)
    record = {
        "Use": USE,
        "Method": "Normative z-scores: mean by weighted least squares on a spline of age, sex and "
        "site; variance by gamma regression with logarithmic link on age, sex and site; scores "
        f"of reference participants are out of {N_FOLDS} folds",
        "Reference": request.reference,
        "ReferenceParticipants": int(norms.is_reference.sum()),
        "Participants": len(table),
        "CalibrationRule": RULE,
        "Calibration": {name: c.describe() for name, c in norms.calibration.items()},
        "Refused": [name for name, c in norms.calibration.items() if c.faults],
        "scan_id": {"Description": "Key of the scan"},
        "is_reference": {
            "Description": "1: of the reference cohort",
            "Levels": {"0": "no", "1": "yes"},
        },
        "*_z": {"Description": "Normative z-score of the measure", "Units": "standard deviations"},
        "LeftOutCounts": count_reasons(norms.cohort.left_out),
        "LeftOut": [item._asdict() for item in norms.cohort.left_out],
    }
    paths = [
        prefix.with_name(f"{prefix.name}{end}") for end in (".tsv", "_calibration.svg", ".json")
    ]
    publish_text(format_table(table.to_dict("records"), list(table.columns)), paths[0])
    publish_text(draw_calibration(norms.calibration), paths[1])
    publish_json(record, paths[2])
    return tuple(paths), record
