"""Sign law, Jacobian and estimate of the field, against an independent forward model."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from dmri_fm.distortion import DistortionField, PhaseEncoding, correct_image
from dmri_fm.errors import ConfigError, ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.pair_level import PairImage
from dmri_fm.preprocess.pair_solver import solve_pair
from dmri_fm.preprocess.susceptibility import (
    B0Image,
    PairField,
    estimate_pair_field,
    mean_b0_image,
)
from dmri_fm.series import Dwi

SHAPE = (36, 40, 28)
VOXEL = np.diag([-3.0, 3.0, 3.0])
READOUT_S = 0.05


def make_affine(linear: np.ndarray = VOXEL) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = -linear @ ((np.array(SHAPE) - 1) / 2)
    return affine


def make_head() -> np.ndarray:
    """A head with inner structure on scales of several voxels, in voxel space."""
    i, j, k = np.indices(SHAPE) - (np.array(SHAPE)[:, None, None, None] - 1) / 2
    r = np.sqrt((i / 14) ** 2 + (j / 16) ** 2 + (k / 11) ** 2)
    brain = 1 / (1 + np.exp((r - 1) * 12))
    texture = np.cos(0.5 * i + 0.2 * k) * np.cos(0.5 * j - 0.2 * i) * np.cos(0.4 * k)
    return 300 * brain * (1 + 0.5 * texture)


def make_field_hz(strength: float = 40.0) -> np.ndarray:
    """A smooth field with a positive and a negative lobe, not symmetric, inside the head."""
    i, j, k = np.indices(SHAPE) - (np.array(SHAPE)[:, None, None, None] - 1) / 2

    def lobe(a: float, b: float, c: float) -> np.ndarray:
        return np.exp(-((i - a) ** 2 + (j - b) ** 2 + (k - c) ** 2) / (2 * 5.0**2))

    return strength * (lobe(2, 6, -3) - 0.7 * lobe(-5, -6, 2))


def distort(image: np.ndarray, shift_voxels: np.ndarray, axis: int) -> np.ndarray:
    """Push the signal of every voxel along an axis: mass is kept by construction.

    Each voxel is cut into slabs that are moved and shared between the two nearest voxels;
    this is the opposite of how the estimate pulls intensities, and shares no code with it.
    """
    image, shift = np.moveaxis(image, axis, 0), np.moveaxis(shift_voxels, axis, 0)
    n, parts = image.shape[0], 8
    out = np.zeros((n + 2, *image.shape[1:]))
    others = np.indices(image.shape[1:])
    fine = (np.arange(n * parts) + 0.5) / parts - 0.5
    low = np.clip(np.floor(fine).astype(int), 0, n - 2)
    part = np.clip(fine - low, 0, 1)
    for m, x in enumerate(fine):
        a, b, w = low[m], low[m] + 1, part[m]
        value = (image[a] * (1 - w) + image[b] * w) / parts
        target = np.clip(x + shift[a] * (1 - w) + shift[b] * w + 1, 0, n + 0.999)
        cell = np.floor(target).astype(int)
        rest = target - cell
        np.add.at(out, (cell, *others), value * (1 - rest))
        np.add.at(out, (cell + 1, *others), value * rest)
    return np.moveaxis(out[1:-1], 0, axis)


def inner() -> np.ndarray:
    return make_head() > 100


def make_pair(
    pe_up: str, pe_down: str, readout_up_s: float, readout_down_s: float
) -> tuple[np.ndarray, np.ndarray]:
    head, hz = make_head(), make_field_hz()
    axis, sign_up = PhaseEncoding(pe_up, readout_up_s).axis_and_sign()
    _, sign_down = PhaseEncoding(pe_down, readout_down_s).axis_and_sign()
    up = distort(head, sign_up * hz * readout_up_s, axis)
    return up, distort(head, sign_down * hz * readout_down_s, axis)


def estimate(
    up: np.ndarray,
    down: np.ndarray,
    affine: np.ndarray,
    encodings: tuple[str, str] = ("j-", "j"),
    readouts_s: tuple[float, float] = (READOUT_S, READOUT_S),
) -> PairField:
    pair = zip((up, down), encodings, readouts_s, strict=True)
    return estimate_pair_field(*(B0Image(b0, affine, PhaseEncoding(e, t)) for b0, e, t in pair))


def found_movement(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return the movement of the head between two images, whose intensities are about 300."""
    images = (np.maximum(image, 0).astype(np.float32) / 300 for image in (up, down))
    pair = (PairImage(b0, make_affine(), 1, rho) for b0, rho in zip(images, (-1, 1), strict=True))
    return solve_pair(*pair).second_xfm


