"""PLINK 2 and R read what is exported, and find in it what Python finds. Skipped without them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.api import OLS, add_constant
from statsmodels.formula.api import mixedlm

from dmri_fm_lab.exports import GeneticsRequest, Source, export_genetics, read_source
from dmri_fm_lab.exports.flat import write_csv
from dmri_fm_lab.scan_tables import Cohort

DOCS = Path(__file__).resolve().parents[3] / "docs"
N_GENOTYPED = 40

needs_plink = pytest.mark.skipif(
    shutil.which("plink2") is None, reason="plink2 (Debian's package) is not installed"
)


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def write_genotypes(identifiers: list[tuple[str, str]], folder: Path) -> np.ndarray:
    """Write g.pgen, .psam and .pvar; return the number of rarer alleles of each variant."""
    counts = np.random.default_rng(3).binomial(2, 0.4, (3, len(identifiers)))
    calls = np.array(["0/0", "0/1", "1/1"])[counts]
    head = ["##fileformat=VCFv4.2", "##contig=<ID=1>",
            '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">']  # fmt: skip
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    rows = [
        columns + [f"{fid}_{iid}" for fid, iid in identifiers],
        *(["1", str(k + 1), f"rs{k}", "A", "C", *"...", "GT", *c] for k, c in enumerate(calls)),
    ]
    (folder / "g.vcf").write_text("\n".join([*head, *map("\t".join, rows)]) + "\n")
    done = run(
        "plink2", "--vcf", "g.vcf", "--id-delim", "_", "--make-pgen", "--out", "g", folder=folder
    )
    assert done.returncode == 0, done.stderr
    return counts


@needs_plink
def test_plink_finds_the_effects_of_least_squares(cohort: Cohort, tmp_path: Path) -> None:
    identifiers = list(zip(cohort.people["family"], cohort.people["genotype"], strict=True))
    counts = pd.DataFrame(write_genotypes(identifiers, tmp_path).T, index=cohort.people.index)
    covariates = ["age", "site"]
    request = GeneticsRequest(
        ["fa_*"], {"diagnosis": "AD"}, covariates, fid="family", iid="genotype"
    )
    record = export_genetics(cohort, request, tmp_path / "gwas", dialect="plink").record
    (flags,) = record["Flags"]
    done = run("plink2", "--pfile", "g", *flags.split(), "--glm", "hide-covar", "--out", "o",
               folder=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.glob("o.*.glm.*")} == {
        "o.fa_left.glm.linear", "o.fa_right.glm.linear", "o.diagnosis.glm.logistic.hybrid",
    }  # fmt: skip
    found = pd.read_csv(tmp_path / "o.fa_left.glm.linear", sep="\t").set_index("ID")
    known = cohort.people["age"].notna() & cohort.values["fa_left"].notna()
    sites = pd.get_dummies(cohort.people.loc[known, "site"], drop_first=True, dtype=float)
    age = cohort.people.loc[known, "age"].astype(float)
    for k, name in enumerate(found.index):
        design = add_constant(pd.concat([counts.loc[known, k], age, sites], axis=1))
        fit = OLS(cohort.values.loc[known, "fa_left"].astype(float), design).fit()
        row = found.loc[name]
        assert row["OBS_CT"] == known.sum()
        sign = 1.0 if row["A1"] == "C" else -1.0
        assert sign * row["BETA"] == pytest.approx(fit.params[k], rel=1e-4)
        assert row["P"] == pytest.approx(fit.pvalues[k], rel=1e-3)
    cases = pd.read_csv(tmp_path / "o.diagnosis.glm.logistic.hybrid", sep="\t")
    assert (cases["OBS_CT"] == cohort.people["age"].notna().sum()).all()


@pytest.fixture(scope="module")
def genotyped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with g.pgen of f0 i0, f1 i1 and so on."""
    folder = tmp_path_factory.mktemp("genotyped")
    write_genotypes([(f"f{i}", f"i{i}") for i in range(N_GENOTYPED)], folder)
    return folder


