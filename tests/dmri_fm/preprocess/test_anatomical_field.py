"""The distortion field from a T1w image, on a phantom whose field is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.errors import ImageError
from dmri_fm.preprocess.anatomical_field import AnatomicalField, estimate_anatomical_field
from dmri_fm.preprocess.susceptibility import B0Image

SHAPE = (36, 44, 30)
AFFINE = np.array([[-3.0, 0, 0, 54], [0, 3, 0, -66], [0, 0, 3, -45], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray]:
    """A brain, and its tissue: 1 in white matter to 0 in fluid."""
    rng = np.random.default_rng(1)
    radius = np.linalg.norm(
        [(x - (n - 1) / 2) / (0.42 * n) for x, n in zip(np.indices(SHAPE), SHAPE, strict=True)],
        axis=0,
    )
    texture = gaussian_filter(rng.normal(size=SHAPE), 2.0)
    tissue = 0.5 + 0.25 * np.sign(texture) + 0.25 * np.sign(0.75 - radius)
    return radius < 1, gaussian_filter(tissue, 0.6)


def estimate(b0: B0Image, brain: np.ndarray, t1w_brain: np.ndarray) -> AnatomicalField:
    image = t1w_brain.astype(np.float32)
    return estimate_anatomical_field(b0, brain, image, t1w_affine=AFFINE, xfm=np.eye(4))


def distort(image: np.ndarray, hz: np.ndarray, encoding: PhaseEncoding) -> np.ndarray:
    """Show the signal of voxel x at x + shift, spread by the Jacobian of that map."""
    axis, sign = encoding.axis_and_sign()
    shift = sign * encoding.readout_s * hz
    places = np.indices(SHAPE, dtype=float)
    source = places.copy()
    for _ in range(30):  # source + shift(source) = place
        source[axis] = places[axis] - map_coordinates(shift, source, order=1, mode="nearest")
    squeezed = 1 + np.gradient(shift, axis=axis)
    squeezed = map_coordinates(squeezed, source, order=1, mode="nearest")
    return (map_coordinates(image, source, order=1) / squeezed).astype(np.float32)


@pytest.mark.parametrize("direction", ["j", "j-", "i-"])
def test_error_is_smaller_than_without_a_correction(head, direction: str) -> None:
    brain, tissue = head
    encoding = PhaseEncoding(direction, 0.05)
    bump = np.linalg.norm(
        [(x - c) / s for x, c, s in zip(np.indices(SHAPE), (18, 32, 12), (9, 9, 9), strict=True)],
        axis=0,
    )
    hz = (60 * np.exp(-(bump**2) / 2)).astype(np.float32)
    b0 = distort((1.2 - tissue) * brain, hz, encoding)
    seen = distort(brain.astype(float), hz, encoding) > 0.5
    t1w_brain = (0.3 + tissue) * brain
    found = estimate(B0Image(b0, AFFINE, encoding), seen, t1w_brain)
    error = np.sqrt(np.mean((found.field.hz - hz)[brain] ** 2))
    assert error < 0.7 * np.sqrt(np.mean(hz[brain] ** 2))
    assert found.similarity_after > found.similarity_before
    assert found.smallest_jacobian > 0
    assert found.warnings == []
    assert np.allclose(found.field.affine, AFFINE)


def test_an_image_without_contrast_is_refused(head) -> None:
    brain, tissue = head
    flat = B0Image(brain.astype(np.float32), AFFINE, PhaseEncoding("j", 0.05))
    with pytest.raises(ImageError, match="b=0 image has no contrast"):
        estimate(flat, brain, tissue * brain)


def test_a_field_that_helps_nothing_is_warned_of(head) -> None:
    brain, tissue = head
    encoding = PhaseEncoding("j", 0.05)
    b0 = B0Image(((1.2 - tissue) * brain).astype(np.float32), AFFINE, encoding)
    found = estimate(b0, brain, tissue * brain)
    worse = type(found)(
        DistortionField(found.field.hz, AFFINE), found.corrected, 0.5, 0.4, 1.0, -0.1
    )
    assert [("more like it" in w, "folds" in w) for w in worse.warnings] == [
        (True, False),
        (False, True),
    ]
