"""Tests of every outcome: estimates, intervals, effect sizes, corrected p."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from dmri_fm.errors import ConfigError
from dmri_fm_lab.statistics.design_matrix import DesignMatrix, check_rank
from dmri_fm_lab.statistics.linear import (
    Effects,
    Floats,
    Integers,
    effects_of,
    estimate_errors,
    make_estimator,
    score_effect,
)
from dmri_fm_lab.statistics.mixed import MixedFailureError, degrees_of_freedom, fit_mixed
from dmri_fm_lab.statistics.permutations import (
    Exchange,
    Shuffles,
    draw_shuffles,
    family_wise_p,
    find_exchangeable,
    largest_t,
    reduced_residuals,
)

#: Power of :func:`~dmri_fm_lab.statistics.linear.make_estimator` where weights are estimated from
#: the same residuals, which makes them look smaller than they are.
ESTIMATED_POWER = 1.0

#: Coverage of the intervals.
LEVEL = 0.95

#: Columns of the table of results.
COLUMNS = (
    "outcome", "effect", "n", "n_missing", "estimate", "standard_error", "df", "t", "p",
    "ci_low", "ci_high", "partial_r", "partial_r_low", "partial_r_high", "cohens_d",
    "cohens_d_low", "cohens_d_high", "p_fdr", "p_fwe", "problem",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Dependence:
    """What is known about the errors of scans.

    Attributes
    ----------
    blocks
        Shape (N,): number of the family of each scan; each scan its own without families.
    groups
        Shape (N,): number of the site whose variance a scan has; None: one variance.
    is_estimated
        Variances of sites and the correlation within families are estimated for each outcome and
        weigh its scans; else all scans count alike. Standard errors are robust either way.
    participants
        Shape (N,): participants with a random intercept each; None: no mixed model.
    """

    blocks: Integers
    groups: Integers | None = None
    is_estimated: bool = False
    participants: Integers | None = None

    def rows(self, kept: NDArray[np.bool_]) -> Dependence:
        """Return that of some scans."""
        groups, who = self.groups, self.participants
        return Dependence(
            _renumbered(self.blocks[kept]),
            None if groups is None else _renumbered(groups[kept]),
            self.is_estimated,
            None if who is None else _renumbered(who[kept]),
        )


@dataclass(frozen=True)
class Permutations:
    """Number, exchange and seed of permutations, and the level they must allow a test at."""

    n: int = 0
    exchange: Exchange = "whole"
    seed: int = 0
    alpha: float = 0.05


@dataclass
class _Collected:
    """Results while outcomes are worked through."""

    rows: list[pd.DataFrame] = field(default_factory=list)
    largest: dict[str, Floats] = field(default_factory=dict)


def score_outcomes(
    values: pd.DataFrame,
    design: DesignMatrix,
    contrasts: Mapping[str, Floats],
    dependence: Dependence,
    *,
    permutations: Permutations = Permutations(),
) -> pd.DataFrame:
    """Test contrasts of every outcome.

    Parameters
    ----------
    values
        Outcomes, a row per scan of the design, NaN where missing: such scans are left out of
        that outcome alone.
    design
        Design.
    contrasts
        Linear combinations (P,) by name.
    dependence
        Families, sites, participants.
    permutations
        Of the family-wise error rate over outcomes.

    Returns
    -------
    DataFrame
        :data:`COLUMNS`, a row per outcome and contrast. `problem` says why numbers are missing.

    Raises
    ------
    ConfigError
        If there are too few distinct permutations, or too few participants for a mixed model.
    """
    found = _Collected()
    everyone = np.ones(len(values), dtype=bool)
    unusable = find_unusable(values)
    for name, reason in unusable.items():
        found.rows += [_empty([name], effect, everyone, reason) for effect in contrasts]
    usable = values[[c for c in values if c not in unusable]]
    data = usable.to_numpy(dtype=np.float64)
    patterns, pattern_of = np.unique(~np.isnan(data), axis=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):
        columns = np.flatnonzero(pattern_of.ravel() == number)
        names = [str(usable.columns[c]) for c in columns]
        part, some = data[np.ix_(rows, columns)], design.matrix[rows]
        try:
            check_rank(some, design.names)
        except ConfigError as error:
            found.rows += [_empty(names, effect, rows, error.found) for effect in contrasts]
            continue
        depends = dependence.rows(rows)
        if depends.participants is not None:
            _score_mixed(part, some, contrasts, depends, names, rows, found)
            continue
        rng = np.random.default_rng([permutations.seed, number])
        shuffles = _shuffles(depends, permutations, rng)
        for effect, contrast in contrasts.items():
            effects, largest = _score_linear(part, some, contrast, depends, shuffles)
            sizes = _effect_sizes(effects, part, some, contrast)
            found.rows.append(_table(names, effect, rows, effects, sizes))
            if largest is not None:
                before = found.largest.get(effect, np.zeros(len(largest)))
                found.largest[effect] = np.maximum(before, largest)
    return _corrected(pd.concat(found.rows, ignore_index=True), values, contrasts, found.largest)


def find_unusable(values: pd.DataFrame) -> dict[str, str]:
    """Return the outcomes that cannot be tested, and why.

    Examples
    --------
    >>> find_unusable(pd.DataFrame({"a": [1.0, 2.0], "b": [np.nan, 3.0], "c": [np.nan] * 2}))
    {'b': 'constant', 'c': 'no value in any scan'}
    """
    counts = values.nunique()
    words = {0: "no value in any scan", 1: "constant"}
    return {str(c): words[n] for c, n in counts.items() if n in words}


def _shuffles(
    depends: Dependence, permutations: Permutations, rng: np.random.Generator
) -> Shuffles | None:
    if not permutations.n:
        return None
    allowed = find_exchangeable(depends.blocks, depends.groups, exchange=permutations.exchange)
    return draw_shuffles(allowed, permutations.n, alpha=permutations.alpha, rng=rng)


def _score_linear(
    values: Floats,
    design: Floats,
    contrast: Floats,
    depends: Dependence,
    shuffles: Shuffles | None,
) -> tuple[Effects, Floats | None]:
    """Return effects of outcomes (N, D), and the largest t of each permutation."""
    is_blocked = len(np.unique(depends.blocks)) < len(design)
    if not depends.is_estimated or (depends.groups is None and not is_blocked):
        estimator = make_estimator(design, contrast, depends.blocks)
        effects = score_effect(estimator, values, level=LEVEL)
        if shuffles is None:
            return effects, None
        residuals = reduced_residuals(design, contrast, values)
        return effects, largest_t(estimator, residuals, shuffles)
    parts, largest = [], None
    for column in values.T:
        errors = estimate_errors(
            design, column, groups=depends.groups, blocks=depends.blocks if is_blocked else None
        )
        outcome, whitened = errors.whiten(column[:, None]), errors.whiten(design)
        estimator = make_estimator(whitened, contrast, depends.blocks, power=ESTIMATED_POWER)
        parts.append(score_effect(estimator, outcome, level=LEVEL))
        if shuffles is not None:
            residuals = reduced_residuals(whitened, contrast, outcome)
            t = largest_t(estimator, residuals, shuffles)
            largest = t if largest is None else np.maximum(largest, t)
    return Effects(*map(np.concatenate, zip(*parts, strict=True))), largest


def _score_mixed(
    values: Floats,
    design: Floats,
    contrasts: Mapping[str, Floats],
    depends: Dependence,
    names: list[str],
    rows: NDArray[np.bool_],
    found: _Collected,
) -> None:
    """Add the mixed models of outcomes (N, D), one at a time, failures by name."""
    assert depends.participants is not None
    df = np.full(1, float(degrees_of_freedom(depends.participants, design.shape[1])))
    stacked = np.stack(list(contrasts.values()))
    binary = [_is_of_groups(design, c) for c in stacked]
    for name, column in zip(names, values.T, strict=True):
        try:
            fit = fit_mixed(design, column, depends.participants, stacked)
        except MixedFailureError as failure:
            found.rows += [_empty([name], effect, rows, str(failure)) for effect in contrasts]
            continue
        for k, effect in enumerate(contrasts):
            effects = effects_of(fit.estimates[k : k + 1], fit.errors[k : k + 1], df, level=LEVEL)
            scale = fit.errors[k] * np.sqrt(df)
            sizes = {"partial_r": _r(effects, scale)}
            if binary[k]:
                sizes["cohens_d"] = _scaled(effects, 1 / np.full(1, fit.deviation))
            table = _table([name], effect, rows, effects, sizes)
            found.rows.append(table.assign(problem=fit.note))


def _effect_sizes(
    effects: Effects, values: Floats, design: Floats, contrast: Floats
) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Return partial correlation, and Cohen's d where the contrast compares groups."""
    plain = make_estimator(design, contrast)
    squares = np.sum(plain.residuals(values) ** 2, axis=0)
    sizes = {"partial_r": _r(effects, np.linalg.norm(plain.weights) * np.sqrt(squares))}
    if _is_of_groups(design, contrast):
        deviation = np.sqrt(squares / (len(design) - design.shape[1]))
        sizes["cohens_d"] = _scaled(effects, 1 / deviation)
    return sizes


