"""Head motion and eddy currents: signs, accuracy, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from dmri_fm.distortion import PhaseEncoding
from dmri_fm.errors import ImageError, InputError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid, affine_map, resample_image
from dmri_fm.normalise.template import load_template
from dmri_fm.preprocess.confounds import confounds_table
from dmri_fm.preprocess.eddy_translation import EddyTranslation
from dmri_fm.preprocess.motion import (
    MotionEstimate,
    estimate_motion,
    no_motion,
    resampled_motion,
    rotate_bvecs,
)
from dmri_fm.preprocess.motion_table import read_motion_tsv, write_motion_tsv
from dmri_fm.preprocess.pose import (
    pose_from_matrix,
    pose_matrix,
    pose_rotation,
    pose_tangent,
)
from dmri_fm.preprocess.shell_prediction import predict_left_out
from dmri_fm.series import Dwi

AFFINE = np.array([[-4.0, 0, 0, 92], [0, 4, 0, -124], [0, 0, 4, -76], [0, 0, 0, 1]])
SHAPE = (47, 52, 42)


def directions(n: int) -> np.ndarray:
    """Spread n axes over the half sphere (golden spiral)."""
    k = np.arange(n) + 0.5
    z, phi = 1 - k / n, np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(phi), r * np.sin(phi), z], axis=1)


@pytest.fixture(scope="module")
def still() -> tuple[np.ndarray, GradientTable, np.ndarray]:
    """Return a head that does not move: the template's tissues, fibres of smooth direction."""
    rng = np.random.default_rng(0)
    template = load_template(2)
    brain, gm, wm = (
        resample_image(image, template.grid.affine, Grid(SHAPE, AFFINE))
        for image in (template.brain_mask, template.gm, template.wm)
    )
    csf = (brain - gm - wm).clip(0)
    mask = brain > 0.5
    vectors = np.stack([gaussian_filter(rng.normal(size=SHAPE), 2) for _ in range(3)], axis=-1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    gtab = GradientTable(
        np.array([0.0, *[1000.0] * 12, 0.0, *[1000.0] * 12]),
        np.vstack([np.zeros(3), directions(24)[:12], np.zeros(3), directions(24)[12:]]),
    )
    along = (vectors @ gtab.bvecs_ras.T) ** 2
    data = (
        300 * wm[..., None] * np.exp(-gtab.bvals * (3e-4 + 1.3e-3 * along))
        + 400 * gm[..., None] * np.exp(-gtab.bvals * 8e-4)
        + 1000 * csf[..., None] * np.exp(-gtab.bvals * 3e-3)
    )
    data += rng.normal(0, 8, data.shape)
    return data.clip(0).astype(np.float32), gtab, mask


def move(data: np.ndarray, xfms: np.ndarray) -> np.ndarray:
    """Show the reference point x of volume n at xfms[n] x."""
    grid = Grid(SHAPE, AFFINE)
    out = np.empty_like(data)
    for n, xfm in enumerate(xfms):
        out[..., n] = resample_image(
            data[..., n], AFFINE, grid, target2source=affine_map(np.linalg.inv(xfm)), order=3
        ).clip(0)
    return out


def mean_error_mm(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Return how far two sets of transforms put the brain apart, mean over volumes."""
    points = apply_affine(AFFINE, np.argwhere(mask)[::7])
    apart = [
        np.linalg.norm(apply_affine(p, points) - apply_affine(q, points), axis=1).mean()
        for p, q in zip(a, b, strict=True)
    ]
    return float(np.mean(apart))


def estimate(data: np.ndarray, gtab: GradientTable, mask: np.ndarray, **options) -> MotionEstimate:
    return estimate_motion(
        Dwi.from_arrays(data, AFFINE, gtab, mask=mask),
        reference=data[..., 0],
        encodings=[PhaseEncoding("j", 0.05)] * len(gtab),
        **options,
    )


def random_poses(n: int, *, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    poses = np.zeros((n, 15))
    poses[1:, :3] = rng.normal(0, 1.0, (n - 1, 3))
    poses[1:, 3:6] = np.deg2rad(rng.normal(0, 1.0, (n - 1, 3)))
    return poses


def test_known_motion_is_found(still) -> None:
    data, gtab, mask = still
    poses = random_poses(len(gtab))
    eddy = pose_tangent("eddy", encoding=[0, 1, 0])[6:, 6:]
    rng = np.random.default_rng(2)
    poses[~gtab.is_b0, 6:] = rng.normal(0, 0.008, (int((~gtab.is_b0).sum()), 3)) @ eddy.T
    centre = apply_affine(AFFINE, np.argwhere(mask)).mean(axis=0)
    truth = np.stack([pose_matrix(p, centre_mm=centre) for p in poses])
    found = estimate(move(data, truth), gtab, mask)
    before = mean_error_mm(np.tile(np.eye(4), (len(truth), 1, 1)), truth, mask)
    after = mean_error_mm(found.xfms, truth, mask)
    assert before > 1.5
    # A third of the displacement at most: most of what is left is common to all volumes, the
    # place of the shell on the b=0 image, which mutual information finds to a tenth of a voxel.
    assert after < before / 3, (before, after)


def test_still_head_stays(still) -> None:
    data, gtab, mask = still
    found = estimate(data, gtab, mask, sloppy=True)
    identity = np.tile(np.eye(4), (len(gtab), 1, 1))
    assert mean_error_mm(found.xfms, identity, mask) < 0.6
    assert not found.is_outlier.any()


def test_threads_do_not_change_the_result(still) -> None:
    data, gtab, mask = still
    one, two = (estimate(data, gtab, mask, sloppy=True, n_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.xfms, two.xfms)


def test_lost_slice_is_flagged(still) -> None:
    data, gtab, mask = still
    data = data.copy()
    data[:, :, 21, 5] *= 0.3
    found = estimate(data, gtab, mask, sloppy=True)
    assert found.is_outlier[5, 21]
    assert found.is_outlier.sum() <= 3  # smoothing may darken its neighbours


def test_b0_only_series(still) -> None:
    data, gtab, mask = still
    b0s = np.flatnonzero(gtab.is_b0)
    found = estimate(data[..., b0s], gtab.select(b0s), mask)
    assert len(found.xfms) == 2


def test_empty_mask_is_an_error(still) -> None:
    data, gtab, mask = still
    with pytest.raises(ImageError, match="mask is empty"):
        estimate(data, gtab, np.zeros_like(mask))


def test_turned_head_turns_its_directions_back() -> None:
    """A fibre along x in the reference lies along R x in the volume: g there is R^T g here."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    gtab = GradientTable([0, 1000], [[0, 0, 0], [0, 1, 0]])
    motion = no_motion(2, 1)
    turned = MotionEstimate(
        np.stack([np.eye(4), turn]),
        motion.is_outlier,
        motion.parameters,
        motion.fd_mm,
        "test",
        motion.eddy,
    )
    fibre_in_volume = turn[:3, :3] @ [1, 0, 0]
    assert fibre_in_volume @ gtab.bvecs_ras[1] == pytest.approx(1)
    np.testing.assert_allclose(rotate_bvecs(gtab, turned).bvecs_ras[1], [1, 0, 0], atol=1e-12)


def test_eddy_currents_turn_no_directions() -> None:
    gtab = GradientTable([0, 1000], [[0, 0, 0], [0.6, 0.8, 0]])
    poses = np.zeros((2, 15))
    poses[1, 3:6] = [0.02, -0.01, 0.03]
    turned = [rotate_bvecs(gtab, _motion_of(poses)).bvecs_ras[1]]
    poses[1, 6:] = pose_tangent("eddy", encoding=[0, 1, 0])[6:, 6:] @ [0.04, -0.02, 0.03]
    turned.append(rotate_bvecs(gtab, _motion_of(poses)).bvecs_ras[1])
    np.testing.assert_allclose(turned[1], turned[0], atol=1e-12)
    np.testing.assert_allclose(turned[0], pose_rotation(poses[1]).T @ [0.6, 0.8, 0], atol=1e-12)


def _motion_of(poses: np.ndarray) -> MotionEstimate:
    still = no_motion(len(poses), 1)
    xfms = np.stack([pose_matrix(p, centre_mm=[5, 6, 7]) for p in poses])
    return MotionEstimate(xfms, still.is_outlier, poses, still.fd_mm, "test", still.eddy)


def test_prediction_leaves_the_volume_out(still) -> None:
    data, gtab, mask = still
    signal = data[mask].T
    members = np.flatnonzero(~gtab.is_b0)
    plain = predict_left_out(signal, gtab, members)
    changed = signal.copy()
    changed[members[3]] *= 0.5
    after = predict_left_out(changed, gtab, members)
    np.testing.assert_allclose(after[3], plain[3], rtol=1e-4)
    assert np.median(np.abs(plain - signal[members]) / signal[members]) < 0.1


@pytest.mark.parametrize("encoding", [None, [0, 1, 0], [0.6, 0.8, 0]])
def test_pose_and_matrix_are_one(encoding: list[float] | None) -> None:
    pose = np.array([1, -2, 3, 0.02, -0.01, 0.03, *np.zeros(9)])
    if encoding is not None:
        pose[6:] = pose_tangent("eddy", encoding=encoding)[6:, 6:] @ [0.01, -0.02, 0.005]
    matrix = pose_matrix(pose, centre_mm=[5, 6, 7])
    back = pose_from_matrix(matrix, centre_mm=[5, 6, 7], encoding=encoding)
    np.testing.assert_allclose(back, pose, atol=1e-9)


def test_file_comes_back(tmp_path: Path) -> None:
    poses = random_poses(5)
    xfms = np.stack([pose_matrix(p, centre_mm=[0, 0, 0]) for p in poses])
    eddy = EddyTranslation(np.array([np.nan, 1, 2, 3, 4]), np.arange(15.0).reshape(5, 3), "test")
    motion = MotionEstimate(
        xfms, np.zeros((5, 3), bool), poses, np.array([np.nan, 0.1, 0.2, 0.3, 0.4]), "test", eddy
    )
    back = read_motion_tsv(write_motion_tsv(motion, tmp_path / "motion.tsv"))
    np.testing.assert_allclose(back.xfms, xfms, atol=1e-7)
    np.testing.assert_allclose(back.parameters, poses, atol=1e-7)
    np.testing.assert_allclose(back.fd_mm, motion.fd_mm)
    np.testing.assert_allclose(back.eddy.hz, eddy.hz)
    np.testing.assert_allclose(back.eddy.shift_mm, eddy.shift_mm)


def test_other_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.tsv"
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match="not a table of volume transforms"):
        read_motion_tsv(path)


def test_confounds_have_one_row_a_volume() -> None:
    gtab = GradientTable([0, 1000, 1000], [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    moved = np.zeros((3, 6))
    moved[2, 0] = 1.0
    motion = resampled_motion(moved, np.array([[0, 0], [1, 0], [0, 0]], bool), "test")
    rows = confounds_table(motion, gtab, ["a.nii.gz"] * 3)
    assert rows[0]["framewise_displacement"] is None
    assert rows[2]["framewise_displacement"] == pytest.approx(1.0)
    assert rows[2]["trans_x"] == 1.0
    assert rows[2]["eddy_trans_x"] is None
    assert rows[2]["eddy_hz"] is None
    assert [rows[0][f"grad_{a}"] for a in "xyz"] == [0.0, 0.0, 0.0]
    assert rows[1]["grad_x"] == 1.0
    assert rows[1]["outlier_fraction"] == 0.5
