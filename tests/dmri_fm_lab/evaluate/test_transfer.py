"""Training on one protocol and testing on others: pairing, folds, scores, command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate.transfer import (
    ScannedTwice,
    TransferRequest,
    evaluate_transfer,
    format_transfer,
    pair_scans,
    score_transfer,
)
from dmri_fm_lab.scan_tables import LeftOut, ScanTable

N = 120


def draw_scans(*, shift: float = 0.0, noise: float = 0.3) -> ScannedTwice:
    """Vectors of two protocols that hold age and sex; the second is shifted by a constant."""
    rng = np.random.default_rng(0)
    age, sex = rng.uniform(20, 80, N), rng.choice(["F", "M"], N)
    signal = np.stack([(age - 50) / 17, np.where(sex == "F", 1.0, -1.0)], axis=1)
    mixed = signal @ rng.normal(size=(2, 8))
    vectors = {
        "cls": {
            "a": mixed + noise * rng.normal(size=mixed.shape),
            "b": mixed + shift + noise * rng.normal(size=mixed.shape),
        }
    }
    who = [f"sub-{i:03d}" for i in range(N)]
    people = pd.DataFrame({"participant_id": who, "age": age, "sex": sex}, index=who)
    return ScannedTwice(people, vectors, ())


def mean_of(scores, test: str, name: str) -> float:
    (own,) = [s for s in scores if s.test == test]
    assert len(own.scores[name]) == 5
    return float(np.mean(own.scores[name]))


def test_the_same_vectors_transfer() -> None:
    request = TransferRequest(heads=("tuned",))
    scores = score_transfer(draw_scans(), "age", request, train="a")
    # Noise of .3 over eight columns leaves little of two signals unknown.
    assert mean_of(scores, "a", "rho") > 0.97
    assert mean_of(scores, "b", "rho") == pytest.approx(mean_of(scores, "a", "rho"), abs=0.02)
    assert mean_of(scores, "b", "mse") == pytest.approx(mean_of(scores, "a", "mse"), abs=0.05)
    sex = score_transfer(draw_scans(), "sex", request, train="a")
    assert mean_of(sex, "b", "auroc") > 0.97


def test_a_shift_between_protocols_is_an_error_of_the_mean() -> None:
    request = TransferRequest(heads=("linear",))
    scores = score_transfer(draw_scans(shift=1.0), "age", request, train="a")
    assert mean_of(scores, "b", "mse") > 4 * mean_of(scores, "a", "mse")
    assert mean_of(scores, "b", "rho") > 0.95
    # The head is that of the protocol of training.
    back = score_transfer(draw_scans(shift=1.0), "age", request, train="b")
    assert mean_of(back, "a", "mse") > 4 * mean_of(back, "b", "mse")


def test_families_with_missing_labels_stay_apart() -> None:
    """Each family has the same age, so that folds that share none predict nothing."""
    scans = draw_scans(noise=1e3)
    home = np.repeat(np.arange(N // 4), 4)
    scans.people["family"] = pd.Series([f"fam-{h}" for h in home], index=scans.people.index)
    scans.people.loc[scans.people.index[:4], "family"] = None
    scans.people["score"] = 10.0 * home + np.arange(N) % 4
    vectors = np.random.default_rng(1).normal(size=(N // 4, 20))[home]
    own = ScannedTwice(scans.people, {"cls": {"a": vectors, "b": vectors}}, ())
    request = TransferRequest(heads=("tuned",))
    together = score_transfer(own, "score", request, train="a")
    apart = score_transfer(own, "score", replace(request, family="family"), train="a")
    assert mean_of(together, "a", "rho") > 0.5
    assert mean_of(apart, "a", "rho") < 0.4
    with pytest.raises(ConfigError, match="no column home"):
        score_transfer(own, "score", replace(request, family="home"), train="a")


def test_random_vectors_predict_nothing() -> None:
    scans = draw_scans(noise=1e3)
    scores = score_transfer(scans, "age", TransferRequest(heads=("tuned",)), train="a")
    # Three standard errors of 120 participants; no less error than the mean of training.
    assert abs(mean_of(scores, "a", "rho")) < 0.28
    assert mean_of(scores, "a", "mse") > 0.9


def table_of(values: dict[tuple[str, str], list[float]]) -> ScanTable:
    index = pd.Index([f"{who}_acq-{acq}" for who, acq in values], name="scan_id")
    scans = pd.DataFrame(
        {"participant_id": [w for w, _ in values], "acquisition": [a for _, a in values]},
        index=index,
    )
    columns = [f"c{i}" for i in range(len(next(iter(values.values()))))]
    return ScanTable(scans, pd.DataFrame(list(values.values()), index=index, columns=columns))


def test_participants_without_both_scans_are_named_and_columns_with_gaps_left_out() -> None:
    nan = float("nan")
    table = table_of(
        {
            ("sub-1", "a"): [1.0, 2.0],
            ("sub-1", "b"): [3.0, nan],
            ("sub-2", "a"): [5.0, 6.0],
            ("sub-3", "b"): [7.0, 8.0],
            ("sub-3", "a"): [9.0, 1.0],
        }
    )
    people = pd.DataFrame({"participant_id": ["sub-1", "sub-2", "sub-3"]})
    scans = pair_scans({"x": table}, people, ["a", "b"])
    assert list(scans.people.index) == ["sub-1", "sub-3"]
    assert scans.vectors["x"]["a"].tolist() == [[1.0], [9.0]]
    assert scans.vectors["x"]["b"].tolist() == [[3.0], [7.0]]
    assert scans.left_out == (LeftOut("sub-2", "no scan by each of a, b"),)


def test_two_scans_by_one_protocol_are_refused() -> None:
    table = table_of({("sub-1", "a"): [1.0], ("sub-1", "b"): [1.0]})
    twice = ScanTable(
        pd.concat([table.scans, table.scans.rename(lambda n: f"{n}_run-2")]),
        pd.concat([table.values, table.values.rename(lambda n: f"{n}_run-2")]),
    )
    with pytest.raises(ConfigError, match="several scans acq-a of sub-1"):
        pair_scans({"x": twice}, pd.DataFrame({"participant_id": ["sub-1"]}), ["a", "b"])


def test_published_rows_stand_beside() -> None:
    scores = score_transfer(draw_scans(), "sex", TransferRequest(heads=("linear",)), train="a")
    text = format_transfer(scores, "a", N, [LeftOut("sub-9", "no scan")])
    assert (
        "| cls, published (HCP) | linear | second protocol | 75.4 ± 2.0 | 0.828 ± 0.017 |" in text
    )
    assert "| cls | linear | same protocol |" in text
    assert "1 no scan" in text
    assert RESEARCH_ONLY in text


def test_the_command(small_cohort, tmp_path, capsys) -> None:
    out = tmp_path / "transfer.json"
    folder = str(small_cohort.folder)
    words = ["evaluate", "transfer", folder, "--targets", "age", "--folds", "2"]
    assert main([*words, "--family", "family", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    for predictor in ("cls", "pooled", "regional FA, MD"):
        for head in ("tuned", "linear"):
            assert f"| {predictor} | {head} | same protocol |" in text
            assert f"| {predictor} | {head} | acq-random2 |" in text
    found = json.loads(out.read_text())
    assert found["n_participants"] == 12
    assert found["train"] == "b10001"
    assert len(found["scores"]) == 12
    assert main([*words, "--test", "x"]) == 1
    assert "labels of acq: b10001, random2" in capsys.readouterr().err
    assert main([*words[:4], "height"]) == 1
    assert "no column height" in capsys.readouterr().err


def test_scans_of_one_protocol_are_refused(small_cohort, tmp_path) -> None:
    group = tmp_path / "group"
    group.mkdir()
    for name in ("model-drope_desc-scan_features.tsv", "desc-scalars_features.tsv"):
        table = pd.read_csv(small_cohort.folder / "group" / name, sep="\t", dtype=str)
        table[table["acquisition"] == "random2"].to_csv(group / name, sep="\t", index=False)
    with pytest.raises(InputError, match="scans of one protocol"):
        evaluate_transfer(tmp_path, TransferRequest())
