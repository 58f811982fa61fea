"""Splits that are drawn: repeated folds, random hold-outs, one site left out, validation sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.prediction.splits import Fold, Labels
from dmri_fm_lab.scan_tables import listed

#: Hold-outs of Kung et al. 2026 (doi:10.48550/arXiv.2603.25977): percent of training, validation
#: and test. The first are the shares of the splits that the authors released, the others those
#: that the paper prints, of pretraining, of HCP-D and HCP-A, and of ADNI.
PUBLISHED_SHARES = ("50/25/25", "70/15/15", "30/35/35", "60/20/20")

#: Number of the published hold-outs; each is drawn anew, so their test sets overlap.
N_PUBLISHED = 5

#: Classes into which a number is cut, at its quantiles, where splits are stratified by it.
N_STRATA = 5


def make_strata(columns: Mapping[str, Labels], *, fewest: int) -> tuple[NDArray[np.str_], int]:
    """Return the stratum of each participant, and how many are in strata that were merged.

    Parameters
    ----------
    columns
        By name, each of shape (N,) without missing values: numbers of more than
        :data:`N_STRATA` different values are cut at their quantiles; others are classes.
    fewest
        Combinations of classes with fewer participants are merged with one another, and what is
        then still smaller with the largest stratum.

    Examples
    --------
    >>> strata, n_merged = make_strata({"sex": list("MMMFFF"), "site": list("aabbbb")}, fewest=2)
    >>> strata.tolist(), n_merged
    (['M a', 'M a', 'F b', 'F b', 'F b', 'F b'], 1)
    """
    classes = [_as_classes(np.asarray(values)) for values in columns.values()]
    strata = np.array([" ".join(own) for own in zip(*classes, strict=True)], dtype=object)
    counts = Counter(strata)
    is_rare = np.array([counts[s] < fewest for s in strata])
    if is_rare.any():
        strata[is_rare] = "other"
        if is_rare.sum() < fewest and not is_rare.all():
            strata[is_rare] = Counter(strata[~is_rare]).most_common(1)[0][0]
    return strata.astype(str), int(is_rare.sum())


def _as_classes(values: NDArray[Any]) -> list[str]:
    if values.dtype.kind in "fiu" and len(np.unique(values)) > N_STRATA:
        limits = np.quantile(values, np.linspace(0, 1, N_STRATA + 1)[1:-1])
        return [f"part-{k + 1}" for k in np.searchsorted(limits, values, side="right")]
    return [str(v) for v in values]


class Units(NamedTuple):
    """Who is split.

    Attributes
    ----------
    participants
        Shape (N,), each once.
    strata
        Shape (N,): classes whose shares are kept alike in all sets, or None.
    groups
        Shape (N,): participants of one group, such as a family, stay together; or None.
    """

    participants: Labels
    strata: Labels | None = None
    groups: Labels | None = None

    def arrays(self) -> tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.str_]]:
        """Return participants, strata and groups as text; one stratum, and groups of one, if None.

        Raises ConfigError if a participant stands there twice.
        """
        who = np.asarray(self.participants, dtype=str)
        if twice := sorted(p for p, n in Counter(who).items() if n > 1):
            raise ConfigError(f"{listed(twice)} twice", expected="each participant once")
        strata = np.zeros(len(who)) if self.strata is None else self.strata
        groups = who if self.groups is None else self.groups
        return who, np.asarray(strata, dtype=str), np.asarray(groups, dtype=str)


def make_folds(units: Units, *, n_folds: int, n_repeats: int = 1, seed: int = 0) -> list[Fold]:
    """Make repeated k-fold splits, stratified, groups together.

    Raises
    ------
    ConfigError
        If there are fewer participants, or groups, or members of a stratum, than folds.
    """
    who, strata, groups = units.arrays()
    n_groups = len(set(groups))
    rarest, n_rarest = min(Counter(strata).items(), key=lambda item: item[1], default=("", 0))
    if n_folds < 2 or n_repeats < 1 or n_folds > min(n_groups, n_rarest):
        raise ConfigError(
            f"{n_repeats} times {n_folds} folds of {len(who)} participants in {n_groups} groups, "
            f"{n_rarest} in the smallest stratum ({rarest})",
            expected="two folds or more, not more than groups and members of each stratum",
        )
    folds = []
    for repeat in range(n_repeats):
        drawn = {"n_splits": n_folds, "shuffle": True, "random_state": seed + repeat}
        parts = (
            StratifiedKFold(**drawn).split(who, strata)
            if n_groups == len(who)
            else StratifiedGroupKFold(**drawn).split(who, strata, groups)
        )
        for number, (train, test) in enumerate(parts):
            prefix = f"repeat-{repeat + 1}_" if n_repeats > 1 else ""
            folds.append(_fold(f"{prefix}fold-{number + 1}", who[train], who[test]))
    return folds


def make_hold_outs(
    units: Units,
    shares: tuple[float, float, float],
    *,
    n_repeats: int = N_PUBLISHED,
    seed: int = 0,
) -> list[Fold]:
    """Draw random hold-outs, stratified, groups together; test sets overlap one another.

    Parameters
    ----------
    units
        Participants; a group has the stratum of its first member.
    shares
        Of training, validation and test; they sum to 1.
    n_repeats
        Number of hold-outs.
    seed
        Of the draw.

    Raises
    ------
    ConfigError
        If shares do not sum to 1, or there are too few participants to train and to test.

    Examples
    --------
    >>> units = Units([f"sub-{i}" for i in range(100)])
    >>> (fold,) = make_hold_outs(units, (0.5, 0.25, 0.25), n_repeats=1)
    >>> len(fold.train), len(fold.val), len(fold.test)
    (50, 25, 25)
    """
    if min(shares) < 0 or min(shares[0], shares[2]) == 0 or abs(sum(shares) - 1) > 1e-9:
        raise ConfigError(f"shares {shares}", expected="of train, val, test, which sum to 1")
    who, strata, groups = units.arrays()
    members = pd.Series(np.arange(len(who))).groupby(groups).apply(np.asarray)
    rng = np.random.default_rng(seed)
    folds = []
    for number in range(n_repeats):
        order = rng.permutation(len(members))
        drawn = sorted(order, key=lambda g: str(strata[members.iloc[g][0]]))
        counts, assigned = np.zeros(3), np.zeros(len(who), dtype=int)
        for group in drawn:
            own = members.iloc[group]
            # Along the strata each group goes to the set that lacks most.
            lacking = np.array(shares) * (counts.sum() + len(own)) - counts
            assigned[own] = lacking.argmax()
            counts[lacking.argmax()] += len(own)
        sets = (frozenset(who[assigned == k].tolist()) for k in range(3))
        try:
            folds.append(Fold(f"hold-out-{number + 1}", *sets))
        except InputError as error:
            raise ConfigError(error.found, expected=error.expected) from None
    return folds


def leave_one_out(units: Units, levels: Labels) -> list[Fold]:
    """Return a fold for each level of a column (a site): tested there, trained on all others.

    Groups with members in several levels are trained on where nobody of them is tested.

    Raises
    ------
    ConfigError
        If there are fewer than two levels, or a level has one participant.
    """
    who, _, groups = units.arrays()
    sites = np.asarray(levels, dtype=str)
    counts = Counter(sites)
    if len(counts) < 2 or min(counts.values()) < 2:
        raise ConfigError(
            f"{len(counts)} sites, of "
            + listed([f"{n} ({site})" for site, n in sorted(counts.items())])
            + " participants",
            expected="two sites or more, each with two participants or more",
            advice="exclude a site of one participant, or use other splits",
        )
    folds = []
    for site in sorted(counts):
        is_test = sites == site
        is_train = ~is_test & ~np.isin(groups, groups[is_test])
        try:
            folds.append(_fold(f"without-{site}", who[is_train], who[is_test]))
        except InputError as error:
            raise ConfigError(error.found, expected=error.expected) from None
    return folds


def _fold(name: str, train: NDArray[np.str_], test: NDArray[np.str_]) -> Fold:
    return Fold(name, frozenset(train.tolist()), frozenset(), frozenset(test.tolist()))


def hold_out_validation(fold: Fold, units: Units, share: float, *, seed: int = 0) -> Fold:
    """Return a fold with a share of its training set moved to validation, groups together.

    Raises
    ------
    ConfigError
        If training or validation would have nobody.
    """
    who, strata, groups = units.arrays()
    own = np.isin(who, sorted(fold.train))
    inside = Units(who[own], strata[own], groups[own])
    (parts,) = make_hold_outs(inside, (1 - share, 0.0, share), n_repeats=1, seed=seed)
    return Fold(fold.name, parts.train, fold.val | parts.test, fold.test)


def parse_shares(text: str) -> tuple[float, float, float]:
    """Return shares of training, validation and test from percents such as `50/25/25`.

    Examples
    --------
    >>> parse_shares("50/25/25")
    (0.5, 0.25, 0.25)
    """
    try:
        train, val, test = (float(part) / 100 for part in text.split("/"))
    except ValueError:
        raise ConfigError(
            f"shares {text!r}", expected="percent of train/val/test, e.g. 50/25/25"
        ) from None
    return train, val, test


def family_groups(people: pd.DataFrame, column: str) -> NDArray[np.str_]:
    """Return the group of each row, (N,): the family; the participant where none is known.

    Parameters
    ----------
    people
        N rows with `participant_id`.
    column
        Of families; empty: each participant alone.

    Raises
    ------
    ConfigError
        If there is no such column.

    Examples
    --------
    >>> people = pd.DataFrame({"participant_id": ["sub-1", "sub-2"], "family": ["fam-10", None]})
    >>> family_groups(people, "family").tolist()
    ['family fam-10', 'sub-2']
    """
    who: NDArray[np.str_] = people["participant_id"].to_numpy(dtype=str)
    if not column:
        return who
    if column not in people:
        raise ConfigError(
            f"no column {column} in the table of participants",
            expected=f"some of {listed(list(people))}",
        )
    families = np.array([f"family {f}" for f in people[column]])
    return np.where(people[column].notna(), families, who)


@dataclass(frozen=True)
class SplitRequest:
    """How splits are drawn.

    Attributes
    ----------
    how
        `folds`, `sites` (one left out), or the shares of hold-outs, such as one of
        :data:`PUBLISHED_SHARES`.
    n_folds, n_repeats
        Of `folds`; `n_repeats` is the number of hold-outs as well, :data:`N_PUBLISHED` if None.
    stratify
        Columns whose classes, or quantiles, have the same shares in all sets.
    site, family
        Columns of site and family; empty: none.
    validation
        Share of each training set that becomes a validation set.
    seed
        Of all draws.
    """

    how: str = "folds"
    n_folds: int = 5
    n_repeats: int | None = None
    stratify: tuple[str, ...] = ()
    site: str = ""
    family: str = ""
    validation: float = 0.0
    seed: int = 0


def draw_splits(people: pd.DataFrame, request: SplitRequest) -> tuple[list[Fold], tuple[str, ...]]:
    """Draw splits of participants, and say what was merged.

    Parameters
    ----------
    people
        Rows of participants or of their sessions, of which the first counts; no value of the
        columns of `stratify` and `site` is missing.
    request
        See :class:`SplitRequest`.

    Raises
    ------
    ConfigError
        If a column is unknown or has missing values, there are too few participants, or sites are
        left out and a participant has rows of several.
    """
    rows, people = people, people.drop_duplicates("participant_id")
    needed = [*request.stratify, *([request.site] if request.site else [])]
    for column in needed:
        own = rows if column == request.site else people
        if column not in own or own[column].isna().any():
            raise ConfigError(
                f"column {column!r} is not there, or has missing values",
                expected=f"some of {listed(list(people))}",
            )
    notes: tuple[str, ...] = ()
    strata = None
    who = people["participant_id"].to_numpy(dtype=str)
    if request.stratify and request.how != "sites":
        columns = {name: people[name].to_numpy() for name in request.stratify}
        strata, n_merged = make_strata(columns, fewest=request.n_folds)
        if n_merged:
            notes = (f"{n_merged} participants of rare strata were put together",)
    units = Units(who, strata, family_groups(people, request.family))
    if request.how == "folds":
        repeats = 1 if request.n_repeats is None else request.n_repeats
        folds = make_folds(units, n_folds=request.n_folds, n_repeats=repeats, seed=request.seed)
    elif request.how == "sites":
        if not request.site:
            raise ConfigError("no column of sites", expected="--site COLUMN")
        _check_one_site(rows, request.site)
        folds = leave_one_out(units, people[request.site].astype(str).to_numpy())
    else:
        shares = parse_shares(request.how)
        repeats = N_PUBLISHED if request.n_repeats is None else request.n_repeats
        folds = make_hold_outs(units, shares, n_repeats=repeats, seed=request.seed)
    if request.validation:
        folds = [
            hold_out_validation(fold, units, request.validation, seed=request.seed + k)
            for k, fold in enumerate(folds)
        ]
    return folds, notes


def _check_one_site(rows: pd.DataFrame, site: str) -> None:
    """Refuse participants of several sites: a fold would train on scans of the site it tests."""
    n_sites = rows.groupby("participant_id", sort=False)[site].nunique()
    if several := list(n_sites.index[n_sites > 1]):
        raise ConfigError(
            f"{len(several)} participants have rows of several {site}: {listed(several)}",
            expected="participants of one site each, where one site is left out",
            advice="leave them out of the table, or draw folds",
        )
