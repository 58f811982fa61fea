from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.draw_splits import (
    SplitRequest,
    Units,
    draw_splits,
    family_groups,
    hold_out_validation,
    leave_one_out,
    make_folds,
    make_hold_outs,
    make_strata,
    parse_shares,
)
from dmri_fm_lab.prediction.splits import Fold, find_overlap

WHO = [f"sub-{i:03d}" for i in range(120)]
FAMILIES = [f"family-{i // 3}" for i in range(120)]
SEX = ["F" if i % 4 else "M" for i in range(120)]


def sets_of(fold: Fold) -> tuple[frozenset[str], ...]:
    return fold.train, fold.val, fold.test


def test_folds_test_everybody_once_in_each_repeat_and_keep_shares_of_strata() -> None:
    folds = make_folds(Units(WHO, SEX), n_folds=5, n_repeats=2)
    assert [f.name for f in folds[:2]] == ["repeat-1_fold-1", "repeat-1_fold-2"]
    for repeat in (folds[:5], folds[5:]):
        assert sorted(p for f in repeat for p in f.test) == WHO
        assert not find_overlap(repeat).n_pairs
        for fold in repeat:
            assert sorted(fold.train | fold.test) == WHO
            assert sum(SEX[WHO.index(p)] == "M" for p in fold.test) == 6
    assert folds[0].test != folds[5].test
    assert folds == make_folds(Units(WHO, SEX), n_folds=5, n_repeats=2), "seeded"


@pytest.mark.parametrize("strata", [None, SEX])
def test_a_family_is_in_one_set_of_each_fold(strata) -> None:
    units = Units(WHO, strata, FAMILIES)
    folds = [
        *make_folds(units, n_folds=4),
        *make_hold_outs(units, (0.5, 0.25, 0.25)),
        *(hold_out_validation(f, units, 0.2) for f in make_folds(units, n_folds=4)),
    ]
    for fold in folds:
        homes = [{FAMILIES[WHO.index(p)] for p in own} for own in sets_of(fold)]
        assert sum(map(len, homes)) == len(set.union(*homes)) == 40


def test_hold_outs_have_the_published_shares_are_stratified_and_overlap() -> None:
    folds = make_hold_outs(Units(WHO, SEX), parse_shares("60/20/20"))
    assert len(folds) == 5
    for fold in folds:
        assert list(map(len, sets_of(fold))) == [72, 24, 24]
        males = [sum(SEX[WHO.index(p)] == "M" for p in own) for own in sets_of(fold)]
        # 30 of 120; at the border of the two strata a set may get one more or one less.
        assert np.abs(np.array(males) - [18, 6, 6]).max() <= 1
    overlap = find_overlap(folds)
    assert overlap.n_pairs == 10
    assert "overlapping test sets" in str(overlap)


def test_one_site_is_tested_and_its_families_are_not_trained_on() -> None:
    sites = ["a"] * 61 + ["b"] * 59
    folds = leave_one_out(Units(WHO, None, FAMILIES), sites)
    assert [f.name for f in folds] == ["without-a", "without-b"]
    assert sorted(folds[0].test) == WHO[:61]
    assert sorted(folds[0].train) == WHO[63:], "a family has members at both sites"
    with pytest.raises(ConfigError, match="1 \\(b\\)"):
        leave_one_out(Units(WHO), ["a"] * 119 + ["b"])
    with pytest.raises(ConfigError, match="1 sites"):
        leave_one_out(Units(WHO), ["a"] * 120)


def test_participants_of_two_sites_are_refused_where_a_site_is_left_out() -> None:
    visits = pd.DataFrame(
        {
            "participant_id": ["sub-1", "sub-1", "sub-2", "sub-3", "sub-4", "sub-4"],
            "site": list("abaabb"),
            "family": ["x", "x", None, "y", "y", "y"],
        }
    )
    request = SplitRequest("sites", site="site")
    with pytest.raises(ConfigError, match="1 participants have rows of several site: sub-1"):
        draw_splits(visits, request)
    visits.loc[0, "site"] = "b"
    folds, _ = draw_splits(visits, request)
    assert [sorted(f.test) for f in folds] == [["sub-2", "sub-3"], ["sub-1", "sub-4"]]
    visits.loc[5, "site"] = None
    with pytest.raises(ConfigError, match="column 'site' is not there, or has missing values"):
        draw_splits(visits, request)


def test_who_has_no_family_is_a_group_of_their_own() -> None:
    """Labels with a common first letter, some missing: pandas 3 would cut them to the letter."""
    people = pd.DataFrame(
        {
            "participant_id": ["sub-1", "sub-2", "sub-3", "sub-4", "sub-5"],
            "family": ["fam-10", "fam-11", None, None, "fam-10"],
        }
    )
    found = family_groups(people, "family").tolist()
    assert found == ["family fam-10", "family fam-11", "sub-3", "sub-4", "family fam-10"]
    assert family_groups(people, "").tolist() == people["participant_id"].tolist()
    with pytest.raises(ConfigError, match="no column home"):
        family_groups(people, "home")


def test_validation_is_taken_from_training() -> None:
    units = Units(WHO, SEX)
    (fold, *_) = make_folds(units, n_folds=5)
    with_val = hold_out_validation(fold, units, 0.25)
    assert with_val.test == fold.test
    assert with_val.train | with_val.val == fold.train
    assert len(with_val.val) == 24


def test_numbers_are_cut_at_quantiles_and_rare_strata_merged() -> None:
    ages = np.arange(120.0)
    strata, n_merged = make_strata({"age": ages}, fewest=5)
    assert n_merged == 0
    assert {s: int((strata == s).sum()) for s in set(strata)} == {
        f"part-{k}": 24 for k in range(1, 6)
    }
    sites = ["a"] * 118 + ["b", "c"]
    strata, n_merged = make_strata({"sex": SEX, "site": sites}, fewest=5)
    assert n_merged == 2
    assert set(strata) == {"F a", "M a"}


def test_too_few_for_the_folds_is_an_error() -> None:
    with pytest.raises(ConfigError, match="5 folds of 4 participants"):
        make_folds(Units(WHO[:4]), n_folds=5)
    with pytest.raises(ConfigError, match="1 in the smallest stratum \\(M\\)"):
        make_folds(Units(WHO[:9], ["F"] * 8 + ["M"]), n_folds=5)
    with pytest.raises(ConfigError, match="in 2 groups"):
        make_folds(Units(WHO[:9], None, ["x"] * 5 + ["y"] * 4), n_folds=3)
    with pytest.raises(ConfigError, match="sub-000 twice"):
        make_folds(Units([WHO[0], *WHO]), n_folds=5)
    with pytest.raises(ConfigError, match="shares"):
        make_hold_outs(Units(WHO), (0.5, 0.5, 0.5))
    with pytest.raises(ConfigError, match="nobody in test"):
        make_hold_outs(Units(WHO[:2]), (0.9, 0.0, 0.1))
    with pytest.raises(ConfigError, match="50-25"):
        parse_shares("50-25-25")
