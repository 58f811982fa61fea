"""Nodes of the tissue stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import ImageError
from dmri_fm.normalise.transforms import write_affine
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.tissue import SegmentTissue, TakeTissue
from tests.dmri_fm_workflows.given_anatomies import SHIFT, write_anatomy, write_tissue


def read(path: object) -> np.ndarray:
    return read_array(load_image(str(path), ndim=3))


def test_tissue_of_another_frame_is_brought_into_acpc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels stay labels, and lie where the brain does."""
    monkeypatch.chdir(tmp_path)
    image = write_anatomy(tmp_path / "d")
    dseg, *shares = write_tissue(image)
    affine = load_image(dseg).affine
    back = np.linalg.inv(SHIFT)
    mask = tmp_path / "mask.nii.gz"
    save_image(read(dseg) > 0, back @ affine, mask, dtype=np.uint8)
    given = {
        "dseg_file": str(dseg),
        "probability_files": [str(p) for p in shares],
        "xfm_file": str(write_affine(SHIFT, tmp_path / "to_acpc.txt")),
        "mask_file": str(mask),
        "title": "taken from x: dseg.nii.gz",
        "sources": ["bids:anatomy:x"],
    }
    taken = TakeTissue(**given).run().outputs
    np.testing.assert_array_equal(read(taken.dseg_file), read(dseg))
    np.testing.assert_allclose(read(taken.wm_file), read(shares[1]), atol=1e-5)
    np.testing.assert_allclose(load_image(taken.csf_file).affine, back @ affine, atol=1e-4)
    assert taken.record == {
        "TissueMethod": "taken from x: dseg.nii.gz", "Sources": ["bids:anatomy:x"]
    }  # fmt: skip
    other = np.where(read(dseg) == 2, 41, read(dseg))
    save_image(other, affine, dseg, dtype=np.uint8)
    with pytest.raises(ImageError, match="labels of another scheme, such as 41"):
        TakeTissue(**given).run()


def test_tissue_is_segmented_on_the_grid_of_the_brain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = write_anatomy(tmp_path / "d")
    mask = image.with_name("sub-01_desc-brain_mask.nii.gz")
    step = (slice(None, None, 3),) * 3
    small = load_image(image).affine @ np.diag([3.0, 3, 3, 1])
    for path in (image, mask):
        save_image(read(path)[step], small, path)
    found = SegmentTissue(
        brain_file=str(image),
        mask_file=str(mask),
        from_mni_file=str(write_affine(np.linalg.inv(SHIFT), tmp_path / "from_mni.txt")),
        sloppy=True,
    ).run().outputs  # fmt: skip
    labels, inside = read(found.dseg_file), read(mask) > 0
    assert set(np.unique(labels[inside])) == {1, 2, 3}
    assert not labels[~inside].any()
    total = sum(read(f) for f in (found.gm_file, found.wm_file, found.csf_file))
    np.testing.assert_allclose(total[inside], 1, atol=1e-3)
    # The template's own white matter is brighter than its grey matter.
    brain = read(image)
    assert brain[labels == 2].mean() > brain[labels == 1].mean() > brain[labels == 3].mean()
    assert found.record["TissueMethod"].startswith("Atropos")
