"""Sampling schemes, and colours of directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmri_fm.gradients import GradientTable
from dmri_fm_workflows.report import figures
from dmri_fm_workflows.report.diffusion import direction_colours

SHAPE = (16, 20, 12)


@pytest.mark.parametrize(
    ("axis", "colour"), [(0, (255, 0, 0)), (1, (0, 255, 0)), (2, (0, 0, 255))]
)
def test_direction_colours(axis: int, colour: tuple[int, ...], tmp_path: Path, pictures) -> None:
    vector = np.zeros(3)
    vector[axis] = -1
    assert tuple(direction_colours(vector, 1.0)) == colour
    assert tuple(direction_colours(vector, 0.0)) == (0, 0, 0)
    assert tuple(direction_colours(vector * np.nan, 1.0)) == (0, 0, 0)
    # The scanner's frame counts, not the storage: the same vectors in a LAS image.
    las_mask = np.zeros(SHAPE, dtype=bool)
    las_mask[2:-2, 2:-2, 2:-2] = True
    las_affine = np.diag([-3.0, 3, 4, 1])
    v1 = np.broadcast_to(vector, (*SHAPE, 3))
    path = figures.plot_colour_fa(
        las_mask * 0.8, v1, las_affine, tmp_path / "fa.svg", mask=las_mask
    )
    picture = pictures(path)[0]
    assert tuple(picture.reshape(-1, 3).max(axis=0)) == colour


def test_a_left_right_tensor_is_red(tmp_path: Path) -> None:
    tensor = np.diag([1.7e-3, 0.2e-3, 0.2e-3])
    values, vectors = np.linalg.eigh(tensor)
    fa = np.sqrt(1.5 * ((values - values.mean()) ** 2).sum() / (values**2).sum())
    red, green, blue = direction_colours(vectors[:, -1], fa)
    assert (red, green, blue) == (255, 0, 0)


@pytest.mark.parametrize("n_shells", [0, 1, 2, 3, 9])
def test_sampling_schemes(n_shells: int, tmp_path: Path, pictures) -> None:
    rng = np.random.default_rng(0)
    bvals = np.r_[0.0, np.repeat(400.0 * (1 + np.arange(n_shells)), 10)]
    bvecs = rng.normal(size=(bvals.size, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    gtab = GradientTable(bvals, bvecs)
    first = figures.plot_sampling_scheme(gtab, tmp_path / "a.svg").read_bytes()
    pictures(tmp_path / "a.svg")
    assert figures.plot_sampling_scheme(gtab, tmp_path / "b.svg").read_bytes() == first
