"""Robustness to the protocol: a head is trained on one protocol and tested on others.

As table 7 of Kung et al. 2026 (doi:10.48550/arXiv.2603.25977): the same participants are scanned
by several protocols, told apart by the entity `acq`. A fold trains on scans of the first protocol,
and tests other participants by scans of each. Targets are standardised by the training set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.encoders.features import feature_columns
from dmri_fm.errors import ConfigError, InputError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.prediction.draw_splits import Units, family_groups, make_folds, make_strata
from dmri_fm_lab.prediction.heads import HeadSettings, Vectors, prepare_head
from dmri_fm_lab.prediction.metrics import (
    TITLES,
    Summary,
    TaskType,
    classification_metrics,
    format_summary,
    regression_metrics,
    summarise,
)
from dmri_fm_lab.prediction.splits import Fold
from dmri_fm_lab.prediction.targets import read_target
from dmri_fm_lab.scan_tables import (
    LeftOut,
    ScanTable,
    count_reasons,
    join_people,
    listed,
    read_people,
    read_scan_table,
)

#: Scores of table 7, by type of target.
SCORES: dict[TaskType, tuple[str, ...]] = {
    "regression": ("rho", "mse"),
    "classification": ("acc", "auroc"),
}

#: Columns of the table of scalars that are the baseline.
_SCALARS = ("tensor_fa_mean_", "tensor_md_mean_")

#: Folds of the published means.
_N_PUBLISHED = 5

#: Rows of table 7 as printed: trained on the first of two random protocols of 12 b-values, the
#: linear probe of the class token; age of HCP-D and HCP-A, sex of HCP-A.
PUBLISHED: dict[str, dict[str, dict[str, Summary]]] = {
    "age": {
        "same protocol": {
            "rho": Summary(0.895, 0.010, _N_PUBLISHED),
            "mse": Summary(0.22, 0.02, _N_PUBLISHED),
        },
        "second protocol": {
            "rho": Summary(0.897, 0.007, _N_PUBLISHED),
            "mse": Summary(0.21, 0.02, _N_PUBLISHED),
        },
    },
    "sex": {
        "same protocol": {
            "acc": Summary(0.750, 0.012, _N_PUBLISHED),
            "auroc": Summary(0.827, 0.015, _N_PUBLISHED),
        },
        "second protocol": {
            "acc": Summary(0.754, 0.020, _N_PUBLISHED),
            "auroc": Summary(0.828, 0.017, _N_PUBLISHED),
        },
    },
}


@dataclass(frozen=True)
class TransferRequest:
    """What is predicted, and from which protocols.

    Attributes
    ----------
    targets
        Columns of the table of participants.
    train, tests
        Labels of `acq`: that of training, and those of testing. If empty, the first in order of
        the labels, and all.
    heads
        Names of :data:`dmri_fm_lab.prediction.heads.HEADS`.
    n_folds, n_repeats, seed
        Of the folds, which are stratified by the target.
    family
        Column whose members are never in two sets of a fold; empty: none.
    """

    targets: tuple[str, ...] = ("age", "sex")
    train: str = ""
    tests: tuple[str, ...] = ()
    heads: tuple[str, ...] = ("tuned", "linear")
    n_folds: int = 5
    n_repeats: int = 1
    seed: int = 0
    family: str = ""


class TransferScore(NamedTuple):
    """Scores over folds of a predictor with a head, of one protocol of testing."""

    target: str
    predictor: str
    head: str
    test: str
    scores: dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class ScannedTwice:
    """Participants with a scan by each protocol.

    Attributes
    ----------
    people
        N rows, `participant_id` among the columns.
    vectors
        By name of predictor and label of protocol: shape (N, D).
    left_out
        Participants and scans that are not used.
    """

    people: pd.DataFrame
    vectors: Mapping[str, Mapping[str, NDArray[np.float64]]]
    left_out: tuple[LeftOut, ...]


def read_predictors(group: str | Path, *, model: str = "drope") -> dict[str, ScanTable]:
    """Read features and regional FA and MD from the tables of the group level.

    Raises InputError if a table cannot be read, or lacks their columns.
    """
    group = Path(group)
    features = read_scan_table(group / f"model-{model}_desc-scan_features.tsv")
    scalars = read_scan_table(group / "desc-scalars_features.tsv")
    found: dict[str, ScanTable] = {
        name: features.select(columns)
        for name, columns in feature_columns(list(features.values)).items()
    }
    regional = [c for c in scalars.values if c.startswith(_SCALARS)]
    if not found or not regional:
        raise InputError(
            "no features" if not found else "no regional FA and MD",
            path=(features if not found else scalars).source,
            expected="tables of the group level",
        )
    return {**found, "regional FA, MD": scalars.select(regional)}


def pair_scans(
    tables: Mapping[str, ScanTable], people: pd.DataFrame, protocols: Sequence[str]
) -> ScannedTwice:
    """Return the participants whose scans by all protocols have all vectors.

    Columns without a number in every such scan are not used: a region may hold too few voxels.

    Raises
    ------
    ConfigError
        If a participant has several scans by a protocol.
    """
    left_out: dict[LeftOut, None] = {}
    by_set: dict[str, dict[str, pd.DataFrame]] = {}
    for name, table in tables.items():
        cohort = join_people(table, people)
        left_out |= dict.fromkeys(cohort.left_out)
        labels = table.scans["acquisition"].reindex(cohort.people.index)
        by_set[name] = {}
        for protocol in protocols:
            own = (labels == protocol).to_numpy()
            who = pd.Index(cohort.people["participant_id"][own])
            if who.has_duplicates:
                twice = sorted(set(who[who.duplicated()]))
                raise ConfigError(
                    f"several scans acq-{protocol} of {listed(twice)}",
                    expected="one by each protocol",
                )
            by_set[name][protocol] = cohort.values[own].set_axis(who)
    frames = [f for own in by_set.values() for f in own.values()]
    common = sorted(set.intersection(*(set(f.index) for f in frames)))
    everybody = sorted(set().union(*(f.index for f in frames)))
    left_out |= {
        LeftOut(who, f"no scan by each of {', '.join(protocols)}"): None
        for who in everybody
        if who not in common
    }
    vectors = {}
    for name, own in by_set.items():
        arrays = {p: f.loc[common].to_numpy() for p, f in own.items()}
        known = np.all([np.isfinite(a).all(axis=0) for a in arrays.values()], axis=0)
        if common and not known.any():
            raise ConfigError(f"{name}: no column with a number in every scan", expected="vectors")
        vectors[name] = {p: a[:, known] for p, a in arrays.items()}
    rows = people.set_index("participant_id", drop=False).loc[common]
    return ScannedTwice(rows, vectors, tuple(left_out))


def score_transfer(
    scans: ScannedTwice, target: str, request: TransferRequest, *, train: str
) -> list[TransferScore]:
    """Train on scans by one protocol, and test on scans of other participants by each.

    Raises
    ------
    ConfigError
        If target or families are no columns, the target is constant or has more than two classes,
        or there are too few participants for the folds.
    """
    if target not in scans.people:
        raise ConfigError(
            f"no column {target} in the table of participants",
            expected=f"some of {listed(list(scans.people))}",
        )
    has_target = scans.people[target].notna().to_numpy()
    people = scans.people[has_target]
    observed, task, _ = read_target(people[target], ())
    who = people["participant_id"].to_numpy(dtype=str)
    groups = family_groups(people, request.family)
    strata, _ = make_strata({target: people[target]}, fewest=request.n_folds)
    folds = make_folds(
        Units(who, strata, groups),
        n_folds=request.n_folds,
        n_repeats=request.n_repeats,
        seed=request.seed,
    )
    found = []
    for name, by_protocol in scans.vectors.items():
        own = {protocol: values[has_target] for protocol, values in by_protocol.items()}
        for head in request.heads:
            settings = HeadSettings(task, seed=request.seed)
            results = [
                _run_fold(head, own, observed, groups, who, f, settings, train) for f in folds
            ]
            for protocol in own:
                scores = {s: [result[protocol][s] for result in results] for s in SCORES[task]}
                found.append(TransferScore(target, name, head, protocol, scores))
    return found


def _run_fold(
    head: str,
    vectors: Mapping[str, NDArray[np.float64]],
    observed: NDArray[Any],
    groups: NDArray[np.str_],
    who: NDArray[np.str_],
    fold: Fold,
    settings: HeadSettings,
    train: str,
) -> dict[str, dict[str, float]]:
    """Return the scores of a fold by protocol of testing."""
    rows = fold.rows(who)
    values = vectors[train]
    trainer = prepare_head(
        head,
        Vectors(values[rows.train], groups[rows.train]),
        Vectors(values[rows.val], groups[rows.val]),
        settings,
    )
    own, true = observed[rows.train], observed[rows.test]
    if settings.task == "classification":
        predict = trainer(own, observed[rows.val]).predict
        return {
            p: classification_metrics(true, predict(v[rows.test]).mean(axis=0))
            for p, v in vectors.items()
        }
    middle, scale = float(own.mean()), float(own.std(ddof=1))
    predict = trainer((own - middle) / scale, (observed[rows.val] - middle) / scale).predict
    return {
        p: regression_metrics(
            true, middle + scale * predict(v[rows.test]).mean(axis=0), scale=scale
        )
        for p, v in vectors.items()
    }


def evaluate_transfer(
    folder: str | Path, request: TransferRequest, *, model: str = "drope"
) -> dict[str, Any]:
    """Score features and regional FA and MD of a dataset whose participants were scanned twice.

    Parameters
    ----------
    folder
        Output folder of the app with `participants.tsv` and the tables of the group level, such
        as `dmri-fm simulate-cohort --protocols random random` writes.
    request
        Targets, protocols, heads, folds.
    model
        Label of the encoder.

    Returns
    -------
    dict
        JSON-ready: `use`, `request`, `train`, `tests`, `n_participants`, `left_out` by reason,
        `scores` (a list of :class:`TransferScore`), and `text`, the tables as markdown.

    Raises
    ------
    ConfigError, InputError
        If tables, protocols or targets do not suffice.
    """
    folder = Path(folder)
    tables = read_predictors(folder / "group", model=model)
    labels = _protocols_of(tables)
    train = request.train or labels[0]
    tests = request.tests or tuple(labels)
    if unknown := sorted({train, *tests} - set(labels)):
        raise ConfigError(
            f"protocol {listed(unknown)}", expected=f"labels of acq: {listed(labels)}"
        )
    scans = pair_scans(
        tables, read_people(folder / "participants.tsv"), list(dict.fromkeys((train, *tests)))
    )
    scores = [s for t in request.targets for s in score_transfer(scans, t, request, train=train)]
    scores = [s for s in scores if s.test in tests]
    return json_ready(
        {
            "use": RESEARCH_ONLY,
            "request": asdict(request),
            "versions": versions(),
            "train": train,
            "tests": list(tests),
            "n_participants": len(scans.people),
            "left_out": count_reasons(scans.left_out),
            "scores": [s._asdict() for s in scores],
            "text": format_transfer(scores, train, len(scans.people), scans.left_out),
        }
    )


def _protocols_of(tables: Mapping[str, ScanTable]) -> list[str]:
    """Return the labels of `acq` that all tables have, in order."""
    columns = [t.scans["acquisition"] for t in tables.values() if "acquisition" in t.scans]
    if len(columns) < len(tables) or len(labels := set.intersection(*map(set, columns))) < 2:
        raise InputError(
            "scans of one protocol",
            expected="several scans of each participant, told apart by acq",
            advice="simulate them: dmri-fm simulate-cohort OUT --protocols random random",
        )
    return sorted(labels)


def format_transfer(
    scores: Sequence[TransferScore], train: str, n: int, left_out: Sequence[LeftOut]
) -> str:
    """Return a markdown table for each target, published rows last."""
    reasons = "; ".join(f"{k} {reason}" for reason, k in count_reasons(left_out).items())
    parts = [
        f"{n} participants, trained on acq-{train}; mean ± standard deviation over folds. "
        f"Not used: {reasons or 'nobody'}. {RESEARCH_ONLY}"
    ]
    for target in dict.fromkeys(s.target for s in scores):
        own = [s for s in scores if s.target == target]
        names = list(own[0].scores)
        lines = [[target, "head", "tested on", *(TITLES[s] for s in names)]]
        for row in own:
            cells = [format_summary(s, summarise(row.scores[s])) for s in names]
            same = "same protocol" if row.test == train else f"acq-{row.test}"
            lines.append([row.predictor, row.head, same, *cells])
        for test, summaries in PUBLISHED.get(target, {}).items():
            cells = [format_summary(s, summaries[s]) for s in names]
            lines.append(["cls, published (HCP)", "linear", test, *cells])
        parts.append(markdown(lines))
    return "\n\n".join(parts)
