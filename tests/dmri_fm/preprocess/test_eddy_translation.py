"""Translation by eddy currents and that of the head, told apart on simulated poses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from benchmarks.eddy_translation import HEADS, PROTOCOLS, Protocol, Series, measure, simulate
from dmri_fm.distortion import PhaseEncoding
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.eddy_translation import (
    choose_terms,
    find_shell_offsets,
    separate_eddy,
)
from dmri_fm.preprocess.motion import head_displacement
from dmri_fm_lab.simulate import spread_directions


def affine_of(axes: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 2.0 * axes
    affine[:3, 3] = [10, -20, 30]
    return affine


AFFINES = {
    "RAS": affine_of(np.eye(3)),
    "LAS": affine_of(np.diag([-1.0, 1, 1])),
    "sagittal": affine_of(np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])),
    "oblique": affine_of(Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix()),
}

#: Protocols with directions enough for all terms.
FULL = [name for name in PROTOCOLS if not name.startswith(("15", "20"))]


def head_of(series: Series, affine: np.ndarray) -> np.ndarray:
    """Return the poses without what was taken for eddy currents."""
    eddy = separate_eddy(
        series.poses, series.gtab, encodings=series.encodings, affine=affine, runs=series.runs
    )
    assert eddy.is_known
    head = series.poses.copy()
    head[:, :3] -= eddy.shift_mm
    return head


@pytest.mark.parametrize("encoding", ["i", "j-", "k"])
@pytest.mark.parametrize("storage", AFFINES)
def test_walking_head_is_found_in_every_frame(storage: str, encoding: str) -> None:
    affine = AFFINES[storage]
    series = simulate(
        np.random.default_rng(3), Protocol(encodings=(encoding,)), affine, outside=0, walk=0.02
    )
    head = head_of(series, affine)
    offsets = find_shell_offsets(
        head, series.gtab, encodings=series.encodings, runs=series.runs
    ).offsets
    wrong = (head[:, :6] - offsets - series.head) * ([1.0] * 3 + [50.0] * 3)
    wrong -= np.median(wrong, axis=0)
    assert np.abs(series.poses[:, :3] - series.head[:, :3]).max() > 1.5
    # Eight coefficients from 36 steps of .02 mm, on terms of up to 1.
    assert np.abs(wrong).max() < 0.06


@pytest.mark.parametrize("protocol", FULL)
@pytest.mark.parametrize("head", HEADS)
def test_displacement_is_that_of_the_head(protocol: str, head: str) -> None:
    rng = np.random.default_rng(0)
    affine = AFFINES["LAS"]
    for _ in range(3):
        series = simulate(rng, PROTOCOLS[protocol], affine, outside=0.1, **HEADS[head])
        true, before, found = measure(series, affine)
        assert before > true + 0.8
        # The bounds that the displacement of a head is used with: a tenth of a mm, a fifth.
        assert abs(found - true) < max(0.1, 0.2 * true), (true, found)


def test_opposed_runs_share_the_field() -> None:
    """A head that nods with the gradients looks like eddy currents, but not in both runs."""
    affine = AFFINES["LAS"]
    rng = np.random.default_rng(5)
    series = simulate(rng, Protocol(encodings=("j", "j-")), affine, outside=0)
    poses = series.poses.copy()
    poses[:, 1] += 0.5 * series.gtab.bvecs_ras[:, 1]
    about = {"encodings": series.encodings, "affine": affine, "runs": series.runs}
    quiet = separate_eddy(series.poses, series.gtab, **about)
    nodding = separate_eddy(poses, series.gtab, **about)
    for name, hz in quiet.coefficients_hz.items():
        assert nodding.coefficients_hz[name] == pytest.approx(hz, abs=0.5)  # of 5 Hz, alone
    alone = series.runs == 0
    one = separate_eddy(
        poses[alone],
        series.gtab.select(np.flatnonzero(alone)),
        encodings=series.encodings[: alone.sum()],
        affine=affine,
        runs=series.runs[alone],
    )
    assert one.coefficients_hz["y"] == pytest.approx(quiet.coefficients_hz["y"] + 5, abs=0.5)


def table(n: int, *, is_ordered: bool = False) -> GradientTable:
    rng = np.random.default_rng(1)
    axes = spread_directions(rng, n)
    if is_ordered:
        axes *= np.sign(axes[:, 2:])
        axes = axes[np.argsort(axes[:, 2])]
    return GradientTable(np.r_[0.0, np.full(n, 1000.0)], np.vstack([np.zeros(3), axes]))


@pytest.mark.parametrize(
    ("gtab", "encoding", "n_terms", "reason"),
    [
        (table(12), "j", 0, "12 distinct directions, 15 are needed"),
        (table(20), "j", 3, "quadratic terms left out: 20 distinct directions, 30 are needed"),
        (table(60), "j", 8, None),
        (table(60), None, 0, "the phase encoding is not known"),
        (table(60, is_ordered=True), "j", 0, "the order of the directions follows the time"),
    ],
)
def test_what_a_series_determines(
    gtab: GradientTable, encoding: str | None, n_terms: int, reason: str | None
) -> None:
    n = len(gtab)
    encodings = [PhaseEncoding(encoding, 0.05)] * n
    terms = choose_terms(gtab, encodings, np.zeros(n))
    assert len(terms.names) == n_terms
    assert (terms.reason or "").startswith(reason or "")
    assert (terms.reason is None) == (reason is None)
    eddy = separate_eddy(
        np.zeros((n, 15)), gtab, encodings=encodings, affine=np.eye(4), runs=np.zeros(n)
    )
    assert eddy.is_known == (n_terms > 0)
    assert (reason or "") in eddy.as_metadata()["EddyTranslation"]
    assert ("EddyFieldHz" in eddy.as_metadata()) == eddy.is_known


def test_shell_that_changes_seldom_leaves_a_gap() -> None:
    """Of one b=0 volume at the start: whether the head moved behind it cannot be told."""
    gtab = table(20)
    encodings = [PhaseEncoding("j", 0.05)] * len(gtab)
    head = np.zeros((len(gtab), 6))
    head[1:, 2] = 0.7
    fd = head_displacement(head, gtab, encodings=encodings, runs=np.zeros(len(gtab)))
    assert np.isnan(fd[:2]).all()
    np.testing.assert_allclose(fd[2:], 0, atol=1e-12)


def test_offset_of_a_shell_is_no_motion() -> None:
    gtab = GradientTable(np.tile([0.0, 1000, 1000, 1000], 6), np.tile(np.eye(4, 3, k=-1), (6, 1)))
    encodings = [PhaseEncoding("j", 0.05)] * len(gtab)
    head = np.zeros((len(gtab), 6))
    head[~gtab.is_b0, :] = [0.3, -0.2, 0.1, 0.004, 0, 0]
    head[10:, 0] += 2.0  # the head moves once, inside the shell
    fd = head_displacement(head, gtab, encodings=encodings, runs=np.zeros(len(gtab)))
    assert fd[10] == pytest.approx(2.0)
    np.testing.assert_allclose(np.delete(fd, [0, 10]), 0, atol=1e-9)
