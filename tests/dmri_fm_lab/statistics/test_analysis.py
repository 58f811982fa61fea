"""Analyses from DESIGN.toml to the page, and requests that are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.statistics.analysis import analyse
from dmri_fm_lab.statistics.request import StatsRequest, read_request, request_from


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of an analysis with ComBat."""
    home = tmp_path_factory.mktemp("out")
    text = (folder / "design.toml").read_text()
    path = folder / "combat.toml"
    path.write_text(text + 'harmonise = "combat"\npreserve = ["age", "C(group)"]\n')
    assert main(["stats", str(path), "--out", str(home)]) == 0
    return home


def test_the_command_prints_who_is_used_and_who_is_not(folder, tmp_path, capsys) -> None:
    assert main(["stats", str(folder / "design.toml"), "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "118 scans of 118 participants"
    for words in (
        "1 (excluded by QC: mean_fd > 1)", "1 (no scan in the table)", "1 (no value of age)",
    ):  # fmt: skip
        assert f"left out: {words}" in lines
    assert lines[-1] == str(tmp_path / "statistics.html")


def test_the_page_stands_alone_and_says_what_was_done(out: Path) -> None:
    page = (out / "statistics.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page.replace('href="https://doi', ""))
    for words in (
        "excluded by QC: mean_fd &gt; 1",
        "no value of age",
        "no scan in the table",
        "60 blocks of one family_id",
        "C(group)[T.patient]",
        "Johnson et al. 2007",
        f"{RESEARCH_ONLY} Effects of groups say nothing about one person.",
        "constant: 1",
    ):
        assert words in page, words
    for name in re.findall(r'<a href="([^"#]+\.(?:tsv|json))"', page):
        assert (out / name).is_file()
    for table in out.glob("*.tsv"):
        assert json.loads(table.with_suffix(".json").read_text())["Use"].startswith(RESEARCH_ONLY)


def test_numbers_of_the_files_agree_and_effects_are_found(out: Path) -> None:
    table = pd.read_csv(out / "statistics.tsv", sep="\t", na_values="n/a")
    record = json.loads((out / "statistics.json").read_text())
    assert record["Scans"] == 118
    assert record["LeftOut"] == {
        "excluded by QC: mean_fd > 1": 1,
        "no scan in the table": 1,
        "no value of age": 1,
    }
    assert [r["outcome"] for r in record["Results"]] == list(table["outcome"])
    assert set(table.columns) == {
        *("partial_r_low", "partial_r_high", "cohens_d_low", "cohens_d_high"),
        *record["Columns"],
    }
    of_age = table[table["effect"] == "age"].set_index("outcome")
    truth = -0.6 * 0.03 / 15
    affected = of_age.loc[[f"fa_region00{k}" for k in (1, 2, 3)]]
    assert ((affected["estimate"] - truth).abs() < 4 * affected["standard_error"]).all()
    assert (affected["p_fwe"] < 0.05).all()
    assert of_age.loc["flat", "problem"] == "constant"
    design = pd.read_csv(out / "design_matrix.tsv", sep="\t")
    assert len(design) == 118
    assert list(design)[1:] == record["Design"]


def test_exclusions_are_counted_by_group(out: Path) -> None:
    rows = json.loads((out / "statistics.json").read_text())["ExclusionsByGroup"]
    of_site = [row for row in rows if row["group"] == "site"]
    assert sum(row["used"] for row in of_site) == 118
    assert sum(row["no value of age"] for row in of_site) == 1


def change(folder: Path, **values: object) -> StatsRequest:
    known = {
        "tables": ["regions.tsv"],
        "participants": "participants.tsv",
        "formula": "value ~ age + C(group) + C(site)",
        "terms": ["age"],
        "site": ["scanner", "software"],
        "permutations": 0,
    }
    cleaned = {k: v for k, v in {**known, **values}.items() if v is not None}
    return request_from(cleaned, path=folder / "design.toml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "x"}, "unknown key model"),
        ({"terms": []}, "nothing to test"),
        ({"participants": None}, "no key participants"),
        ({"permutations": "many"}, "permutations = 'many'"),
        ({"fit": "wls"}, "fit = 'wls'"),
        ({"harmonise": "combat"}, "ComBat without a word"),
        ({"harmonise": "combat", "site": [], "preserve": []}, "ComBat without sites"),
        ({"random": "participant_id", "permutations": 5}, "permutations of a mixed model"),
        ({"maps": {"derivatives": ".", "tfec": True}}, "unknown key tfec"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(folder, values, message):
    with pytest.raises(ConfigError, match=message):
        change(folder, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"formula": "value ~ age + height", "site": []}, "no variable height"),
        ({"terms": ["C(sex)"]}, r"term C\(sex\) is not in the formula"),
        ({"columns": ["md_*"]}, r"no column md_\* in the tables"),
        ({"site": ["coil"]}, "no column coil for sites"),
        ({"families": "clan"}, "no column clan for families"),
        ({"exclude": ["sub-7"]}, "exclude names sub-7"),
        ({"exclude": ["height > 3"]}, "condition 'height > 3': no column height"),
        ({"exclude": ["age + 3"]}, "condition 'age \\+ 3'"),
        (
            {"exclude": ["age > 0"]},
            r"no value of age for any of 1 scans; left out before: .*118 \(excluded: age > 0\)",
        ),
        (
            {"exclude": ["age > 0", "sub-00007"]},
            r"no scan is left; left out: .*\d+ \(excluded: age > 0\)(.|\n)*do: change what",
        ),
        ({"formula": "value ~ age + unknown", "site": []}, "no value of unknown for any of 119"),
        ({"exclude": ["age > 20"]}, "scans for .* columns|is .* in each"),
        ({"exclude": ["group == 'patient'"]}, "group is control in each"),
        (
            {"formula": "value ~ age + C(scanner) + C(site)"},
            "depend on each other",
        ),
        ({"exclude": ["age == young"]}, "a number for age"),
    ],
)
def test_analyses_that_cannot_be_done_are_refused(folder, tmp_path, values, message):
    people = pd.read_csv(folder / "participants.tsv", sep="\t").assign(unknown=np.nan)
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False, na_rep="n/a")
    with pytest.raises(ConfigError) as caught:
        analyse(change(folder, **values, participants=str(tmp_path / "p.tsv")))
    assert re.search(message, str(caught.value))


def test_another_column_site_does_not_clash(folder, tmp_path):
    people = pd.read_csv(folder / "participants.tsv", sep="\t").assign(site="hospital")
    people.loc[::2, "site"] = "clinic"
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False, na_rep="n/a")
    own = {"participants": str(tmp_path / "p.tsv")}
    expected = analyse(change(folder)).results["estimate"]
    for site, name in ((["scanner", "software"], "scanner_software"), (["scanner"], "scanner")):
        found = analyse(
            change(folder, **own, site=site, formula=f"value ~ age + C(group) + C({name})")
        )
        np.testing.assert_allclose(found.results["estimate"], expected)
        assert set(found.exclusions["group"]) == {"group", name}
        assert not [w for w in found.warnings if "Sites are known" in w.text]
        with pytest.raises(ConfigError, match="the formula names site") as caught:
            analyse(change(folder, **own, site=site))
        assert f"{name} in the formula" in str(caught.value)
    twice = people.assign(scanner_software="x")
    twice.to_csv(tmp_path / "p.tsv", sep="\t", index=False, na_rep="n/a")
    with pytest.raises(ConfigError, match="columns site and scanner_software"):
        analyse(change(folder, **own))


