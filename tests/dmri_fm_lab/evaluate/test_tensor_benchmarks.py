"""Wiring of the benchmarks of tensor networks: small scans, networks that ship or tiny ones."""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from shutil import copy, copytree

import numpy as np
import pytest
import torch

from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm.normalise.transforms import write_affine
from dmri_fm.preprocess.eddy_translation import EddyTranslation
from dmri_fm.preprocess.motion import MotionEstimate
from dmri_fm.preprocess.motion_table import write_motion_tsv
from dmri_fm.series import save_image
from dmri_fm.tensor_networks.predict import predict_tensor
from dmri_fm.weights import find_weights
from dmri_fm_lab.baseline_networks import find_tensor_network
from dmri_fm_lab.scans import find_scans
from dmri_fm_lab.train.loop import CHECKPOINT

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
NET = "tensor-refiner"


@pytest.fixture
def run_benchmark(monkeypatch, capsys):
    """Run a script with options, after some of its names were changed; return what it prints."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(name: str, *options: object, **changes: object) -> str:
        module = importlib.import_module(name)
        for key, value in changes.items():
            monkeypatch.setattr(module, key, value)
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        module.main()
        return capsys.readouterr().out

    monkeypatch.setattr("dmri_fm_lab.evaluate.comparison.PACKAGED", (NET,))
    monkeypatch.setattr(importlib.import_module("seven_volumes"), "PACKAGED", (NET,))
    return run


@pytest.fixture
def trained_on_01(tmp_path) -> Path:
    """Weights that say that they were trained on participant 01."""
    source, weights = find_weights(NET), tmp_path / "own.safetensors"
    copy(source, weights)
    description = json.loads(source.with_suffix(".json").read_text())
    description["training"]["scans"] = ["sub-01, Simulated"]
    weights.with_suffix(".json").write_text(json.dumps(description))
    return weights


@pytest.fixture
def several(derivative) -> Path:
    """A dataset with a second participant, and one of a held-out scanner."""
    for label in ("02", "prismad13"):
        copytree(derivative / "sub-01", derivative / f"sub-{label}")
        for path in (derivative / f"sub-{label}" / "dwi").iterdir():
            path.rename(path.with_name(path.name.replace("sub-01", f"sub-{label}")))
    return derivative


def test_tractography_marks_training_brains_and_leaves_held_out_ones(
    run_benchmark, several, trained_on_01
) -> None:
    run = partial(run_benchmark, "tractography", BASELINE_NAMES=("wls",))
    weights = ("--weights", f"{NET}={trained_on_01}")
    printed = run(several, "--subsets", 1, *weights)
    lines = [line for line in printed.splitlines() if "Dice" in line]
    assert len(lines) == 4
    trained = f"{NET} was TRAINED on this brain"
    assert [trained in line for line in lines] == [True, True, False, False]
    assert "sub-prismad13 is left out" in printed
    assert all(0 < float(line.split("Dice ")[1]) <= 1 for line in lines)
    named = run(several, "--subsets", 1, "--participant-label", "prismad13")
    assert "left out" not in named
    assert named.count("sub-prismad13, Simulated") == 2


def test_tables_of_cohorts(run_benchmark, several, trained_on_01, brain) -> None:
    asked = []

    def build(seed, **options):
        asked.append(options)
        return brain

    module = importlib.import_module("paper_cohorts")
    printed = run_benchmark(
        "paper_cohorts",
        *("--bids", several, "--weights", f"{NET}={trained_on_01}"),
        BASELINE_NAMES=("wls",),
        build_brain=build,
        SITES={"site 1": module.Site(1000.0, 6.0, 25.0, 1.0)},
    )
    assert asked == [
        {"voxel_size_mm": 1.6, "is_newborn": True},
        {"bval": 1000.0, "voxel_size_mm": 6.0},
    ]
    for text in ("Table 2: newborns", "site 1: Site(", "Table 3: one head at three sites"):
        assert text in printed
    assert f"sub-01, Simulated, sub-01, {NET} was TRAINED on this brain" in printed
    assert "sub-02, Simulated, sub-02\n" in printed
    assert "sub-prismad13 is left out" in printed
    assert "sub-prismad13, Simulated" not in printed
    # A row of the network for newborns, the site, the mean, and two series.
    assert printed.count(f"| {NET} |") == 5


def test_tables_of_the_publication(run_benchmark, tmp_path, brain) -> None:
    name = "qcg-dti-ablation-baseline"
    found = find_tensor_network(name)
    torch.manual_seed(0)
    network = found.network(found.config)
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    folder = tmp_path / "runs" / "baseline"
    folder.mkdir(parents=True)
    saved = {"settings": {"recipe": {"model": name}}, "average": state}
    torch.save(saved, folder / CHECKPOINT)
    printed = run_benchmark(
        "paper_tables",
        *("--tables", 1, 5, "--sets", 1, "--ablations", folder.parent),
        build_brain=lambda seed: brain,
        BASELINE_NAMES=("wls",),
    )
    for text in ("fixed", "flexible", "Table 5: parts taken away"):
        assert text in printed
    assert printed.count(f"| simulation | {NET} |") == 2
    # Untrained, it is no better than the least-squares tensor that it starts from.
    assert "baseline: left out, not better than WLS in FA and MD" in printed
    assert "no-qcf: no run in" in printed


def write_outputs(raw: Path, out: Path, label: str, options: object) -> None:
    """Write what the app writes of a scan that needs no correction, with real networks."""
    (scan,) = find_scans(raw, participant_labels=[label])
    dwi = scan.dwi.with_mask(scan.dwi.data[..., 0] > 0)
    stem = out / f"sub-{label}" / "dwi" / f"sub-{label}_dir-AP"
    dwi.save(stem.with_name(f"{stem.name}_space-ACPC_desc-preproc_dwi"))
    mask = stem.with_name(f"{stem.name}_space-ACPC_desc-brain_mask.nii.gz")
    save_image(dwi.mask, dwi.affine, mask)
    (out / "dataset_description.json").write_text(json.dumps({"DatasetType": "derivative"}))
    write_affine(np.eye(4), f"{stem}_from-dwiref_to-ACPC_mode-image_xfm.txt")
    n = len(dwi.gtab)
    still = MotionEstimate(
        xfms=np.tile(np.eye(4), (n, 1, 1)),
        is_outlier=np.zeros((n, 0), dtype=bool),
        parameters=np.zeros((n, 15)),
        fd_mm=np.zeros(n),
        method="none",
        eddy=EddyTranslation.unknown(n, "test"),
    )
    write_motion_tsv(still, f"{stem}_from-orig_to-dwiref_mode-image_desc-eddy_xfm.tsv")
    for model in options.model:
        maps = predict_tensor(dwi, model=model)
        maps.save(stem.with_name(f"{stem.name}_space-ACPC"))


def test_scores_through_the_app(run_benchmark, raw, tmp_path) -> None:
    out = tmp_path / "numbers.json"
    printed = run_benchmark(
        "tensor_through_app",
        *(tmp_path / "work", "--bids", raw, "--model", NET, "qcg-dti", "--json", out),
        run_app=write_outputs,
    )
    found = json.loads(out.read_text())
    assert {len(found["networks"][model]["sha256"]) for model in (NET, "qcg-dti")} == {64}
    (scores,) = found["datasets"].values()
    assert set(scores["rows"]) == {
        *(f"{m}, {what}" for m in (NET, "qcg-dti")
          for what in ("by the app", "denoised input", "scan cut to seven")),
        "WLS of all volumes, denoised",
        # Both networks read the same seven: one row.
        f"WLS of the volumes of {NET} and qcg-dti, denoised",
        "WLS, scan cut to seven, denoised",
    }  # fmt: skip
    for model in (NET, "qcg-dti"):
        assert 0 <= scores["ood_fractions"][model] <= 1
        assert f"{model}, out-of-distribution: " in printed
    # Nothing was corrected: the network's maps are those of the series.
    rows = scores["rows"]
    assert rows[f"{NET}, by the app"]["white"]["fa"] == pytest.approx(
        rows[f"{NET}, denoised input"]["white"]["fa"], rel=1e-3
    )
    # Widths of networks and of the bootstrap of WLS stand in one table.
    table = printed.split("Intervals, all tissue")[1].split("\n\n")[1]
    assert {line.split("|")[1].strip() for line in table.splitlines()[2:]} == set(rows)
    assert printed.strip().endswith(RESEARCH_ONLY)
