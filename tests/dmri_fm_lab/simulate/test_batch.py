"""Laws of the training generator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate import draw_batch, draw_protocol, spread_directions
from dmri_fm_lab.simulate.acquisition import (
    add_noise,
    apply_per_axis,
    displace,
    distort,
    eddy_slopes,
    jitter_volumes,
    point_spread,
    real_gradients,
)
from dmri_fm_lab.simulate.brains import Brains, Variation, draw_brains
from dmri_fm_lab.simulate.fields import smooth_fields
from dmri_fm_lab.simulate.mixture import (
    Tissues,
    dense_shell,
    draw_tissues,
    fit_shell,
    mixture,
    scalars,
)

SHAPE = (16, 18, 14)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def protocols(n: int) -> list[GradientTable]:
    return [draw_protocol(np.random.default_rng(k)) for k in range(n)]


def brain(seed: int = 0, *, voxel_mm: float = 8.0, **options: float) -> Brains:
    """A whole brain, coarse."""
    size = tuple(round(n / voxel_mm) for n in (184, 220, 180))
    affine = torch.diag(torch.tensor([voxel_mm, voxel_mm, voxel_mm, 1.0]))
    affine[:3, 3] = torch.tensor([-90.0, -126.0, -72.0])
    weight = torch.ones(1)
    return draw_brains(
        seeded(seed), size, affine[None], atlas_weight=weight, variation=Variation(**options)
    )


def to_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Tensors (B, 6, ...) as matrices (..., 3, 3)."""
    full = tensor[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].movedim(1, -1)
    return full.reshape(*full.shape[:-1], 3, 3)


def true_tensor(brains: Brains, tissues: Tissues, *, bval: float = 1.0) -> torch.Tensor:
    axes = dense_shell(torch.device("cpu"))
    bvals = torch.tensor([[0.0] + [bval] * len(axes)])
    signal = mixture(brains, tissues, bvals, torch.cat([axes[:1], axes])[None])
    return fit_shell(signal[:, 1:], signal[:, 0], torch.tensor([bval]))


def test_same_seed_same_numbers_and_other_seed_others() -> None:
    a, b, c = (draw_batch(seeded(s), protocols(2), shape=SHAPE) for s in (1, 1, 2))
    assert torch.equal(a.signal, b.signal)
    assert torch.equal(a.truth_tensor, b.truth_tensor)
    assert not torch.equal(a.signal, c.signal)


@pytest.mark.parametrize("seed", range(4))
def test_samples_are_finite_and_plausible(seed: int) -> None:
    batch = draw_batch(seeded(seed), protocols(3), shape=SHAPE)
    assert batch.signal.shape == (3, 7, *SHAPE)
    assert torch.isfinite(batch.signal).all()
    assert (batch.signal >= 0).all()
    inside = batch.mask[:, None].expand(-1, 6, -1, -1, -1)
    assert not batch.truth_tensor[~inside].any()
    values = torch.linalg.eigvalsh(to_matrix(batch.truth_tensor)[batch.mask].double())
    assert values.min() > -1e-4
    assert values.max() < 4.5e-3
    total = batch.fractions.sum(dim=1)
    torch.testing.assert_close(total[batch.mask], torch.ones(int(batch.mask.sum())))
    assert not total[~batch.mask].any()
    voxel_mm = batch.affine[:, :3, :3].norm(dim=1)
    assert ((voxel_mm >= 1.19) & (voxel_mm <= 4.01)).all()


def test_signal_does_not_depend_on_the_sign_of_the_gradient() -> None:
    brains, tissues = brain(), draw_tissues(seeded(1), 1)
    axes = torch.from_numpy(spread_directions(np.random.default_rng(0), 6)).float()[None]
    bvals = torch.full((1, 6), 1.2)
    assert torch.equal(
        mixture(brains, tissues, bvals, axes), mixture(brains, tissues, bvals, -axes)
    )


def test_turning_fibres_and_gradients_together_turns_the_truth() -> None:
    brains, tissues = brain(2), draw_tissues(seeded(2), 1)
    turn = torch.from_numpy(Rotation.from_euler("xyz", [40, -25, 70], degrees=True).as_matrix())
    turn = turn.float()
    turned = replace(
        brains,
        fibres=torch.einsum("ij,bpjxyz->bpixyz", turn, brains.fibres),
        cortical=torch.einsum("ij,bjxyz->bixyz", turn, brains.cortical),
    )
    axes = torch.from_numpy(spread_directions(np.random.default_rng(0), 6)).float()[None]
    bvals = torch.full((1, 6), 1.0)
    torch.testing.assert_close(
        mixture(brains, tissues, bvals, axes),
        mixture(turned, tissues, bvals, axes @ turn.T),
        rtol=1e-4,
        atol=1e-3,
    )
    expected = turn @ to_matrix(true_tensor(brains, tissues)) @ turn.T
    found = to_matrix(true_tensor(turned, tissues))
    # The dense shell stays where it is: what is left is its error, um^2/ms.
    assert (found - expected)[brains.mask].abs().quantile(0.999) < 0.01


