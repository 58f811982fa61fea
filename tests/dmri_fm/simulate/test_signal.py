from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.simulate import draw_anatomy, draw_protocol, draw_sample
from dmri_fm.simulate.anatomy import smooth_field
from dmri_fm.simulate.signal import (
    add_noise,
    blur_volumes,
    draw_tissue,
    noise_free_signal,
    true_tensor,
)

AFFINE = np.array([[8.0, 0, 0, -92], [0, 8, 0, -128], [0, 0, 8, -70], [0, 0, 0, 1]])
SHAPE = (24, 28, 20)


def to_matrices(tensor: np.ndarray) -> np.ndarray:
    return tensor[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(*tensor.shape[:-1], 3, 3)


def test_same_seed_same_sample_and_other_seed_other_sample() -> None:
    a, b, c = (draw_sample(np.random.default_rng(s), shape=(12, 12, 12)) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.signal, b.signal)
    np.testing.assert_array_equal(a.truth_tensor, b.truth_tensor)
    assert not np.array_equal(a.signal, c.signal)


@pytest.mark.parametrize("seed", range(4))
def test_samples_are_finite_and_plausible(seed: int) -> None:
    sample = draw_sample(np.random.default_rng(seed), shape=(20, 20, 20))
    assert sample.signal.shape == (20, 20, 20, 7)
    assert sample.signal.dtype == np.float32
    assert np.isfinite(sample.signal).all()
    assert (sample.signal >= 0).all()
    values = np.linalg.eigvalsh(to_matrices(sample.truth_tensor[sample.mask].astype(float)))
    assert values.min() > 0
    assert values.max() < 4e-3
    assert not sample.truth_tensor[~sample.mask].any()
    total = sample.fractions.sum(axis=3)
    np.testing.assert_allclose(total[sample.mask], 1.0, atol=1e-4)
    np.testing.assert_allclose(sample.affine[:3, :3].diagonal(), sample.voxel_size_mm)


def test_whole_brain_has_the_diffusivities_of_a_brain() -> None:
    rng = np.random.default_rng(3)
    gtab = draw_protocol(rng, kind="shell", bvals=1000, n_directions=6)
    sample = draw_sample(rng, shape=SHAPE, affine=AFFINE, gtab=gtab)
    # A brain of 1.2 to 2.3 litres.
    assert 1.2e6 < sample.mask.sum() * 8**3 < 2.3e6
    values = np.linalg.eigvalsh(to_matrices(sample.truth_tensor.astype(float)))
    md = values.mean(axis=3)
    white, fluid = sample.fractions[..., 0] > 0.9, sample.fractions[..., 2] > 0.9
    assert 0.5e-3 < np.median(md[white]) < 1.1e-3
    assert 1.8e-3 < np.median(md[fluid]) < 3.5e-3
    assert sample.truth_bval == 1000


def test_callosum_runs_left_right_when_orientations_follow_the_atlas() -> None:
    rng = np.random.default_rng(4)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = [-12, -30, 14]
    anatomy = draw_anatomy(
        rng, (12, 24, 10), affine=affine, jitter=0, deformation_mm=0, lesion_chance=0
    )
    inside = (anatomy.wm > 0.9) & (np.abs(anatomy.mni_mm[0]) < 6)
    assert inside.sum() > 20
    assert np.median(np.abs(anatomy.fibres[0, 0][inside])) > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_bundles_run_along_their_fibres(seed: int) -> None:
    """A step along a fibre changes the axis less than one along the mirrored or permuted axis."""
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = [-72, -105, -45]
    anatomy = draw_anatomy(
        np.random.default_rng(seed), (48, 60, 40), affine=affine, atlas_weight=0.3
    )
    inside = np.argwhere(anatomy.wm > 0.8)
    axes = np.moveaxis(anatomy.fibres[0], 0, -1)

    def continuity(matrix: np.ndarray) -> float:
        turned = axes @ matrix.T
        here = turned[tuple(inside.T)]
        there = np.clip(np.rint(inside + here).astype(int), 0, np.array(anatomy.wm.shape) - 1)
        kept = anatomy.wm[tuple(there.T)] > 0.3
        return float(np.abs((here * turned[tuple(there.T)]).sum(axis=1))[kept].mean())

    others = [
        np.diag([-1, 1, 1]),
        np.diag([1, -1, 1]),
        np.diag([1, 1, -1]),
        np.eye(3)[[1, 0, 2]],
        np.eye(3)[[0, 2, 1]],
        np.eye(3)[[2, 1, 0]],
    ]
    assert continuity(np.eye(3)) > max(continuity(m) for m in others)


def test_isotropic_tissue_has_an_isotropic_tensor_and_decays_as_stated() -> None:
    rng = np.random.default_rng(5)
    anatomy = draw_anatomy(rng, SHAPE, affine=AFFINE)
    tissue = draw_tissue(rng)
    gtab = GradientTable([0, 1000, 2000], [[0, 0, 0], [1, 0, 0], [0, 0.6, 0.8]])
    signal = noise_free_signal(anatomy, tissue, gtab)
    fluid = anatomy.csf > 0.999
    expected = tissue.intensity[2] * np.exp(-np.array([0, 1, 2]) * tissue.csf)
    assert fluid.any()
    np.testing.assert_allclose(
        signal[fluid], np.broadcast_to(expected, signal[fluid].shape), rtol=0.05
    )
    assert not signal[~anatomy.mask].any()
    tensor = true_tensor(anatomy, tissue, bval=1000)[fluid]
    np.testing.assert_allclose(tensor[:, [0, 3, 5]].mean(), 1e-3 * tissue.csf, rtol=0.02)
    assert np.abs(tensor[:, [1, 2, 4]]).max() < 2e-5


def test_higher_b_gives_a_lower_apparent_diffusivity() -> None:
    rng = np.random.default_rng(6)
    anatomy = draw_anatomy(rng, SHAPE, affine=AFFINE)
    tissue = draw_tissue(rng)
    white = anatomy.wm > 0.9
    md = [
        true_tensor(anatomy, tissue, bval=b)[white][:, [0, 3, 5]].mean() for b in (500, 1500, 3000)
    ]
    assert md[0] > md[1] > md[2]


def test_signal_does_not_depend_on_the_sign_of_the_gradient() -> None:
    rng = np.random.default_rng(7)
    anatomy = draw_anatomy(rng, SHAPE, affine=AFFINE)
    tissue = draw_tissue(rng)
    gtab = draw_protocol(rng)
    flipped = GradientTable(gtab.bvals, -gtab.bvecs_ras)
    np.testing.assert_allclose(
        noise_free_signal(anatomy, tissue, gtab),
        noise_free_signal(anatomy, tissue, flipped),
        rtol=1e-6,
    )


def test_noise_is_rician() -> None:
    rng = np.random.default_rng(8)
    signal = np.zeros((40, 40, 40, 1), dtype=np.float32)
    signal[20:] = 100.0
    for correlation in (0.0, 0.5):
        noisy = add_noise(rng, signal, sigma=5.0, correlation=correlation)
        # Rayleigh mean sigma sqrt(pi / 2) without signal; about sqrt(A^2 + sigma^2) with it.
        assert noisy[:18].mean() == pytest.approx(5 * np.sqrt(np.pi / 2), rel=0.03)
        assert noisy[22:].mean() == pytest.approx(100 + 25 / 200, rel=0.002)
        assert noisy[22:].std() == pytest.approx(5.0, rel=0.03)
    x = noisy[22:, :, :, 0] - noisy[22:].mean()
    assert (x[1:] * x[:-1]).mean() / x.var() > 0.2


def test_blur_keeps_constants_and_sums() -> None:
    rng = np.random.default_rng(9)
    data = rng.uniform(size=(6, 7, 8, 2)).astype(np.float32)
    blurred = blur_volumes(data, 0.1)
    np.testing.assert_allclose(blurred.sum(), data.sum(), rtol=1e-5)
    np.testing.assert_allclose(blur_volumes(np.ones((4, 4, 4, 1), np.float32), 0.12), 1, rtol=1e-6)
    assert blurred.std() < data.std()


def test_smooth_fields_have_unit_variance_and_are_smooth() -> None:
    rng = np.random.default_rng(10)
    field = smooth_field(rng, (60, 50, 40), spacing=[5, 6, 7], n_channels=20)
    assert field.shape == (20, 60, 50, 40)
    assert field.std() == pytest.approx(1.0, abs=0.1)
    assert np.abs(np.diff(field, axis=1)).mean() < 0.25


def test_bad_requests_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="shape"):
        draw_sample(rng, shape=(4, 4))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="SNR"):
        draw_sample(rng, snr=0)
    with pytest.raises(ConfigError, match="one kind of volume"):
        draw_sample(rng, gtab=GradientTable([0, 0], np.zeros((2, 3))))
