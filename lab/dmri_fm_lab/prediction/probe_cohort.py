"""A probe from files to results: tables, participants, splits, heads, record and text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.harmonise import Combat
from dmri_fm_lab.prediction.cohort_vectors import (
    CohortVectors,
    VectorRequest,
    gather_vectors,
    indicators,
)
from dmri_fm_lab.prediction.draw_splits import SplitRequest, draw_splits
from dmri_fm_lab.prediction.heads import HeadSettings
from dmri_fm_lab.prediction.permutation import Exchange
from dmri_fm_lab.prediction.pretrained_on import describe_seen, find_seen_of_table
from dmri_fm_lab.prediction.probe import Harmonise, Prediction, ProbeSettings, run_probe
from dmri_fm_lab.prediction.published import PUBLISHED, check_published
from dmri_fm_lab.prediction.results import (
    compare_predictions,
    describe_cohort,
    describe_prediction,
    find_warnings,
    format_results,
)
from dmri_fm_lab.prediction.splits import Fold, FoldRows, match_folds, read_splits
from dmri_fm_lab.scan_tables import ScanTable, listed, read_people, read_scan_table
from dmri_fm_lab.scans import study_name

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class ProbeRequest:
    """Files and settings of a probe.

    Attributes
    ----------
    features
        Tables of vectors, see :func:`dmri_fm_lab.scan_tables.read_scan_table`.
    participants, sessions
        See :func:`dmri_fm_lab.scan_tables.read_people`.
    qc
        Table of measures of the same scans, whose columns can be baselines.
    vectors
        Target and columns.
    splits
        A file of splits, or None: they are drawn.
    drawn
        How they are drawn; stratified by the target, and by site, unless columns are named.
    heads, is_weighted, penalty, n_seeds, n_permutations, n_jobs, seed
        See :class:`~dmri_fm_lab.prediction.probe.ProbeSettings` and
        :class:`~dmri_fm_lab.prediction.heads.HeadSettings`.
    combat
        Whether ComBat, fitted to training sets, takes site effects out of features.
    combat_covariates
        Columns whose effects it preserves; never the target.
    published
        A published task whose rows are quoted, or None.
    weights, dataset
        See :func:`~dmri_fm_lab.prediction.pretrained_on.find_seen_of_table`; without `dataset`,
        the folder above that of a table.
    excludes_seen
        Whether participants of the pretraining are left out.
    """

    features: tuple[Path, ...]
    participants: Path
    vectors: VectorRequest
    sessions: Path | None = None
    qc: Path | None = None
    splits: Path | None = None
    drawn: SplitRequest = field(default_factory=SplitRequest)
    heads: tuple[str, ...] = ("tuned",)
    is_weighted: bool = False
    penalty: float = 1.0
    n_seeds: int = 5
    n_permutations: int = 0
    n_jobs: int = 1
    seed: int = 0
    combat: bool = False
    combat_covariates: tuple[str, ...] = ()
    published: str | None = None
    weights: Path | None = None
    dataset: Path | None = None
    excludes_seen: bool = False


class ProbeResult(NamedTuple):
    """Predictions of a probe, its folds, its text with markdown tables, its record for JSON."""

    predictions: list[Prediction]
    folds: list[Fold]
    text: str
    record: dict[str, Any]


def probe_cohort(
    request: ProbeRequest, *, report: Callable[[str], None] = lambda text: None
) -> ProbeResult:
    """Predict a target from tables of vectors, beside baselines.

    Raises
    ------
    ConfigError
        If the request contradicts the files or itself.
    InputError
        If a file cannot be used.
    """
    cohort = _read_cohort(request)
    folds, notes, left_out = _make_splits(cohort, request)
    notes = (*notes, *_fixed_rows(cohort, request), *_no_baseline(cohort))
    cohort = replace(cohort, notes=(*cohort.notes, *notes), left_out=(*cohort.left_out, *left_out))
    if request.published is not None:
        check_published(request.published, request.vectors.target, cohort.task)
    settings = ProbeSettings(
        heads=request.heads,
        head=HeadSettings(
            task=cohort.task,
            is_weighted=request.is_weighted,
            penalty=request.penalty,
            n_seeds=request.n_seeds,
            seed=request.seed,
        ),
        n_permutations=request.n_permutations,
        n_jobs=request.n_jobs,
    )
    harmonise = _combat(cohort, request) if request.combat else None
    predictions = run_probe(cohort, folds, settings, harmonise=harmonise, report=report)
    comparisons = compare_predictions(predictions, folds, cohort.task)
    text = format_results(
        request.vectors.target, cohort, folds, predictions, comparisons,
        published=request.published,
    )  # fmt: skip
    record = {
        "use": RESEARCH_ONLY,
        "request": _plain(asdict(request)),
        "cohort": describe_cohort(cohort, folds),
        "warnings": find_warnings(comparisons, predictions, cohort.task),
        "predictions": [describe_prediction(p) for p in predictions],
        "comparisons": [c.describe() for c in comparisons],
    }
    if request.published:
        record["published"] = [row._asdict() for row in PUBLISHED[request.published]]
    return ProbeResult(predictions, folds, text, record)


def _read_cohort(request: ProbeRequest) -> CohortVectors:
    people = read_people(request.participants, sessions=request.sessions)
    tables = {_title(path): read_scan_table(path) for path in request.features}
    if len(tables) < len(request.features):
        raise ConfigError(
            f"tables of the same name: {listed([p.name for p in request.features])}",
            expected="names that differ",
        )
    if request.dataset is not None:
        study_name(request.dataset)  # a dataset that was named has a name
    notes, seen = [], frozenset[str]()
    for path in request.features:
        dataset = request.dataset or path.parent.parent
        found = find_seen_of_table(
            path, people["participant_id"], dataset=dataset, weights=request.weights
        )
        if found is not None:
            notes.append(describe_seen(path.name, found))
            seen |= found.participants
    if seen and request.excludes_seen:
        tables = {title: _without(table, seen) for title, table in tables.items()}
        notes.append(f"the {len(seen)} participants of the pretraining are left out")
    elif seen:
        notes.append("--exclude-seen leaves out the participants of the pretraining")
    measures = read_scan_table(request.qc) if request.qc else None
    cohort = gather_vectors(tables, people, request.vectors, measures=measures)
    return replace(cohort, notes=(*notes, *cohort.notes))


def _title(path: Path) -> str:
    """Return the name of a table: `model-drope` of `model-drope_desc-scan_features.tsv`."""
    return path.stem.removesuffix("_features").removesuffix("_desc-scan")


def _without(table: ScanTable, participants: frozenset[str]) -> ScanTable:
    kept = ~table.scans["participant_id"].isin(participants)
    return replace(table, scans=table.scans[kept], values=table.values[kept])


def _make_splits(
    cohort: CohortVectors, request: ProbeRequest
) -> tuple[list[Fold], tuple[str, ...], tuple[Any, ...]]:
    if request.splits is not None:
        folds, left_out = match_folds(read_splits(request.splits), cohort.participants)
        return folds, _broken_families(cohort, folds), left_out
    own = request.vectors
    columns = request.drawn.stratify or (own.target, *own.site)
    drawn = replace(
        request.drawn, stratify=columns, site=own.site, family=own.family, seed=request.seed
    )
    folds, notes = draw_splits(cohort.people, drawn)
    return folds, notes, ()


def _broken_families(cohort: CohortVectors, folds: list[Fold]) -> tuple[str, ...]:
    """Return a note on families of which members are trained on and tested in one fold."""
    n = 0
    for fold in folds:
        rows = fold.rows(cohort.participants)
        train = np.concatenate([rows.train, rows.val])
        n += len(np.intersect1d(cohort.groups[train], cohort.groups[rows.test]))
    if not n:
        return ()
    return (f"the given splits train on members of {n} families that they test (all folds)",)


def _fixed_rows(cohort: CohortVectors, request: ProbeRequest) -> tuple[str, ...]:
    """Return a note on the rows that permutations leave where they are."""
    n = Exchange.of(cohort.groups, cohort.sites).n_fixed if request.n_permutations else 0
    if not n:
        return ()
    return (
        f"{n} of {len(cohort.target)} rows keep their target in all permutations: theirs is the "
        "only family of its size at its sites",
    )


def _no_baseline(cohort: CohortVectors) -> tuple[str, ...]:
    """Return a note where nothing tells what site, motion or head size predict."""
    if any(own.role == "baseline" for own in cohort.sets.values()):
        return ()
    return (
        "no baseline was asked for, so nothing tells whether features predict better than site, "
        "motion or head size: --site COLUMN; --qc OUT/group/desc-image_qc.tsv --baselines mean_fd "
        "mask_volume_ml; --covariates COLUMN",
    )


def _combat(cohort: CohortVectors, request: ProbeRequest) -> Harmonise:
    """Return ComBat by site, fitted to the training rows of a fold."""
    if cohort.sites is None:
        raise ConfigError("ComBat without sites", expected="--site COLUMN with --combat")
    if request.vectors.target in request.combat_covariates:
        raise ConfigError(
            f"ComBat would preserve the target {request.vectors.target}",
            expected="covariates that are not the target",
            advice="the harmonised vectors of a test set would contain what is predicted",
        )
    sites = cohort.sites
    covariates = _preserved(cohort, request.combat_covariates)

    def harmonise(values: _Array, rows: FoldRows) -> _Array:
        def preserved(which: NDArray[np.int_]) -> _Array | None:
            return None if covariates is None else covariates[which]

        fitted = Combat.fit(values[rows.train], sites[rows.train].tolist(), preserved(rows.train))
        used = np.concatenate(rows)
        done = values.copy()
        done[used] = fitted.transform(values[used], sites[used].tolist(), preserved(used))
        return done

    return harmonise


def _preserved(cohort: CohortVectors, names: Sequence[str]) -> _Array | None:
    """Return the covariates that ComBat preserves, (N, C), or None."""
    if not names:
        return None
    columns = []
    for name in names:
        if name not in cohort.people or cohort.people[name].isna().any():
            raise ConfigError(
                f"covariate {name!r} of ComBat is not there, or has missing values",
                expected=listed(list(cohort.people)),
            )
        values, _ = indicators(cohort.people[name])
        # The first class is the reference.
        columns.append(values if values.shape[1] == 1 else values[:, 1:])
    return np.hstack(columns)


def _plain(value: Any) -> Any:
    """Return a request for JSON: paths as names."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.name if isinstance(value, Path) else value
