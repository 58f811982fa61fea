"""What the raw runs of a series become before anything else reads them."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest
from nipype.interfaces.base import BaseInterface

from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.interfaces.models import CheckFreeWater
from dmri_fm_workflows.interfaces.preprocess import MergeRuns, ReverseInputSpec, ValidateDwi
from dmri_fm_workflows.interfaces.records import MergeRecords

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])


def spiral(n: int) -> np.ndarray:
    z = 1 - (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    return np.vstack([np.sqrt(1 - z**2) * np.stack([np.cos(turn), np.sin(turn)]), z]).T


def write_run(folder: Path, name: str, bvals, bvecs, *, empty=()) -> dict[str, str]:
    """Write a run of random voxels; volumes `empty` hold none."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(name))
    data = 100 + rng.random((6, 6, 6, len(bvals))) * 100 * np.exp(-np.asarray(bvals) / 1000)
    data[..., list(empty)] = 0
    stem = folder / name
    save_image(data, AFFINE, f"{stem}.nii.gz")
    np.savetxt(f"{stem}.bval", [bvals], fmt="%g")
    np.savetxt(f"{stem}.bvec", np.asarray(bvecs).T, fmt="%.8f")
    return {f"{k}_file": f"{stem}.{e}" for k, e in
            (("dwi", "nii.gz"), ("bval", "bval"), ("bvec", "bvec"))}  # fmt: skip


BVALS = [0.0] + [1000.0] * 8
BVECS = np.vstack([np.zeros(3), spiral(8)])


def test_a_sound_run_passes_as_the_very_files(tmp_path: Path) -> None:
    files = write_run(tmp_path, "sub-01_dwi", BVALS, BVECS)
    found = ValidateDwi(**files).run(cwd=tmp_path).outputs
    assert {k: getattr(found, k) for k in files} == files
    assert found.record == {"Warnings": []}


def test_a_run_with_faults_becomes_a_clean_one(tmp_path: Path) -> None:
    # Nominal b, two shells by length, an empty volume 4, a trace image 9 at the end.
    lengths = np.array([1.0] + [np.sqrt(0.5)] * 4 + [1.0] * 4)
    files = write_run(
        tmp_path / "raw",
        "sub-01_dwi",
        [0.0] + [2000.0] * 9,
        np.vstack([BVECS * lengths[:, None], np.zeros(3)]),
        empty=[4],
    )
    work = tmp_path / "work"
    work.mkdir()
    found = ValidateDwi(**files).run(cwd=work).outputs
    kept = [0, 1, 2, 3, 5, 6, 7, 8]
    raw = read_array(load_image(files["dwi_file"]))
    clean = Dwi.from_files(found.dwi_file, found.bval_file, found.bvec_file)
    np.testing.assert_array_equal(clean.data, raw[..., kept])
    np.testing.assert_allclose(
        clean.gtab.bvals, [0, 1000, 1000, 1000, 2000, 2000, 2000, 2000], rtol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(clean.gtab.bvecs_ras[1:], axis=1), 1, atol=1e-9)
    # The confounds table and the sources name the run's own file.
    assert Path(found.dwi_file).name == "sub-01_dwi.nii.gz"
    facts = found.record
    assert set(facts["VolumesLeftOut"]["sub-01_dwi.nii.gz"]) == {"4", "9"}
    assert facts["BScaling"]["sub-01_dwi.nii.gz"]["Method"] == "length"
    assert len(facts["Warnings"]) == 3
    # A second run's facts stand beside the first one's in the series' sidecar.
    other = {"Warnings": ["w"], "VolumesLeftOut": {"b.nii.gz": {"0": "no signal in any voxel"}}}
    joined = MergeRecords(in_records=[facts, other]).run(cwd=tmp_path).outputs.record
    assert set(joined["VolumesLeftOut"]) == {"sub-01_dwi.nii.gz", "b.nii.gz"}
    assert joined["Warnings"] == [*facts["Warnings"], "w"]


