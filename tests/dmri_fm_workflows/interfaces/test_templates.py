"""Registration to a template of TemplateFlow, on grids of any orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmri_fm.normalise.grid import Grid, affine_map, resample_image
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.normalise import BringMask, ResampleMaps
from dmri_fm_workflows.interfaces.templates import RegisterOtherTemplate
from tests.dmri_fm_workflows.interfaces.test_normalise import STORAGES

#: Takes points of the other template to points of the packaged one: larger, its origin elsewhere.
OTHER2OWN = np.array([[0.93, 0, 0, 4], [0, 0.95, 0.02, 38], [0, -0.02, 0.94, -21], [0, 0, 0, 1.0]])


def write_on_grid(folder: Path, axes: np.ndarray, pull: np.ndarray, *, stem: str) -> list[Path]:
    """Write head and mask of the packaged template, moved, in 4 mm voxels along some axes."""
    own = load_template(2)
    affine = np.eye(4)
    affine[:3, :3] = 4 * axes
    centre = np.linalg.inv(pull) @ [0, -18, 8, 1]
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ [26, 30, 26]
    grid = Grid((53, 61, 53), affine)
    t1, mask = (
        resample_image(data, own.grid.affine, grid, target2source=affine_map(pull))
        for data in (own.t1, own.brain_mask.astype(np.float32))
    )
    return [
        save_image(1000 * t1 * (mask > 0.5), affine, folder / f"{stem}_T1w.nii.gz"),
        save_image(mask > 0.5, affine, folder / f"{stem}_mask.nii.gz", dtype=np.uint8),
    ]


@pytest.mark.parametrize(("head", "template"), [("RAS", "LAS"), ("LAS", "oblique")])
def test_brain_is_laid_on_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, template: str
) -> None:
    """The transform is the known one, and a map lies where the template has that tissue."""
    monkeypatch.chdir(tmp_path)
    brain, mask = write_on_grid(tmp_path, STORAGES[head], np.eye(4), stem="acpc")
    other, other_mask = write_on_grid(tmp_path, STORAGES[template], OTHER2OWN, stem="tpl")
    given = {"template_mask_file": str(other_mask)} if head == "RAS" else {}
    found = RegisterOtherTemplate(
        in_file=str(brain), mask_file=str(mask), space="Other", template_file=str(other),
        method="affine", sloppy=True, **given,
    ).run().outputs  # fmt: skip
    points = load_image(other).affine[:3, 3] + np.array([[0, 0, 0], [40, 0, 0], [0, 40, 40]])
    points = points - points[0] + np.linalg.inv(OTHER2OWN)[:3, 3]
    expected = affine_map(OTHER2OWN)(points)
    moved = read_point_map(found.to_file)(points)
    assert np.linalg.norm(moved - expected, axis=1).max() < 2
    np.testing.assert_allclose(read_point_map(found.from_file)(moved), points, atol=0.01)
    assert found.record["NormalisationMethod"] == "affine (ANTs) to Other"
    assert found.record["NormalisationDice"] > 0.95
    assert found.warnings_record == {"Warnings": []}
    inside = BringMask(
        in_file=str(mask), reference_file=str(other), xfm_file=found.to_file
    ).run().outputs.out_file  # fmt: skip
    (warped,) = [
        ResampleMaps(in_files=[str(brain)], xfm_file=found.to_file, mask_file=inside)
        .run()
        .outputs.out_files
    ]
    shown, wanted = load_image(np.atleast_1d(warped)[0]), read_array(load_image(other))
    np.testing.assert_allclose(shown.affine, load_image(other).affine, atol=1e-4)
    both = (read_array(shown) > 0) & (wanted > 0)
    assert both.sum() > 0.95 * (wanted > 0).sum()
    assert np.corrcoef(read_array(shown)[both], wanted[both])[0, 1] > 0.9


def test_head_that_does_not_fit_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other, _ = write_on_grid(tmp_path, STORAGES["RAS"], np.eye(4), stem="tpl")
    rng = np.random.default_rng(0)
    blob = np.zeros((20, 20, 20))
    blob[4:16, 8:12, 2:18] = rng.random((12, 4, 16))
    affine = np.diag([5.0, 5, 5, 1])
    head = save_image(blob, affine, tmp_path / "head.nii.gz")
    mask = save_image(blob > 0, affine, tmp_path / "mask.nii.gz", dtype=np.uint8)
    found = RegisterOtherTemplate(
        in_file=str(head), mask_file=str(mask), space="Other", template_file=str(other),
        method="affine", sloppy=True,
    ).run().outputs  # fmt: skip
    (warning,) = found.warnings_record["Warnings"]
    assert warning.startswith("Other: The registered brain overlaps the template's by 0.")
