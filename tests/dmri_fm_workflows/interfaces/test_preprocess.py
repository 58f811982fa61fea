"""Interfaces around preprocessing: what they read, choose and write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from dmri_fm.errors import ImageError
from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.motion import no_motion
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.engines import DENOISE, SDC
from dmri_fm_workflows.interfaces import programs
from dmri_fm_workflows.interfaces.denoise import DenoiseDwi, DwiDenoise
from dmri_fm_workflows.interfaces.fsl_files import WriteFslFiles
from dmri_fm_workflows.interfaces.motion import SkipMotion, save_motion
from dmri_fm_workflows.interfaces.preprocess import (
    CorrectBias,
    EstimatePairField,
    MergeRuns,
    ValidateDwi,
)
from dmri_fm_workflows.interfaces.records import MergeRunRecords
from dmri_fm_workflows.interfaces.volumes_table import VolumeOrigin, read_volumes, write_volumes
from dmri_fm_workflows.plan.decide import plan_series
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.stages.base import Resources

SHAPE = (32, 34, 24)
AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])
READOUT_S = 0.05
RESOURCES = Resources(bids_root=Path("/raw"), output_dir=Path("/out"), omp_nthreads=1)


def head() -> np.ndarray:
    """An ellipsoid with structure inside."""
    axes = np.meshgrid(*(np.linspace(-1.3, 1.3, n) for n in SHAPE), indexing="ij")
    inside = sum(a**2 for a in axes) < 1
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=SHAPE), 2)
    return gaussian_filter(inside * (600 + 250 * texture / texture.std()), 0.7).clip(0)


def shift_voxels() -> np.ndarray:
    """A smooth displacement, voxels at j."""
    axes = np.meshgrid(*(np.linspace(-1.3, 1.3, n) for n in SHAPE), indexing="ij")
    return 1.5 * np.exp(-4 * ((axes[0] - 0.2) ** 2 + (axes[1] - 0.4) ** 2 + axes[2] ** 2))


def distorted(phase_encoding: str) -> np.ndarray:
    """The head under the displacement, to first order."""
    axis = "ij".index(phase_encoding[0])
    sign = -1 if phase_encoding.endswith("-") else 1
    where = np.indices(SHAPE, dtype=float)
    where[axis] -= sign * shift_voxels()
    return map_coordinates(head(), where, order=1)


def write_series(folder: Path, encodings: list[str], *, is_b0: list[bool]) -> dict[str, str]:
    """Write a merged series and the table of its volumes; weighted ones are dark noise."""
    rng = np.random.default_rng(1)
    volumes = [
        distorted(e) if b0 else rng.uniform(0, 50, SHAPE)
        for e, b0 in zip(encodings, is_b0, strict=True)
    ]
    gtab = GradientTable(
        [0 if b0 else 1000 for b0 in is_b0], [[0, 0, 0] if b0 else [1, 0, 0] for b0 in is_b0]
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_gradients(gtab, folder / "dwi.bval", folder / "dwi.bvec", affine=AFFINE)
    save_image(np.stack(volumes, axis=3), AFFINE, folder / "dwi.nii.gz")
    write_volumes(
        [VolumeOrigin(i, e, READOUT_S, f"{i}.nii.gz") for i, e in enumerate(encodings)],
        folder / "volumes.tsv",
    )
    return {
        "dwi_file": str(folder / "dwi.nii.gz"),
        "bval_file": str(folder / "dwi.bval"),
        "bvec_file": str(folder / "dwi.bvec"),
        "volumes_file": str(folder / "volumes.tsv"),
    }


def field_error(found: str) -> float:
    hz = read_array(load_image(found))
    inside = head() > 200
    return float(np.abs(hz * READOUT_S - shift_voxels())[inside].mean())


def test_pair_is_chosen_among_four_phase_encodings(tmp_path: Path) -> None:
    inputs = write_series(tmp_path, ["i", "j", "i-", "j-"], is_b0=[True] * 4)
    done = EstimatePairField(**inputs, up_encoding="j", down_encoding="j-").run(cwd=tmp_path)
    assert field_error(done.outputs.field_file) < 0.15 < shift_voxels()[head() > 200].mean()


def test_weighted_volumes_of_the_reverse_image_are_left_out(tmp_path: Path) -> None:
    inputs = write_series(tmp_path / "a", ["j", "j"], is_b0=[True, False])
    reverse = write_series(tmp_path / "b", ["j-"] * 3, is_b0=[False, True, False])
    done = EstimatePairField(
        **inputs,
        up_encoding="j",
        down_encoding="j-",
        epi_file=reverse["dwi_file"],
        epi_bval_file=reverse["bval_file"],
        epi_bvec_file=reverse["bvec_file"],
        epi_phase_encoding="j-",
        epi_readout_s=READOUT_S,
    ).run(cwd=tmp_path)
    assert field_error(done.outputs.field_file) < 0.15


@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 1)])
def test_b0_image_without_gradients_serves_from_the_dataset_to_the_field(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    root = tmp_path / "raw"
    inputs = write_series(root / "sub-01" / "dwi", ["j", "j"], is_b0=[True, False])
    for name, extension in (("dwi_file", "nii.gz"), ("bval_file", "bval"), ("bvec_file", "bvec")):
        target = Path(inputs[name]).with_name(f"sub-01_dir-PA_dwi.{extension}")
        inputs[name] = str(Path(inputs[name]).rename(target))
    reverse = root / "sub-01" / "dwi" / "sub-01_dir-AP_dwi.nii.gz"
    save_image(distorted("j-").reshape(shape), AFFINE, reverse)
    for direction, encoding in (("PA", "j"), ("AP", "j-")):
        path = reverse.with_name(f"sub-01_dir-{direction}_dwi.json")
        said = {"PhaseEncodingDirection": encoding, "TotalReadoutTime": READOUT_S}
        path.write_text(json.dumps(said))
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    dataset = read_dataset(root)
    assert dataset.problems == ()
    (visit,) = dataset.participants[0].sessions
    config = RunConfig(root, tmp_path / "out")
    plan = plan_series(config, visit.series[0], visit, Engines("none", ("pepolar",), "none"))
    workflow = SDC.load("pepolar").builder(plan, RESOURCES)
    estimate = workflow.get_node("estimate_field").interface
    assert estimate.inputs.epi_file == str(reverse)
    estimate.inputs.trait_set(**inputs)
    done = estimate.run(cwd=tmp_path)
    assert field_error(done.outputs.field_file) < 0.15


def flip_a_bit(path: str) -> Path:
    """Damage the checksum of a compressed image, which nothing but its end shows."""
    content = bytearray(Path(path).read_bytes())
    content[-5] ^= 1
    Path(path).write_bytes(content)
    return Path(path)


def test_damaged_series_stops_at_the_first_node(tmp_path: Path) -> None:
    inputs = write_series(tmp_path, ["j"] * 2, is_b0=[True, False])
    inputs.pop("volumes_file")
    assert ValidateDwi(**inputs).run(cwd=tmp_path).outputs.dwi_file == inputs["dwi_file"]
    path = flip_a_bit(inputs["dwi_file"])
    with pytest.raises(ImageError, match="CRC check failed") as caught:
        ValidateDwi(**inputs).run(cwd=tmp_path)
    assert caught.value.path == path


def test_damaged_t1w_image_is_found_before_n4_gets_it(tmp_path: Path) -> None:
    path = flip_a_bit(str(save_image(head(), AFFINE, tmp_path / "T1w.nii.gz")))
    with pytest.raises(ImageError, match="CRC check failed") as caught:
        CorrectBias(in_file=str(path)).run(cwd=tmp_path)
    assert caught.value.path == path


@pytest.mark.parametrize("has_gradients", [False, True])
@pytest.mark.parametrize("engine", [EstimatePairField, WriteFslFiles])
def test_damaged_reverse_image_is_found_before_an_engine_gets_it(
    tmp_path: Path, engine, has_gradients
) -> None:
    inputs = write_series(tmp_path / "a", ["j", "j"], is_b0=[True, False])
    reverse = write_series(tmp_path / "b", ["j-"] * 2, is_b0=[True, True])
    path = flip_a_bit(reverse["dwi_file"])
    if has_gradients:
        inputs |= {f"epi_{k}_file": reverse[f"{k}_file"] for k in ("bval", "bvec")}
    if engine is EstimatePairField:
        inputs |= {"up_encoding": "j", "down_encoding": "j-"}
    inputs |= {"epi_file": str(path), "epi_phase_encoding": "j-", "epi_readout_s": READOUT_S}
    with pytest.raises(ImageError, match="CRC check failed") as caught:
        engine(**inputs).run(cwd=tmp_path)
    assert caught.value.path == path


@pytest.mark.parametrize("assumed", [{}, {"reverse_epi.nii.gz": 0.04}])
def test_merged_volumes_keep_their_readout_and_images_their_assumed_one(
    tmp_path: Path, assumed: dict[str, float]
) -> None:
    inputs = write_series(tmp_path / "in", ["j"], is_b0=[True])
    done = MergeRuns(
        dwi_files=[inputs["dwi_file"]],
        raw_files=[inputs["dwi_file"]],
        bval_files=[inputs["bval_file"]],
        bvec_files=[inputs["bvec_file"]],
        phase_encodings=["j"],
        readouts_s=[0.04],
        assumed_readouts_s=assumed,
    ).run(cwd=tmp_path)
    assert [o.readout_s for o in read_volumes(done.outputs.volumes_file)] == [0.04]
    assert done.outputs.record.get("TotalReadoutTimeAssumed", {}) == assumed


def test_transforms_say_that_motion_was_not_estimated(tmp_path: Path) -> None:
    inputs = write_series(tmp_path / "in", ["j", "j"], is_b0=[True, False])
    found = SkipMotion(**inputs).run(cwd=tmp_path).outputs
    assert found.motion_record["IdentityTransforms"] is True
    assert found.motion_record["PointMapping"].endswith("head motion was not estimated.")


@pytest.mark.parametrize("why", [None, "eddy"])
def test_only_identities_replace_the_point_mapping(tmp_path: Path, why: str | None) -> None:
    gtab = GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]])
    origins = [VolumeOrigin(0, "j", READOUT_S, "x.nii.gz")] * 2
    facts = save_motion(no_motion(2, 3), gtab, origins, tmp_path, why_identity=why)[
        "motion_record"
    ]
    assert facts["IdentityTransforms"] == (why is not None)
    assert ("PointMapping" in facts) == (why is not None)


@pytest.mark.skipif(shutil.which("dwidenoise") is None, reason="MRtrix3 is not installed")
@pytest.mark.parametrize(("n", "word"), [(1, "none (1 volumes"), (8, "MRtrix3 dwidenoise")])
def test_dwidenoise_passes_short_runs(tmp_path: Path, n: int, word: str) -> None:
    rng = np.random.default_rng(0)
    data = (1000 + rng.normal(0, 20, (12, 12, 10, n))).astype(np.float32)
    path = save_image(data, AFFINE, tmp_path / "run.nii.gz")
    done = DwiDenoise(in_file=str(path), out_file="denoised.nii").run(cwd=tmp_path)
    found = read_array(load_image(done.outputs.out_file, ndim=4))
    assert done.outputs.record["Denoising"].startswith(word)
    assert np.array_equal(found, data) == (n == 1)
    assert found.shape == data.shape


@pytest.mark.parametrize("extent", [None, 1.0, 0.5])
@pytest.mark.parametrize("method", ["mppca", "patch2self"])
def test_mppca_leaves_zero_filled_runs_as_they_are(
    tmp_path: Path, method: str, extent: float | None
) -> None:
    inputs = write_series(tmp_path / "in", ["j"] * 10, is_b0=[True] + [False] * 9)
    del inputs["volumes_file"]
    found = DenoiseDwi(**inputs, method=method, kspace_extent=extent).run(cwd=tmp_path).outputs
    before, after = (read_array(load_image(f)) for f in (inputs["dwi_file"], found.out_file))
    is_left = method == "mppca" and extent == 0.5
    assert np.array_equal(before, after) == is_left
    assert (found.record["Denoising"] == "none (zero-filled in plane)") == is_left


def test_dwidenoise_does_likewise(tmp_path: Path) -> None:
    data = np.random.default_rng(0).uniform(900, 1100, (12, 12, 4, 8)).astype(np.float32)
    path = save_image(data, AFFINE, tmp_path / "run.nii.gz")
    node = DwiDenoise(in_file=str(path), out_file="denoised.nii", kspace_extent=0.5)
    found = node.run(cwd=tmp_path).outputs
    assert found.record["Denoising"] == "none (zero-filled in plane)"
    np.testing.assert_array_equal(read_array(load_image(found.out_file)), data)


@pytest.mark.skipif(shutil.which("mrdegibbs") is None, reason="MRtrix3 is not installed")
def test_a_run_of_one_volume_can_be_unringed_after_it(tmp_path: Path) -> None:
    data = np.random.default_rng(0).uniform(900, 1100, (12, 12, 4, 1))
    path = save_image(data, AFFINE, tmp_path / "run.nii.gz")
    plan = SimpleNamespace(unring=True, size_gb=0.1, unringing=programs.name_mrdegibbs())
    denoise_wf = DENOISE.load("dwidenoise").builder(plan, RESOURCES)
    denoise_wf.base_dir = str(tmp_path)
    denoise_wf.inputs.inputnode.run_dwi_files = [str(path)]
    denoise_wf.inputs.inputnode.run_kspace_extents = [None]
    graph = denoise_wf.run()
    results = {node.name: node.result.outputs for node in graph.nodes()}
    (unringed,) = results["mrdegibbs"].out_file
    assert load_image(unringed, ndim=4).shape == data.shape
    assert results["collect_records"].record["Denoising"] == "none (1 volumes are too few)"
    assert results["collect_records"].record["GibbsCorrection"].startswith("MRtrix3 mrdegibbs")


def test_records_of_unlike_runs_are_all_told() -> None:
    facts = [{"Denoising": "MP-PCA", "GibbsCorrection": "none"}] * 2
    facts.append({"Denoising": "none (1 volumes are too few)", "GibbsCorrection": "none"})
    found = MergeRunRecords(in_records=facts).run().outputs.record
    assert found["Denoising"] == "MP-PCA; none (1 volumes are too few)"
    assert found["GibbsCorrection"] == "none"
