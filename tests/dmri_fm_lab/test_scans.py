"""Series of a dataset that networks learn from or are compared on; whose they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import LayoutError
from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import save_image
from dmri_fm_lab.scans import find_scans


@pytest.mark.parametrize(("stated", "n_b0"), [(None, 1), (200, 2)])
def test_corrected_series_have_the_b0_threshold_of_their_sidecar(
    tmp_path: Path, stated: float | None, n_b0: int
) -> None:
    (tmp_path / "dataset_description.json").write_text('{"DatasetType": "derivative"}')
    stem = tmp_path / "sub-01" / "dwi" / "sub-01_space-ACPC_desc-preproc_dwi"
    save_image(np.ones((3, 3, 3, 8)), np.eye(4), f"{stem}.nii.gz")
    axes = np.vstack([np.zeros(3), [1, 0, 0], SKARE_DIRECTIONS])
    gtab = GradientTable([0, 120] + [1000] * 6, axes)
    write_gradients(gtab, f"{stem}.bval", f"{stem}.bvec", affine=np.eye(4))
    sidecar = {} if stated is None else {"B0Threshold": stated}
    Path(f"{stem}.json").write_text(json.dumps(sidecar))
    (scan,) = find_scans(tmp_path)
    assert scan.dwi.gtab.is_b0.sum() == n_b0


@pytest.mark.parametrize("name", ["sub-02", "sub-01_x", "acq-x"])
def test_corrected_series_whose_name_disagrees_with_its_folder_is_refused(tmp_path, name) -> None:
    (tmp_path / "dataset_description.json").write_text('{"DatasetType": "derivative"}')
    path = tmp_path / "sub-01" / "dwi" / f"{name}_space-ACPC_desc-preproc_dwi.nii.gz"
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(LayoutError, match="does not fit its folder sub-01/dwi") as caught:
        next(find_scans(tmp_path))
    assert caught.value.path == path