def test_a_common_length_needs_the_option(tmp_path: Path) -> None:
    files = write_run(tmp_path, "sub-01_dwi", BVALS, 0.93 * BVECS)
    with pytest.raises(GradientError, match="--b-scaling"):
        ValidateDwi(**files).run(cwd=tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    found = ValidateDwi(**files, b_scaling="length").run(cwd=work).outputs
    assert found.dwi_file == files["dwi_file"]
    assert np.loadtxt(found.bval_file)[1:] == pytest.approx([864.9] * 8)


@pytest.mark.parametrize(
    ("empty", "needs_tensor", "words"),
    [([0], True, "no b=0 volume with signal"), ([1, 2, 3], True, "5 directions with signal"),
     ([1, 2, 3], False, None), ([1], True, None)],
)  # fmt: skip
def test_the_merge_refuses_what_lost_too_much(tmp_path: Path, empty, needs_tensor, words) -> None:
    files = write_run(tmp_path, "sub-01_dwi", BVALS, BVECS, empty=empty)
    work = tmp_path / "work"
    work.mkdir()
    clean = ValidateDwi(**files).run(cwd=work).outputs
    merge = MergeRuns(
        dwi_files=[clean.dwi_file],
        raw_files=[clean.dwi_file],
        bval_files=[clean.bval_file],
        bvec_files=[clean.bvec_file],
        phase_encodings=["j"],
        readouts_s=[0.05],
        needs_tensor=needs_tensor,
    )
    if words is None:
        merged = merge.run(cwd=work).outputs
        assert load_image(merged.dwi_file).shape[3] == 9 - len(empty)
        return
    with pytest.raises(GradientError, match=words) as caught:
        merge.run(cwd=work)
    assert "sub-01_dwi.nii.gz" in str(caught.value)


def test_the_threshold_reaches_the_reader(tmp_path: Path) -> None:
    bvals = [0.0, 60.0, *BVALS[1:]]
    files = write_run(tmp_path, "sub-01_dwi", bvals, np.vstack([np.zeros((2, 3)), spiral(8)]))
    found = ValidateDwi(**files).run(cwd=tmp_path).outputs
    assert set(found.record["VolumesLeftOut"]["sub-01_dwi.nii.gz"]) == {"1"}
    asked = ValidateDwi(**files, b0_threshold=65.0).run(cwd=tmp_path).outputs
    assert asked.dwi_file == files["dwi_file"]


def test_b0s_of_the_reverse_image_hold_signal_and_have_its_own_threshold(tmp_path: Path) -> None:
    files = write_run(tmp_path, "epi", [60.0, 60.0, 60.0], np.zeros((3, 3)), empty=[1])
    given = {f"epi_{k.removeprefix('dwi_')}": v for k, v in files.items()}
    given["epi_file"] = given.pop("epi_file")
    spec = ReverseInputSpec(**given, b0_threshold=50.0)
    raw = read_array(load_image(files["dwi_file"]))
    np.testing.assert_array_equal(spec.load_epi_b0s().data, raw[..., [0, 2]])
    spec.epi_b0_threshold = 50.0
    with pytest.raises(GradientError, match="none of the 3 volumes"):
        spec.load_epi_b0s()
    save_image(np.zeros((6, 6, 6)), AFFINE, tmp_path / "zero.nii.gz")
    with pytest.raises(ImageError, match="no b=0 volume holds signal"):
        ReverseInputSpec(epi_file=str(tmp_path / "zero.nii.gz")).load_epi_b0s()


def test_free_water_says_what_the_other_reading_gives(tmp_path: Path) -> None:
    radius = np.sqrt(((np.indices((36, 36, 36)) - 17.5) ** 2).sum(axis=0))
    gtab_bvals = np.array(BVALS)
    water = 4000 * np.exp(-gtab_bvals * 3.0e-3)
    tissue = 1000 * np.exp(-gtab_bvals * 0.8e-3)
    data = np.where((radius < 4)[..., None], water, tissue) * (radius < 17)[..., None]
    files = write_run(tmp_path, "dwi", gtab_bvals * 0.93**2, BVECS)
    save_image(data, AFFINE, files["dwi_file"])
    mask = save_image(radius < 17, AFFINE, tmp_path / "mask.nii.gz", dtype=np.uint8)
    check = CheckFreeWater(**files, mask_file=str(mask), method="length", common_length=0.93)
    found = check.run(cwd=tmp_path).outputs.record["BScalingCheck"]
    assert found["VentricleMD"] == pytest.approx(3.0e-3 / 0.93**2, rel=1e-3)
    assert "MD 3.47e-3 mm^2/s with --b-scaling length, 3.00e-3 with none" in found["Summary"]


def test_every_interface_that_reads_gradients_takes_the_threshold() -> None:
    readers = set()
    names = (
        "denoise", "eddy", "fsl", "gradient_check", "models", "motion", "network_input",
        "normalise", "preprocess", "report",
    )  # fmt: skip
    for name in names:
        module = importlib.import_module(f"dmri_fm_workflows.interfaces.{name}")
        for interface in vars(module).values():
            if not (inspect.isclass(interface) and issubclass(interface, BaseInterface)):
                continue
            spec = interface.input_spec
            if not interface.__module__.startswith("dmri_fm_workflows") or spec is None:
                continue
            if any(name.endswith(("bvec_file", "bvec_files")) for name in spec().traits()):
                readers.add(interface.__name__)
                assert "b0_threshold" in spec().traits(), interface.__name__
    assert {"ValidateDwi", "FitTensor", "ResampleDwi", "CollectEddy", "PlotScheme"} <= readers


def test_options_reach_the_dataset_and_what_was_done_is_stated(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    write_run(tmp_path / "sub-01" / "dwi", "sub-01_dwi", BVALS, 0.93 * BVECS)
    bvals = [60.0, *BVALS[1:], 1000.0]
    write_run(tmp_path / "sub-02" / "dwi", "sub-02_dwi", bvals, np.vstack([BVECS, np.zeros(3)]))
    dataset = read_dataset(tmp_path)
    (problem,) = dataset.problems
    assert "--b-scaling length" in str(problem.error)
    (run,) = dataset.participants[0].sessions[0].series[0].runs
    assert len(run.load().gtab) == 9
    assert run.load().shape == (6, 6, 6, 9)
    assert run.load().gtab.b0_threshold == 150
    said = " ".join(dataset.participants[0].sessions[0].series[0].warnings)
    assert "volume 9 (counted from 0) left out" in said
    assert "count as b=0" in said
    options = GradientOptions("length", 65.0)
    asked = read_dataset(tmp_path, gradient_options=options)
    assert asked.problems == ()
    one, two = (p.sessions[0].series[0].runs[0].load().gtab for p in asked.participants)
    assert one.bvals[1:] == pytest.approx([864.9] * 8)
    assert two.b0_threshold == 65


def test_vectors_of_another_frame_are_written_by_fsls_rule(tmp_path: Path) -> None:
    """QSIPrep: an LPS+ image, vectors along its axes without the sign rule, a table in RAS+."""
    bvals, bvecs_ras = np.full(12, 1000.0), spiral(12)
    bvals[0] = 0
    names = write_run(tmp_path, "run", bvals, bvecs_ras * [-1, -1, 1])
    data, lps = read_array(load_image(names["dwi_file"])), np.diag([-2.0, -2.0, 2.0, 1.0])
    save_image(data, lps, names["dwi_file"])
    np.savetxt(table := tmp_path / "run.b", np.column_stack([bvecs_ras, bvals]))
    for frame, file in (("voxel", names["bvec_file"]), ("ras", str(table))):
        (folder := tmp_path / frame).mkdir()
        node = ValidateDwi(**names | {"bvec_file": file}, bvec_frame=frame)
        done = node.run(cwd=str(folder)).outputs
        read = Dwi.from_files(done.dwi_file, done.bval_file, done.bvec_file)
        np.testing.assert_allclose(read.gtab.bvecs_ras[1:], bvecs_ras[1:], atol=1e-6)


def write_filled_run(folder: Path) -> dict[str, str]:
    """Write a run that was measured on 16 x 16 voxels and stored on 32 x 32."""
    rng = np.random.default_rng(0)
    bright = np.zeros((16, 16, 4))
    bright[3:13, 3:13] = 100
    voxels = bright[..., None] + rng.normal(0, 5, (16, 16, 4, 9))
    k = np.fft.fftshift(np.fft.fftn(voxels, axes=(0, 1)), axes=(0, 1))
    k = np.pad(k, [(8, 8), (8, 8), (0, 0), (0, 0)])
    data = np.abs(np.fft.ifftn(np.fft.ifftshift(k, axes=(0, 1)), axes=(0, 1)))
    files = write_run(folder, "sub-01_dwi", BVALS, BVECS)
    save_image(data.astype(np.float32), AFFINE, files["dwi_file"])
    return files


def test_zero_filled_images_are_told_of(tmp_path: Path) -> None:
    files = write_filled_run(tmp_path / "raw")
    found = ValidateDwi(**files, is_raw=True).run(cwd=tmp_path).outputs
    # 8 of 16 frequencies; magnitudes spread the edge by one or two.
    assert found.kspace_extent == pytest.approx(0.5, abs=0.13)
    assert len(found.record["KSpaceExtent"]["sub-01_dwi.nii.gz"]) == 3
    (warning,) = found.record["Warnings"]
    assert "zero-filled in plane: k-space is empty beyond" in warning
    assert "along i and beyond" in warning
    # Slices along i: nothing is empty along k, and what is empty along i is not of the plane.
    turned = ValidateDwi(**files, is_raw=True, slice_axis=0).run(cwd=tmp_path).outputs
    assert (turned.kspace_extent, turned.record.get("Warnings", [])) == (1.0, [])
    # A series that was corrected before has no k-space to look at.
    assert ValidateDwi(**files).run(cwd=tmp_path).outputs.kspace_extent is None


def test_what_was_asked_for_and_does_not_fit_them_is_an_error(tmp_path: Path) -> None:
    files = write_filled_run(tmp_path / "raw")
    asked = ["--denoise mppca", "--unring"]
    with pytest.raises(ImageError, match="--denoise mppca and --unring does not fit") as caught:
        ValidateDwi(**files, is_raw=True, unfit_if_filled=asked).run(cwd=tmp_path)
    assert caught.value.path == Path(files["dwi_file"])
    plain = write_run(tmp_path / "plain", "sub-01_dwi", BVALS, BVECS)
    ValidateDwi(**plain, is_raw=True, unfit_if_filled=asked).run(cwd=tmp_path)
