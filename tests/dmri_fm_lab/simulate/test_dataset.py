from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from dmri_fm.distortion import PhaseEncoding
from dmri_fm.errors import ConfigError, GradientError, OutputError
from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate.scores import score
from dmri_fm_lab.evaluate.truth import read_truth, undistort
from dmri_fm_lab.simulate import draw_protocol, read_protocol, simulate_dataset
from dmri_fm_lab.simulate.cohort import EFFECTS, draw_participant, draw_sites

SETTINGS = {"seed": 3, "n_sites": 3, "voxel_size_mm": 5.5, "n_directions": 8}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "ds"
    return simulate_dataset(out, **SETTINGS, n_participants=3)


def series(dataset: Path, label: str, direction: str) -> Dwi:
    stem = f"{dataset}/sub-{label}/dwi/sub-{label}_dir-{direction}_dwi"
    return Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")


def truth(dataset: Path, label: str, name: str) -> np.ndarray:
    path = (
        dataset / "derivatives" / "truth" / f"sub-{label}" / "dwi" / f"sub-{label}_{name}.nii.gz"
    )
    return np.asarray(nib.load(path).dataobj)


def readout_s(dataset: Path) -> float:
    sidecar = dataset / "sub-01" / "dwi" / "sub-01_dir-AP_dwi.json"
    return json.loads(sidecar.read_text())["TotalReadoutTime"]


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_participants_table(dataset: Path) -> None:
    rows = table(dataset / "participants.tsv")
    assert [r["participant_id"] for r in rows] == ["sub-01", "sub-02", "sub-03"]
    described = json.loads((dataset / "participants.json").read_text())
    assert set(described) == {"age", "sex", "site", "group"} == set(rows[0]) - {"participant_id"}
    assert all(20 <= int(r["age"]) <= 80 for r in rows)
    assert {r["site"] for r in rows} == {"site1", "site2", "site3"}


def test_truth_table_describes_the_tissue_of_each(dataset: Path) -> None:
    folder = dataset / "derivatives" / "truth"
    rows = table(folder / "participants.tsv")
    described = json.loads((folder / "participants.json").read_text())
    assert set(described) < set(rows[0])
    effects = json.loads((folder / "effects.json").read_text())
    assert effects["age"]["radial"] > 0
    assert all(0.2 < float(r["stick_fraction"]) < 0.6 for r in rows)


def test_sites_differ_in_protocol_storage_and_distortion_data(dataset: Path) -> None:
    codes, files = {}, {}
    for label in ("01", "02", "03"):
        t1w = nib.load(dataset / f"sub-{label}/anat/sub-{label}_T1w.nii.gz")
        codes[label] = "".join(
            nib.aff2axcodes(series(dataset, label, "AP").affine) + nib.aff2axcodes(t1w.affine)
        )
        files[label] = {p.name.split("_", 1)[1] for p in (dataset / f"sub-{label}").rglob("*.gz")}
    assert codes == {"01": "RASLAS", "02": "LASRAS", "03": "RASLAS"}
    both = {"T1w.nii.gz", "dir-AP_dwi.nii.gz"}
    assert files["01"] - both == {"dir-PA_dwi.nii.gz"}
    assert files["02"] - both == {f"{n}.nii.gz" for n in ("magnitude1", "magnitude2", "phasediff")}
    assert files["03"] - both == set()
    stated = [series(dataset, label, "AP").gtab for label in ("01", "02", "03")]
    assert len({round(float(g.bvals.max())) for g in stated}) == 3
    slices = [series(dataset, label, "AP").affine[2, 2] for label in ("01", "02", "03")]
    assert slices[0] == 5.5 <= min(slices)


def test_groups_and_sites_are_balanced_and_participants_keep_their_numbers() -> None:
    people = [draw_participant(7, number + 1, 3) for number in range(24)]
    assert [p.site for p in people[:6]] == [0, 1, 2, 0, 1, 2]
    for site in range(3):
        groups = [p.group for p in people if p.site == site]
        assert groups.count("patient") == groups.count("control") == 4
    assert {p.group for p in people[:2]} == {"control", "patient"}
    assert people[4] == draw_participant(7, 5, 3)


