"""Vectors of a cohort beside a target: rows that all predictors share, and who is not used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.encoders.features import feature_columns
from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.harmonise import site_levels
from dmri_fm_lab.prediction.draw_splits import family_groups
from dmri_fm_lab.prediction.metrics import TaskType
from dmri_fm_lab.prediction.targets import choose_classes, read_target
from dmri_fm_lab.scan_tables import (
    Cohort,
    LeftOut,
    ScanTable,
    join_people,
    listed,
    measures_of,
    one_scan_each,
)
from dmri_fm_lab.table_selection import choose_columns, match_columns

#: Name of the set of all measures of a table.
ALL_MEASURES = "all measures"

#: Fewest rows with which anything is predicted.
FEWEST_ROWS = 10

_Array = NDArray[np.float64]


class VectorSet(NamedTuple):
    """Vectors that predict.

    Attributes
    ----------
    values
        Shape (N, D).
    columns
        Their D names.
    role
        What they are for.
    n_covariates
        Columns at the end of "joint" vectors that are covariates: they are not harmonised.
    """

    values: _Array
    columns: tuple[str, ...]
    role: Literal["features", "baseline", "joint"] = "features"
    n_covariates: int = 0


@dataclass(frozen=True)
class VectorRequest:
    """Which vectors, target and columns are used.

    Attributes
    ----------
    target
        Column of the participants' table (or of their sessions).
    classes
        Negative and positive class; if empty, a target of text has its two values in order.
    columns
        Patterns of feature columns (`cls*`), each a set of vectors of its own. If empty, `cls` and
        `pooled` where a table has them, else all its measures together, see
        :func:`dmri_fm_lab.scan_tables.measures_of`.
    covariates
        Columns that predict alone, as a baseline, and together with each set of features.
    site
        Columns whose combinations are sites or cohorts, see
        :func:`dmri_fm_lab.harmonise.site_levels`: a baseline, and scores within each; empty: none.
    family
        Column whose members are never in two sets of a fold; empty: none.
    baselines
        Columns that each predict alone: motion, head size.
    by_session
        One row for each session, not for each participant.
    several
        What is done with several scans of a row: the first, or the mean of their vectors.
    """

    target: str
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    site: tuple[str, ...] = ()
    family: str = ""
    baselines: tuple[str, ...] = ()
    by_session: bool = False
    several: Literal["first", "mean"] = "first"

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns of participants without which a scan is not used."""
        names = (self.target, *self.site, *self.covariates, *self.baselines)
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True, eq=False)
class CohortVectors:
    """Rows of a cohort, a participant's or a session's each.

    Attributes
    ----------
    people
        N rows of participants' columns, with `participant_id`.
    target
        Shape (N,): numbers, or True for the positive class.
    task
        Type of the target.
    classes
        Names of negative and positive class, or empty.
    sets
        Vectors by name: features first, then baselines, then features with covariates.
    groups
        Shape (N,): what is never in two sets of a fold: family, else participant.
    sites
        Shape (N,), or None.
    left_out
        Scans and participants that are not used.
    notes
        What else was decided, in sentences.
    target_name
        Column of the target.
    """

    people: pd.DataFrame
    target: NDArray[Any]
    task: TaskType
    classes: tuple[str, ...]
    sets: Mapping[str, VectorSet]
    groups: NDArray[np.str_]
    sites: NDArray[np.str_] | None
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = field(default=())
    target_name: str = "target"

    @property
    def participants(self) -> NDArray[np.str_]:
        """The participant of each row."""
        return np.asarray(self.people["participant_id"], dtype=np.str_)


