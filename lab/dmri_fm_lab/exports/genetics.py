"""Phenotype and covariate files of PLINK 2 and REGENIE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmri_fm.errors import ConfigError
from dmri_fm_lab.exports.genetic_rules import DIALECTS, Dialect, Trait, check_covariates, read_back
from dmri_fm_lab.exports.sources import USE, choose_columns, select_people
from dmri_fm_lab.exports.transforms import as_cases, as_numbers, inverse_normal
from dmri_fm_lab.scan_tables import Cohort, count_reasons
from dmri_fm_workflows.outputs.publish import publish_json, publish_text


@dataclass(frozen=True)
class GeneticsRequest:
    """What to export.

    Attributes
    ----------
    phenotypes
        Quantitative traits: names or patterns of columns of measures, then of participants.
    binary
        Binary traits: column of participants, and the class that counts as case.
    covariates
        Columns of participants or measures.
    fid, iid
        Columns of participants with the identifiers of the genotypes; None: the participant's
        label without `sub-`.
    is_normalised
        Whether quantitative traits become rank-based normal scores.
    where
        Conditions on participants (`COLUMN OPERATOR VALUE`) that all have to hold.
    """

    phenotypes: Sequence[str] = ()
    binary: Mapping[str, str] = field(default_factory=dict)
    covariates: Sequence[str] = ()
    fid: str | None = None
    iid: str | None = None
    is_normalised: bool = False
    where: Sequence[str] = ()


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes
    ----------
    paths
        The files.
    record
        Contents of the JSON file: columns, coding, numbers, who is left out and why.
    """

    paths: tuple[Path, ...]
    record: dict[str, Any]


def export_genetics(
    cohort: Cohort, request: GeneticsRequest, prefix: Path, *, dialect: str
) -> Export:
    """Write phenotype and covariate files, and a JSON file that describes them.

    Every file is read back by the program's written rules before it stands there.

    Parameters
    ----------
    cohort
        One scan per participant.
    request
        Columns and identifiers.
    prefix
        Start of the files' names.
    dialect
        "plink" or "regenie".

    Raises
    ------
    ConfigError
        If the program would refuse or misread the files, or a column is not there.
    """
    form = DIALECTS[dialect]
    for condition in request.where:
        cohort = cohort.keep(select_people(cohort.people, condition), f"not {condition}")
    traits = _find_traits(cohort, request)
    covariates, coding = _find_covariates(cohort, request.covariates)
    if both := [name for name in covariates if name in traits]:
        raise ConfigError(
            f"{both[0]} is a phenotype and a covariate", expected="each column in one of them"
        )
    if len(covariates.columns):
        cohort = cohort.keep(covariates.notna().all(axis=1), "no value of a covariate")
        covariates = covariates.loc[cohort.people.index]
    values = pd.DataFrame({n: t.values for n, t in traits.items()}, cohort.people.index)
    cohort = cohort.keep(values.notna().any(axis=1), "no value of any phenotype")
    values, covariates = values.loc[cohort.people.index], covariates.loc[cohort.people.index]
    if request.is_normalised:
        for name in (n for n, t in traits.items() if not t.is_binary):
            values[name] = inverse_normal(values[name])
    identifiers = _identify(cohort.people, request)
    texts = _lay_out(identifiers, values, traits, form)
    if len(covariates.columns):
        check_covariates(covariates)
        texts["covar"] = (_table(identifiers, covariates, form), {})
    for text, is_binary in texts.values():
        read_back(text, is_binary, form)
    paths = []
    for name, (text, _) in texts.items():
        paths.append(prefix.with_name(f"{prefix.name}.{name}"))
        publish_text(text, paths[-1])
    record = _describe(cohort, traits, values, request, coding) | {
        "Program": form.program,
        "Files": [p.name for p in paths],
        "Flags": form.flags([p.name for p in paths]),
    }
    paths.append(prefix.with_name(f"{prefix.name}.json"))
    publish_json(record, paths[-1])
    return Export(tuple(paths), record)


def _find_traits(cohort: Cohort, request: GeneticsRequest) -> dict[str, Trait]:
    people = [c for c in cohort.people if pd.api.types.is_numeric_dtype(cohort.people[c])]
    known = [*cohort.values, *(c for c in people if c not in cohort.values)]
    names = choose_columns(request.phenotypes, known, where="the tables")
    if clash := [n for n in names if n in cohort.values and n in people]:
        raise ConfigError(
            f"{clash[0]} is a column of measures and of participants", expected="one of them"
        )
    found = {
        name: Trait((cohort.values if name in cohort.values else cohort.people)[name], False)
        for name in names
    }
    for name, case in request.binary.items():
        if name not in cohort.people or name in found:
            raise ConfigError(
                f"no column {name} of participants for a binary trait"
                if name not in found
                else f"{name} is a quantitative and a binary trait",
                expected=", ".join(map(str, cohort.people)),
            )
        found[name] = Trait(as_cases(cohort.people[name], case), True)
    if not found:
        raise ConfigError("no phenotype", expected="--pheno or --binary")
    return found


