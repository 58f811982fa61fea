"""Series with a truth, what a gate needs before anything is computed, and saving."""

from __future__ import annotations

import json

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate.comparison import Request
from dmri_fm_lab.evaluate.dataset_comparison import check_evidence, compare_datasets

NET = "tensor-refiner"
REQUEST = Request(models=(NET,))


def test_series_with_a_truth_are_compared_with_it(raw, derivative) -> None:
    check_evidence([raw, derivative], REQUEST)
    records: list[dict] = []
    scores = compare_datasets([raw], Request(("wls",), models=(NET,)), report=records.append)
    (series,) = records
    assert (series["is_truth"], series["is_simulated"]) == (True, True)
    assert series["subsets"]
    assert scores["scanners"][0]["is_simulated"]


def test_evidence_is_checked_before_anything_is_computed(
    raw, derivative, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(
        "dmri_fm_lab.evaluate.dataset_comparison.compare_scan",
        lambda *_, **__: pytest.fail("a series was compared"),
    )
    for roots, message in (
        ([raw], "held-out scanner"),
        ([derivative], "simulated scan with its truth"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_evidence(roots, REQUEST)
    command = ["evaluate", "tensor", str(raw), str(derivative), "--model", NET, "--gate"]
    assert main([*command, "--methods", "wls", "network"]) == 1
    assert "no gate without the methods gaussian, nlmeans, tv, mppca" in capsys.readouterr().err
    moving = raw / "derivatives" / "truth" / "sub-01" / "dwi"
    table = moving / "sub-01_from-dwiref_to-orig_mode-image_desc-truth_xfm.tsv"
    table.write_text("dir\n")
    assert main(command) == 1
    assert "--at-rest" in capsys.readouterr().err


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
