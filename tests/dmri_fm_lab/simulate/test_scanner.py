"""Laws of the scans that trxscan makes, and the two generators side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trxscan

from dmri_fm.distortion import DistortionField, PhaseEncoding, correct_image
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.simulate.anatomy import draw_anatomy
from dmri_fm_lab.simulate.brains import Brains
from dmri_fm_lab.simulate.fibres import N_REGIONS
from dmri_fm_lab.simulate.mixture import Tissues, mixture
from dmri_fm_lab.simulate.scanner import (
    Acquisition,
    acquire,
    acquire_fieldmap,
    draw_motion,
    t1w_image,
)
from dmri_fm_lab.simulate.subject import Subject, Tissue, place_subject
from dmri_fm_lab.simulate.truth import true_tensor

B0 = GradientTable(np.zeros(2), np.zeros((2, 3)))


@pytest.fixture(scope="module")
def subject() -> Subject:
    rng = np.random.default_rng(4)
    return place_subject(
        draw_anatomy(rng), Tissue(), voxel_size_mm=(5.0, 5.0, 5.0), rng=rng, field_peak_hz=60.0
    )


def move(volume: np.ndarray, affine: np.ndarray, xfm: np.ndarray) -> np.ndarray:
    """Resample a volume so that what was at x (RAS mm) is at ``xfm @ x``."""
    from scipy.ndimage import affine_transform

    pull = np.linalg.inv(affine) @ np.linalg.inv(xfm) @ affine
    return affine_transform(volume, pull[:3, :3], offset=pull[:3, 3], order=1)


def test_same_seed_gives_the_same_scan_and_another_seed_other_noise(subject: Subject) -> None:
    noisy = Acquisition(sigma=20.0, seed=1)
    first, again = acquire(subject, B0, noisy), acquire(subject, B0, noisy)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, acquire(subject, B0, replace(noisy, seed=2)))
    assert np.isfinite(first).all()
    assert first.min() >= 0


def test_opposite_gradients_give_the_same_signal(subject: Subject) -> None:
    axes = spread_directions(np.random.default_rng(0), 3)
    gtab = GradientTable(np.full(6, 1000.0), np.concatenate([axes, -axes]))
    data = acquire(subject, gtab, Acquisition())
    # Every volume has a phase of its own, which the echo's sampling does not quite forget.
    np.testing.assert_allclose(data[..., :3], data[..., 3:], atol=5e-3 * data.max())
    assert np.abs(data[..., 0] - data[..., 1]).max() > 2e-2 * data.max()


@pytest.mark.parametrize("partial_fourier", [1.0, 0.75])
def test_noise_has_the_stated_deviation(subject: Subject, partial_fourier: float) -> None:
    acquisition = Acquisition(partial_fourier=partial_fourier, is_distorted=False)
    clean = acquire(subject, B0, acquisition)[..., 0]
    noisy = acquire(subject, B0, replace(acquisition, sigma=15.0))[..., 0]
    bright = clean > 300
    # In bright tissue the magnitude's noise is that of one channel.
    assert (noisy - clean)[bright].std() == pytest.approx(15.0, rel=0.1)
    air = clean < 1
    # Rayleigh noise without signal.
    assert noisy[air].mean() == pytest.approx(15.0 * np.sqrt(np.pi / 2), rel=0.15)


def test_head_that_stays_gives_what_a_head_at_rest_gives(subject: Subject) -> None:
    """The truth is made of heads at rest; a moving one is scanned twice."""
    gtab = GradientTable([0.0, 1000.0, 2000.0], [[0, 0, 0], [1, 0, 0], [0, 0.6, 0.8]])
    clean = Acquisition(is_distorted=False)
    rest = acquire(subject, gtab, clean)
    moving = acquire(subject, gtab, clean, xfms=np.stack([np.eye(4)] * 3))
    for part in (subject.fractions.wm, subject.fractions.gm, subject.fractions.csf):
        inside = part > 0.9
        found, expected = (data[inside].mean(axis=0) for data in (moving, rest))
        # Edges ring twice, which the little signal of fluid at high b shows most.
        np.testing.assert_allclose(found, expected, rtol=0.015, atol=0.001 * expected[0])


def test_head_moves_as_the_transforms_say(subject: Subject) -> None:
    """A point x of the head is at xfm @ x; turns are about the scanner's origin."""
    xfms = np.stack([np.eye(4)] * 3)
    xfms[1, :3, 3] = [10.0, -5.0, 10.0]
    angle = np.deg2rad(10.0)
    xfms[2, :2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    gtab = GradientTable(np.zeros(3), np.zeros((3, 3)))
    data = acquire(subject, gtab, Acquisition(is_distorted=False), xfms=xfms)
    for n in (1, 2):
        expected = move(data[..., 0], subject.affine, xfms[n])
        error = np.abs(data[..., n] - expected).mean()
        assert error < 0.4 * np.abs(data[..., n] - data[..., 0]).mean()
        mirrored = move(data[..., 0], subject.affine, np.linalg.inv(xfms[n]))
        assert error < 0.4 * np.abs(data[..., n] - mirrored).mean()


@pytest.mark.parametrize("bval", [0.0, 1000.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_movements_of_a_part_of_a_voxel_are_not_rounded(
    subject: Subject, axis: int, bval: float
) -> None:
    """Fibres and tissue move together, by as much as the transform says (voxels are 5 mm)."""
    moved_mm = np.array([0.0, 0.5, 1.5, 3.5])
    xfms = np.tile(np.eye(4), (len(moved_mm), 1, 1))
    xfms[:, axis, 3] = moved_mm
    gtab = GradientTable(np.full(4, bval), np.tile([0.6, 0.0, 0.8] if bval else [0, 0, 0], (4, 1)))
    data = acquire(subject, gtab, Acquisition(is_distorted=False), xfms=xfms)
    coordinate = subject.affine[axis, 3] + 5.0 * np.arange(subject.shape[axis])
    profiles = data.sum(axis=tuple(a for a in range(3) if a != axis))
    centre = coordinate @ profiles / profiles.sum(axis=0)
    np.testing.assert_allclose(centre - centre[0], moved_mm, atol=0.3)


def test_turning_head_turns_its_fibres(subject: Subject) -> None:
    """Anatomy and gradients turned together leave the signal where it was in the head."""
    angle = np.deg2rad(90.0)
    turn = np.eye(4)
    turn[:2, :2] = np.rint([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    gtab = GradientTable([1000.0, 1000.0], [[0.6, 0.8, 0.0], turn[:3, :3] @ [0.6, 0.8, 0.0]])
    clean = Acquisition(is_distorted=False)
    data = acquire(subject, gtab, clean, xfms=np.stack([np.eye(4), turn]))
    still = acquire(subject, gtab, clean)
    white = move(subject.fractions.wm, subject.affine, turn) > 0.9
    moved, unmoved = (move(d, subject.affine, turn)[white] for d in (data[..., 0], still[..., 1]))
    turned = data[..., 1][white]
    assert white.sum() > 200
    assert np.corrcoef(turned, moved)[0, 1] > 0.9
    # With gradients that stay, the fibres would look otherwise.
    assert np.corrcoef(turned, moved)[0, 1] > np.corrcoef(turned, unmoved)[0, 1] + 0.1


@pytest.mark.parametrize("phase_encoding", ["j", "j-"])
def test_correcting_with_the_true_field_returns_the_undistorted_image(
    subject: Subject, phase_encoding: str
) -> None:
    clean = Acquisition(phase_encoding=phase_encoding)
    distorted = acquire(subject, B0, clean)[..., 0]
    straight = acquire(subject, B0, replace(clean, is_distorted=False))[..., 0]

    def corrected(field_hz: np.ndarray) -> np.ndarray:
        return correct_image(
            distorted,
            subject.affine,
            field=DistortionField(field_hz, subject.affine),
            encoding=PhaseEncoding(phase_encoding, clean.readout_s),
        )

    inside = subject.fractions.mask
    before = np.abs(distorted - straight)[inside].mean()
    after = np.abs(corrected(subject.field_hz) - straight)[inside].mean()
    wrong = np.abs(corrected(-subject.field_hz) - straight)[inside].mean()
    # Linear interpolation between voxels of 5 mm is what is left.
    assert after < 0.6 * before
    assert wrong > 1.3 * before


def test_fieldmap_shows_the_field(subject: Subject) -> None:
    images = acquire_fieldmap(subject, seed=0)
    turns = (images["phasediff"][0] - 2048.0) / 4096.0
    apart_s = images["magnitude2"][1] - images["magnitude1"][1]
    inside = subject.fractions.mask & (np.abs(subject.field_hz) < 0.4 / apart_s)
    error = turns[inside] / apart_s - subject.field_hz[inside]
    assert np.median(np.abs(error)) < 3.0
    assert np.corrcoef(turns[inside], subject.field_hz[inside])[0, 1] > 0.8


def test_motion_starts_at_rest() -> None:
    xfms = draw_motion(np.random.default_rng(2), 12, step_mm=0.5, step_deg=0.5)
    np.testing.assert_array_equal(xfms[0], np.eye(4))
    np.testing.assert_allclose(np.linalg.det(xfms[:, :3, :3]), 1.0)
    assert np.abs(xfms[1:, :3, 3]).max() > 0.2


def test_t1w_has_the_contrast_of_one(subject: Subject) -> None:
    parts = subject.fractions
    image = t1w_image(np.random.default_rng(0), parts, voxel_size_mm=5.0)
    white, grey, fluid = (np.median(image[p > 0.9]) for p in (parts.wm, parts.gm, parts.csf))
    assert white > 1.2 * grey > 1.8 * fluid
    assert np.median(image[parts.scalp > 0.9]) > grey


@pytest.mark.parametrize("axis", [[1.0, 0.0, 0.0], [0.36, 0.48, 0.8]])
def test_both_generators_make_the_same_signal_of_the_same_tissue(axis: list[float]) -> None:
    """One bundle of parallel fibres, no noise: trxscan and the training generator agree."""
    tissue = Tissue(grey=0.8e-3)
    side = 8
    white = np.ones((2 * side, 2 * side, 4), dtype=np.float32)
    phantom = trxscan.objects.from_arrays(white, fibers=[(axis, 1.0)])
    flat = Subject(
        (side, side, 4),
        np.diag([2.0, 2.0, 2.0, 1.0]),
        None,  # type: ignore[arg-type]
        np.zeros((side, side, 4), np.float32),
        tissue,
        phantom,
    )
    bvecs = spread_directions(np.random.default_rng(3), 20)
    gtab = GradientTable([0.0] + [700.0] * 10 + [2000.0] * 10, np.vstack([np.zeros(3), bvecs]))
    scan = acquire(flat, gtab, Acquisition(is_distorted=False))[side // 2, side // 2, 2]

    one = (1, 1, 1)
    fibres = torch.tensor(axis).reshape(1, 1, 3, 1, 1, 1).expand(1, 3, 3, *one)
    brains = Brains(
        fractions=torch.tensor([1.0, 0, 0, 0]).reshape(1, 4, *one),
        mask=torch.ones(1, *one, dtype=torch.bool),
        bundle=torch.zeros(1, *one, dtype=torch.long),
        fibres=fibres,
        neighbour=torch.zeros(1, *one),
        cortical=fibres[:, 0],
        mni_mm=torch.zeros(1, 3, *one),
        affine=torch.eye(4)[None],
    )
    stick = [tissue.stick_fraction, 1e3 * tissue.stick, 0.0]
    white_matter = [*stick, 1e3 * tissue.parallel, 1e3 * tissue.radial, 0.0]
    tissues = Tissues(
        white=torch.tensor(white_matter).expand(1, N_REGIONS, -1),
        grey=torch.tensor([0.8, 5.0, 0.0, 0.0, 1.0, 1.0]).expand(1, N_REGIONS, -1),
        csf=torch.tensor([3.0]),
        lesion=torch.tensor([2.0]),
        intensity=torch.ones(1, 4),
    )
    mixed = mixture(
        brains,
        tissues,
        torch.tensor(gtab.bvals / 1000, dtype=torch.float32)[None],
        torch.tensor(gtab.bvecs_ras, dtype=torch.float32)[None],
    )[0, :, 0, 0, 0]
    # trxscan counts directions on a sphere of 321 points: two or three degrees.
    np.testing.assert_allclose(scan / scan[0], mixed.numpy() / mixed[0].item(), atol=0.04)
    assert (scan / scan[0]).std() > 0.05


def test_the_truth_does_not_ring() -> None:
    """A sharp edge: the images of k-space overshoot, the truth is the mean of each voxel."""
    side = 16
    white = np.zeros((2 * side, 2 * side, 2), dtype=np.float32)
    white[:, side + 3 :] = 1.0
    phantom = trxscan.objects.from_arrays(
        white, 1 - white, fibers=[([1.0, 0.0, 0.0], 1.0)], voxel_mm=2.0
    )
    subject = Subject(
        (side, side, 2),
        np.diag([2.0, 2.0, 2.0, 1.0]),
        None,  # type: ignore[arg-type]
        np.zeros((side, side, 2), np.float32),
        Tissue(),
        phantom,
    )
    truth = true_tensor(subject, bval=1000.0, echo_ms=85.0)
    b0 = GradientTable([0.0], np.zeros((1, 3)))
    image = acquire(subject, b0, Acquisition(is_distorted=False))[:, :, 0, 0]
    line, rings = truth.b0[side // 2, :, 0], image[side // 2]
    # T2 decay blurs both a little. Ringing goes up and down from voxel to voxel.
    for part in (slice(1, 7), slice(10, 15)):
        assert not np.diff(np.sign(np.diff(line[part]))).any()
    assert np.abs(np.diff(np.sign(np.diff(rings[1:7])))).sum() >= 4
    assert line[9] == pytest.approx((line[8] + line[10]) / 2, rel=0.02)
    # Fibres along x where there is white matter, none elsewhere.
    found = truth.tensor[side // 2, 12, 0]
    assert found[0] > 2 * found[3] > 0
    grey = truth.tensor[side // 2, 4, 0]
    assert grey[0] == pytest.approx(grey[3], rel=0.01)