def _find_covariates(cohort: Cohort, names: Sequence[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    found: list[pd.DataFrame] = []
    coding: dict[str, str] = {}
    known = [*(c for c in cohort.people if c != "participant_id"), *cohort.values]
    for name in choose_columns(names, known, where="the tables"):
        source = cohort.people if name in cohort.people else cohort.values
        columns, how = as_numbers(source[name])
        found.append(columns)
        coding |= dict.fromkeys(map(str, columns), how)
    empty = pd.DataFrame(index=cohort.people.index)
    return (pd.concat(found, axis=1) if found else empty), coding


def _identify(people: pd.DataFrame, request: GeneticsRequest) -> pd.DataFrame:
    """Return FID and IID as text."""
    label = people["participant_id"].str.removeprefix("sub-")
    found = {}
    for key, column in (("FID", request.fid), ("IID", request.iid)):
        if column is not None and column not in people:
            raise ConfigError(
                f"no column {column} of participants for {key}",
                expected=", ".join(map(str, people)),
            )
        cells = label if column is None else people[column]
        if cells.isna().any():
            missing = people.loc[cells.isna(), "participant_id"]
            raise ConfigError(
                f"{len(missing)} participants have no {key} ({missing.iloc[0]} ...)",
                expected=f"a value of {column} for everybody",
                advice="leave them out by --where, or fill the column",
            )
        if pd.api.types.is_numeric_dtype(cells):
            raise ConfigError(
                f"{column} was read as numbers", expected="identifiers as text (Source.text)"
            )
        found[key] = cells.astype(str)
    return pd.DataFrame(found)


def _lay_out(
    identifiers: pd.DataFrame, values: pd.DataFrame, traits: Mapping[str, Trait], form: Dialect
) -> dict[str, tuple[str, dict[str, bool]]]:
    """Return text, and whether each column is binary, of each phenotype file."""
    coded = values.copy()
    for name in (n for n, t in traits.items() if t.is_binary):
        coded[name] = np.where(values[name].isna(), np.nan, values[name] + form.control)
    is_binary = {name: trait.is_binary for name, trait in traits.items()}
    if not form.is_split:
        return {"pheno": (_table(identifiers, coded, form), is_binary)}
    groups = {"qt.pheno": False, "bt.pheno": True}
    return {
        ending: (_table(identifiers, coded[names], form), dict.fromkeys(names, is_case_control))
        for ending, is_case_control in groups.items()
        if (names := [n for n in is_binary if is_binary[n] == is_case_control])
    }


def _table(identifiers: pd.DataFrame, values: pd.DataFrame, form: Dialect) -> str:
    cells = values.map(lambda v: "NA" if np.isnan(v) else f"{v:.9g}")
    rows = np.column_stack([identifiers.to_numpy(dtype=str), cells.to_numpy(dtype=str)])
    header = "\t".join([*form.header, *map(str, values.columns)])
    return "\n".join([header, *("\t".join(row) for row in rows.tolist())]) + "\n"


def _describe(
    cohort: Cohort,
    traits: Mapping[str, Trait],
    values: pd.DataFrame,
    request: GeneticsRequest,
    coding: Mapping[str, str],
) -> dict[str, Any]:
    def about(name: str, trait: Trait) -> dict[str, Any]:
        known = values[name].dropna()
        if trait.is_binary:
            counts = {"Cases": int(known.sum()), "Controls": int((known == 0).sum())}
            return {"Trait": "binary", "Case": request.binary[name], **counts}
        how = "rank-based normal scores (Blom)" if request.is_normalised else "as it stands"
        return {"Trait": "quantitative", "Values": how, "N": len(known)}

    return {
        "Use": USE,
        "Participants": len(cohort),
        "Phenotypes": {name: about(name, trait) for name, trait in traits.items()},
        "Covariates": dict(coding),
        "Identifiers": {"FID": request.fid or "label", "IID": request.iid or "label"},
        "Conditions": list(request.where),
        "LeftOutCounts": count_reasons(cohort.left_out),
        "LeftOut": [item._asdict() for item in cohort.left_out],
    }
