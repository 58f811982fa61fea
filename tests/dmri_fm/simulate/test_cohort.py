from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from dmri_fm.errors import ConfigError, OutputError
from dmri_fm.models.tensor import fit_tensor
from dmri_fm.simulate import simulate_dataset
from dmri_fm.volumes import Dwi


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "ds"
    return simulate_dataset(out, n_participants=2, seed=3, voxel_size_mm=5.0, n_directions=12)


def series(dataset: Path, label: str, direction: str) -> Dwi:
    stem = f"{dataset}/sub-{label}/dwi/sub-{label}_dir-{direction}_dwi"
    return Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")


def truth(dataset: Path, label: str, name: str) -> np.ndarray:
    path = (
        dataset / "derivatives" / "truth" / f"sub-{label}" / "dwi" / f"sub-{label}_{name}.nii.gz"
    )
    return np.asarray(nib.load(path).dataobj)


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_participants_table(dataset: Path) -> None:
    with (dataset / "participants.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [r["participant_id"] for r in rows] == ["sub-01", "sub-02"]
    described = json.loads((dataset / "participants.json").read_text())
    assert set(described) == {"age", "sex", "site"} == set(rows[0]) - {"participant_id"}
    assert all(20 <= int(r["age"]) <= 80 for r in rows)


def test_storage_is_mixed(dataset: Path) -> None:
    codes = {
        label: (
            nib.aff2axcodes(series(dataset, label, "AP").affine),
            nib.aff2axcodes(nib.load(dataset / f"sub-{label}/anat/sub-{label}_T1w.nii.gz").affine),
        )
        for label in ("01", "02")
    }
    las, ras = ("L", "A", "S"), ("R", "A", "S")
    assert codes == {"01": (ras, las), "02": (las, ras)}


@pytest.mark.parametrize("label", ["01", "02"])
def test_sidecars_obey_the_sign_law(dataset: Path, label: str) -> None:
    """An image of direction "j" shows the signal of voxel x at x + field * readout along +j."""
    field = truth(dataset, label, "desc-truth_fieldmap")
    # The brain's own edge is where distorted signals differ most.
    mask = truth(dataset, label, "desc-truth_mask") > 0
    corrected = {}
    for direction in ("AP", "PA"):
        path = dataset / f"sub-{label}/dwi/sub-{label}_dir-{direction}_dwi.json"
        sidecar = json.loads(path.read_text())
        sign = {"j": 1.0, "j-": -1.0}[sidecar["PhaseEncodingDirection"]]
        b0 = series(dataset, label, direction).mean_b0()
        for way in (1.0, -1.0):
            shift = way * sign * sidecar["TotalReadoutTime"] * field
            where = np.indices(b0.shape).astype(float)
            where[1] += shift
            pulled = map_coordinates(b0, where, order=1) * (1 + np.gradient(shift, axis=1))
            corrected[direction, way] = pulled
    difference = {
        way: np.abs(corrected["AP", way] - corrected["PA", way])[mask].mean()
        for way in (1.0, -1.0)
    }
    assert difference[1.0] < 0.6 * difference[-1.0]


@pytest.mark.parametrize("label", ["01", "02"])
def test_fitted_tensor_agrees_with_the_truth(dataset: Path, label: str) -> None:
    maps = fit_tensor(series(dataset, label, "AP"))
    field = truth(dataset, label, "desc-truth_fieldmap")
    # Compare where distortion is small, deep in the white matter.
    inside = (truth(dataset, label, "label-WM_desc-truth_probseg") > 0.9) & (np.abs(field) < 6)
    tensor = truth(dataset, label, "model-tensor_param-diffusivity_desc-truth_dwimap")
    fa = truth(dataset, label, "model-tensor_param-fa_desc-truth_dwimap")
    assert inside.sum() > 50
    assert np.abs(maps.fa - fa)[inside].mean() < 0.08
    error = np.abs(maps.diffusivity - tensor)[inside].mean()
    mirrored = tensor * np.array([1, -1, -1, 1, 1, 1])
    assert error < 0.7 * np.abs(maps.diffusivity - mirrored)[inside].mean()


def test_same_seed_gives_the_same_bytes_and_participants_do_not_depend_on_their_number(
    dataset: Path, tmp_path: Path
) -> None:
    again = simulate_dataset(
        tmp_path / "again", n_participants=1, seed=3, voxel_size_mm=5.0, n_directions=12
    )
    first, second = digest(dataset), digest(again)
    shared = [name for name in first if "sub-01" in name]
    assert len(shared) > 10
    assert {n: first[n] for n in shared} == {n: second[n] for n in shared}


def test_validator_finds_no_error(dataset: Path) -> None:
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    for folder in (dataset, dataset / "derivatives" / "truth"):
        result = subprocess.run(
            [validator, str(folder), "--format", "json"], capture_output=True, check=False
        )
        issues = json.loads(result.stdout)["issues"]["issues"]
        assert [i for i in issues if i["severity"] == "error"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_participants": 0}, "0 participants"),
        ({"seed": -1}, "-1 as the seed"),
        ({"n_directions": 5}, "5 directions"),
        ({"voxel_size_mm": 0.5}, "0.5 mm"),
        ({"bval": 10.0}, "10 s/mm"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate_dataset(tmp_path / "x", **({"n_participants": 1, "seed": 0} | options))
    assert list(tmp_path.iterdir()) == []


def test_folder_in_use_is_refused(tmp_path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputError, match="not empty"):
        simulate_dataset(tmp_path / "full", n_participants=1, seed=0)
    with pytest.raises(OutputError, match="in the way"):
        simulate_dataset(tmp_path / "full" / "file", n_participants=1, seed=0)


def test_nothing_half_written_remains_after_a_failure(tmp_path, monkeypatch) -> None:
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dmri_fm.simulate.cohort.save_image", fail)
    with pytest.raises(OutputError, match="No space left"):
        simulate_dataset(tmp_path / "ds", n_participants=1, seed=0, voxel_size_mm=6.0)
    assert list(tmp_path.iterdir()) == []
