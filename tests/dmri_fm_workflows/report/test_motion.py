"""Slice scores and the carpet."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm_workflows.report import figures
from dmri_fm_workflows.report.motion import eddy_terms, slice_scores

SHAPE = (32, 40, 24)


def series(n: int = 25) -> tuple[np.ndarray, np.ndarray, GradientTable]:
    """Return an ellipsoid of one tissue with noise, its mask, and two shells."""
    rng = np.random.default_rng(0)
    bvecs = rng.normal(size=(n, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    gtab = GradientTable(np.r_[0, np.repeat([1000, 2000], n // 2)], bvecs)
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0) - (np.array(SHAPE) - 1) / 2
    mask = np.linalg.norm(grid / (0.42 * np.array(SHAPE)), axis=-1) < 1
    data = 100.0 * mask[..., None] * np.exp(-gtab.bvals * 0.7e-3)
    return (data + rng.normal(0, 1, data.shape)).astype(np.float32), mask, gtab


def test_slice_scores_find_a_lost_slice_within_its_shell() -> None:
    data, mask, gtab = series()
    data[:, :, 12, 5] *= 0.6
    scores = slice_scores(data, mask, groups=np.round(gtab.bvals / 100))
    assert scores.shape == (SHAPE[2], len(gtab))
    assert np.isnan(scores[:, 0]).all()  # the only b=0
    assert np.isnan(scores[0]).all()  # no brain
    worst = np.unravel_index(np.nanargmin(scores), scores.shape)
    assert worst == (12, 5)
    assert scores[worst] < -20
    with pytest.raises(ImageError, match="mask"):
        slice_scores(data, mask[1:])


def test_eddy_terms_are_those_of_the_axis_along_which_they_displace(
    tmp_path: Path, pictures
) -> None:
    data, mask, gtab = series()
    n = len(gtab)
    moved = np.zeros((n, 15))
    moved[:, :6] = 9.0  # motion is no eddy current
    assert eddy_terms(moved) is None
    assert eddy_terms(moved[:, :6]) is None
    moved[3, 9:12] = 0.004, -0.002, 0.001  # along y
    moved[4, 6] = 0.003
    axis, terms = eddy_terms(moved)
    assert axis == "y"
    np.testing.assert_array_equal(terms[3], [0.004, -0.002, 0.001])
    assert not np.delete(terms, 3, axis=0).any()
    outliers = np.zeros((n, SHAPE[2]), dtype=bool)

    def height(parameters: np.ndarray, shift: np.ndarray | None = None) -> float:
        path = figures.plot_carpet(
            data,
            mask,
            np.zeros(n),
            parameters,
            outliers,
            tmp_path / "a.svg",
            bvals=gtab.bvals,
            eddy_shift_mm=shift,
        )
        assert pictures(path)
        return float(re.search(r'viewBox="0 0 \S+ (\S+)"', path.read_text())[1])

    assert height(moved) == height(moved[:, :6]) + 72  # a panel of an inch
    shift = np.full((n, 3), np.nan)
    assert height(moved, shift) == height(moved)
    shift[1:] = 0.5
    assert height(moved, shift) == height(moved) + 72


def test_carpet(tmp_path: Path, pictures) -> None:
    data, mask, gtab = series()
    n = len(gtab)
    fd = np.r_[np.nan, np.linspace(0, 2, n - 1)]
    outliers = np.zeros((n, SHAPE[2]), dtype=bool)
    outliers[5, 12] = True
    arguments = (data, mask, fd, np.zeros((n, 12)), outliers)
    path = figures.plot_carpet(*arguments, tmp_path / "carpet.svg", bvals=gtab.bvals)
    assert pictures(path)
    again = figures.plot_carpet(*arguments, tmp_path / "again.svg", bvals=gtab.bvals)
    assert again.read_bytes() == path.read_bytes()
    few = figures.plot_carpet(
        data[..., :1],
        mask,
        [np.nan],
        np.zeros((1, 6)),
        outliers[:1],
        tmp_path / "one.svg",
        bvals=[0.0],
    )
    pictures(few)
    with pytest.raises(ImageError, match="one of each per volume"):
        figures.plot_carpet(data, mask, fd[1:], np.zeros((n, 6)), outliers, path, bvals=gtab.bvals)
    with pytest.raises(ImageError, match="columns"):
        figures.plot_carpet(data, mask, fd, np.zeros((n, 6)), outliers.T, path, bvals=gtab.bvals)
