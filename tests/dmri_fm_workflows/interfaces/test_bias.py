"""Receive-field bias: estimated on the b=0 reference, divided out of every volume alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.transforms import write_affine
from dmri_fm.preprocess.dwiref import estimate_bias
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm.tensor import fit_tensor
from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.execution.plan_text import describe_plan
from dmri_fm_workflows.interfaces.bias import EstimateBias
from dmri_fm_workflows.interfaces.normalise import ResampleDwi
from dmri_fm_workflows.outputs.steps import describe_steps
from dmri_fm_workflows.stages.participant import _planned_record
from tests.dmri_fm_workflows.tiny_series import make_resources, make_run, plan_for

N = 32
AFFINE = np.diag([-4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = [62, -62, -62]


class Scan(NamedTuple):
    """A ball of tissue seen by a coil at its front, and its files by their field."""

    coil: np.ndarray
    ball: np.ndarray
    files: dict[str, str]
    reference: Path


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    """Write a scan."""
    folder = tmp_path_factory.mktemp("scan")
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, N)] * 3, indexing="ij")
    ball = x**2 + y**2 + z**2 < 0.6
    coil = np.exp(0.5 * y + 0.2 * x)
    rng = np.random.default_rng(0)
    gtab = GradientTable([0] + [1000] * 6, np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    axes = 0.6e-3 + 1.1e-3 * (z > 0)  # two tissues of different anisotropy
    decay = gtab.bvals * (0.5e-3 + axes[..., None] * gtab.bvecs_ras[:, 0] ** 2)
    data = (800 * ball * coil)[..., None] * np.exp(-decay) * rng.normal(1, 0.01, decay.shape)
    dwi = Dwi.from_arrays(data.clip(0), AFFINE, gtab)
    paths = zip(("dwi_file", "bval_file", "bvec_file"), dwi.save(folder / "dwi"), strict=True)
    mask = save_image(ball, AFFINE, folder / "mask.nii.gz", dtype=np.uint8)
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", [7, -5, 9], degrees=True).as_matrix()
    xfm = write_affine(tilt, folder / "to_acpc.txt")
    files = {name: str(path) for name, path in paths}
    files |= {"mask_file": str(mask), "xfm_files": [str(xfm)], "grid": "acpc"}
    reference = save_image(data[..., 0].clip(0), AFFINE, folder / "dwiref.nii.gz")
    return Scan(coil, ball, files, reference)


def resample(scan: Scan, folder: Path, **more: Any) -> Dwi:
    folder.mkdir()
    made = ResampleDwi(**scan.files, **more).run(cwd=str(folder)).outputs
    return Dwi.from_files(
        made.dwi_file, made.bval_file, made.bvec_file, mask=made.mask_file, b0_threshold=50
    )


def test_tensors_stay_and_the_brain_becomes_even(scan: Scan, tmp_path: Path) -> None:
    given = {"in_file": str(scan.reference), "mask_file": scan.files["mask_file"]}
    found = EstimateBias(**given).run(cwd=str(tmp_path)).outputs
    field = read_array(load_image(found.out_file))[scan.ball]
    assert np.corrcoef(field, scan.coil[scan.ball])[0, 1] > 0.95
    assert np.log(field).mean() == pytest.approx(0, abs=1e-5)
    low, high = found.record["B1FieldRange"]
    assert low < 0.8
    assert high > 1.2
    before = resample(scan, tmp_path / "before")
    after = resample(scan, tmp_path / "after", bias_file=found.out_file)
    brain = before.brain
    np.testing.assert_array_equal(after.brain, brain)
    # All volumes of a voxel are divided by one number: only rounding of float32 is left.
    ratio = before.data[brain] / after.data[brain]
    assert (np.ptp(ratio, axis=1) / ratio.mean(axis=1)).max() < 1e-5
    tensors = [fit_tensor(dwi, n_threads=1) for dwi in (before, after)]
    for name in ("fa", "md"):
        one, two = (t.scalars[name][brain] for t in tensors)
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-7)
    spread = [
        dwi.data[..., 0][brain].std() / dwi.data[..., 0][brain].mean() for dwi in (before, after)
    ]
    assert spread[1] < 0.5 * spread[0]


def test_empty_mask_is_an_error() -> None:
    with pytest.raises(ImageError, match="mask is empty"):
        estimate_bias(np.ones((8, 8, 8)), AFFINE, mask=np.zeros((8, 8, 8)))


@pytest.mark.parametrize("stage", ["final", "none"])
def test_it_is_off_unless_asked_for_and_told(tmp_path: Path, stage: str) -> None:
    run = make_run(tmp_path / "raw", "AP")
    series = DwiSeries((run,), {"subject": "01"})
    planned = plan_for(series, root=tmp_path, b1_biascorrect_stage=stage)
    (plan,) = planned.series
    assert plan.unbias == (stage == "final")
    assert plan.stated_methods["B1Correction"].startswith("N4 (" if plan.unbias else "none")
    assert ("bias (B1)" in describe_plan(planned)) == plan.unbias
    record = _planned_record(plan, make_resources(tmp_path))
    assert record["B1Correction"] == plan.stated_methods["B1Correction"]
    (said,) = (s for s in describe_steps([plan.stated_methods]) if "receive field" in s)
    assert ("N4" in said) == plan.unbias