def _is_of_groups(design: Floats, contrast: Floats) -> bool:
    """Tell a contrast of indicator columns."""
    columns = design[:, contrast != 0]
    return bool(np.isin(columns, (0, 1)).all())


def _scaled(effects: Effects, factor: Floats) -> tuple[Floats, Floats, Floats]:
    return effects.estimate * factor, effects.low * factor, effects.high * factor


def _r(effects: Effects, scale: Floats) -> tuple[Floats, Floats, Floats]:
    """Return partial correlations; the limits are those of the estimate in the same formula."""
    ratios = (bound / scale for bound in (effects.estimate, effects.low, effects.high))
    low_to_high = [x / np.sqrt(1 + x**2) for x in ratios]
    return low_to_high[0], low_to_high[1], low_to_high[2]


def _table(
    names: list[str],
    effect: str,
    rows: NDArray[np.bool_],
    effects: Effects,
    sizes: Mapping[str, tuple[Floats, Floats, Floats]],
) -> pd.DataFrame:
    columns = {
        "outcome": names,
        "effect": effect,
        "n": int(rows.sum()),
        "n_missing": int((~rows).sum()),
        "estimate": effects.estimate,
        "standard_error": effects.standard_error,
        "df": effects.df,
        "t": effects.t,
        "p": effects.p,
        "ci_low": effects.low,
        "ci_high": effects.high,
        "problem": "",
    }
    for size, (value, low, high) in sizes.items():
        columns |= {size: value, f"{size}_low": low, f"{size}_high": high}
    return pd.DataFrame(columns)


