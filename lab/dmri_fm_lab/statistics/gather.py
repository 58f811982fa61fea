"""Scans, outcomes and covariates of an analysis, and everything that is left out, by reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from pandas.api.types import is_numeric_dtype

from dmri_fm.errors import ConfigError
from dmri_fm_lab.harmonise import site_levels
from dmri_fm_lab.scan_tables import (
    Cohort,
    join_people,
    listed,
    measures_of,
    one_scan_each,
    read_people,
    read_scan_table,
)
from dmri_fm_lab.statistics.design_matrix import OUTCOME, formula_variables
from dmri_fm_lab.statistics.maps import find_maps
from dmri_fm_lab.statistics.request import StatsRequest
from dmri_fm_lab.table_cells import level_text
from dmri_fm_lab.table_selection import choose_columns, join_tables, select_rows

#: Name of the combined levels of sites in formulas.
SITE = "site"


@dataclass(frozen=True, eq=False)
class Sample:
    """What is analysed.

    Attributes
    ----------
    cohort
        Complete covariates; values are the outcomes.
    everyone
        Table of participants, for those that are left out.
    variables
        Variables of the formula.
    site
        Column of the combined levels of sites, or empty, see :func:`name_site`.
    untested
        Columns of the tables that `*` does not make outcomes, see
        :func:`~dmri_fm_lab.scan_tables.measures_of`.
    """

    cohort: Cohort
    everyone: pd.DataFrame
    variables: tuple[str, ...]
    site: str = ""
    untested: tuple[str, ...] = ()

    @property
    def n_participants(self) -> int:
        """Number of participants."""
        return int(self.cohort.people["participant_id"].nunique())


def gather_sample(request: StatsRequest) -> Sample:
    """Read tables and participants, join them, and leave out what the request cannot use.

    Raises
    ------
    InputError, ConfigError
        If a file cannot be used, names do not match, or the request asks for what is not there.
    """
    people = read_people(request.participants, sessions=request.sessions)
    site = name_site(people, request)
    if site:
        people = people.assign(**{site: site_levels(people, request.site)})
    if request.tables:
        table = join_tables([read_scan_table(path) for path in request.tables])
    else:
        assert request.maps is not None
        table = find_maps(request.maps)
    cohort = join_people(table, people)
    outcomes = find_outcomes(cohort.values, request.columns)
    cohort, variables = _with_covariates(cohort, outcomes, request)
    _check_site(site, variables, request)
    untested = [
        c
        for c in table.values
        if "*" in request.columns and c not in variables and c not in cohort.values
    ]
    cohort = _excluded(cohort, request.exclude)
    families = [request.families] if request.families else []
    sites = [site] if site else []
    cohort = cohort.complete(list(dict.fromkeys([*variables, *sites, *families])))
    cohort = _independent(cohort, request, [*variables, *sites])
    if site:
        counts = cohort.people[site].map(cohort.people[site].value_counts())
        cohort = cohort.keep(counts > 1, "the only scan of its site")
    if not len(cohort):
        raise ConfigError(
            f"no scan is left; left out: {cohort.reasons}",
            expected="scans to analyse",
            advice="change what the design excludes, or its formula and sites",
        )
    for name in variables:
        if cohort.people[name].nunique() == 1:
            raise ConfigError(
                f"{name} is {cohort.people[name].iloc[0]} in each of {len(cohort)} scans",
                expected="a covariate that varies",
                advice="leave it out of the formula",
            )
    return Sample(cohort, people, tuple(variables), site, tuple(untested))


def find_outcomes(columns: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the columns that patterns mean; `*` alone means all measures of the brain.

    Raises ConfigError if a pattern means none.

    Examples
    --------
    >>> find_outcomes(["fa_white", "max_bval"], ["*"])
    ['fa_white']
    >>> find_outcomes(["fa_white", "max_bval"], ["fa_*", "max_bval"])
    ['fa_white', 'max_bval']
    """
    columns = list(columns)
    named = [p for p in patterns if p != "*"]
    chosen = {*choose_columns(named, columns, where="the tables")}
    chosen |= {*measures_of(columns)} if len(named) < len(patterns) else set()
    return [c for c in columns if c in chosen]


def name_site(people: pd.DataFrame, request: StatsRequest) -> str:
    """Return the column of the combined levels of sites: `site`, or empty if there are none.

    Where the participants have another column `site`, it keeps its name, and the combined levels
    of `scanner` and `software` are `scanner_software`.

    Raises ConfigError if the participants have that column, too.
    """
    if not request.site:
        return ""
    if SITE not in people or SITE in request.site:
        return SITE
    name = "_".join(request.site)
    if name in people and name not in request.site:
        raise ConfigError(
            f"columns {SITE} and {name} that are not among those of sites "
            f"({listed(request.site)})",
            expected=f"no column {SITE} or no column {name} in {request.participants}",
        )
    return name


