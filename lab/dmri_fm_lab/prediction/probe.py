"""Probe: predict a target from vectors by heads, in folds, beside what site and motion predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.parallel import Parallel, delayed

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.calibration import calibrate
from dmri_fm_lab.prediction.cohort_vectors import CohortVectors, VectorSet
from dmri_fm_lab.prediction.heads import HeadSettings, Trainer, Vectors, prepare_head
from dmri_fm_lab.prediction.metrics import (
    SCORES,
    classification_metrics,
    regression_metrics,
    summarise,
)
from dmri_fm_lab.prediction.permutation import Exchange, permutation_p
from dmri_fm_lab.prediction.splits import Fold, FoldRows

#: Head of site, motion and other baselines, whatever the head of the features.
BASELINE_HEAD = "tuned"

#: Test rows of a site in a fold, at least, for scores within the site.
FEWEST_OF_SITE = 5

_Array = NDArray[np.float64]

#: From vectors (N, D) and the rows of a fold to vectors (N, D), harmonised by the training rows.
Harmonise = Callable[[_Array, FoldRows], _Array]


@dataclass(frozen=True)
class ProbeSettings:
    """How features are probed.

    Attributes
    ----------
    heads
        Names of :data:`~dmri_fm_lab.prediction.heads.HEADS`.
    head
        What heads are told.
    n_permutations
        Of the target, for p values of features; each fits all folds again.
    n_jobs
        Processes, which share out folds.
    """

    heads: tuple[str, ...]
    head: HeadSettings
    n_permutations: int = 0
    n_jobs: int = 1


@dataclass(frozen=True, eq=False)
class Prediction:
    """Scores of one set of vectors by one head.

    Attributes
    ----------
    predictor, head, role
        Name of the vectors, of the head, and the vectors' role.
    n_columns
        Length of a vector.
    scores
        By name, a score for each fold: the mean over seeds, NaN where undefined.
    over_seeds
        By name, standard deviation over seeds, for each fold; empty for heads without chance.
    about
        What a head chose or found, by name, for each fold.
    within_sites
        By site and name, a score for each fold.
    calibration
        See :func:`~dmri_fm_lab.prediction.calibration.calibrate`; of all folds together.
    p_permutation
        Of the first score, or None.
    """

    predictor: str
    head: str
    role: str
    n_columns: int
    scores: dict[str, list[float]]
    over_seeds: dict[str, list[float]]
    about: dict[str, list[float]]
    within_sites: dict[str, dict[str, list[float]]]
    calibration: dict[str, Any] = field(default_factory=dict)
    p_permutation: float | None = None

    @property
    def title(self) -> str:
        """Name and head, for tables."""
        return f"{self.predictor} ({self.head})"


def check_folds(cohort: CohortVectors, folds: Sequence[Fold]) -> list[FoldRows]:
    """Return the rows of folds.

    Raises
    ------
    ConfigError
        If a training set lacks a class or has a constant target.
    """
    found = []
    for fold in folds:
        rows = fold.rows(cohort.participants)
        if np.ptp(cohort.target[rows.train].astype(float)) == 0:
            raise ConfigError(
                f"fold {fold.name}: the target is the same for all {len(rows.train)} rows of "
                "training",
                expected="both classes, or numbers that vary, in each training set",
                advice="stratify the splits by the target",
            )
        found.append(rows)
    return found


def run_probe(
    cohort: CohortVectors,
    folds: Sequence[Fold],
    settings: ProbeSettings,
    *,
    harmonise: Harmonise | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> list[Prediction]:
    """Predict the target from all sets of vectors in all folds.

    Parameters
    ----------
    cohort
        Rows with vectors and target.
    folds
        Splits of the participants.
    settings
        See :class:`ProbeSettings`.
    harmonise
        Takes site effects out of features, fitted to training rows; baselines, and the covariates
        beside features, stay.
    report
        Is told what is computed.

    Raises
    ------
    ConfigError
        If a head does not predict such a target, or a training set cannot be used.
    """
    rows = check_folds(cohort, folds)
    orders = _draw_orders(cohort, settings)
    found = []
    for name, own in cohort.sets.items():
        is_baseline = own.role == "baseline"
        for head in (BASELINE_HEAD,) if is_baseline else settings.heads:
            report(f"{name}, {head}: {len(folds)} folds")
            results = Parallel(n_jobs=settings.n_jobs)(
                delayed(_run_named_fold)(
                    fold.name,
                    head,
                    _harmonised(own, r, harmonise),
                    cohort,
                    r,
                    settings.head,
                    [] if is_baseline else orders,
                )
                for fold, r in zip(folds, rows, strict=True)
            )
            names = (name, head, own.role, own.values.shape[1])
            found.append(_collect(names, results, SCORES[cohort.task][0]))
    return found


def _harmonised(own: VectorSet, rows: FoldRows, harmonise: Harmonise | None) -> _Array:
    """Return vectors whose features are harmonised; covariates are not measures of a scanner."""
    if harmonise is None or own.role == "baseline":
        return own.values
    n = len(own.columns) - own.n_covariates
    return np.hstack([harmonise(own.values[:, :n], rows), own.values[:, n:]])


def _draw_orders(cohort: CohortVectors, settings: ProbeSettings) -> list[NDArray[np.int_]]:
    """Return permutations of the rows: families stay together, and within their sites."""
    exchange = Exchange.of(cohort.groups, cohort.sites)
    rng = np.random.default_rng(settings.head.seed)
    return [exchange.draw(rng) for _ in range(settings.n_permutations)]


@dataclass(frozen=True, eq=False)
class _FoldResult:
    """Scores of a fold, by seed, in sites and of permuted targets; predictions of test rows."""

    by_seed: list[dict[str, float]]
    about: dict[str, float]
    within_sites: dict[str, dict[str, float]]
    permuted: list[float]
    participants: NDArray[np.str_]
    observed: NDArray[Any]
    predicted: _Array


def _run_named_fold(
    name: str, head: str, values: _Array, cohort: CohortVectors, rows: FoldRows, *rest: Any
) -> _FoldResult:
    """Run a fold; an error names the target, the fold and the numbers of both classes."""
    try:
        return _run_fold(head, values, cohort, rows, *rest)
    except ConfigError as error:
        counts = ""
        if cohort.classes:
            is_positive = cohort.target[rows.train]
            numbers = zip(cohort.classes, ((~is_positive).sum(), is_positive.sum()), strict=True)
            counts = f" ({', '.join(f'{n} of {level}' for level, n in numbers)})"
        raise ConfigError(
            f"target {cohort.target_name}{counts}, fold {name}, {head}: {error.found}",
            expected=error.expected,
            advice=error.advice,
        ) from None


def _run_fold(
    head: str,
    values: _Array,
    cohort: CohortVectors,
    rows: FoldRows,
    settings: HeadSettings,
    orders: Sequence[NDArray[np.int_]],
) -> _FoldResult:
    """Prepare a head for a fold, and fit it to the target and to its permutations."""
    train, val = (Vectors(values[r], cohort.groups[r]) for r in (rows.train, rows.val))
    trainer, test = prepare_head(head, train, val, settings), values[rows.test]
    predicted, scale, about = _predict(trainer, cohort.target, rows, test)
    observed, mean = cohort.target[rows.test], predicted.mean(axis=0)
    within = {}
    sites = None if cohort.sites is None else cohort.sites[rows.test]
    for site in () if sites is None else np.unique(sites):
        inside = sites == site
        if inside.sum() >= FEWEST_OF_SITE:
            within[str(site)] = _score(observed[inside], mean[inside], scale)
    main = SCORES[cohort.task][0]
    permuted = [_permuted_score(trainer, cohort.target[o], rows, test, main) for o in orders]
    by_seed = [_score(observed, own, scale) for own in predicted]
    who = cohort.participants[rows.test]
    return _FoldResult(by_seed, about, within, permuted, who, observed, mean)


def _predict(
    trainer: Trainer, target: NDArray[Any], rows: FoldRows, test: _Array
) -> tuple[_Array, float, dict[str, float]]:
    """Return predictions (K, N) in the target's unit, its scale, and what the head found."""
    train, val = target[rows.train], target[rows.val]
    if target.dtype == bool:
        fitted = trainer(train, val)
        return fitted.predict(test), 1.0, fitted.about
    middle, scale = float(train.mean()), float(train.std(ddof=1))
    fitted = trainer((train - middle) / scale, (val - middle) / scale)
    return middle + scale * fitted.predict(test), scale, fitted.about