def test_gaussian_voxel_has_its_own_tensor_as_truth() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(50, 3, 3))
    root /= np.linalg.norm(root, axis=(1, 2), keepdims=True)
    tensors = torch.from_numpy(2.5 * root @ root.transpose(0, 2, 1) + 0.2 * np.eye(3))
    axes = dense_shell(torch.device("cpu"))
    adc = torch.einsum("ni,vij,nj->nv", axes.double(), tensors, axes.double())
    s0 = torch.full((1, 50), 300.0, dtype=torch.float64)
    found = fit_shell((s0 * torch.exp(-0.7 * adc))[None], s0, torch.tensor([0.7]).double())
    torch.testing.assert_close(to_matrix(found)[0], tensors, rtol=0, atol=1e-6)


def test_scalars_are_those_of_the_eigenvalues() -> None:
    turn = Rotation.from_euler("xyz", [20, 50, -70], degrees=True).as_matrix()
    full = turn @ np.diag([1.7, 0.4, 0.2]) @ turn.T
    tensor = torch.from_numpy(full[np.triu_indices(3)]).reshape(6, 1, 1, 1)
    found = {name: value[0, 0, 0] for name, value in scalars(tensor).items()}
    assert found["md"] == pytest.approx(2.3 / 3)
    assert found["ad"] == pytest.approx(1.7)
    assert found["rd"] == pytest.approx(0.3)
    md = 2.3 / 3
    spread = (1.7 - md) ** 2 + (0.4 - md) ** 2 + (0.2 - md) ** 2
    assert found["fa"] == pytest.approx(np.sqrt(1.5 * spread / (1.7**2 + 0.4**2 + 0.2**2)))
    assert abs(found["v1"].numpy() @ turn[:, 0]) == pytest.approx(1)


def test_truth_is_the_fit_of_a_dense_shell() -> None:
    brains, tissues = brain(3), draw_tissues(seeded(3), 1)
    axes = spread_directions(np.random.default_rng(0), 200, n_steps=300)
    signal = mixture(brains, tissues, torch.ones(1, 200), torch.from_numpy(axes).float()[None])[
        0
    ].flatten(1)[:, brains.mask[0].flatten()]
    s0 = mixture(brains, tissues, torch.zeros(1, 1), torch.ones(1, 1, 3))[0, 0][brains.mask[0]]
    x, y, z = axes.T
    design = np.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z], axis=1)
    ratio = (signal / s0).numpy().astype(np.float64)
    normal = np.einsum("ni,nj,nv->vij", design, design, ratio**2)
    right = np.einsum("ni,nv->vi", design, -np.log(ratio) * ratio**2)
    dense = np.linalg.solve(normal, right[..., None])[..., 0]
    found = true_tensor(brains, tissues)[0].movedim(0, 3)[brains.mask[0]].numpy()
    assert np.quantile(np.abs(found - dense), 0.999) < 0.01


def test_brain_looks_like_a_brain() -> None:
    brains = brain(4, voxel_mm=4.0, lesion_chance=0.0, tumour_chance=0.0)
    assert 1.0e6 < brains.mask.sum() * 4.0**3 < 2.4e6
    values = torch.linalg.eigvalsh(to_matrix(true_tensor(brains, draw_tissues(seeded(5), 1))))
    md = values.mean(dim=-1)
    white, fluid = brains.fractions[:, 0] > 0.9, brains.fractions[:, 2] > 0.9
    assert 0.5 < md[white].median() < 1.1
    assert 1.8 < md[fluid].median() < 3.5
    assert not brains.fractions[:, 3].any()


def test_callosum_runs_left_right_when_orientations_follow_the_atlas() -> None:
    brains = brain(5, voxel_mm=2.0, jitter=0.0, deformation_mm=0.0, lesion_chance=0.0)
    x, y, z = brains.mni_mm[0]
    inside = (brains.fractions[0, 0] > 0.9) & (x.abs() < 6) & (y.abs() < 30) & (z > 14) & (z < 34)
    assert inside.sum() > 20
    assert brains.fibres[0, 0, 0][inside].abs().median() > 0.8


def test_map_to_mni_space_is_one_to_one() -> None:
    for seed in range(5):
        brains = brain(seed, voxel_mm=4.0)
        slopes = torch.gradient(brains.mni_mm[0], spacing=4.0, dim=(1, 2, 3))
        assert torch.linalg.det(torch.stack(slopes, dim=-1).movedim(0, -2)).min() > 0.1


