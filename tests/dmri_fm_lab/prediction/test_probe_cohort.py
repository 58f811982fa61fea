"""From files to tables: what is predicted, what is not, and what is said about it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import StandardScaler

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.participants import PARTICIPANTS, hash_participant
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.prediction import pretrained_on
from dmri_fm_lab.prediction.cohort_vectors import VectorRequest
from dmri_fm_lab.prediction.draw_splits import SplitRequest, draw_splits
from dmri_fm_lab.prediction.probe_cohort import ProbeRequest, probe_cohort
from dmri_fm_lab.prediction.splits import read_splits
from dmri_fm_workflows.outputs.root import DERIVATIVES


@pytest.fixture
def request_of(cohort_files):
    def build(target: str, drawn: SplitRequest | None = None, **vectors) -> ProbeRequest:
        return ProbeRequest(
            features=(cohort_files.features,),
            participants=cohort_files.participants,
            qc=cohort_files.qc,
            vectors=VectorRequest(target, **vectors),
            drawn=drawn or SplitRequest(n_folds=3),
        )

    return build


def by_name(result) -> dict:
    return {(p["predictor"], p["head"]): p for p in result.record["predictions"]}


def test_the_command_predicts_age_beside_its_baselines(cohort_files, tmp_path, capsys) -> None:
    out, splits, figure = (tmp_path / n for n in ("out.json", "splits.tsv", "cal.svg"))
    options = ["--target", "age", "--site", "site", "--family", "family", "--covariates", "sex"]
    options += ["--qc", str(cohort_files.qc), "--baselines", "mean_fd", "--folds", "3"]
    options += ["--head", "tuned", "linear", "--permutations", "19", "--published", "age"]
    options += ["--json", str(out), "--write-splits", str(splits), "--figure", str(figure)]
    assert main(["probe", *cohort_files.options, *options]) == 0
    text = capsys.readouterr().out
    record = json.loads(out.read_text())
    found = {(p["predictor"], p["head"]): p for p in record["predictions"]}
    # Age is ten years of column 0 over a standard deviation of noise: r = .87.
    assert found["cls", "tuned"]["scores"]["rho"]["mean"] == pytest.approx(0.85, abs=0.07)
    assert found["cls", "tuned"]["p_permutation"] == 0.05
    baselines = [name for name, p in found.items() if p["role"] == "baseline"]
    assert [n for n, _ in baselines] == ["site", "mean_fd", "sex", "all baselines"]
    for name in baselines:
        assert abs(found[name]["scores"]["rho"]["mean"] or 0) < 0.5
        assert f"| baseline: {name[0]} | tuned |" in text
    assert set(found["cls", "linear"]["within_sites"]) == {"a", "b"}
    assert record["warnings"] == []
    assert "no baseline was asked for" not in text
    assert "research only" in text.lower()
    assert "as published (INVALID)" in text
    # Participants 44 and 45 are one family at two sites, and the only one.
    assert "Note: 2 of 90 rows keep their target in all permutations" in text
    assert "| frozen CLS | MLP | 0.900 ± 0.020 | 0.200 ± 0.030 |" in text
    assert "unknown: the table has no column weights_sha256" in text
    assert "sub-" not in text, "tables of results name nobody"
    folds = read_splits(splits)
    families = dict(cohort_files.people[["participant_id", "family"]].to_numpy())
    for fold in folds:
        assert not {families[p] for p in fold.train} & {families[p] for p in fold.test}
    assert "<svg" in figure.read_text()
    # The same splits give the same scores.
    again = ["--splits", str(splits), "--json", str(tmp_path / "again.json")]
    options = ["--target", "age", "--head", "tuned"]
    assert main(["probe", *cohort_files.options, *options, *again]) == 0
    repeated = json.loads((tmp_path / "again.json").read_text())["predictions"][0]
    assert repeated["folds"]["mse"] == pytest.approx(found["cls", "tuned"]["folds"]["mse"])


def test_the_published_probe_on_numbers(cohort_files, request_of) -> None:
    """Least squares, targets standardised by training: the numbers, written out."""
    request = replace(request_of("age", SplitRequest("50/25/25")), heads=("linear",))
    result = probe_cohort(request)
    (found,) = by_name(result).values()
    assert "Note: no baseline was asked for" in result.text
    people = cohort_files.people.set_index("participant_id")
    x = pd.DataFrame(cohort_files.vectors, index=people.index)
    rho, mse = [], []
    for fold in result.folds:
        train, test = sorted(fold.train), sorted(fold.test)
        scaler = StandardScaler().fit(x.loc[train])
        y = people["age"]
        z = (y - y[train].mean()) / y[train].std()
        model = LinearRegression().fit(scaler.transform(x.loc[train]), z[train])
        predicted = model.predict(scaler.transform(x.loc[test]))
        rho.append(np.corrcoef(predicted, z[test])[0, 1])
        mse.append(np.mean((predicted - z[test]) ** 2))
    assert found["folds"]["rho"] == pytest.approx(rho)
    assert found["folds"]["mse"] == pytest.approx(mse)
    assert found["scores"]["mse"]["sd"] == pytest.approx(np.std(mse, ddof=1))
    assert "5 folds, overlapping test sets" in result.text


def test_two_classes_are_chosen_weighted_and_beside_their_prevalence(request_of) -> None:
    request = request_of("dx", classes=("CN", "MCI"), site=("site",))
    result = probe_cohort(replace(request, is_weighted=True))
    assert "Not used: 4 (dx is AD, not CN or MCI)." in result.text
    found = by_name(result)["cls", "tuned"]
    prevalence = result.record["cohort"]["target"]["prevalence"]
    assert found["scores"]["prevalence"]["mean"] == pytest.approx(prevalence, abs=0.02)
    # Nothing in the vectors is about the diagnosis, and that is said.
    assert any("not shown to predict better than site" in w for w in result.record["warnings"])
    assert "WARNING: cls (tuned) is not shown to predict better than site alone" in result.text
    with pytest.raises(ConfigError, match="dx has 3 classes: AD, CN, MCI"):
        probe_cohort(request_of("dx"))


def test_a_site_that_tells_the_target_is_found_out(cohort_files, request_of, tmp_path) -> None:
    people = cohort_files.people.assign(
        score=10.0 * (cohort_files.people["site"] == "b") + 0.01 * np.arange(90)
    )
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    request = replace(request_of("score", site=("site",)), participants=tmp_path / "p.tsv")
    result = probe_cohort(request)
    scores = {name: p["scores"]["rho"]["mean"] for name, p in by_name(result).items()}
    assert scores["cls", "tuned"] > 0.6
    assert scores["site", "tuned"] > 0.99
    assert len(result.record["warnings"]) == 1
    within = by_name(result)["cls", "tuned"]["within_sites"]
    assert all(abs(own["rho"]["mean"]) < 0.5 for own in within.values())
    # With ComBat the vectors do not tell the site any more.
    harmonised = by_name(probe_cohort(replace(request, combat=True)))
    assert abs(harmonised["cls", "tuned"]["scores"]["rho"]["mean"]) < 0.4
    # Covariates beside features keep what they are, also where a site has one value of them.
    people["bmi"] = 10.0 * (people["site"] == "b") + 20.0
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    with_bmi = replace(request_of("score", site=("site",), covariates=("bmi",)), combat=True)
    beside = by_name(probe_cohort(replace(with_bmi, participants=tmp_path / "p.tsv")))
    assert beside["cls + bmi", "tuned"]["scores"]["rho"]["mean"] > 0.6
    assert beside["cls", "tuned"]["scores"] == harmonised["cls", "tuned"]["scores"]
    for wrong, match in (
        ({"combat_covariates": ("score",)}, "preserve the target score"),
        ({"vectors": VectorRequest("score")}, "ComBat without sites"),
        ({"drawn": SplitRequest("sites")}, "one site: b"),
    ):
        with pytest.raises((ConfigError, InputError), match=match):
            probe_cohort(replace(request, combat=True, **wrong))


def test_a_site_is_a_combination_of_columns(cohort_files, request_of, tmp_path) -> None:
    """A software upgrade at site b changes a feature, and goes with the score."""
    upgraded = (cohort_files.people["site"] == "b") & (np.arange(90) % 4 < 2)
    people = cohort_files.people.assign(
        software=np.where(upgraded, "XA30", "VE11"), score=10.0 * upgraded + 0.01 * np.arange(90)
    )
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    table = pd.read_csv(cohort_files.features, sep="\t")
    table["cls003"] += 4.0 * upgraded
    table.to_csv(tmp_path / "f.tsv", sep="\t", index=False)
    files = {"features": (tmp_path / "f.tsv",), "participants": tmp_path / "p.tsv", "combat": True}
    by_site = probe_cohort(replace(request_of("score", site=("site",)), **files))
    assert by_name(by_site)["cls", "tuned"]["scores"]["rho"]["mean"] > 0.6
    both = probe_cohort(replace(request_of("score", site=("site", "software")), **files))
    assert abs(by_name(both)["cls", "tuned"]["scores"]["rho"]["mean"]) < 0.4
    baseline = by_name(both)["site + software", "tuned"]
    assert (baseline["role"], baseline["n_columns"]) == ("baseline", 3)
    assert baseline["scores"]["rho"]["mean"] > 0.99
    assert both.record["cohort"]["sites"] == {"a | VE11": 45, "b | VE11": 22, "b | XA30": 23}
    assert set(baseline["within_sites"]) == {"a | VE11", "b | VE11", "b | XA30"}
    assert "a \\| VE11 (n = 45)" in both.text
    drawn = SplitRequest("sites", site=("site", "software"))
    folds, _ = draw_splits(people, drawn)
    assert [f.name for f in folds] == ["without-a | VE11", "without-b | VE11", "without-b | XA30"]
    with pytest.raises(ConfigError, match="column 'scanner' is not there"):
        draw_splits(people, replace(drawn, site=("scanner",)))


def test_a_site_is_tested_by_others(request_of) -> None:
    result = probe_cohort(request_of("age", SplitRequest("sites"), site=("site",)))
    assert [f.name for f in result.folds] == ["without-a", "without-b"]
    # The indicator of an unseen site predicts one value for all.
    assert "site (tuned): rho is undefined in 2 of 2 folds" in result.text


def test_participants_of_the_pretraining_are_flagged(
    cohort_files, request_of, tmp_path, monkeypatch
) -> None:
    group = tmp_path / "out" / "group"
    group.mkdir(parents=True)
    (tmp_path / "out" / "dataset_description.json").write_text(
        json.dumps({"Name": f"study{DERIVATIVES}", "DatasetType": "derivative"})
    )
    table = pd.read_csv(cohort_files.features, sep="\t")
    table["weights_sha256"] = "abc"
    table.to_csv(group / "f.tsv", sep="\t", index=False)
    request = replace(request_of("age"), features=(group / "f.tsv",))
    assert "weights abc are not at hand" in probe_cohort(request).text
    seen = [hash_participant("study", f"sub-{i:03d}") for i in (3, 5)]

    listed = SimpleNamespace(sha256="abc", source="x", training={PARTICIPANTS: seen})
    monkeypatch.setattr(pretrained_on, "_list_weights", lambda weights: [listed])
    flagged = probe_cohort(request)
    assert "SEEN in pretraining, without labels: sub-003, sub-005" in flagged.text
    assert flagged.record["cohort"]["n_rows"] == 90
    without = probe_cohort(replace(request, excludes_seen=True))
    assert without.record["cohort"]["n_rows"] == 88


def test_regional_values_of_the_tensor_fit_need_no_weights(
    cohort_files, request_of, tmp_path
) -> None:
    table = pd.read_csv(cohort_files.features, sep="\t")
    names = {f"cls{i:03d}": f"tensor_fa_mean_region{i}" for i in range(12)}
    table = table.rename(columns=names).assign(qc_exclude="n/a", max_bval=1000.0)
    request = replace(request_of("age"), features=(tmp_path / "desc-scalars_features.tsv",))
    table.to_csv(request.features[0], sep="\t", index=False)
    assert "pretrain" not in probe_cohort(request).text
    # A network's maps do: whom its weights have seen stays unknown.
    table.assign(tensorrefiner_fa_mean_region0=0.4).to_csv(
        request.features[0], sep="\t", index=False
    )
    assert "pretrained on is unknown" in probe_cohort(request).text


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"target": "height"}, "no column height"),
        ({"target": "constant"}, "constant is 1 for all"),
        ({"target": "empty"}, "no value of empty for any of 90 scans"),
        ({"target": "age", "covariates": ("empty",)}, "no value of empty for any of 90 scans"),
        ({"target": "site", "classes": ("y", "z")}, "site is never y or z"),
        ({"target": "site", "classes": ("a", "z")}, "site is a for all of 45 rows"),
        ({"target": "age", "columns": ("fa_*",)}, "no column fa_\\* in the tables"),
        ({"target": "age", "covariates": ("age",)}, "the target age as a baseline"),
        ({"target": "age", "family": "home"}, "no column home"),
        ({"target": "rare"}, "the target is the same for all 60 rows of training"),
    ],
)
def test_requests_that_the_cohort_cannot_meet(
    cohort_files, request_of, tmp_path, change, match
) -> None:
    people = cohort_files.people.assign(constant=1, rare=["x"] + ["y"] * 89, empty=np.nan)
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False, na_rep="n/a")
    request = replace(request_of(**change), participants=tmp_path / "p.tsv")
    with pytest.raises(ConfigError, match=match):
        probe_cohort(request)


def test_cells_that_are_no_numbers_among_numbers_are_named(
    cohort_files, request_of, tmp_path
) -> None:
    people = cohort_files.people.astype({"age": object})
    people.loc[[4, 7], "age"] = ["unknown", "6o"]
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    with pytest.raises(ConfigError) as caught:
        probe_cohort(replace(request_of("age"), participants=tmp_path / "p.tsv"))
    assert "2 of 90 rows: unknown (sub-004), 6o (sub-007)" in str(caught.value)
    assert "write n/a" in str(caught.value)


def test_too_few_rows_of_a_class_are_told_with_target_and_fold(
    cohort_files, request_of, tmp_path
) -> None:
    few = np.where(np.isin(np.arange(90), [5, 40, 70]), "yes", "no")
    cohort_files.people.assign(stroke=few).to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    request = replace(request_of("stroke"), participants=tmp_path / "p.tsv")
    with pytest.raises(ConfigError) as caught:
        probe_cohort(replace(request, drawn=SplitRequest(n_folds=2)))
    told = r"target stroke \(44 of no, 1 of yes\), fold \S+, tuned: a training set of 45 rows"
    assert re.search(told, str(caught.value))
    assert "no more folds than the smaller class has rows (--folds)" in str(caught.value)
    assert by_name(probe_cohort(request))["cls", "tuned"]["n_columns"] == 12


def test_those_who_cannot_be_used_are_counted(cohort_files, request_of, tmp_path) -> None:
    people = cohort_files.people.astype({"age": object})
    people.loc[:2, "age"] = "n/a"
    people.loc[9, "participant_id"] = "sub-other"
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    table = pd.read_csv(cohort_files.features, sep="\t")
    table.loc[20, "cls004"] = np.nan
    table.to_csv(tmp_path / "f.tsv", sep="\t", index=False, na_rep="n/a")
    request = replace(
        request_of("age"), participants=tmp_path / "p.tsv", features=(tmp_path / "f.tsv",)
    )
    cohort = probe_cohort(request).record["cohort"]
    assert cohort["n_rows"] == 85
    assert cohort["left_out"] == {
        "no scan in the table": 1,
        "no row in the table of participants": 1,
        "no value of age": 3,
        "a missing value among cls": 1,
    }
    few = replace(request, drawn=SplitRequest("50/25/25", n_repeats=1), heads=("linear",))
    people.iloc[:22].to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    assert "that of the smallest coefficients is taken" in probe_cohort(few).text
    people.iloc[:9].to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    with pytest.raises(ConfigError, match="6 rows with target and vectors"):
        probe_cohort(request)


def test_the_command_draws_splits(cohort_files, tmp_path, capsys) -> None:
    out = tmp_path / "s.tsv"
    options = ["--draw", "60/20/20", "--stratify", "age", "site", "--family", "family"]
    assert main(["splits", str(cohort_files.participants), str(out), *options]) == 0
    text = capsys.readouterr().out
    assert "| hold-out-1 | 54 | 18 | 18 |" in text
    assert "overlapping test sets" in text
    assert len(read_splits(out)) == 5
    options = ["--repeats", "2", "--validation", "0.25"]
    assert main(["splits", str(cohort_files.participants), str(out), *options]) == 0
    assert "| repeat-2_fold-5 | 54 | 18 | 18 |" in capsys.readouterr().out
    assert main(["splits", str(cohort_files.participants), str(out), "--draw", "half"]) == 1
    assert "percent of train/val/test" in capsys.readouterr().err


def test_files_of_the_cohort_stay(cohort_files) -> None:
    assert {p.name for p in Path(cohort_files.features).parent.iterdir()} == {
        "model-drope_desc-scan_features.tsv",
        "participants.tsv",
        "desc-image_qc.tsv",
    }
