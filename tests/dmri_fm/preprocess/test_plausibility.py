from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.models.tensor import fit_tensor
from dmri_fm.preprocess.plausibility import check_white_matter
from dmri_fm.volumes import Dwi


@pytest.mark.parametrize(
    ("bval", "md"), [(500, 0.9e-3), (1000, 0.75e-3), (1500, 0.69e-3), (2500, 0.57e-3)]
)
def test_usual_white_matter_gives_no_warning(bval, md) -> None:
    one = np.ones((3, 3, 3))
    medians, warnings = check_white_matter(0.43 * one, md * one, white_matter=one, bval=bval)
    assert warnings == ()
    assert medians == {"wm_fa_median": pytest.approx(0.43), "wm_md_median": pytest.approx(md)}


def test_unusual_white_matter_is_told() -> None:
    one = np.ones((3, 3, 3))
    _, warnings = check_white_matter(0.1 * one, 1.4e-3 * one, white_matter=one, bval=1000)
    assert len(warnings) == 2
    assert "FA of white matter is 0.10" in warnings[0]
    assert check_white_matter(one, one, white_matter=0 * one, bval=1000) == (
        {"wm_fa_median": None, "wm_md_median": None},
        (),
    )


@pytest.mark.realdata
def test_white_matter_of_real_scans_is_plausible(data_dir) -> None:
    for name, bval in (
        ("sub-trio/dwi/sub-trio_dir-AP_dwi", 1000),
        ("sub-umr/dwi/sub-umr_dir-PA_dwi", 950),
        ("sub-galan/dwi/sub-galan_dir-PA_dwi", 1500),
        ("sub-prisma/dwi/sub-prisma_dir-AP_dwi", 2500),
    ):
        stem = data_dir / "ds-vendors" / name
        whole = Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")
        x, y, z, _ = whole.shape
        box = np.s_[x // 3 : 2 * x // 3, y // 4 : 3 * y // 4, z // 2 : z // 2 + 3]
        data = np.asarray(whole.image.dataobj[box], dtype=np.float32)
        maps = fit_tensor(Dwi.from_arrays(data, whole.affine, whole.gtab))
        # Without a registered template: voxels of tract-like anisotropy that hold no CSF.
        white = (maps.fa > 0.3) & (maps.md < 1.1e-3) & (maps.md > 0.2e-3)
        assert white.sum() > 300
        assert check_white_matter(maps.fa, maps.md, white_matter=white, bval=bval)[1] == ()
