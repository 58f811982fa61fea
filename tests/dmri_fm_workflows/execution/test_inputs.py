"""Inputs that change or vanish: before a run, and while it is at work."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dmri_fm.errors import InputError
from dmri_fm.series import save_image
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution import job
from dmri_fm_workflows.execution.graph import GraphOutcome
from dmri_fm_workflows.execution.inputs import check_unchanged, measure_inputs
from dmri_fm_workflows.outputs.manifest import verify_outputs
from dmri_fm_workflows.plan.engines import Engines


def test_inputs_are_hashed_and_looked_at_again(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("b.bval", "a.nii.gz")]
    for path in paths:
        path.write_text(path.name)
    inputs = measure_inputs([*paths, paths[0]])
    assert [f.path.name for f in inputs] == ["a.nii.gz", "b.bval"]
    assert inputs[0].sha256 == hashlib.sha256(b"a.nii.gz").hexdigest()
    check_unchanged(inputs)
    os.utime(paths[0], ns=(0, 0))
    with pytest.raises(InputError, match=r"b\.bval: has changed while the run was at work$"):
        _first_line(inputs)
    paths[1].unlink()
    with pytest.raises(InputError, match=r"a\.nii\.gz: has vanished .*; so have 1 more inputs$"):
        _first_line(inputs)
    with pytest.raises(InputError, match="cannot be read"):
        measure_inputs(paths)


def _first_line(inputs) -> None:
    """Check inputs; the error that is raised has its first line alone."""
    try:
        check_unchanged(inputs)
    except InputError as error:
        raise InputError(str(error).splitlines()[0]) from None


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A dataset of one tiny series."""
    stem = tmp_path / "raw" / "sub-01" / "dwi" / "sub-01_dwi"
    stem.parent.mkdir(parents=True)
    (tmp_path / "raw" / "dataset_description.json").write_text(
        '{"Name": "x", "BIDSVersion": "1.10.0"}'
    )
    save_image(np.ones((4, 4, 3, 7)), np.diag([-2.0, 2, 2, 1]), f"{stem}.nii.gz")
    stem.with_suffix(".bval").write_text("0 1000 1000 1000 1000 1000 1000\n")
    z, u = np.sqrt(0.5), np.sqrt(0.5)
    bvecs = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [z, u, 0], [z, 0, u], [0, z, u]])
    np.savetxt(stem.with_suffix(".bvec"), bvecs.T)
    return tmp_path / "raw"


def make_job(raw: Path, out: Path, **options: object) -> job.Job:
    config = RunConfig(raw, out, models=(), nprocs=1, **options)
    dataset = read_dataset(raw)
    (participant,) = dataset.participants
    return job.Job(config, dataset, participant, (), Engines("none", ("none",), "none"))


def read_record(out: Path) -> dict[str, object]:
    (path,) = out.glob("sub-01/log/*/provenance.json")
    content: dict[str, object] = json.loads(path.read_text())
    return content


@pytest.mark.parametrize("extension", [".nii.gz", ".bval"])
def test_input_that_vanishes_before_the_graph_is_named(
    raw: Path, tmp_path: Path, extension: str
) -> None:
    out, console = tmp_path / "out", Console(record=True, width=300)
    task = make_job(raw, out)
    assert task.find_done() is None  # everything is planned
    path = raw / "sub-01" / "dwi" / f"sub-01_dwi{extension}"
    path.unlink()
    assert not job.run_participant(task, console=console, stale=set())
    record = read_record(out)
    assert record["status"] == "failed"
    said = " ".join(e["message"] for e in record["errors"])
    assert path.name in said
    assert "Traceback" not in said
    assert path.name in (out / "sub-01.html").read_text()
    assert not list(out.rglob("*.nii.gz"))


@pytest.mark.parametrize("change", ["vanishes", "changes"])
def test_run_whose_input_changes_meanwhile_is_not_complete(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The graph, which could not be made to wait for this, does nothing here but the change."""
    out, console = tmp_path / "out", Console(record=True, width=300)
    image, task = raw / "sub-01" / "dwi" / "sub-01_dwi.nii.gz", make_job(raw, out, random_seed=7)
    before, fingerprint = hashlib.sha256(image.read_bytes()).hexdigest(), task.fingerprint()

    def run_graph(*_: object, **__: object) -> GraphOutcome:
        image.unlink()
        if change == "changes":
            image.write_bytes(b"another scan")
        return GraphOutcome(set(), [], [])

    monkeypatch.setattr(job, "run_graph", run_graph)
    assert not job.run_participant(task, console=console, stale=set())
    record = read_record(out)
    assert record["status"] == "failed"
    (error,) = record["errors"]
    word = "has vanished" if change == "vanishes" else "has changed"
    assert f"{image}: {word} while the run was at work" in error["message"]
    # The record says what the run began with.
    assert record["fingerprint"] == fingerprint
    assert record["inputs"]["sub-01/dwi/sub-01_dwi.nii.gz"] == before
    assert len(record["inputs"]) == 3
    assert record["settings"]["random_seed"] == 7
    assert record["versions"].keys() >= {"python", "torch", "antspyx", "numpy"}
    assert record["hardware"]["n_cpus"] > 0
    assert verify_outputs(out)[1] == []


def test_weights_are_hashed_by_name(raw: Path, tmp_path: Path) -> None:
    from dmri_fm.weights import find_weights
    from dmri_fm_workflows.execution.circumstances import describe_circumstances

    config = RunConfig(raw, tmp_path / "out", models=("drope",), nprocs=1)
    found = describe_circumstances(config, raw, (), None).weights
    assert found == {"drope": hashlib.sha256(find_weights("drope").read_bytes()).hexdigest()}
