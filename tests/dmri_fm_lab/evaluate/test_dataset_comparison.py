"""Series with a truth: heads at rest, and what a gate needs before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate.comparison import Request
from dmri_fm_lab.evaluate.dataset_comparison import check_evidence, compare_datasets
from dmri_fm_lab.evaluate.truth import read_truth

NET = "tensor-refiner"
REQUEST = Request(models=(NET,))


@pytest.fixture(scope="module")
def at_rest(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "ds"
    options = ["--participants", "1", "--voxel-size", "5.5", "--directions", "14", "--at-rest"]
    assert main(["simulate", str(out), *options]) == 0
    return out


def test_heads_at_rest_have_a_truth_that_can_be_used(at_rest, derivative) -> None:
    truth = read_truth(at_rest, "01")
    assert truth is not None
    assert not truth.is_moving
    assert "without head motion" in (at_rest / "README.md").read_text()
    check_evidence([at_rest, derivative], REQUEST)
    records: list[dict] = []
    request = Request(("wls",), models=(NET,))
    scores = compare_datasets([at_rest], request, report=records.append)
    series = next(record for record in records if record["subsets"])
    assert (series["is_truth"], series["is_simulated"]) == (True, True)
    # Brought to the truth by its field, white matter is where the truth has it.
    row = series["means"]["1000"]["methods"]["wls"]["white"]
    assert row["v1_deg_fa03"] < 15
    assert scores["scanners"][0]["is_truth"]


def test_evidence_is_checked_before_anything_is_computed(
    at_rest, derivative, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(
        "dmri_fm_lab.evaluate.dataset_comparison.compare_scan",
        lambda *_, **__: pytest.fail("a series was compared"),
    )
    for roots, message in (
        ([at_rest], "held-out scanner"),
        ([derivative], "simulated scan with its truth"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_evidence(roots, REQUEST)
    command = ["evaluate", "tensor", str(at_rest), str(derivative), "--model", NET, "--gate"]
    assert main([*command, "--methods", "wls", "network"]) == 1
    assert "no gate without the methods gaussian, nlmeans, tv, mppca" in capsys.readouterr().err
    moving = next((at_rest / "derivatives").rglob("*desc-truth_dwimap.nii.gz")).parent
    table = moving / "sub-01_from-dwiref_to-orig_mode-image_desc-truth_xfm.tsv"
    table.write_text("dir\n")
    try:
        assert main(command) == 1
        assert "--at-rest" in capsys.readouterr().err
    finally:
        table.unlink()


def test_numbers_are_saved_after_each_series(derivative, tmp_path, monkeypatch) -> None:
    """A run that stops keeps the series that were complete."""
    from dmri_fm_lab.evaluate import dataset_comparison

    whole, seen = dataset_comparison.compare_scan, []

    def compare(scan, request, *, truth):
        if seen:
            raise KeyboardInterrupt
        seen.append(scan.name)
        return whole(scan, request, truth=truth)

    monkeypatch.setattr(dataset_comparison, "compare_scan", compare)
    for path in (derivative / "sub-01" / "dwi").iterdir():
        (derivative / "sub-02" / "dwi").mkdir(parents=True, exist_ok=True)
        copy = derivative / "sub-02" / "dwi" / path.name.replace("sub-01", "sub-02")
        copy.write_bytes(path.read_bytes())
    out = tmp_path / "scores.json"
    options = ["--methods", "wls", "--subsets", "1", "--replicates", "2", "--model", NET]
    with pytest.raises(KeyboardInterrupt):
        main(["evaluate", "tensor", str(derivative), *options, "--json", str(out)])
    saved = json.loads(out.read_text())
    assert [series["name"] for series in saved["series"]] == seen == ["sub-01"]
    assert not list(tmp_path.glob("*.part"))