def test_point_spread_keeps_sums_and_rings_at_edges() -> None:
    none = point_spread(32, blur_voxels=torch.zeros(1))
    torch.testing.assert_close(none[0], torch.eye(32), atol=1e-6, rtol=0)
    wide = point_spread(
        32,
        blur_voxels=torch.tensor([0.4]),
        cutoff=torch.tensor([0.8]),
        partial=torch.tensor([0.75]),
    )
    torch.testing.assert_close(wide.sum(dim=2), torch.ones(1, 32))
    edge = torch.zeros(128)
    edge[32:96] = 1.0
    sharp = point_spread(128, blur_voxels=torch.zeros(1), cutoff=torch.tensor([0.5]))
    overshoot = (sharp[0] @ edge).max() - 1
    assert 0.05 < overshoot < 0.15  # 9 % of the step


@pytest.mark.parametrize("n_coils", [1, 3])
@pytest.mark.parametrize("width", [0.0, 0.5])
def test_noise_has_the_stated_distribution(n_coils: int, width: float) -> None:
    matrices = tuple(point_spread(24, blur_voxels=torch.tensor([width])) for _ in range(3))
    dark = add_noise(
        seeded(0),
        torch.zeros(1, 4, 24, 24, 24),
        sigma=torch.tensor(5.0),
        n_coils=[n_coils],
        correlation=matrices,
    )
    assert (dark**2).mean() == pytest.approx(2 * n_coils * 25.0, rel=0.03)
    bright = add_noise(
        seeded(0),
        torch.full((1, 4, 24, 24, 24), 500.0),
        sigma=torch.tensor(5.0),
        n_coils=[n_coils],
    )
    assert bright.std() == pytest.approx(5.0, rel=0.03)
    assert apply_per_axis(dark, matrices).shape == dark.shape


def test_noise_is_correlated_only_in_scans_with_a_point_spread() -> None:
    matrices = tuple(point_spread(24, blur_voxels=torch.tensor([0.0, 0.6])) for _ in range(3))
    bright = add_noise(
        seeded(0),
        torch.full((2, 4, 24, 24, 24), 500.0),
        sigma=torch.tensor(5.0),
        correlation=matrices,
    )
    noise = bright - 500.0
    neighbours = (noise * noise.roll(1, 2)).mean(dim=(1, 2, 3, 4)) / 25.0
    assert neighbours[0].abs() < 0.02
    assert neighbours[1] > 0.1


def test_displacement_moves_the_centre_of_mass_by_the_shift() -> None:
    line = torch.zeros(9)
    line[4] = 1.0
    for shift in (-0.7, 0.0, 0.3):
        moved = displace(line, torch.tensor(shift), 0)
        assert (moved * (torch.arange(9) - 4)).sum() == pytest.approx(shift, abs=1e-6)
    assert torch.equal(displace(torch.ones(9), torch.tensor(0.4), 0), torch.ones(9))


def test_jitter_moves_volumes_of_the_scans_that_moved() -> None:
    signal = torch.rand(2, 3, 8, 8, 8, generator=seeded(0))
    moved = jitter_volumes(seeded(1), signal, deviation=torch.tensor([0.0, 0.1]))
    assert torch.equal(moved[0], signal[0])
    assert not any(torch.equal(a, b) for a, b in zip(moved[1], signal[1], strict=True))


def test_distortion_is_that_of_all_volumes_piles_up_and_keeps_the_sum() -> None:
    ball = torch.zeros(1, 2, 24, 24, 24)
    ball[:, :, 6:18, 6:18, 6:18] = 100.0
    ball = apply_per_axis(ball, (point_spread(24, blur_voxels=torch.tensor([2.0])),) * 3)
    field = 0.5 * smooth_fields(seeded(0), (24, 24, 24), spacing=torch.full((1, 3), 10.0))[:, 0]
    still = torch.zeros(1, 2, 3)
    distorted = distort(ball, field, still)
    assert torch.equal(distorted[:, 0], distorted[:, 1])
    assert (distorted - ball).abs().max() > 1.0
    along_y = ball.sum(dim=3)
    error = (distorted.sum(dim=3) - along_y).abs().max() / along_y.max()
    assert error < 0.01
    unmodulated = (displace(ball, field[:, None], 3).sum(dim=3) - along_y).abs().max()
    assert unmodulated / along_y.max() > 2 * error
    assert torch.equal(distort(ball, torch.zeros_like(field), still), ball)


