from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm.errors import InputError
from dmri_fm_lab.prediction.draw_splits import Units, make_hold_outs
from dmri_fm_lab.prediction.splits import Fold, match_folds, read_splits, write_splits

WHO = [f"sub-{i:03d}" for i in range(120)]


def test_a_file_says_what_was_written(tmp_path: Path) -> None:
    folds = make_hold_outs(Units(WHO), (0.5, 0.25, 0.25), n_repeats=2)
    assert read_splits(write_splits(folds, tmp_path / "s.tsv")) == folds
    # Labels without their prefix, rows twice, and no validation set.
    rows = "fold\tparticipant_id\tset\n1\t01\ttrain\n1\t01\ttrain\n1\tsub-02\ttest\n"
    (tmp_path / "own.tsv").write_text(rows)
    (fold,) = read_splits(tmp_path / "own.tsv")
    assert fold == Fold("1", frozenset({"sub-01"}), frozenset(), frozenset({"sub-02"}))


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ("1\t01\ttrain\n1\tsub-01\ttest\n", "sub-01 in train and in test"),
        ("1\t01\ttrain\n1\t02\tval\n", "nobody in test"),
        ("1\t01\ttraining\n", "set training"),
        ("", "no fold"),
    ],
)
def test_splits_that_contradict_themselves_are_refused(tmp_path: Path, rows, match) -> None:
    path = tmp_path / "s.tsv"
    path.write_text(f"fold\tparticipant_id\tset\n{rows}")
    with pytest.raises(InputError, match=match) as caught:
        read_splits(path)
    assert caught.value.path == path
    path.write_text("fold\tsubject\tset\n1\t01\ttrain\n")
    with pytest.raises(InputError, match="no column participant_id"):
        read_splits(path)


def test_those_in_one_of_splits_and_table_are_named() -> None:
    fold = Fold("1", frozenset({"sub-1", "sub-2"}), frozenset(), frozenset({"sub-3"}))
    (matched,), left_out = match_folds([fold], ["sub-1", "sub-3", "sub-4"])
    assert matched.train == {"sub-1"}
    assert dict(left_out) == {
        "sub-2": "in the splits, without a usable scan",
        "sub-4": "in no set of the splits",
    }
    with pytest.raises(InputError, match="nobody in test"):
        match_folds([fold], ["sub-1"])
    with pytest.raises(InputError, match="no participant of the splits"):
        match_folds([fold], ["sub-7"])