def gather_vectors(
    tables: Mapping[str, ScanTable],
    people: pd.DataFrame,
    request: VectorRequest,
    *,
    measures: ScanTable | None = None,
) -> CohortVectors:
    """Join vectors with participants; keep the rows that all sets have in full.

    Parameters
    ----------
    tables
        Tables of features by title.
    people
        See :func:`dmri_fm_lab.scan_tables.read_people`.
    request
        See :class:`VectorRequest`.
    measures
        Measures of the same scans, such as `desc-image_qc`, whose columns can be baselines.

    Raises
    ------
    ConfigError
        If a column is unknown, the target is constant or has not two classes, or too few rows
        remain.
    InputError
        If no scan has a participant.
    """
    notes: list[str] = []
    sets: dict[str, Cohort] = {}
    everything = list(dict.fromkeys(c for table in tables.values() for c in table.values))
    usable = choose_columns(request.columns or ["*"], everything, where="the tables")
    for title, table in tables.items():
        cohort = join_people(table, people)
        if measures is not None:
            cohort = _add_measures(cohort, measures, request)
        cohort = cohort.complete(request.needed)
        cohort = choose_classes(cohort, request.target, request.classes)
        prefix = f"{title} " if len(tables) > 1 else ""
        chosen = feature_sets([c for c in table.values if c in usable], request.columns)
        for name, columns in chosen.items():
            part = Cohort(cohort.people, cohort.values[columns], cohort.left_out)
            sets[prefix + name] = drop_missing(part, prefix + name, notes)
            notes += note_no_measures(prefix + name, columns, list(table.values))
    if not sets:
        raise ConfigError("no column is a measure", expected=f"some of {listed(everything)}")
    by = ["participant_id", *(["session_id"] if request.by_session else [])]
    reduced = {
        name: _keyed(
            one_scan_each(c, by=by, how=request.several, constant=_classes_of(c, request)), by
        )
        for name, c in sets.items()
    }
    return _assemble(reduced, request, notes)


def _classes_of(cohort: Cohort, request: VectorRequest) -> list[str]:
    """Return the columns that have no mean: site, family, and a target of two classes."""
    target = cohort.people[request.target]
    has_classes = not pd.api.types.is_numeric_dtype(target) or target.nunique() <= 2
    chosen = [request.target] if has_classes or request.classes else []
    return [*chosen, *request.site, *([request.family] if request.family else [])]


def feature_sets(columns: Sequence[str], patterns: Sequence[str]) -> dict[str, list[str]]:
    """Return sets of columns by name: of each pattern, or if there are none, of each type.

    Examples
    --------
    >>> feature_sets(["cls0", "cls1", "pooled0", "max_bval"], [])
    {'cls': ['cls0', 'cls1'], 'pooled': ['pooled0']}
    >>> feature_sets(["fa_a", "fa_b", "md_a"], ["fa_*"])
    {'fa_*': ['fa_a', 'fa_b']}
    >>> feature_sets(["a", "b", "n_volumes"], [])
    {'all measures': ['a', 'b']}
    """
    if patterns:
        return {p: own for p, own in match_columns(patterns, columns).items() if own}
    by_type = feature_columns(columns)
    if by_type:
        return {str(name): own for name, own in by_type.items()}
    measures = measures_of(columns)
    return {ALL_MEASURES: measures} if measures else {}


