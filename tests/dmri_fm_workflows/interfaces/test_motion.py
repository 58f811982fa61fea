"""Estimate of head motion by the interface: lost slices, and what the sidecar says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi, load_image, save_image
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_workflows.interfaces.motion import EstimateMotion
from dmri_fm_workflows.interfaces.volumes_table import VolumeOrigin, write_volumes

SHAPE = (24, 28, 20)
LOST = (7, 9)


def write_head(folder: Path) -> dict[str, str]:
    """Write an ellipsoid with ventricles, fibres along y on one side; a slice of it is lost."""
    rng = np.random.default_rng(0)
    gtab = GradientTable(
        np.r_[0.0, 0.0, np.full(16, 1000.0)],
        np.vstack([np.zeros((2, 3)), spread_directions(rng, 16)]),
    )
    grid = (np.indices(SHAPE).transpose(1, 2, 3, 0) - (np.array(SHAPE) - 1) / 2) / SHAPE
    head = np.linalg.norm(grid / 0.42, axis=-1) < 1
    fluid = np.linalg.norm((grid - [0.1, 0.05, 0]) / 0.12, axis=-1) < 1
    along = np.where(grid[..., :1] < 0, gtab.bvecs_ras[:, 1] ** 2, 1 / 3)
    diffusivity = np.where(fluid[..., None], 3e-3, 0.5e-3 + 0.6e-3 * along)
    data = 1000 * (head + fluid)[..., None] * np.exp(-gtab.bvals * diffusivity)
    data = np.abs(data + rng.normal(0, 10, data.shape)).astype(np.float32)
    data[:, :, LOST[1], LOST[0]] *= 0.3
    affine = np.diag([-3.0, 3, 3, 1])
    dwi, bval, bvec = Dwi.from_arrays(data, affine, gtab, mask=head).save(folder / "dwi")
    origins = [VolumeOrigin(0, "j", 0.05, "sub-01_dwi.nii.gz")] * len(gtab)
    return {
        "dwi_file": str(dwi),
        "bval_file": str(bval),
        "bvec_file": str(bvec),
        "mask_file": str(save_image(head, affine, folder / "mask.nii.gz", dtype=np.uint8)),
        "dwiref_file": str(save_image(data[..., 0], affine, folder / "dwiref.nii.gz")),
        "volumes_file": str(write_volumes(origins, folder / "volumes.tsv")),
    }


@pytest.mark.parametrize("repol", [True, False])
def test_lost_slices_are_replaced_on_request(tmp_path: Path, repol: bool) -> None:
    files = write_head(tmp_path)
    found = EstimateMotion(**files, sloppy=True, repol=repol).run(cwd=tmp_path).outputs
    outliers = np.load(found.outliers_file)
    assert outliers[LOST]
    before = np.asarray(load_image(files["dwi_file"]).dataobj)
    after = np.asarray(load_image(found.dwi_file).dataobj)
    assert found.record["EddyTranslation"].startswith("regression over volumes")
    if not repol:
        assert found.dwi_file == files["dwi_file"]
        assert "SlicesReplaced" not in found.record
        assert "replaced" not in found.record["HMCMethod"]
        return
    assert "lost slices replaced" in found.record["HMCMethod"]
    assert LOST[1] in found.record["SlicesReplaced"][str(LOST[0])]
    assert (after[:, :, LOST[1], LOST[0]].sum() / before[:, :, LOST[1], LOST[0]].sum()) > 2
    flagged = np.broadcast_to(outliers.T[None, None], after.shape)
    np.testing.assert_array_equal(after[~flagged], before[~flagged])
