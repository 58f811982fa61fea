"""Interfaces around the models."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.simulate import SKARE_DIRECTIONS
from dmri_fm.volumes import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.models import FitTensor


def test_zeros_that_interpolation_left_do_not_become_monstrous_diffusivities(
    tmp_path: Path,
) -> None:
    gtab = GradientTable([0] + [1000] * 6, np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    data = 800 * np.exp(-gtab.bvals * 0.8e-3) * np.ones((6, 6, 4, 1))
    data[0, 0, 0, :] = [0, 3, 0, 0, 9, 0, 2]
    data[1, 0, 0, 3] = 0
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    save_image(data, affine, tmp_path / "dwi.nii.gz")
    write_gradients(gtab, tmp_path / "dwi.bval", tmp_path / "dwi.bvec", affine=affine)
    mask = save_image(np.ones((6, 6, 4)), affine, tmp_path / "mask.nii.gz", dtype=np.uint8)
    done = FitTensor(
        dwi_file=str(tmp_path / "dwi.nii.gz"),
        bval_file=str(tmp_path / "dwi.bval"),
        bvec_file=str(tmp_path / "dwi.bvec"),
        mask_file=str(mask),
    ).run(cwd=tmp_path)
    md = read_array(load_image(done.outputs.md_file))
    assert md.max() < 10e-3
    np.testing.assert_allclose(md[2:], 0.8e-3, rtol=1e-3)
    assert done.outputs.facts["MinimalSignal"] > 0.5
