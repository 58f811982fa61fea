"""Series of a dataset of this app: whose they are, the folder says."""

from __future__ import annotations

import pytest

from dmri_fm.errors import LayoutError
from dmri_fm.scans import find_scans


@pytest.mark.parametrize("name", ["sub-02", "sub-01_x", "acq-x"])
def test_corrected_series_whose_name_disagrees_with_its_folder_is_refused(tmp_path, name) -> None:
    (tmp_path / "dataset_description.json").write_text('{"DatasetType": "derivative"}')
    path = tmp_path / "sub-01" / "dwi" / f"{name}_space-ACPC_desc-preproc_dwi.nii.gz"
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(LayoutError, match="does not fit its folder sub-01/dwi") as caught:
        next(find_scans(tmp_path))
    assert caught.value.path == path