def note_no_measures(name: str, chosen: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return a note on the columns that a set of all measures leaves out, or none."""
    others = [c for c in columns if c not in chosen]
    if not name.endswith(ALL_MEASURES) or not others:
        return []
    return [
        f"{name}: {listed(others)} tell protocol and coverage, and are used only where --columns "
        "names them"
    ]


def indicators(values: pd.Series) -> tuple[_Array, tuple[str, ...]]:
    """Return a column as numbers (N, K): itself, or an indicator of each class.

    Examples
    --------
    >>> indicators(pd.Series(["a", "b", "a"], name="site"))[1]
    ('site=a', 'site=b')
    """
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(dtype=np.float64)[:, None], (str(values.name),)
    table = pd.get_dummies(values.astype(str), prefix=values.name, prefix_sep="=", dtype=float)
    return table.to_numpy(), tuple(map(str, table))


def _add_measures(cohort: Cohort, measures: ScanTable, request: VectorRequest) -> Cohort:
    """Return a cohort whose people have the measures that a request names."""
    wanted = [c for c in request.needed if c in measures.values and c not in cohort.people]
    if not wanted:
        return cohort
    known = cohort.people.index.isin(measures.values.index)
    kept = cohort.keep(
        known, f"no row in {measures.source.name if measures.source else 'the table of measures'}"
    )
    added = kept.people.join(measures.values[wanted])
    return Cohort(added, kept.values, kept.left_out)


def drop_missing(cohort: Cohort, name: str, notes: list[str]) -> Cohort:
    """Leave out columns without any number, and scans without one in a column.

    What is said about columns is added to `notes`.

    Raises InputError if no column holds a number.
    """
    known = cohort.values.notna()
    has_any = known.any()
    if not has_any.all():
        notes.append(f"{name}: {(~has_any).sum()} columns hold no number and are not used")
    if not has_any.any():
        raise InputError(f"{name}: no number in any column", expected="vectors")
    part = Cohort(cohort.people, cohort.values.loc[:, has_any], cohort.left_out)
    return part.keep(known.loc[:, has_any].all(axis=1), f"a missing value among {name}")


def _keyed(cohort: Cohort, by: list[str]) -> Cohort:
    key = pd.Index(["_".join(map(str, row)) for row in cohort.people[by].to_numpy()])
    return Cohort(cohort.people.set_axis(key), cohort.values.set_axis(key), cohort.left_out)


def _assemble(
    sets: Mapping[str, Cohort], request: VectorRequest, notes: list[str]
) -> CohortVectors:
    common = sorted(set.intersection(*(set(c.people.index) for c in sets.values())))
    everybody = dict.fromkeys(key for c in sets.values() for key in c.people.index)
    left_out = dict.fromkeys(item for c in sets.values() for item in c.left_out)
    left_out |= dict.fromkeys(
        LeftOut(key, "not in all sets of vectors") for key in everybody if key not in set(common)
    )
    if len(common) < FEWEST_ROWS:
        raise ConfigError(
            f"{len(common)} rows with target and vectors; not used: "
            + (listed([f"{n} ({r})" for n, r in left_out]) or "nobody"),
            expected=f"{FEWEST_ROWS} or more",
        )
    people = next(iter(sets.values())).people.loc[common]
    target, task, classes = read_target(people[request.target], request.classes)
    if task == "classification" and not request.classes:
        notes.append(
            f"{request.target}: {classes[1]} is the positive class, {classes[0]} the other"
        )
    vectors = {
        name: VectorSet(c.values.loc[common].to_numpy(), tuple(map(str, c.values)))
        for name, c in sets.items()
    }
    sites = site_levels(people, request.site) if request.site else None
    vectors |= _baselines(people, sites, request, vectors)
    groups = family_groups(people, request.family)
    return CohortVectors(
        people, target, task, classes, vectors, groups,
        None if sites is None else sites.to_numpy(dtype=str),
        tuple(left_out), tuple(notes), request.target,
    )  # fmt: skip


def _baselines(
    people: pd.DataFrame,
    sites: pd.Series | None,
    request: VectorRequest,
    features: Mapping[str, VectorSet],
) -> dict[str, VectorSet]:
    """Return site, covariates and other columns as predictors, and features with covariates."""
    if request.target in (*request.site, *request.baselines, *request.covariates):
        raise ConfigError(f"the target {request.target} as a baseline", expected="others")
    parts = {c: indicators(people[c]) for c in (*request.baselines, *request.covariates)}
    named: dict[str, tuple[str, ...]] = {}
    if sites is not None:
        site = " + ".join(request.site)
        parts[site], named[site] = indicators(sites.rename(site)), (site,)
    named |= {column: (column,) for column in request.baselines}
    if request.covariates:
        named[" + ".join(request.covariates)] = request.covariates
    if len(named) > 1:
        every = tuple(dict.fromkeys(c for columns in named.values() for c in columns))
        named["all baselines"] = every
    found = {}
    for name, columns in named.items():
        values = np.hstack([parts[c][0] for c in columns])
        found[name] = VectorSet(values, tuple(n for c in columns for n in parts[c][1]), "baseline")
    if request.covariates:
        added = found[" + ".join(request.covariates)]
        for name, own in features.items():
            found[f"{name} + {' + '.join(request.covariates)}"] = VectorSet(
                np.hstack([own.values, added.values]),
                (*own.columns, *added.columns),
                "joint",
                len(added.columns),
            )
    return found