def test_opposite_gradients_leave_opposite_eddy_distortions() -> None:
    axes = torch.from_numpy(spread_directions(np.random.default_rng(0), 6)).float()
    bvecs = torch.cat([axes[:1], axes, -axes, axes])[None]
    bvals = torch.tensor([[0.0] + [1000.0] * 12 + [250.0] * 6])
    slopes = eddy_slopes(seeded(0), bvals, bvecs, deviation=torch.tensor([0.004]))[0]
    assert not slopes[0].any()
    torch.testing.assert_close(slopes[1:7], -slopes[7:13])
    torch.testing.assert_close(slopes[13:], slopes[1:7] / 2)
    assert 1e-4 < slopes.abs().max() <= 0.01
    ramp = torch.arange(24.0).expand(1, 19, 24, 24, 24).movedim(4, 3)
    moved = distort(ramp, torch.zeros(1, 24, 24, 24), slopes[None])
    expected = (1 - slopes[:, 1]) * (
        ramp[0, 0, 23, 12, 23] - slopes @ torch.tensor([11.5, 0.5, 11.5])
    )
    torch.testing.assert_close(moved[0, :, 23, 12, 23], expected, rtol=1e-5, atol=1e-5)


def test_played_gradients_differ_a_little_from_the_table() -> None:
    axes = torch.from_numpy(spread_directions(np.random.default_rng(0), 6)).float()
    bvecs = torch.cat([torch.zeros(1, 3), axes, -axes]).expand(200, -1, -1)
    bvals = torch.tensor([0.0] + [1.0] * 12).expand(200, -1)
    played, turned = real_gradients(seeded(0), bvals, bvecs)
    assert not played[:, 0].any()
    assert torch.equal(played[:, 1:7], played[:, 7:])
    scale = played[:, 1:7] / played[:, 1:7].mean(dim=1, keepdim=True)
    assert 0.003 < scale.std() < 0.02
    assert 0.005 < played[:, 1:].std() < 0.03
    torch.testing.assert_close(turned[:, 1:].norm(dim=2), torch.ones(200, 12))
    angle = torch.rad2deg(torch.linalg.cross(turned[:, 1:], bvecs[:, 1:]).norm(dim=2).asin())
    assert 0.3 < angle.mean() < 1.5


def test_neighbours_mix_most_at_the_border_of_bundles() -> None:
    brains = brain(3, voxel_mm=3.0)
    inside = brains.mask[0]
    kinds, share = brains.bundle[0], brains.neighbour[0]
    assert share.min() >= 0
    assert share.max() <= 0.5
    assert not share[~inside].any()
    both = inside[1:] & inside[:-1]
    is_border = (kinds[1:] != kinds[:-1]) & both
    mixed = torch.maximum(share[1:], share[:-1])
    assert mixed[is_border].median() > mixed[both & ~is_border].median() + 0.05
    # One bundle's main axis is its neighbour's second one, but for bends: chance is 0.5.
    here, there = (
        brains.fibres[0, 0, :, 1:][:, is_border],
        brains.fibres[0, 1, :, :-1][:, is_border],
    )
    assert (here * there).sum(dim=0).abs().median() > 0.75


def test_field_of_view_may_leave_slices_out() -> None:
    affine = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0]))[None]
    options = {"atlas_weight": torch.ones(1)}
    whole = draw_brains(seeded(0), (20, 20, 20), affine, **options)
    slab = draw_brains(
        seeded(0), (20, 20, 20), affine, **options, variation=Variation(slab_chance=1.0)
    )
    slices = slab.mask[0].any(dim=(0, 1))
    n_empty = int((~slices).sum())
    assert whole.mask[0].any(dim=(0, 1)).all()
    assert 2 <= n_empty <= 10
    assert not slices[:n_empty].any() or not slices[-n_empty:].any()
    assert not slab.fractions[0][:, :, :, ~slices].any()


def test_smooth_fields_have_unit_variance_and_are_smooth() -> None:
    field = smooth_fields(seeded(0), (60, 50, 40), spacing=torch.full((8, 3), 6.0), n_channels=2)
    assert field.shape == (8, 2, 60, 50, 40)
    assert field.var() == pytest.approx(1.0, rel=0.15)
    assert torch.diff(field, dim=2).std() < 0.3


def test_bad_requests_are_refused() -> None:
    good = protocols(1)
    with pytest.raises(ConfigError, match="atlas weight"):
        draw_batch(seeded(0), protocols(1), shape=SHAPE, atlas_weight=float("nan"))
    with pytest.raises(ConfigError, match="affine"):
        draw_batch(seeded(0), protocols(1), shape=SHAPE, affine=torch.zeros(4, 4))
    draw_batch(seeded(0), protocols(1), shape=SHAPE, affine=torch.eye(4).double())
    with pytest.raises(ConfigError, match="shape"):
        draw_batch(seeded(0), good, shape=(4, 4))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="SNR"):
        draw_batch(seeded(0), good, shape=SHAPE, snr=0)
    with pytest.raises(ConfigError, match="equal length"):
        draw_batch(seeded(0), [], shape=SHAPE)
    with pytest.raises(ConfigError, match="one kind"):
        draw_batch(seeded(0), [GradientTable([0, 0], np.zeros((2, 3)))], shape=SHAPE)