def test_the_sign_law() -> None:
    image = np.zeros((1, 20, 1))
    image[0, 8, 0] = 1.0
    field = DistortionField(np.full((1, 20, 1), 40.0), np.diag([2.0, 2, 2, 1]))
    # 40 Hz over 0.05 s are two voxels: signal of voxel 6 is seen at 8 for "j", of 10 for "j-".
    for direction, voxel in (("j", 6), ("j-", 10)):
        fixed = correct_image(
            image,
            field.affine,
            field=field,
            encoding=PhaseEncoding(direction, READOUT_S),
            order=1,
        )
        assert int(fixed.argmax()) == voxel
        shift = field.displacement_mm(PhaseEncoding(direction, READOUT_S))
        assert shift[0, 0, 0].tolist() == [0.0, 4.0 if direction == "j" else -4.0, 0.0]


def test_displacement_follows_an_oblique_voxel_axis() -> None:
    turn = Rotation.from_euler("xyz", [20, -10, 30], degrees=True).as_matrix()
    affine = make_affine(turn @ np.diag([-3.0, 2.5, 3.0]))
    field = DistortionField(np.full(SHAPE, 10.0), affine)
    np.testing.assert_allclose(
        field.displacement_mm(PhaseEncoding("i-", 0.1))[3, 4, 5], -affine[:3, 0], rtol=1e-6
    )


@pytest.mark.parametrize("direction", ["i", "i-", "j", "j-", "k", "k-"])
def test_correction_undoes_the_forward_model(direction: str) -> None:
    affine = make_affine()
    axis, sign = PhaseEncoding(direction, READOUT_S).axis_and_sign()
    head, hz = make_head(), make_field_hz(25.0)
    distorted = distort(head, sign * hz * READOUT_S, axis)
    fixed = correct_image(
        distorted,
        affine,
        field=DistortionField(hz, affine),
        encoding=PhaseEncoding(direction, READOUT_S),
    )
    error = np.abs(fixed - head)[inner()].mean()
    # Sharing between two voxels blurs: up to a quarter of the distortion remains.
    assert error < 0.25 * np.abs(distorted - head)[inner()].mean()


def test_the_jacobian_is_the_slope_of_the_displacement_on_any_grid() -> None:
    turn = Rotation.from_euler("xyz", [10, 5, -20], degrees=True).as_matrix()
    field = DistortionField(make_field_hz(), make_affine())
    other = make_affine(turn @ np.diag([3.0, 2.0, 3.0]))
    stretch = field.jacobian(PhaseEncoding("j-", READOUT_S), other)
    along = other[:3, 1] / np.linalg.norm(other[:3, 1])
    shift = field.displacement_mm(PhaseEncoding("j-", READOUT_S), other) @ along
    steps = np.linalg.inv(make_affine())[:3, :3] @ along
    slope = sum(np.gradient(shift, axis=a) * steps[a] for a in range(3))
    np.testing.assert_allclose(stretch, 1 + slope, atol=1e-4)


@pytest.mark.parametrize(
    ("pe_up", "pe_down", "readout_up_s", "readout_down_s"),
    [
        ("j-", "j", 0.05, 0.05),
        ("i", "i-", 0.05, 0.05),
        ("k", "k-", 0.05, 0.05),
        ("j", "j-", 0.07, 0.04),
    ],
)
def test_the_field_of_a_pair_is_recovered(
    pe_up: str, pe_down: str, readout_up_s: float, readout_down_s: float
) -> None:
    up, down = make_pair(pe_up, pe_down, readout_up_s, readout_down_s)
    result = estimate(
        up,
        3.0 * down,  # the scanner's gain differs from run to run
        make_affine(),
        (pe_up, pe_down),
        (readout_up_s, readout_down_s),
    )
    error = np.abs(result.field.hz - make_field_hz())[inner()].mean() * 0.05
    before = np.abs(make_field_hz())[inner()].mean() * 0.05
    assert before > 0.35
    assert error < 0.1  # voxels
    assert result.similarity_after > 0.99 > result.similarity_before
    assert np.abs(result.corrected - make_head())[inner()].mean() < 0.06 * 300