def test_participants_of_another_study_are_listed(folder, tmp_path):
    people = pd.read_csv(folder / "participants.tsv", sep="\t")
    people["participant_id"] = [f"sub-B{i}" for i in range(len(people))]
    people.to_csv(tmp_path / "others.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match=r"sub-00000.*against.*sub-B0"):
        analyse(change(folder, participants=str(tmp_path / "others.tsv")))


def test_covariates_may_come_from_tables_and_one_scan_of_a_site_is_left_out(folder, tmp_path):
    people = pd.read_csv(folder / "participants.tsv", sep="\t")
    people.loc[0, "scanner"] = "alone"
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    found = analyse(
        change(
            folder,
            participants=str(tmp_path / "p.tsv"),
            formula="value ~ age + mean_fd + C(site)",
            terms=["mean_fd"],
        )
    )
    assert "mean_fd" not in set(found.results["outcome"])
    assert ("sub-00000", "the only scan of its site") in found.sample.cohort.left_out


def test_repeated_scans_need_a_word(folder, tmp_path):
    table = pd.read_csv(folder / "regions.tsv", sep="\t")
    twice = pd.concat([table.assign(session_id="ses-1"), table.assign(session_id="ses-2")])
    rng = np.random.default_rng(5)
    twice[["fa_region001", "fa_region002"]] += rng.normal(0, 0.01, (len(twice), 2))
    twice.to_csv(tmp_path / "twice.tsv", sep="\t", index=False, na_rep="n/a")
    values = {"tables": [str(tmp_path / "twice.tsv")], "columns": ["fa_region00[12]"]}
    with pytest.raises(ConfigError, match="118 participants have several scans"):
        analyse(change(folder, **values))
    mean = analyse(change(folder, **values, repeats="mean"))
    assert len(mean.sample.cohort) == 118
    mixed = analyse(change(folder, **values, random="participant_id"))
    robust = analyse(change(folder, **values, families="participant_id"))
    assert len(mixed.sample.cohort) == len(robust.sample.cohort) == 236
    # Covariates are those of participants: three ways to the same difference.
    for other in (mixed, robust):
        np.testing.assert_allclose(
            other.results["estimate"], mean.results["estimate"], rtol=0.2, atol=2e-4
        )
        # The mixed model has one variance of all sites, which here differ.
        np.testing.assert_allclose(
            other.results["standard_error"], mean.results["standard_error"], rtol=0.6
        )


def test_means_are_of_covariates_too_and_groups_have_none(folder, tmp_path):
    table = pd.read_csv(folder / "regions.tsv", sep="\t")
    visits = [table.assign(session_id=f"ses-{k}", mean_fd=table["mean_fd"] * k) for k in (1, 3)]
    pd.concat(visits).to_csv(tmp_path / "t.tsv", sep="\t", index=False, na_rep="n/a")
    ages = pd.read_csv(folder / "participants.tsv", sep="\t")[["participant_id", "age"]]
    sessions = [
        ages.assign(session_id=f"ses-{k}", age=ages["age"] + k, coil=f"coil{k}") for k in (1, 3)
    ]
    pd.concat(sessions).to_csv(tmp_path / "s.tsv", sep="\t", index=False, na_rep="n/a")
    values = {
        "tables": [str(tmp_path / "t.tsv")],
        "sessions": str(tmp_path / "s.tsv"),
        "repeats": "mean",
    }
    found = analyse(change(folder, **values, formula="value ~ age + mean_fd + C(site)"))
    people = found.sample.cohort.people.set_index("participant_id")
    fd = table.set_index("participant_id")["mean_fd"] * 2
    age = ages.set_index("participant_id")["age"] + 2
    np.testing.assert_allclose(people["mean_fd"], fd[people.index])
    np.testing.assert_allclose(people["age"], age[people.index])
    with pytest.raises(ConfigError, match=r"differ in coil, which has no mean"):
        analyse(change(folder, **values, formula="value ~ age + C(coil)"))


def test_columns_of_the_protocol_are_no_outcomes_by_default(folder, tmp_path):
    table = pd.read_csv(folder / "regions.tsv", sep="\t")
    table["max_bval"] = 1000 + np.arange(len(table)) % 3
    table["coverage_white"] = np.arange(len(table)) % 5
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False, na_rep="n/a")
    values = {"tables": [str(tmp_path / "t.tsv")]}
    found = analyse(change(folder, **values))
    assert not {"max_bval", "coverage_white"} & set(found.results["outcome"])
    assert any("max_bval, coverage_white" in w.text for w in found.warnings)
    named = analyse(change(folder, **values, columns=["fa_*", "max_bval"]))
    assert "max_bval" in set(named.results["outcome"])
    adjusted = analyse(change(folder, **values, formula="value ~ age + max_bval + C(site)"))
    assert adjusted.sample.untested == ("coverage_white",)


def test_a_request_is_read_with_paths_from_its_folder(folder: Path) -> None:
    request = read_request(folder / "design.toml")
    assert request.tables == (folder / "regions.tsv",)
    assert request.site == ("scanner", "software")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_request(folder / "none.toml")


def test_tables_are_joined_by_scan_and_every_lack_is_named(folder, tmp_path):
    table = pd.read_csv(folder / "regions.tsv", sep="\t")
    other = table[["participant_id"]].assign(snr=np.arange(len(table)) % 7 + 20.0)
    other[other["participant_id"] != "sub-00010"].to_csv(
        tmp_path / "quality.tsv", sep="\t", index=False
    )
    tables = ["regions.tsv", str(tmp_path / "quality.tsv")]
    found = analyse(change(folder, tables=tables, columns=["fa_*", "snr"])).sample.cohort
    assert len(found) == 117
    assert "snr" in found.values
    assert dict(found.left_out)["sub-00010"] == "no row in quality.tsv"
    assert dict(found.left_out)["sub-00003"] == "excluded by QC: mean_fd > 1"
