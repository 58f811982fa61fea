"""Comparison of methods over one set of splits."""

import json
import shutil
from functools import partial

import numpy as np
import pytest

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.participants import PARTICIPANTS, hash_participant
from dmri_fm.registry import load_weights
from dmri_fm.weights import save_weights
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.prediction import compare as comparison
from dmri_fm_lab.prediction import compare_rows
from dmri_fm_lab.prediction.compare import compare
from dmri_fm_lab.prediction.compare_folds import compare_folds
from dmri_fm_lab.prediction.compare_request import read_comparison
from dmri_fm_lab.prediction.heads import HeadSettings
from dmri_fm_lab.prediction.image_samples import find_maps
from dmri_fm_lab.prediction.rish import rish_table
from dmri_fm_lab.prediction.study import read_study
from dmri_fm_lab.train.seen import Seen
from tests.dmri_fm_lab.prediction.tiny_cohort import tiny_encoder, write_cohort

HEADER = """
participants = "participants.tsv"
target = "age"
splits = "splits.tsv"
derivatives = "derivatives"
weights = "tiny.safetensors"
published = "age"
"""

ROWS = """
[[row]]
method = "HC features"
features = "regional FA, MD"
table = "regions.tsv"
columns = ["fa_*", "md_*"]
head = "linear"

[[row]]
rish = true
head = "ridge"

[[row]]
network = "vit-maps"
epochs = 1

[[row]]
finetune = "small"
mode = "lora"
epochs = 1
n_views = 1
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Twelve tiny participants, eleven of whom are in a table of regions."""
    folder = tmp_path_factory.mktemp("study")
    write_cohort(folder, {f"{i:02d}": 20 + 4.0 * i for i in range(1, 13)})
    lines = [f"sub-{i:02d}\t{0.4 + 0.001 * i}\t{1.2 - 0.03 * i}\t{i % 3}" for i in range(1, 12)]
    (folder / "regions.tsv").write_text(
        "\n".join(["participant_id\tfa_a\tmd_a\tx", *lines]) + "\n"
    )
    return folder