def test_a_head_that_moved_between_the_two_images() -> None:
    up, down = make_pair("j-", "j", READOUT_S, READOUT_S)
    affine = make_affine()
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec(np.deg2rad([2.0, 0.0, -3.0])).as_matrix()
    moved[:3, 3] = [2.0, 0.0, -2.0]
    voxels = np.linalg.inv(affine) @ np.linalg.inv(moved) @ affine
    down = affine_transform(down, voxels[:3, :3], voxels[:3, 3], order=3)
    result = estimate(up, down, affine)
    corners = np.array([[x, y, z, 1] for x in (-30, 30) for y in (-35, 35) for z in (-25, 25)])
    apart = (corners @ (found_movement(up, down) - moved).T)[:, [0, 2]]
    assert np.abs(apart).max() < 1.0  # a third of a voxel, across phase encoding
    assert result.similarity_after > 0.98
    error = result.field.hz - make_field_hz()
    assert np.abs(error - np.median(error[inner()]))[inner()].mean() * READOUT_S < 0.15


def test_two_equal_images_have_no_field_and_the_order_of_a_pair_does_not_matter() -> None:
    head = make_head() + np.random.default_rng(0).normal(0, 5, SHAPE)
    still = estimate(head, head, make_affine(), ("j", "j-"))
    assert np.abs(still.field.hz).max() * READOUT_S < 0.01
    np.testing.assert_allclose(found_movement(head, head), np.eye(4), atol=1e-2)
    up, down = make_pair("j", "j-", READOUT_S, READOUT_S)
    one = estimate(up, down, make_affine(), ("j", "j-"))
    two = estimate(down, up, make_affine(), ("j-", "j"))
    assert np.abs(one.field.hz - two.field.hz)[inner()].mean() * READOUT_S < 0.05


def test_impossible_requests_are_refused() -> None:
    image, affine = make_head(), make_affine()
    for encodings, readouts_s in (
        (("j", "j"), (0.05, 0.05)),
        (("j", "i-"), (0.05, 0.05)),
        (("j", "j-"), (-1.0, 0.05)),
    ):
        with pytest.raises(ConfigError):
            estimate(image, image, affine, encodings, readouts_s)
    with pytest.raises(ImageError, match="constant"):
        estimate(image, np.zeros(SHAPE), affine)
    with pytest.raises(ConfigError, match="LR"):
        PhaseEncoding("LR", READOUT_S).axis_and_sign()
    with pytest.raises(ImageError, match="not finite"):
        DistortionField(np.full(SHAPE, np.nan), affine)


def test_volumes_of_another_readout_are_left_out_of_the_pair() -> None:
    encodings = [PhaseEncoding("i", 0.03), PhaseEncoding("j", 0.05), PhaseEncoding("j", 0.02)]
    values = np.array([500.0, 100.0, 900.0])
    gtab = GradientTable(np.zeros(3), np.zeros((3, 3)))
    dwi = Dwi.from_arrays(values * np.ones((4, 4, 4, 1)), make_affine(), gtab)
    found = mean_b0_image(dwi, encodings, "j")
    assert (float(found.data.mean()), found.encoding.readout_s) == (100.0, 0.05)


def mean_b0(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    bvals = np.loadtxt(str(path).replace(".nii.gz", ".bval"))
    return np.asarray(image.dataobj)[..., bvals < 50].mean(axis=-1), image.affine


@pytest.mark.realdata
@pytest.mark.parametrize(("subject", "readout_s"), [("prisma", 0.0476), ("galan", 0.05)])
def test_real_pairs_match_after_correction(data_dir: Path, subject: str, readout_s: float) -> None:
    stem = data_dir / "ds-vendors" / f"sub-{subject}" / "dwi" / f"sub-{subject}"
    up, affine = mean_b0(Path(f"{stem}_dir-AP_dwi.nii.gz"))
    down, _ = mean_b0(Path(f"{stem}_dir-PA_dwi.nii.gz"))
    result = estimate(up, down, affine, readouts_s=(readout_s, readout_s))
    assert result.similarity_before < 0.7
    assert result.similarity_after > 0.985


@pytest.mark.slow
@pytest.mark.realdata
def test_the_simulated_field_is_recovered(data_dir: Path) -> None:
    folder = data_dir / "ds-sim"
    up, affine = mean_b0(folder / "sub-sim01" / "dwi" / "sub-sim01_dir-AP_dwi.nii.gz")
    down, _ = mean_b0(folder / "sub-sim01" / "dwi" / "sub-sim01_dir-PA_dwi.nii.gz")
    truth = folder / "derivatives" / "truth" / "sub-sim01" / "dwi" / "sub-sim01_desc-truth"
    hz = nib.load(f"{truth}_fieldmap_hz.nii.gz").get_fdata()
    mask = nib.load(f"{truth}_mask.nii.gz").get_fdata() > 0
    result = estimate(up, down, affine, readouts_s=(0.0917, 0.0917))
    assert np.abs(result.field.hz - hz)[mask].mean() * 0.0917 < 0.06  # voxels; 0.26 uncorrected