@needs_plink
@pytest.mark.parametrize(
    ("header", "values", "message"),
    [
        ("y", [i / 2 for i in range(40)], "1 quantitative phenotype loaded (40 values)"),
        ("y", ["NA", "nan", *range(3, 41)], "1 quantitative phenotype loaded (38 values)"),
        ("y", [-9, *range(2, 41)], "1 quantitative phenotype loaded (39 values)"),
        ("y", [0, 1, 2, "NA"] * 10, "1 binary phenotype loaded (10 cases, 10 controls)"),
        ("y", [1, 2] * 20, "1 binary phenotype loaded (20 cases, 20 controls)"),
        ("y", [3.5] * 40, "'y' is constant"),
        ("y", [*range(39), "high"], "is categorical, while earlier entries"),
        ("y", [*range(39), "inf"], "is categorical, while earlier entries"),
        ("PAT", list(range(40)), "'PAT' cannot be used as a phenotype/covariate name"),
        ("y", [*range(40), "f0 i0 3"], "Duplicate sample ID"),
        ("y", [*range(40), "#f 1 3"], "starts with a '#'"),
        # An identifier with a space is that of nobody: the value is lost without a word.
        ("y", [*range(39), "f39 i 39"], "1 quantitative phenotype loaded (39 values)"),
    ],
)
def test_the_written_rules_are_plink_s(
    genotyped: Path, header: str, values: list[object], message: str
) -> None:
    lines = [v if " " in str(v) else f"f{i} i{i} {v}" for i, v in enumerate(values)]
    (genotyped / "y.pheno").write_text("\n".join([f"#FID IID {header}", *map(str, lines)]) + "\n")
    done = run("plink2", "--pfile", "g", "--pheno", "y.pheno", "--glm", "allow-no-covars",
               "--out", "o", folder=genotyped)  # fmt: skip
    said = " ".join((done.stdout + done.stderr).split())
    assert message in said


@needs_plink
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_plink_refuses_collinear_covariates(genotyped: Path, noise: float) -> None:
    rng = np.random.default_rng(0)
    y, a, b, c = rng.normal(size=(4, N_GENOTYPED))
    tables = {"y.pheno": ["y", y], "y.covar": ["a b c", a, b, a + noise * c + (noise > 0) * b]}
    for name, (header, *columns) in tables.items():
        rows = (" ".join(map(str, row)) for row in zip(*columns, strict=True))
        text = [f"#FID IID {header}", *(f"f{i} i{i} {row}" for i, row in enumerate(rows))]
        (genotyped / name).write_text("\n".join(text) + "\n")
    done = run("plink2", "--pfile", "g", "--pheno", "y.pheno", "--covar", "y.covar",
               "--glm", "--out", "o", folder=genotyped)  # fmt: skip
    assert done.returncode != 0
    assert "Cannot proceed with --glm regression" in done.stdout + done.stderr


def has_lme4() -> bool:
    command = ["Rscript", "-e", "library(lme4)"]
    return (
        shutil.which("Rscript") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def test_the_page_s_mixed_model_runs_in_r(tmp_path: Path) -> None:
    if not has_lme4():
        pytest.skip("R with lme4 (r-cran-lme4) is not installed")
    rng = np.random.default_rng(7)
    person = np.repeat(np.arange(60), 3)
    label = [f"sub-{i:03d}" for i in person]
    session = [f"ses-{k % 3}" for k in range(len(person))]
    own = rng.normal(0, 2.0, 60)[person]
    age = rng.uniform(40, 80, 60).round(1)[person]
    group = np.array(["control", "patient"])[person % 2]
    sex = np.array(["F", "M"])[person // 2 % 2]
    site = person % 3 + 1
    # Per cent: statsmodels calls variances below .01 those of a boundary.
    fa = 60 - 0.2 * age - 3.0 * (person % 2) + own + rng.normal(0, 1.0, len(person))
    keys = {"participant_id": label, "session_id": session}
    scan_id = [f"{a}_{b}" for a, b in zip(label, session, strict=True)]
    scans = pd.DataFrame(
        {"scan_id": scan_id, **keys, "qc_exclude": "n/a", "tensor_fa_mean_wm": fa}
    )
    people = pd.DataFrame({**keys, "age": age, "sex": sex, "group": group, "site": site})
    people = people.drop(columns="session_id").drop_duplicates()
    scans.to_csv(tmp_path / "scans.tsv", sep="\t", index=False)
    people.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    cohort = read_source(
        Source([tmp_path / "scans.tsv"], tmp_path / "participants.tsv", scans="all")
    )
    write_csv(cohort, tmp_path / "cohort.csv")

    page = (DOCS / "exports.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```r\n(.*?)```", page, re.DOTALL)
    script = snippet + 'write.csv(coef(summary(fit)), "fit.csv")\n'
    (tmp_path / "fit.R").write_text(script)
    done = run("Rscript", "fit.R", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    in_r = pd.read_csv(tmp_path / "fit.csv", index_col=0)
    ours = mixedlm(
        "tensor_fa_mean_wm ~ age + sex + group + C(site)",
        scans.merge(people, on="participant_id"),
        groups=scans["participant_id"],
    ).fit()
    for in_page, in_python in {
        "age": "age",
        "sexM": "sex[T.M]",
        "grouppatient": "group[T.patient]",
        "site3": "C(site)[T.3]",
    }.items():
        row = in_r.loc[in_page]
        assert row["Estimate"] == pytest.approx(ours.params[in_python], rel=1e-3, abs=1e-4)
        assert row["Std. Error"] == pytest.approx(ours.bse[in_python], rel=0.01)