def test_age_and_group_do_what_the_effects_say() -> None:
    people = [draw_participant(1, number + 1, 1) for number in range(300)]
    is_patient = np.array([p.group == "patient" for p in people], dtype=float)
    design = np.stack([np.ones(300), [p.age - 50 for p in people], is_patient], axis=1)

    def fit(values: list[float]) -> tuple[float, float]:
        constant, age, patient = np.linalg.lstsq(design, np.array(values), rcond=None)[0]
        return age / constant, patient / constant

    for name in ("radial", "parallel", "grey", "stick_fraction"):
        age, patient = fit([getattr(p.tissue, name) for p in people])
        # 3 % between people, 300 of them: errors of 0.0001 a year and 0.004 a group.
        assert age == pytest.approx(EFFECTS["age"].get(name, 0.0), abs=5e-4)
        assert patient == pytest.approx(EFFECTS["patient"].get(name, 0.0), abs=0.015)
    # Lesions: none below the age at which their expected number reaches zero.
    for name, year, group in (
        ("ventricles_mm", 0.004, 0.12),
        ("cortex_mm", 0.004, 0.12),
        ("callosum", 2e-4, 0.004),
        ("lesions", 0.03, 1.0),
    ):
        values = [getattr(p.shape, name) for p in people]
        sizes = [float(len(v)) if name == "lesions" else v for v in values]
        _, age, patient = np.linalg.lstsq(design, np.array(sizes), rcond=None)[0]
        assert age == pytest.approx(EFFECTS["age"][name], abs=year)
        assert patient == pytest.approx(EFFECTS["patient"].get(name, 0.0), abs=group)


def test_sidecars_obey_the_sign_law(dataset: Path) -> None:
    """An image of direction "j" shows the signal of voxel x at x + field * readout along +j."""
    label = "01"
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
    md = truth(dataset, label, "model-tensor_param-md_desc-truth_dwimap")
    assert inside.sum() > 50
    assert np.abs(maps.fa - fa)[inside].mean() < 0.08
    error = np.abs(maps.diffusivity - tensor)[inside].mean()
    # x, y or z mirrored, in the order xx, xy, xz, yy, yz, zz.
    for signs in ([1, -1, -1, 1, 1, 1], [1, -1, 1, 1, -1, 1], [1, 1, -1, 1, -1, 1]):
        assert error < 0.8 * np.abs(maps.diffusivity - tensor * signs)[inside].mean()
    for tissue in ("WM", "GM"):
        part = truth(dataset, label, f"label-{tissue}_desc-truth_probseg")
        here = (part > 0.9) & (np.abs(field) < 6)
        assert np.median(maps.md[here]) == pytest.approx(np.median(md[here]), rel=0.08)


def test_scalars_and_peaks_of_the_truth_belong_together(dataset: Path) -> None:
    ad, rd, md = (
        truth(dataset, "01", f"model-tensor_param-{name}_desc-truth_dwimap")
        for name in ("ad", "rd", "md")
    )
    np.testing.assert_allclose((ad + 2 * rd) / 3, md, atol=1e-8)
    v1 = truth(dataset, "01", "model-tensor_param-v1_desc-truth_dwimap")
    white = truth(dataset, "01", "label-WM_desc-truth_probseg") > 0.9
    np.testing.assert_allclose(np.linalg.norm(v1, axis=3)[white], 1.0, atol=1e-5)
    peaks = truth(dataset, "01", "desc-truth_npeaks")
    assert set(np.unique(peaks)) == {0, 1, 2, 3}
    assert (peaks[white] > 0).mean() > 0.95


def test_motion_is_that_of_each_volume_of_each_series(dataset: Path) -> None:
    stem = dataset / "derivatives/truth/sub-01/dwi/sub-01_from-dwiref_to-orig_mode-image_desc-tr"
    rows = table(Path(f"{stem}uth_xfm.tsv"))
    assert [r["dir"] for r in rows] == ["AP"] * 10 + ["PA"] * 2
    assert [int(r["volume"]) for r in rows] == [*range(10), 0, 1]
    assert float(rows[0]["m00"]) == 1.0
    header = nib.load(dataset / "sub-01/dwi/sub-01_dir-AP_dwi.nii.gz").header
    assert header.get_zooms()[3] == 6.0


def test_same_seed_gives_the_same_bytes_and_participants_do_not_depend_on_their_number(
    dataset: Path, tmp_path: Path
) -> None:
    alone = SETTINGS | {"n_sites": 1, "n_participants": 1}
    again = simulate_dataset(tmp_path / "again", **alone)
    first, second = digest(dataset), digest(again)
    shared = [name for name in first if "sub-01" in name]
    assert len(shared) > 10
    assert {n: first[n] for n in shared} == {n: second[n] for n in shared}


