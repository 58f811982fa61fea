"""The interface of noise map and residual map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmri_fm.normalise.transforms import write_affine
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.noise_maps import BringNoiseMaps
from dmri_fm_workflows.interfaces.quality_figures import PlotNoise
from dmri_fm_workflows.interfaces.volumes_table import VolumeOrigin, write_volumes

SHAPE = (16, 18, 12)
AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Write two runs of three volumes; the second has twice the noise, and half the scale."""
    monkeypatch.chdir(tmp_path)
    raw = np.full((*SHAPE, 6), 100.0)
    mask = np.zeros(SHAPE)
    mask[3:13, 3:15, 2:10] = 1
    origins = [
        VolumeOrigin(run=n // 3, phase_encoding="j", readout_s=0.05, original_file="x.nii")
        for n in range(6)
    ]
    return {
        "noise_files": [
            str(save_image(np.full(SHAPE, s), AFFINE, tmp_path / f"noise{s}.nii")) for s in (4, 8)
        ],
        "run_scales": [1.0, 0.5],
        "raw_file": str(save_image(raw, AFFINE, tmp_path / "raw.nii")),
        "denoised_file": str(save_image(raw - 3, AFFINE, tmp_path / "denoised.nii")),
        "volumes_file": str(write_volumes(origins, tmp_path / "volumes.tsv")),
        "xfm_file": str(write_affine(np.eye(4), tmp_path / "xfm.txt")),
        "mask_file": str(save_image(mask, AFFINE, tmp_path / "mask.nii")),
    }


def test_maps_are_on_the_scale_of_the_series_and_inside_the_brain(given) -> None:
    made = BringNoiseMaps(**given).run().outputs
    mask = read_array(load_image(given["mask_file"])) > 0
    for path, level in ((made.noise_file, 4.0), (made.residual_files[0], 3.0)):
        values = read_array(load_image(path))
        np.testing.assert_allclose(values[mask], level, rtol=1e-4)
        assert not values[~mask].any()
    figure = PlotNoise(
        noise_file=made.noise_file,
        residual_files=made.residual_files,
        mask_file=given["mask_file"],
    )
    drawn = Path(figure.run().outputs.out_file).read_text()
    assert "noise of one volume" in drawn
    assert "removed, root mean square" in drawn


def test_runs_that_were_not_denoised_do_not_count(given) -> None:
    raw = read_array(load_image(given["raw_file"]))
    raw[..., :3] -= 3
    denoised = save_image(raw, AFFINE, Path(given["denoised_file"]).with_name("first.nii"))
    made = BringNoiseMaps(**given | {"denoised_file": str(denoised)}).run().outputs
    values = read_array(load_image(made.residual_files[0]))
    np.testing.assert_allclose(values[values > 0], 3.0, rtol=1e-4)


def test_no_residual_map_where_nothing_was_removed(given) -> None:
    made = BringNoiseMaps(**given | {"denoised_file": given["raw_file"]}).run().outputs
    assert made.residual_files == []
    figure = PlotNoise(noise_file=made.noise_file, mask_file=given["mask_file"])
    assert "removed" not in Path(figure.run().outputs.out_file).read_text()
