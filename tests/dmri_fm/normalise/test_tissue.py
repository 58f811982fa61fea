"""Tissue of a T1-weighted brain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import Grid, Image3D, affine_map
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.tissue import TISSUES, segment_tissue, warp_priors

#: Points of the image to those of the template: the head lies 6 mm to the right.
SHIFT = np.array([[1.0, 0, 0, -6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def make_brain(contrast: float = 1.0) -> tuple[Image3D, Image3D, np.ndarray]:
    """Return a brain at 4 mm with the tissue of the template, its mask and the true labels."""
    template = load_template(2)
    step = (slice(None, None, 2),) * 3
    grey, white, inside = template.gm[step], template.wm[step], template.brain_mask[step]
    truth = np.where(inside, 1 + np.argmax([grey, white, 1 - grey - white], axis=0), 0)
    mean = np.array([0, 70, 100, 30.0])[truth]
    noise = np.random.default_rng(0).normal(0, 4, truth.shape)
    affine = np.linalg.inv(SHIFT) @ np.asarray(template.grid.affine) @ np.diag([2.0, 2, 2, 1])
    data = np.where(inside, 60 + contrast * (mean - 60) + contrast * noise, 0)
    return Image3D(data.astype(np.float32), affine), Image3D(inside, affine), truth


def dice(one: np.ndarray, two: np.ndarray) -> float:
    """Return the overlap of two masks."""
    return 2.0 * (one & two).sum() / (one.sum() + two.sum())


def test_priors_follow_the_transform_and_sum_to_one() -> None:
    brain, mask, truth = make_brain()
    priors = warp_priors(load_template(2), mask, image2template=affine_map(SHIFT))
    np.testing.assert_allclose(priors.sum(axis=-1)[mask.data], 1, atol=1e-5)
    assert not priors[~mask.data].any()
    likely = 1 + priors.argmax(axis=-1)
    assert np.mean(likely[mask.data] == truth[mask.data]) > 0.98
    off = warp_priors(load_template(2), mask, image2template=affine_map(np.eye(4)))
    assert np.mean((1 + off.argmax(axis=-1))[mask.data] == truth[mask.data]) < 0.9
    assert brain.data.shape == priors.shape[:3]


def test_tissue_is_that_of_the_image_where_the_priors_are_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Priors that lie 6 mm off do not keep the tissue from following the image."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    brain, mask, truth = make_brain()
    priors = warp_priors(load_template(2), mask, image2template=affine_map(np.eye(4)))
    found = segment_tissue(brain, mask, priors)
    assert found.labels.dtype == np.uint8
    expected = 1 + priors.argmax(axis=-1)
    for label, tissue in enumerate(TISSUES, start=1):
        before, after = (
            dice(image == label, truth == label) for image in (expected, found.labels)
        )
        # Fluid at the rim of the brain is a voxel thin here: neighbours weigh against it.
        assert after > (0.7 if tissue == "CSF" else 0.9), tissue
        assert after > before + 0.1, tissue
    inside = mask.data
    np.testing.assert_allclose(found.probabilities.sum(axis=-1)[inside], 1, atol=1e-3)
    assert not found.probabilities[~inside].any()
    assert not found.labels[~inside].any()
    # Atropos' labels are one iteration older than its probabilities.
    hardest = 1 + found.probabilities.argmax(axis=-1)
    assert np.mean(hardest[inside] == found.labels[inside]) > 0.97
    again = segment_tissue(brain, mask, priors)
    np.testing.assert_array_equal(again.probabilities, found.probabilities)
    assert not list(tmp_path.iterdir())  # Atropos leaves no maps of a participant behind


def test_a_brain_without_contrast_is_refused() -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    flat = Image3D(np.ones(grid.shape, np.float32), np.eye(4))
    with pytest.raises(ImageError, match="has no contrast"):
        segment_tissue(flat, flat, np.full((4, 4, 4, 3), 1 / 3, np.float32))
