"""Runs of the app of their own: the demo, bad scans beside good ones, a run that is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_lab.simulate import simulate_dataset

RunApp = Callable[..., tuple[int, str]]

pytestmark = pytest.mark.realdata

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_demo_is_valid_by_both_schemas(
    run_app: RunApp, tmp_path: Path, assert_valid_output: Callable[..., None], draft_schema: Path
) -> None:
    """The dataset of `make demo`, and what the app makes of it."""
    raw, out = tmp_path / "bids", tmp_path / "out"
    simulate_dataset(raw, n_participants=1, seed=0)
    for level in ("participant", "group"):
        code, text = run_app(raw, out, level, *(["--sloppy"] if level == "participant" else []))
        assert code == 0, text[-3000:]
    assert_valid_output(out)
    assert_valid_output(out, schema=draft_schema)


def test_bad_scan_is_named_and_the_other_participant_goes_on(
    run_app: RunApp, data_dir: Path, tmp_path: Path
) -> None:
    """One participant with NaN voxels, one without gradients, beside a tiny good one."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    source = data_dir / "ds-vendors" / "sub-umr" / "dwi" / "sub-umr_acq-rot_dir-PA_dwi"
    raw.mkdir()
    (raw / "dataset_description.json").write_text('{"Name": "bad", "BIDSVersion": "1.10.0"}')
    for label in ("nan", "empty"):
        stem = raw / f"sub-{label}" / "dwi" / f"sub-{label}_dwi"
        stem.parent.mkdir(parents=True)
        for ending in (".json", ".bval", ".bvec", ".nii.gz"):
            shutil.copyfile(f"{source}{ending}", f"{stem}{ending}")
            Path(f"{stem}{ending}").chmod(0o644)
    stem = raw / "sub-nan" / "dwi" / "sub-nan_dwi"
    image = load_image(f"{stem}.nii.gz")
    data = read_array(image).copy()
    data[30, 30, 10, 3] = np.nan
    save_image(data, image.affine, f"{stem}.nii.gz")
    (raw / "sub-empty" / "dwi" / "sub-empty_dwi.bvec").write_text("")
    code, text = run_app(raw, out, "participant", "--sloppy", "--models", "none")
    assert code == 1
    for expected in ("sub-nan_dwi.nii.gz", "1 voxels are NaN", "sub-empty_dwi.bvec", "is empty"):
        assert expected in " ".join(text.split()), expected
    for label, word in (("nan", "NaN"), ("empty", "empty")):
        record = json.loads(
            next((out / f"sub-{label}" / "log").glob("*/provenance.json")).read_text()
        )
        assert record["status"] == "failed"
        assert word in record["errors"][0]["message"]
        assert "what to do" in record["errors"][0]["message"] or label == "empty"
        assert (out / f"sub-{label}.html").exists()
    assert not list(out.rglob("*_dwimap*"))
    assert not [p for p in out.rglob("*") if p.name.endswith((".part", ".tmp"))]


@pytest.mark.slow
def test_killed_run_resumes(run_app: RunApp, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [
        str(data_dir / "ds-vendors"), str(out), "participant", "--participant-label", "umr",
        "--sloppy", "--models", "none",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'workflows'}:{ROOT / 'lab'}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "dmri_fm_workflows", *arguments],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    finished = out / "work"
    while not list(finished.rglob("merge_runs/result_merge_runs.pklz")):
        assert process.poll() is None
        time.sleep(0.5)
    os.killpg(process.pid, 9)
    process.wait()
    kept = next(finished.rglob("merge_runs/result_merge_runs.pklz")).stat().st_mtime_ns
    code, text = run_app(*arguments, "--keep-work")
    assert code == 0, text[-2000:]
    again = next(finished.rglob("merge_runs/result_merge_runs.pklz")).stat().st_mtime_ns
    assert again == kept
