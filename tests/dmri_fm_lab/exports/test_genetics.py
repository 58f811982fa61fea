"""Files of PLINK 2 and REGENIE: what they say when they are read by the programs' rules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from dmri_fm.errors import ConfigError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.exports import GeneticsRequest, export_genetics
from dmri_fm_lab.exports.genetic_rules import DIALECTS, check_covariates, read_back
from dmri_fm_lab.scan_tables import Cohort

PLINK, REGENIE = DIALECTS["plink"], DIALECTS["regenie"]


def test_plink_files_say_what_the_tables_say(cohort: Cohort, tmp_path: Path) -> None:
    request = GeneticsRequest(
        ["fa_*"], {"diagnosis": "AD"}, ["age", "sex", "site"], fid="family", iid="genotype"
    )
    done = export_genetics(cohort, request, tmp_path / "gwas", dialect="plink")
    assert [p.name for p in done.paths] == ["gwas.pheno", "gwas.covar", "gwas.json"]
    text = (tmp_path / "gwas.pheno").read_text()
    assert text.startswith("#FID\tIID\tfa_left\tfa_right\tdiagnosis\nf0\t0000001\t")
    is_binary = {"fa_left": False, "fa_right": False, "diagnosis": True}
    found = read_back(text, is_binary, PLINK)
    known = cohort.people["age"].notna()
    np.testing.assert_allclose(
        found[["fa_left", "fa_right"]],
        cohort.values.loc[known, ["fa_left", "fa_right"]],
        rtol=1e-8,
    )
    is_case = (cohort.people.loc[known, "diagnosis"] == "AD").to_numpy()
    np.testing.assert_array_equal(found["diagnosis"] == 1, is_case)
    # The codes of the file itself: 1 control, 2 case.
    codes = [line.split("\t")[-1] for line in text.splitlines()[1:]]
    assert codes == ["2" if case else "1" for case in is_case]
    covariates = read_back((tmp_path / "gwas.covar").read_text(), {}, PLINK)
    assert list(covariates) == ["age", "sex_M", "site_2", "site_3"]
    assert list(covariates.index) == list(found.index)
    record = done.record
    assert record["LeftOutCounts"] == {
        "excluded by QC: mean_fd > 1": 1, "no value of a covariate": 1,
    }  # fmt: skip
    assert record["Covariates"]["site_2"] == "1 where site is the level; 1 is 0"
    assert json.loads((tmp_path / "gwas.json").read_text())["Use"].startswith(RESEARCH_ONLY)


def test_regenie_has_files_of_its_own_for_each_kind_of_trait(
    cohort: Cohort, tmp_path: Path
) -> None:
    request = GeneticsRequest(["fa_left"], {"diagnosis": "AD"}, ["age"])
    done = export_genetics(cohort, request, tmp_path / "g", dialect="regenie")
    assert [p.name for p in done.paths] == ["g.qt.pheno", "g.bt.pheno", "g.covar", "g.json"]
    assert done.record["Flags"] == [
        "--phenoFile g.qt.pheno --covarFile g.covar",
        "--phenoFile g.bt.pheno --bt --covarFile g.covar",
    ]
    text = (tmp_path / "g.bt.pheno").read_text()
    assert text.startswith("FID\tIID\tdiagnosis\n001\t001\t1\n")
    assert set(read_back(text, {"diagnosis": True}, REGENIE)["diagnosis"]) == {0.0, 1.0}
    assert "\tNA\n" in (tmp_path / "g.qt.pheno").read_text()


def test_normal_scores_are_blom_s(cohort: Cohort, tmp_path: Path) -> None:
    request = GeneticsRequest(["fa_left"], is_normalised=True)
    export_genetics(cohort, request, tmp_path / "g", dialect="plink")
    found = read_back((tmp_path / "g.pheno").read_text(), {"fa_left": False}, PLINK)["fa_left"]
    raw = cohort.values["fa_left"].dropna()
    ranks = raw.rank().to_numpy()
    expected = norm.ppf((ranks - 3 / 8) / (len(raw) + 1 / 4))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert abs(found.mean()) < 1e-8


def write(rows: list[str], header: str = "#FID IID y") -> str:
    return "\n".join([header, *rows]) + "\n"


def rows(values: list[object]) -> list[str]:
    return [f"f{i} i{i} {value}" for i, value in enumerate(values)]


GOOD: list[object] = [0.5 * i for i in range(20)]
CASES: list[object] = [1] * 10 + [2] * 10


@pytest.mark.parametrize(
    ("text", "is_binary", "message"),
    [
        (write(rows(GOOD), "FID IID y"), False, "header starts with FID IID"),
        (write(rows(GOOD), "#FID IID PAT"), False, "refuse or split: PAT"),
        (write(rows(GOOD), "#FID IID 1st"), False, "refuse or split: 1st"),
        (write(rows(GOOD), "#FID IID a,b"), False, "refuse or split: a,b"),
        (write([f"{r} 1" for r in rows(GOOD)], "#FID IID y y"), False, "refuse or split: y"),
        (write([*rows(GOOD), "f0 i0 3"]), False, "1 samples stand there twice"),
        (write([*rows(GOOD), "f 0 3"]), False, "identifiers 0"),
        (write([*rows(GOOD), "#f 1 3"]), False, "identifiers 1"),
        (write([*rows(GOOD), "f 1"]), False, "line 22 has 2 fields"),
        (write([*rows(GOOD), "f a b 1"]), False, "line 22 has 4 fields"),
        (write(rows([*GOOD, "high"])), False, "has text among its values"),
        (write(rows([*GOOD, "inf"])), False, "infinite"),
        # A measured -9 would get lost.
        (write(rows([*GOOD, -9])), False, "1 values of -9"),
        (write(rows([3.5] * 20)), False, "is constant"),
        # Counts of 0, 1 and 2 would be controls, cases and missing.
        (write(rows([0, 1, 2, "NA"] * 10)), False, "would be read as case/control"),
        (write(rows([0, 1] * 10)), True, "other codes than"),
        (write(rows([*CASES, 3])), True, "other codes than"),
        (write(rows([1] * 30 + [2] * 9)), True, "has 9 cases and 30 controls"),
        (write(rows(["NA"] * 15 + GOOD[:5])), False, "has 5 values"),
    ],
)
def test_plink_s_rules(text: str, is_binary: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_back(text, {"y": is_binary}, PLINK)


def test_what_plink_takes() -> None:
    found = read_back(write(rows([*GOOD, "NA", "nan"])), {"y": False}, PLINK)["y"]
    assert found.isna().sum() == 2
    assert read_back(write(rows(CASES)), {"y": True}, PLINK)["y"].sum() == 10


@pytest.mark.parametrize(
    ("text", "is_binary", "message"),
    [
        (write(rows(GOOD)), {"y": False}, "header starts with #FID IID"),
        (write(rows([*GOOD, -999]), "FID IID y"), {"y": False}, "1 values of -999"),
        (write(rows(CASES), "FID IID y"), {"y": True}, "other codes than"),
        # FID_IID is one text there.
        (write([*rows(GOOD), "a_b c 1", "a b_c 2"], "FID IID y"), {"y": False}, "a_b_c"),
        (write(rows([*GOOD, "NA"]), "FID IID y"), {}, "covariate y has missing values"),
    ],
)
def test_regenie_s_rules(text: str, is_binary: dict[str, bool], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_back(text, is_binary, REGENIE)


def test_regenie_takes_counts_and_minus_nine() -> None:
    text = write(rows([0, 1, 2, -9] * 5), "FID IID y")
    assert read_back(text, {"y": False}, REGENIE)["y"].min() == -9


def test_collinear_covariates_are_refused() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 60))
    check_covariates(pd.DataFrame({"a": a, "b": b}))
    with pytest.raises(ConfigError, match="constant: c"):
        check_covariates(pd.DataFrame({"a": a, "c": np.full(60, 7.0)}))
    with pytest.raises(ConfigError, match=r"a and c correlate by 1\.0000"):
        check_covariates(pd.DataFrame({"a": a, "b": b, "c": 3 * a + 1}))
    with pytest.raises(ConfigError, match="collinear: a, b, c"):
        check_covariates(pd.DataFrame({"a": a, "b": b, "c": a + b}))
    with pytest.raises(ConfigError, match="3 participants for 2 covariates"):
        check_covariates(pd.DataFrame({"a": a[:3], "b": b[:3]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phenotypes": ["fb_*"]}, "no column fb_"),
        ({"phenotypes": []}, "no phenotype"),
        ({"phenotypes": ["n_bad"]}, "would be read as case/control"),
        ({"binary": {"sex": "X"}}, "has 2 classes: F, M"),
        ({"binary": {"site": "1"}}, "has 3 classes"),
        ({"binary": {"nothing": "1"}}, "no column nothing"),
        ({"covariates": ["fa_left"]}, "fa_left is a phenotype and a covariate"),
        ({"iid": "nothing"}, "no column nothing of participants for IID"),
        ({"fid": "family", "iid": "family"}, "stand there twice"),
        ({"iid": "age"}, "1 participants have no IID (sub-005 ...)"),
        ({"where": ["age > 40", "sex > F"]}, "sex is text"),
        ({"where": ["age"]}, "condition 'age'"),
        ({"where": ["age > 100"]}, "has 0 values"),
    ],
)
def test_requests_that_cannot_be_met(
    cohort: Cohort, tmp_path: Path, change: dict, message: str
) -> None:
    request = GeneticsRequest(**{"phenotypes": ["fa_left"]} | change)
    with pytest.raises(ConfigError) as caught:
        export_genetics(cohort, request, tmp_path / "g", dialect="plink")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tables: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    words = ["export", "plink", str(tables[0]), "--participants", str(tables[1]), "--pheno",
             "fa_*", "--binary", "diagnosis=AD", "--covar", "age", "--factor", "site",
             "--iid", "genotype", "--where", "age >= 45", "--out", str(tmp_path / "g"),
             "--inverse-normal"]  # fmt: skip
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "3 phenotypes, 3 covariates" in out
    assert "left out: 1 (excluded by QC: mean_fd > 1)" in out
    assert "PLINK 2: --pheno g.pheno --covar g.covar --covar-variance-standardize" in out
    assert "\t0000001\t" in (tmp_path / "g.pheno").read_text()
    assert main([*words[:-1], "--pheno", "n_bad"]) == 1
    assert "would be read as case/control" in capsys.readouterr().err
