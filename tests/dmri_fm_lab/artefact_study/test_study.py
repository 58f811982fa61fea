"""The study on tiny cubes: every start, tasks, split, tests, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dmri_fm.encoders.artefact_unet.encoder import template_brain
from dmri_fm.encoders.artefact_unet.network import ArtefactUnet, UnetConfig
from dmri_fm.errors import ConfigError, InputError
from dmri_fm.gradients import GradientTable
from dmri_fm.participants import PARTICIPANTS, hash_participant
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.shell_resampling import fixed_directions
from dmri_fm.weights import Weights, save_weights
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.artefact_study import report, study
from dmri_fm_lab.artefact_study.cubes import Cube, cut_cubes, simulate_cubes
from dmri_fm_lab.artefact_study.pretrained import drop_seen, read_pretrained, split_names
from dmri_fm_lab.artefact_study.report import format_study, paired_test
from dmri_fm_lab.artefact_study.study import STARTS, StudySize, run_study, split_cubes
from dmri_fm_lab.artefact_study.tasks import TASKS, TaskBatch, as_batch, start_network
from dmri_fm_lab.train.artefact_unet import OBJECTIVES
from dmri_fm_lab.train.scan_cache import CachedScan
from tests.dmri_fm.encoders.artefact_unet.narrow import NARROW

SIZE = StudySize(
    edge=16,
    split=(2, 1, 2),
    sizes=(2,),
    n_runs=2,
    n_steps=2,
    n_pretraining=2,
    auxiliary=(2, 1),
)


@pytest.fixture(scope="module")
def cubes() -> list[Cube]:
    return simulate_cubes(0, 5, NARROW, edge=16)


def test_cubes_are_reproducible_and_labelled(cubes: list[Cube]) -> None:
    (again,) = simulate_cubes(0, 1, NARROW, edge=16)
    assert torch.equal(again.signal, cubes[0].signal)
    assert again.signal.shape == (16, 16, 16, 16)
    assert all(cube.labels is not None and cube.labels.white.sum() >= 30 for cube in cubes)
    (other,) = simulate_cubes(0, 1, NARROW, edge=16, for_pretraining=True)
    assert other.labels is None
    assert not torch.equal(other.signal, cubes[0].signal)


def test_perfect_answers_have_perfect_scores(cubes: list[Cube]) -> None:
    batch = as_batch(cubes[0])
    one_hot = torch.nn.functional.one_hot
    answers = {
        "tissue": one_hot(batch.tissue, 4).movedim(-1, 1).float(),
        "peaks": one_hot(batch.n_peaks, 4).movedim(-1, 1).float(),
        "direction": batch.direction,
    }
    for name, answer in answers.items():
        task = TASKS[name]
        assert answer.shape[1] == task.n_outputs
        assert task.score(answer, batch) == (1.0 if task.higher_is_better else 0.0)
    shifted = TaskBatch(batch.signal, batch.tissue, (batch.n_peaks + 1) % 4, batch.direction)
    assert TASKS["peaks"].score(answers["peaks"], shifted) == 0.0


def test_a_pretrained_start_differs_in_the_output_layer_alone() -> None:
    pretrained = ArtefactUnet(NARROW).state_dict()
    found = start_network(NARROW, 4, pretrained=pretrained, seed=1).state_dict()
    random = start_network(NARROW, 4, pretrained=None, seed=1).state_dict()
    for name, value in found.items():
        source = random if name.startswith("out.") else pretrained
        assert torch.equal(value, source[name]), name
    assert not torch.equal(found["bridge.0.weight"], random["bridge.0.weight"])


def test_the_split_keeps_participants_together(cubes: list[Cube]) -> None:
    parts = split_cubes(cubes * 6, (15, 5, 8), seed=0)
    assert [len(part) for part in parts] == [15, 5, 8]
    named = [replace(cubes[0], name=f"sub-{k // 2:02d}_run-{k % 2}") for k in range(12)]
    parts = split_cubes(named, (15, 5, 8), seed=0)
    owners = [{cube.name.split("_")[0] for cube in part} for part in parts]
    assert not owners[0] & owners[1] | owners[0] & owners[2] | owners[1] & owners[2]
    assert sum(map(len, parts)) == 12
    with pytest.raises(ConfigError, match="2 participants"):
        split_cubes(named[:4], (15, 5, 8), seed=0)


def test_the_study_and_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = run_study(tmp_path, NARROW, size=SIZE)
    assert record["split"] == [2, 1, 2]
    for task in TASKS:
        for start in STARTS:
            scores = np.array(record["scores"][task]["2"][start])
            assert scores.shape == (2, 2)
            assert np.isfinite(scores).all()
    assert record["pretrained"] == {"artefacts": "cubes", "autoencoder": "cubes"}
    assert (record["labels"], record["seed"]) == ("truth", 0)
    assert record["size"]["strength"] == "light"
    text = format_study(record)
    assert "Labels: the truth of simulated brains. Cubes of 16 voxels, seed 0." in text
    assert "on simulated cubes (2 steps, artefacts of strength light)." in text
    assert text.count("plain autoencoder") >= 4
    assert "2 runs of the mean of 2 test scans (2 for training, 1 for validation" in text
    # Runs that are finished are read back, with the same numbers.
    monkeypatch.setattr(study, "TASKS", {"tissue": TASKS["tissue"]})
    again = run_study(tmp_path, NARROW, size=SIZE, tasks=["tissue"])
    assert again["scores"]["tissue"] == record["scores"]["tissue"]
    # Other weights to start from are another study.
    network = ArtefactUnet(NARROW)
    other = {"artefacts": Weights("artefact-unet", "0", "f" * 64, NARROW, network, {}, {}, {})}
    with pytest.raises(ConfigError, match="other settings"):
        run_study(tmp_path, NARROW, size=SIZE, tasks=["tissue"], pretrained=other)


def test_the_best_mean_says_if_it_is_not_the_best_in_every_run() -> None:
    scores = {"artefacts": [[0.9], [0.5]], "autoencoder": [[0.4], [0.4]], "random": [[0.1], [0.6]]}
    assert report._name_best(TASKS["peaks"], scores) == "artefact removal (not in every run)"
    scores["random"] = [[0.1], [0.4]]
    assert report._name_best(TASKS["peaks"], scores) == "artefact removal"
    scores = {start: [[-x for x in run] for run in runs] for start, runs in scores.items()}
    assert report._name_best(TASKS["direction"], scores) == "artefact removal"


def test_the_seed_decides_about_the_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cubes: list[Cube]
) -> None:
    seeds: list[int] = []

    def start(encoder: UnetConfig, n_outputs: int, **given: Any) -> ArtefactUnet:
        seeds.append(given["seed"])
        return start_network(encoder, n_outputs, **given)

    monkeypatch.setattr(study, "start_network", start)
    for seed in (0, 1):
        plan = study._Plan(tmp_path / f"{seed}", NARROW, SIZE, seed, cubes[:1], cubes[1:2], [])
        for number in (0, 1):
            study._run_once(plan, "peaks", 1, "random", None, number)
    assert len(set(seeds)) == 4


def test_overfitting_is_the_last_error_over_the_lowest(tmp_path: Path) -> None:
    (tmp_path / "validation.csv").write_text("step,error\n1,1\n2,0.5\n3,0.8\n")
    assert study._overfitting(tmp_path) == pytest.approx(1.6)


def test_paired_tests_are_over_scans() -> None:
    rng = np.random.default_rng(0)
    scans = rng.normal(size=8)
    worse = [(scans + 0.1 * rng.normal(size=8)).tolist() for _ in range(4)]
    better = [[x + 0.5 + 0.05 * rng.normal() for x in run] for run in worse]
    assert paired_test(better, worse) < 1e-4
    assert np.isnan(paired_test(worse, worse))
    # More runs of the same scans are no more scans.
    assert paired_test(better * 5, worse * 5) == pytest.approx(paired_test(better, worse))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge": 12}, "cubes of 12 voxels"),
        ({"edge": 8}, "cubes of 8 voxels"),
        ({"sizes": (3,)}, r"\[3\] training scans"),
        ({"n_runs": 0}, "no runs"),
        ({"strength": "weak"}, "strength 'weak'"),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_study(tmp_path, NARROW, size=replace(SIZE, **change))  # type: ignore[arg-type]


def write_scan(folder: Path, n_directions: int) -> CachedScan:
    """Write a brain of fibres along x, of grey matter in front of it and CSF behind."""
    axes = fixed_directions(n_directions)
    gtab = GradientTable(np.full(n_directions, 1000.0), axes)
    mask = template_brain(NARROW)
    signal = np.zeros((*mask.shape, n_directions), dtype=np.float32)
    signal[...] = np.exp(-0.2 - 1.5 * axes[:, 0] ** 2)
    signal[:, 16:], signal[:, :8] = np.exp(-0.8), np.exp(-3.0)
    signal += np.random.default_rng(0).normal(0, 0.01, signal.shape).astype(np.float32)
    return CachedScan.write(folder, signal * mask[..., None], mask, gtab)


def test_cubes_of_real_scans_hold_what_the_fits_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = write_scan(tmp_path / "sub-02", 20)
    (cube,) = cut_cubes([few, write_scan(tmp_path / "sub-01", 30)], NARROW, edge=16, seed=0)
    assert "sub-02: left out, the shell nearest to b=1000 has not the 28" in caplog.text
    assert cube.name == "sub-01"
    labels = cube.labels
    assert labels is not None
    assert cube.signal.shape == (16, 16, 16, 16)
    assert labels.tissue.shape == (16, 16, 16)
    one = labels.white & (labels.n_peaks > 0)
    assert one.any()
    assert np.median(labels.direction[0][one]) > 0.95, "x x"
    assert (cube.brain.numpy() == (labels.tissue > 0)).all()
    with pytest.raises(InputError, match="none of 1 scans"):
        cut_cubes([few], NARROW, edge=16, seed=0)


def save_pair(folder: Path, **autoencoder: object) -> list[str]:
    """Save weights of both objectives; `autoencoder` changes the description of the second."""
    texts = []
    for objective in OBJECTIVES:
        training: dict[str, Any] = {
            "settings": {"objective": objective, "n_brains": 2},
            "scans": [],
            PARTICIPANTS: [],
        }
        path = save_weights(
            folder / f"{objective}.safetensors",
            ArtefactUnet(NARROW),
            name="artefact-unet",
            version="0",
            training=training | (autoencoder if objective == "autoencoder" else {}),
        )
        texts.append(f"{objective}={path}")
    return texts


@pytest.fixture
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = MODELS["artefact-unet"]._replace(config=NARROW)
    monkeypatch.setitem(MODELS, "artefact-unet", changed)


@pytest.mark.usefixtures("_narrow")
def test_pretrainings_differ_in_the_objective_alone(tmp_path: Path) -> None:
    for change, words in (
        ({"scans": ["sub-01"]}, "other scans"),
        ({"settings": {"objective": "autoencoder", "n_brains": 3}}, "other n_brains"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_pretrained(split_names(save_pair(tmp_path, **change)))
    assert set(read_pretrained(split_names(save_pair(tmp_path)))) == set(OBJECTIVES)


@pytest.mark.usefixtures("_narrow")
def test_participants_of_the_pretraining_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bids = tmp_path / "bids"
    for label in ("01", "02"):
        folder = bids / f"sub-{label}" / "dwi"
        folder.mkdir(parents=True)
        (folder / f"sub-{label}_space-ACPC_desc-preproc_dwi.nii.gz").touch()
    description = {"Name": "Two", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (bids / "dataset_description.json").write_text(json.dumps(description))
    gtab = GradientTable(np.full(6, 1000.0), fixed_directions(6))
    scans = [CachedScan(name, tmp_path, gtab) for name in ("sub-01_run-1", "sub-02")]
    paths = split_names(save_pair(tmp_path, **{PARTICIPANTS: [hash_participant("Two", "01")]}))
    kept, names = drop_seen(scans, bids, paths)
    assert (kept, names) == (scans[1:], ["sub-01_run-1"])
    assert "sub-01_run-1: left out" in caplog.text
    with pytest.raises(ConfigError, match="all participants of 1 scans"):
        drop_seen(scans[:1], bids, paths)


@pytest.mark.usefixtures("_narrow")
def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "StudySize", lambda **given: replace(SIZE, **given))
    files = save_pair(tmp_path)
    out = tmp_path / "out.json"
    arguments = ["study", "artefacts", str(tmp_path / "runs"), "--weights"]
    short = ["--tasks", "peaks", "--sizes", "1", "--runs", "1", "--steps", "2"]
    assert main([*arguments, *files, *short, "--json", str(out)]) == 0
    assert "artefact removal by weights of sha256" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "pretraining_artefacts").exists()
    record = json.loads(out.read_text())
    assert set(record["scores"]["peaks"]["1"]) == set(STARTS)
    assert record["pretrained"]["artefacts"] == load_weights(files[0].split("=")[1]).sha256
    swapped = files[1].replace("autoencoder=", "artefacts=", 1)
    for given, words in (
        (files[:1], "--weights without autoencoder=FILE"),
        ([files[1], swapped], "weights of the objective 'autoencoder'"),
        (["colours=x"], "artefacts=FILE or autoencoder=FILE"),
    ):
        assert main([*arguments, *given, *short]) == 1
        assert words in capsys.readouterr().err