def _score(observed: NDArray[Any], predicted: _Array, scale: float) -> dict[str, float]:
    if observed.dtype == bool:
        return classification_metrics(observed, predicted)
    return regression_metrics(observed, predicted, scale=scale)


def _permuted_score(
    trainer: Trainer, target: NDArray[Any], rows: FoldRows, test: _Array, main: str
) -> float:
    """Return a score of a permuted target; NaN where a class has one training row or none."""
    train = target[rows.train]
    if target.dtype == bool and min(train.sum(), (~train).sum()) < 2:
        return float("nan")
    predicted, scale, _ = _predict(trainer, target, rows, test)
    return float(np.mean([_score(target[rows.test], own, scale)[main] for own in predicted]))


def _collect(
    names: tuple[str, str, str, int], results: Sequence[_FoldResult], main: str
) -> Prediction:
    scores: dict[str, list[float]] = {}
    over_seeds: dict[str, list[float]] = {}
    about: dict[str, list[float]] = {}
    within: dict[str, dict[str, list[float]]] = {}
    for fold in results:
        keys = list(fold.by_seed[0])
        _append(scores, {k: float(np.mean([s[k] for s in fold.by_seed])) for k in keys})
        if len(fold.by_seed) > 1:
            spread = {k: float(np.std([s[k] for s in fold.by_seed], ddof=1)) for k in keys}
            _append(over_seeds, spread)
        _append(about, fold.about)
        for site, own in fold.within_sites.items():
            _append(within.setdefault(site, {}), own)
    observed = np.concatenate([fold.observed for fold in results])
    predicted = np.concatenate([fold.predicted for fold in results])
    who = np.concatenate([fold.participants for fold in results])
    permuted = [
        summarise(list(own)).mean for own in zip(*(f.permuted for f in results), strict=True)
    ]
    return Prediction(
        *names,
        scores,
        over_seeds,
        about,
        dict(sorted(within.items())),
        calibration=calibrate(observed, predicted, who),
        p_permutation=permutation_p(summarise(scores[main]).mean, permuted) if permuted else None,
    )


def _append(lists: dict[str, list[float]], values: dict[str, float]) -> None:
    for name, value in values.items():
        lists.setdefault(name, []).append(value)
