"""Nodes that take the anatomy of derivatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import Image3D
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.transforms import read_affine, write_affine
from dmri_fm.series import save_image
from dmri_fm_workflows.interfaces.given_anatomy import LocateHead, TakeTemplate


def write(image: Image3D, path: Path) -> str:
    return str(save_image(image.data.astype(np.float32), image.affine, path))


def make_brain(affine: np.ndarray, seed: int) -> Image3D:
    """Return the template's brain at 8 mm, with random tissue in it."""
    inside = load_template(2).brain_mask[::4, ::4, ::4]
    noise = np.random.default_rng(seed).uniform(0.2, 1, inside.shape)
    return Image3D(np.where(inside, noise, 0), affine)


def test_the_acquired_image_is_placed_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways of the transform lead between the scanner and ACPC."""
    monkeypatch.chdir(tmp_path)
    affine = np.asarray(load_template(2).grid.affine) @ np.diag([4.0, 4, 4, 1])
    moved = affine.copy()
    moved[:3, 3] += 3, -5, 9
    head = make_brain(affine, 0)
    tilt = np.eye(4)
    tilt[:3, 3] = 0, 1, 0
    files = {
        "in_file": write(head, tmp_path / "in.nii"),
        "mask_file": write(Image3D(head.data > 0, affine), tmp_path / "mask.nii"),
        "acquired_file": write(Image3D(head.data * 50, moved), tmp_path / "sub-01_T1w.nii"),
        "to_acpc_file": str(write_affine(tilt, tmp_path / "acpc.txt")),
    }
    found = LocateHead(**files).run().outputs
    assert found.record["AnatomyCorrelation"] > 0.9
    to_acpc = read_affine(found.to_acpc_file)
    # Points of ACPC go to the prepared image by the tilt, and on to the acquired one.
    np.testing.assert_allclose(to_acpc[:3, 3], [3, -4, 9], atol=0.5)
    np.testing.assert_allclose(read_affine(found.from_acpc_file) @ to_acpc, np.eye(4), atol=1e-4)
    other = Image3D(make_brain(affine, 1).data, moved)
    files["acquired_file"] = write(other, tmp_path / "sub-01_T1w.nii")
    with pytest.raises(ImageError, match=r"does not look like that of sub-01_T1w\.nii"):
        LocateHead(**files).run()


def test_transforms_are_taken_with_their_name_and_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    template = load_template(2)
    affine = np.asarray(template.grid.affine)
    shift = np.eye(4)
    shift[:3, 3] = 4, 0, -6
    brain = write(Image3D(template.t1, shift @ affine), tmp_path / "brain.nii")
    mask = write(Image3D(template.brain_mask, shift @ affine), tmp_path / "mask.nii")
    there = str(write_affine(shift, tmp_path / "to.txt"))
    back = str(write_affine(np.linalg.inv(shift), tmp_path / "from.txt"))
    taken = TakeTemplate(
        brain_file=brain,
        mask_file=mask,
        to_acpc_file=str(write_affine(np.eye(4), tmp_path / "acpc.txt")),
        to_template_file=there,
        from_template_file=back,
        method="affine",
        title="taken from own: to.txt (affine)",
    ).run().outputs  # fmt: skip
    np.testing.assert_allclose(read_affine(taken.to_mni_file), shift, atol=1e-5)
    np.testing.assert_allclose(read_affine(taken.from_mni_file), np.linalg.inv(shift), atol=1e-5)
    assert taken.dice > 0.95
    assert taken.record["NormalisationMethod"] == "taken from own: to.txt (affine)"
    assert taken.record["Warnings"] == []