def test_table_of_the_users_is_scanned_of_a_head_at_rest(tmp_path: Path) -> None:
    bval, bvec = tmp_path / "table.bval", tmp_path / "table.bvec"
    drawn = draw_protocol(
        np.random.default_rng(0), scheme="multishell", n_directions=7, bvals=[800, 1800]
    )
    # b=0 as some scanners state it.
    gtab = GradientTable(np.where(drawn.bvals > 0, drawn.bvals, 5.0), drawn.bvecs_ras)
    write_gradients(gtab, bval, bvec, affine=np.eye(4))
    read = read_protocol(bval, bvec)
    np.testing.assert_allclose(read.bvecs_ras, gtab.bvecs_ras, atol=1e-5)
    sites = draw_sites(0, 3, voxel_size_mm=3.0, n_directions=16, bval=1000.0, gtab=read)
    assert all(site.gtab is read for site in sites)
    out = tmp_path / "ds"
    options = ["--participants", "1", "--voxel-size", "6", "--at-rest"]
    assert main(["simulate", str(out), *options, "--b-table", str(bval), str(bvec)]) == 0
    written = series(out, "01", "AP")
    np.testing.assert_allclose(written.gtab.bvals, gtab.bvals)
    np.testing.assert_allclose(written.gtab.bvecs_ras, gtab.bvecs_ras, atol=1e-5)
    # Without motion and eddy currents the field alone brings the series to its truth.
    assert "without head motion" in (out / "README.md").read_text()
    known = read_truth(out, "01")
    assert known is not None
    assert not known.is_moving
    brought = undistort(written, known, PhaseEncoding("j-", readout_s(out)))
    shell = [*np.flatnonzero(gtab.is_b0), *gtab.shells[0].index]
    error = score(fit_tensor(brought.select(shell), shell="all"), known.reference())["white"]
    assert error["v1_deg_fa03"] < 20


def test_table_without_b0_is_refused(tmp_path: Path) -> None:
    bval, bvec = tmp_path / "table.bval", tmp_path / "table.bvec"
    axes = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    write_gradients(GradientTable(np.full(6, 900.0), axes), bval, bvec, affine=np.eye(4))
    with pytest.raises(ConfigError, match="0 b=0 and 6 weighted"):
        read_protocol(bval, bvec)
    same = GradientTable([0.0] + [900.0] * 6, np.concatenate([np.zeros((1, 3)), axes]))
    write_gradients(same, bval, bvec, affine=np.eye(4))
    with pytest.raises(ConfigError, match="determine a tensor"):
        read_protocol(bval, bvec)
    with pytest.raises(GradientError, match=r"absent\.bval"):
        read_protocol(tmp_path / "absent.bval", bvec)


def test_validator_finds_no_error(dataset: Path, run_validator) -> None:
    for folder in (dataset, dataset / "derivatives" / "truth"):
        assert [i for i in run_validator(folder) if i.severity == "error"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_participants": 0}, "0 participants"),
        ({"n_sites": 0}, "0 sites"),
        ({"n_sites": 2}, "2 sites"),
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


def test_empty_folder_is_filled_and_kept_after_a_failure(tmp_path, monkeypatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr("dmri_fm_lab.simulate.dataset._write_participant", lambda *_, **__: 0.0)
    simulate_dataset(tmp_path / "link", n_participants=1, seed=0)
    assert (tmp_path / "real" / "dataset_description.json").is_file()
    (tmp_path / "other").mkdir()
    monkeypatch.setattr("dmri_fm_lab.simulate.dataset.write_root", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        simulate_dataset(tmp_path / "other", n_participants=1, seed=0)
    assert list((tmp_path / "other").iterdir()) == []


def test_folder_that_cannot_be_made_is_refused(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        simulate_dataset(tmp_path / "file" / "ds", n_participants=1, seed=0)


def test_nothing_half_written_remains_after_a_failure(tmp_path, monkeypatch) -> None:
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dmri_fm_lab.simulate.dataset.save_image", fail)
    with pytest.raises(OutputError, match="No space left"):
        simulate_dataset(tmp_path / "ds", n_participants=1, seed=0, voxel_size_mm=6.0)
    assert list(tmp_path.iterdir()) == []