def test_the_table_has_all_rows_and_is_not_computed_twice(study, tmp_path, capsys):
    (study / "compare.toml").write_text(HEADER + ROWS)
    arguments = ["compare", str(study / "compare.toml"), str(tmp_path)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| Method | Features | Head | Supervision | rho | MSE (z) | Seen |"
    starts = [" | ".join(line.split(" | ")[:4]) for line in lines[2:6]]
    assert starts == [
        "| HC features | regional FA, MD | linear | full",
        "| RISH | regional RISH | ridge | full",
        "| ViT w/RoPE | FA and MD maps | MLP | full",
        "| encoder | LoRA | mlp | partial",
    ]
    assert lines[6].startswith("| published: tract FA, MD |  | linear |  | 0.900 ± 0.010")
    assert [line.split(" | ")[-1] for line in lines[2:7]] == [
        "unknown |",
        "- |",
        "- |",
        "unknown |",
        "- |",
    ]
    assert "pretrained on is unknown: the table has no column weights_sha256" in text
    assert len(lines) == 2 + 4 + 9 + 2 + 3
    assert "Research only" in text
    assert "11 participants" in text
    missing = "no scan in the table (HC features, regional FA, MD, linear)"
    assert f"Left out: 1 ({missing}): sub-12." in text
    record = json.loads((tmp_path / "compare.json").read_text())
    assert record["left_out"]["names"][-1]["name"] == "sub-12"
    # Age is a straight line in both columns.
    assert record["rows"][0]["scores"]["rho"] == pytest.approx([1.0, 1.0])
    first, second = "HC features, regional FA, MD, linear", "RISH, regional RISH, ridge"
    assert lines[17].startswith(f"| {second} | {first} | rho | ")
    assert "p, paired t as published (INVALID) | x 6 |" in lines[15]
    # Three rows against the first by two scores, each the test of `compare_folds`.
    assert len(record["comparisons"]) == 6
    mse = [row["scores"]["mse"] for row in record["rows"]]
    expected = compare_folds(mse[1], mse[0], n_train=[8, 8], n_test=[3, 2], n_compared=6)
    found = record["comparisons"][1]
    assert (found["first"], found["score"]) == (second, "mse")
    assert found["p_corrected_bonferroni"] == pytest.approx(expected.p_corrected_bonferroni)
    assert not found["paired_t_test_is_valid"]
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert main(arguments) == 0
    assert capsys.readouterr().out == text
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert {p for p in after if after[p] != kept.get(p)} == set(), "nothing is computed again"


def rows_of(study, tmp_path, text, header=HEADER):
    return compare(read_comparison_of(study, text, header), tmp_path).record


def read_comparison_of(study, text, header=HEADER):
    (study / "other.toml").write_text(header + text)
    return read_comparison(study / "other.toml")


def test_participants_are_those_of_all_methods(study, tmp_path):
    table = '[[row]]\ntable = "regions.tsv"\ncolumns = ["fa_*"]\nhead = "linear"\n'
    alone = rows_of(study, tmp_path, table)
    assert alone["n_participants"] == 11
    people = np.genfromtxt(tmp_path / "splits.tsv", dtype=str, skip_header=1)[:, 1]
    assert "sub-12" not in people


def test_each_participant_is_left_out_for_one_reason_of_all_methods(study, tmp_path):
    lines = [f"sub-{i:02d}\tn/a\t{0.4 + 0.001 * i}\t{i}" for i in range(1, 13)]
    lines[2] = "sub-03\tmean_fd > 1\t0.4\t3"
    lines[4] = "sub-05\tn/a\tn/a\t5"
    text = "\n".join(["participant_id\tqc_exclude\tfa_a\tmax_bval", *lines]) + "\n"
    (study / "first.tsv").write_text(text)
    # Of the second, the third participant is excluded as well, and the fifth is missing.
    (study / "second.tsv").write_text(text.replace(lines[4] + "\n", ""))
    rows = "".join(f'[[row]]\ntable = "{n}.tsv"\nhead = "linear"\n' for n in ("first", "second"))
    found = rows_of(study, tmp_path, rows)
    assert found["n_participants"] == 10
    assert {item["name"]: item["reason"] for item in found["left_out"]["names"]} == {
        "sub-03": "excluded by QC: mean_fd > 1",
        "sub-05": "a missing value in the table (table, first, linear); no scan in the table "
        "(table, second, linear)",
    }


def test_a_row_is_computed_again_if_scans_change_places(study, tmp_path):
    """The same numbers in the same order, of other scans."""
    path = study / "swapped.tsv"
    row = '[[row]]\ntable = "swapped.tsv"\nhead = "linear"\n'
    names = [f"sub-{i:02d}" for i in range(1, 13)]

    def errors_of(order):
        lines = [f"{name}\t{0.4 + 0.001 * i}" for i, name in enumerate(order)]
        path.write_text("\n".join(["participant_id\tfa_a", *lines]) + "\n")
        return rows_of(study, tmp_path, row)["rows"][0]["scores"]["mse"]

    # Age is a straight line of the number, and no longer behind every other participant.
    assert max(errors_of(names)) < 1e-6
    assert min(errors_of(names[::2] + names[1::2])) > 1e-3


def test_folds_that_a_comparison_leaves_out_are_named(study, tmp_path):
    """Of one participant there is no correlation: the second fold has no rho."""
    text = 'table = "regions.tsv"\nhead = "linear"\ncolumns = '
    rows = "".join(f'[[row]]\n{text}["{c}"]\nfeatures = "{c}"\n' for c in ("fa_a", "md_a"))
    splits = study / "splits.tsv"
    before = splits.read_text()
    lines = before.splitlines()
    assert lines[0].split("\t") == ["fold", "participant_id", "set"], lines[0]
    last = lines[-1].split("\t")[0]
    of_last = [line for line in lines if line.startswith(last) and line.endswith("test")]
    try:
        splits.write_text("\n".join(line for line in lines if line not in of_last[1:]) + "\n")
        result = compare(read_comparison_of(study, rows), tmp_path)
    finally:
        splits.write_text(before)
    assert result.record["comparisons"][0]["n_folds"] == 1
    for column in ("fa_a", "md_a"):
        assert (
            f"{column}, linear: rho is undefined in 1 of 2 folds, which its mean and comparisons "
            f"leave out: {last}." in result.text
        )


def test_scans_that_the_group_level_excluded_are_used_by_no_row(study, tmp_path):
    quality = study / "derivatives" / "group" / "desc-image_qc.tsv"
    quality.parent.mkdir()
    quality.write_text("participant_id\tqc_exclude\tmean_fd\nsub-04\tmean_fd > 1\t2\n")
    try:
        table = '[[row]]\ntable = "regions.tsv"\ncolumns = ["fa_*"]\nhead = "linear"\n'
        network = '[[row]]\nnetwork = "vit-maps"\nepochs = 1\n'
        request = read_comparison_of(study, table + network)
        maps, _ = find_maps(request.files.derivatives)
        assert "sub-04" not in read_study(request.files, list(maps)).scans
        left_out = rows_of(study, tmp_path, table)["left_out"]["names"]
        assert {"name": "sub-04", "reason": "excluded by QC: mean_fd > 1"} in left_out
        scans = rish_table(study / "derivatives")
        assert ("sub-04", "excluded by QC: mean_fd > 1") in scans.left_out
    finally:
        shutil.rmtree(quality.parent)


def test_participants_of_the_pretraining_are_flagged(study, tmp_path):
    hashes = {PARTICIPANTS: [hash_participant("tiny", f"sub-{i}") for i in ("03", "05", "12")]}
    weights = save_weights(
        study / "seen.safetensors", tiny_encoder(), name="drope", version="0", training=hashes
    )
    sha = load_weights(weights).sha256
    lines = [f"sub-{i:02d}\t{0.4 + 0.001 * i}\t{sha}" for i in range(1, 12)]
    text = "\n".join(["participant_id\tcls000\tweights_sha256", *lines]) + "\n"
    (study / "features.tsv").write_text(text)
    rows = (
        '[[row]]\ntable = "features.tsv"\nhead = "linear"\n[[row]]\nrish = true\nhead = "ridge"\n'
    )
    header = HEADER.replace("tiny.safetensors", "seen.safetensors")
    result = compare(read_comparison_of(study, rows, header), tmp_path)
    # Of the three, the twelfth is not in the table.
    of_table, of_rish = (row["pretrained_on"] for row in result.record["rows"])
    assert (of_table["participants"], of_rish) == (["sub-03", "sub-05"], None)
    assert (
        "Note: table, features, linear: SEEN in pretraining, without labels: sub-03, sub-05."
        in (result.text)
    )
    request = read_comparison_of(study, '[[row]]\nfinetune = "small"\n', header)
    (tuned,) = (compare_rows.prepare(row, request, tmp_path) for row in request.rows)
    assert tuned.seen == Seen(frozenset({"sub-03", "sub-05", "sub-12"}))


def test_a_table_without_columns_reads_measures_of_the_brain(study, tmp_path):
    """The largest b-value is the target here; regions are not."""
    rng = np.random.default_rng(0)
    lines = [f"sub-{i:02d}\t{rng.normal()}\t{20 + 4.0 * i}" for i in range(1, 13)]
    (study / "protocol.tsv").write_text(
        "\n".join(["participant_id\tfa_a\tmax_bval", *lines]) + "\n"
    )
    row = '[[row]]\ntable = "protocol.tsv"\nhead = "linear"\n'
    found = rows_of(study, tmp_path, row)["rows"][0]["scores"]["mse"]
    named = rows_of(study, tmp_path, row + 'columns = ["max_bval"]\n')["rows"][0]["scores"]["mse"]
    assert min(found) > 0.1
    assert max(named) < 1e-6


def test_a_published_task_is_of_the_targets_type(study, tmp_path):
    row = '[[row]]\ntable = "regions.tsv"\ncolumns = ["fa_*"]\nhead = "linear"\n'
    header = HEADER.replace('published = "age"', 'published = "sex"')
    with pytest.raises(ConfigError, match="sex is a task of classification"):
        rows_of(study, tmp_path, row, header)


def test_a_row_is_computed_again_by_another_version_and_default(study, tmp_path, monkeypatch):
    row = '[[row]]\ntable = "regions.tsv"\ncolumns = ["fa_*"]\nhead = "linear"\n'

    def n_done():
        rows_of(study, tmp_path, row)
        return len(list((tmp_path / "rows").iterdir()))

    assert (n_done(), n_done()) == (1, 1)
    monkeypatch.setattr(comparison, "__version__", "another")
    assert n_done() == 2
    monkeypatch.setattr(compare_rows, "HeadSettings", partial(HeadSettings, penalty=2.0))
    assert n_done() == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[row]]\nhead = 'mlp'\n", "a row with head"),
        ("[[row]]\nrish = true\nnetwork = 'resnet18'\n", "a row with rish, network"),
        ("[[row]]\nrish = true\nspeed = 1\n", "a row rish = True with speed"),
        ("[[row]]\nrish = true\nhead = 'tree'\n", "head 'tree'"),
        ("[[row]]\nnetwork = 'unet'\n", "network 'unet'"),
        ("[[row]]\nfinetune = 'iq'\n", "no preset 'iq'"),
        ("[[row]]\nfinetune = 'age'\nepochs = 'many'\n", "epochs = 'many'"),
        (
            "[[row]]\ntable = 'regions.tsv'\ncolumns = ['ad_*']\n",
            r"no column ad_\* in regions.tsv",
        ),
        ("[[row]\n", "not TOML"),
        ("[[row]]\nrish = true\n" * 2, "several rows called RISH, regional RISH, tuned"),
    ],
)
def test_rows_that_cannot_be_read(study, tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        rows_of(study, tmp_path, text)


def test_headers_that_cannot_be_read(study, tmp_path):
    row = "[[row]]\nrish = true\n"
    with pytest.raises(ConfigError, match=r"missing \['target'\]"):
        rows_of(study, tmp_path, row, HEADER.replace("target", "#"))
    with pytest.raises(ConfigError, match="published = 'iq'"):
        rows_of(study, tmp_path, row, HEADER.replace('published = "age"', 'published = "iq"'))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_comparison(tmp_path / "none.toml")


def test_ids_that_do_not_match(study, tmp_path):
    (study / "others.tsv").write_text("participant_id\tfa_a\nsub-x1\t1\nsub-x2\t2\n")
    row = '[[row]]\ntable = "others.tsv"\ncolumns = ["fa_*"]\n'
    with pytest.raises(InputError, match="none of the 2 scans has a row among the participants"):
        rows_of(study, tmp_path, row)
