"""Labels: the rule for peaks, simulated truth, fits to signals of known fibres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.layers import dyadic_code
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.series import Dwi
from dmri_fm.shell_resampling import choose_shell, fixed_directions
from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.artefact_study.labels import count_peaks, labels_by_fits, labels_of_truth
from dmri_fm_lab.simulate import draw_batch, draw_protocol
from dmri_fm_lab.simulate.mixture import fibre_amounts


def axis(degrees: float) -> list[float]:
    return [float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees))), 0.0]


def test_peaks_are_large_enough_and_apart() -> None:
    axes = np.array([[axis(0), axis(60), axis(120)]] * 4 + [[axis(0), axis(24), axis(90)]])
    amounts = np.array([[1, 0.5, 0.5], [1, 0.49, 0.5], [0.2, 0.3, 1.0], [0, 0, 0], [1, 0.9, 0.8]])
    assert count_peaks(axes, amounts).tolist() == [3, 2, 1, 0, 2]
    opposite = -axes * np.array([1, -1, 1])[None, :, None]
    assert count_peaks(opposite, amounts).tolist() == [3, 2, 1, 0, 2]


def test_truth_of_a_simulated_brain() -> None:
    gtab = draw_protocol(np.random.default_rng(0))
    affine = torch.diag(torch.tensor([5.0, 5.0, 5.0, 1.0]))
    affine[:3, 3] = torch.tensor([0.0, -40.0, 0.0])
    drawn = draw_batch(
        torch.Generator().manual_seed(0), [gtab], shape=(20, 8, 8), affine=affine, with_truth=False
    )
    amounts = fibre_amounts(drawn.brains, drawn.tissues)
    torch.testing.assert_close(amounts.sum(dim=1), drawn.fractions[:, 0], atol=1e-5, rtol=0)
    axes = drawn.brains.fibres[0].numpy()
    labels = labels_of_truth(
        drawn.fractions[0].numpy(), axes, amounts[0].numpy(), drawn.mask[0].numpy()
    )
    assert set(np.unique(labels.tissue)) == {0, 1, 2, 3}
    assert ((labels.tissue == 0) == ~drawn.mask[0].numpy()).all()
    counts = np.bincount(labels.n_peaks[labels.white], minlength=4)
    assert counts[0] == 0
    assert (counts[1:3] > 0).all()
    # v v^T has norm 1, and belongs to the largest population.
    white = labels.white
    largest = amounts[0].argmax(dim=0).numpy()[white]
    v = np.moveaxis(axes, (0, 1), (-2, -1))[white][np.arange(white.sum()), largest]
    expected = np.stack([v[:, 0] ** 2, v[:, 1] ** 2, v[:, 2] ** 2], axis=1)
    np.testing.assert_allclose(labels.direction[:, white].T[:, [0, 3, 5]], expected, atol=1e-5)


def stick(directions: NDArray[np.float64], along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signal at b=1000 of a bundle with diffusivities 1.7, 0.2, 0.2 um^2/ms."""
    signal: NDArray[np.float64] = np.exp(-0.2 - 1.5 * (directions @ along) ** 2)
    return signal


def test_fits_find_known_fibres_and_tissues() -> None:
    axes = fixed_directions(60)
    gtab = GradientTable(np.full(60, 1000.0), axes)
    x, y = np.array(axis(20.0)), np.array(axis(110.0))
    volume = np.zeros((12, 6, 4, 60), dtype=np.float32)
    volume[:5] = stick(axes, x)
    volume[5] = 0.5 * (stick(axes, x) + stick(axes, y))
    volume[6:9] = np.exp(-0.8)
    volume[9:] = np.exp(-3.0)
    volume += np.random.default_rng(0).normal(0, 0.005, volume.shape).astype(np.float32)
    mask = np.ones(volume.shape[:3], dtype=bool)
    mask[0, 0] = False
    labels = labels_by_fits(volume * mask[..., None], gtab, mask)
    assert (labels.tissue[~mask] == 0).all()
    assert (labels.tissue[1:5] == 1).all()
    assert (labels.tissue[6:9] == 2).all()
    assert (labels.tissue[10:] == 3).all()
    assert (labels.n_peaks[1:5] == 1).all()
    dyadic = np.array([x[0] ** 2, np.sqrt(2) * x[0] * x[1], 0, x[1] ** 2, 0, 0])
    # The sphere of dipy has 724 points: an axis is met to 5 degrees, and noise adds to it.
    found = labels.direction[:, 1:5].reshape(6, -1)
    assert (dyadic @ found > np.cos(np.deg2rad(6.0)) ** 2).all()
    assert (labels.n_peaks[5] == 2).all()
    some = np.zeros_like(mask)
    some[2] = True
    fewer = labels_by_fits(volume * mask[..., None], gtab, mask, where=some)
    assert (fewer.n_peaks[some] == labels.n_peaks[some]).all()
    assert not fewer.n_peaks[~some].any()


def test_a_dozen_directions_label_no_peaks() -> None:
    gtab = GradientTable(np.full(12, 1000.0), fixed_directions(12))
    with pytest.raises(GradientError, match="12 distinct directions"):
        labels_by_fits(np.ones((2, 2, 2, 12), np.float32), gtab, np.ones((2, 2, 2), bool))


@pytest.mark.realdata
def test_peaks_of_a_real_slab_lie_along_its_tensors(data_dir: Path) -> None:
    stem = data_dir / "crops" / "b1k_b2k"
    dwi = Dwi.from_files(*(f"{stem}_dwi{end}" for end in (".nii.gz", ".bval", ".bvec")))
    b0 = dwi.mean_b0()
    mask = b0 > 0.15 * np.percentile(b0, 98)
    index = list(choose_shell(dwi.gtab).index)
    signal = normalise_b0(dwi.data, dwi.gtab, mask=mask).signal[..., index]
    where = np.zeros_like(mask)
    where[42:62, 42:62] = True
    labels = labels_by_fits(signal, dwi.gtab.select(index), mask, where=where)
    single = labels.white & where & (labels.n_peaks == 1)
    assert 200 < single.sum() < 600
    maps = fit_tensor(dwi, mask=mask)
    v1 = torch.from_numpy(np.ascontiguousarray(maps.v1[single], dtype=np.float32))
    cosines = np.sqrt((dyadic_code(v1).numpy().T * labels.direction[:, single]).sum(axis=0))
    # Two estimates of one axis from 30 directions; the sphere of the peaks adds up to 5 degrees.
    assert np.degrees(np.arccos(np.clip(np.median(cosines), 0, 1))) < 6
    fa = [np.median(maps.scalars["fa"][labels.tissue == k]) for k in (1, 2, 3)]
    md = [np.median(maps.scalars["md"][labels.tissue == k]) for k in (1, 2, 3)]
    assert fa[0] > 2 * fa[1]
    assert md[2] > 1.5 * max(md[:2])