def _empty(names: list[str], effect: str, rows: NDArray[np.bool_], reason: str) -> pd.DataFrame:
    counts = {"n": int(rows.sum()), "n_missing": int((~rows).sum())}
    return pd.DataFrame({"outcome": names, "effect": effect, **counts, "problem": reason})


def _corrected(
    table: pd.DataFrame,
    values: pd.DataFrame,
    contrasts: Mapping[str, Floats],
    largest: Mapping[str, Floats],
) -> pd.DataFrame:
    """Sort rows by contrast and outcome, and add corrected p over the outcomes of a contrast."""
    table = table.reindex(columns=list(COLUMNS))
    order = {str(name): i for i, name in enumerate(values.columns)}
    of_effect = {name: i for i, name in enumerate(contrasts)}
    keys = [table["effect"].map(of_effect), table["outcome"].map(order)]
    table = table.iloc[np.lexsort(keys[::-1])].reset_index(drop=True)
    for effect in contrasts:
        tested = (table["effect"] == effect) & table["p"].notna()
        if tested.any():
            p = table.loc[tested, "p"].to_numpy(dtype=np.float64)
            table.loc[tested, "p_fdr"] = stats.false_discovery_control(p, method="bh")
            if effect in largest:
                t = table.loc[tested, "t"].to_numpy(dtype=np.float64)
                table.loc[tested, "p_fwe"] = family_wise_p(t, largest[effect])
    return table


def _renumbered(labels: Integers) -> Integers:
    return np.unique(labels, return_inverse=True)[1]