def _check_site(site: str, variables: Sequence[str], request: StatsRequest) -> None:
    """Raise ConfigError if a formula names `site`, and that is not the column of sites."""
    if site and site != SITE and SITE in variables:
        raise ConfigError(
            f"the formula names {SITE}, a column of {request.participants.name} that is not among "
            f"those of sites ({listed(request.site)})",
            expected=f"{site} in the formula, for the levels of sites",
            advice=f'or site = ["{SITE}"], or another name of the column {SITE} in the table',
        )


def _with_covariates(
    cohort: Cohort, outcomes: Sequence[str], request: StatsRequest
) -> tuple[Cohort, list[str]]:
    """Take covariates that tables of scans hold, and keep the outcomes among the values."""
    in_tables = [c for c in cohort.values if c not in cohort.people]
    variables = formula_variables(request.formula, [*cohort.people, *in_tables])
    people = cohort.people.join(cohort.values[[c for c in variables if c in in_tables]])
    if request.families and request.families not in people:
        raise ConfigError(
            f"no column {request.families} for families",
            expected=f"some of {listed(list(people))}",
        )
    if OUTCOME in people:
        raise ConfigError(
            f"a column {OUTCOME} among covariates", expected="another name: value is the outcome"
        )
    tested = [c for c in outcomes if c not in variables]
    return Cohort(people, cohort.values[tested], cohort.left_out), variables


def _excluded(cohort: Cohort, exclude: tuple[str, ...]) -> Cohort:
    """Leave out scans and participants by name, and by condition."""
    for entry in exclude:
        people = cohort.people
        if entry.startswith("sub-"):
            named = (people["participant_id"] == entry) | (people.index == entry)
            hit = named.to_numpy(dtype=bool)
            known = {item.name for item in cohort.left_out}
            if not hit.any() and not any(n == entry or n.startswith(f"{entry}_") for n in known):
                raise ConfigError(
                    f"exclude names {entry}, which is no participant or scan here",
                    expected=f"some of {listed(sorted(set(people['participant_id'])))}",
                )
        else:
            hit = select_rows(people, entry)
        cohort = cohort.keep(~hit, f"excluded: {entry}")
    return cohort


def find_groups(
    people: pd.DataFrame, variables: Sequence[str], request: StatsRequest
) -> list[str]:
    """Return the variables that make groups: texts, such as sites, and those in C(...)."""
    written = "".join(request.formula.split())
    groups = [n for n in variables if f"C({n}" in written or not is_numeric_dtype(people[n])]
    return list(dict.fromkeys(groups))


def _independent(cohort: Cohort, request: StatsRequest, variables: Sequence[str]) -> Cohort:
    """Return one scan each where nothing models repeated scans."""
    is_modelled = request.random or request.families == "participant_id"
    by = ["participant_id"]
    if is_modelled:
        by += [c for c in ("session_id",) if c in cohort.people]
        if request.repeats == "refuse":
            return cohort
    repeated = cohort.people[cohort.people.duplicated(by, keep=False)]
    if request.repeats != "refuse":
        classes = find_groups(cohort.people, variables, request)
        classes += [request.families] if request.families else []
        return one_scan_each(cohort, by=by, how=request.repeats, constant=classes)
    if len(repeated) and not request.families:
        who = sorted(set(repeated["participant_id"]))
        raise ConfigError(
            f"{len(who)} participants have several scans: {listed(who)}",
            expected="one scan each, or a model of their dependence",
            advice='random = "participant_id" for a mixed model, families = "participant_id" for '
            'robust standard errors, or repeats = "first" or "mean"',
        )
    return cohort


def exclusions_by_group(sample: Sample, groups: list[str]) -> pd.DataFrame:
    """Count scans by reason for each level of some columns of participants.

    Returns
    -------
    DataFrame
        Columns `group`, `level`, `used` and one for each reason.
    """
    lookup = sample.everyone.drop_duplicates("participant_id").set_index("participant_id")
    left_out = sample.cohort.left_out
    reasons = list(dict.fromkeys(item.reason for item in left_out))
    rows = []
    for group in groups:
        used = sample.cohort.people[group].map(level_text).value_counts()
        known = lookup[group] if group in lookup else pd.Series(dtype=object)
        of_left_out = [
            level_text(known[who]) if who in known.index and pd.notna(known[who]) else "unknown"
            for who in (item.name.split("_")[0] for item in left_out)
        ]
        for level in sorted({*used.index, *of_left_out}):
            row: dict[str, object] = {"group": group, "level": level}
            row["used"] = int(used.get(level, 0))
            for reason in reasons:
                pairs = zip(left_out, of_left_out, strict=True)
                row[reason] = sum(i.reason == reason and of == level for i, of in pairs)
            rows.append(row)
    return pd.DataFrame(rows, columns=["group", "level", "used", *reasons])
