"""Which volumes a tensor is fitted to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_design import (
    DIAGONAL,
    describe_widening,
    determines_tensor,
    quadratic_terms,
    select_shells,
    to_matrices,
)


def table(*shells: tuple[float, np.ndarray]) -> GradientTable:
    """One b=0, then directions at their b-values."""
    bvals = [0.0, *(b for b, axes in shells for _ in axes)]
    return GradientTable(bvals, np.vstack([np.zeros((1, 3)), *(axes for _, axes in shells)]))


def cartesian() -> GradientTable:
    """Random half of a grid in q-space up to 4000 s/mm^2, few points near its middle."""
    points = np.array([p for p in itertools.product(range(-3, 4), repeat=3) if any(p)], float)
    points = points[(points**2).sum(axis=1) <= 9]
    points = points[np.lexsort(points.T)][len(points) // 2 :]
    bvals = 4000 * (points**2).sum(axis=1) / 9
    order = np.random.default_rng(1).permutation(len(points))
    axes = points / np.linalg.norm(points, axis=1, keepdims=True)
    return GradientTable(
        np.concatenate([[0], bvals[order]]), np.vstack([np.zeros((1, 3)), axes[order]])
    )


def test_matrices_of_tensors_have_their_quadratic_form_and_trace() -> None:
    rng = np.random.default_rng(0)
    tensors, axes = rng.normal(size=(4, 5, 6)), rng.normal(size=(7, 3))
    matrices = to_matrices(tensors)
    along = np.einsum("ni,xyij,nj->xyn", axes, matrices, axes)
    np.testing.assert_allclose(along, tensors @ quadratic_terms(axes).T, atol=1e-12)
    np.testing.assert_array_equal(np.diagonal(matrices, axis1=2, axis2=3), tensors[..., DIAGONAL])
    of_torch = to_matrices(torch.from_numpy(tensors))
    np.testing.assert_array_equal(of_torch.numpy(), matrices)


PLANE = np.stack([[np.cos(a), np.sin(a), 0] for a in np.linspace(0, np.pi, 8, endpoint=False)])


@pytest.mark.parametrize(
    ("gtab", "largest"),
    [
        pytest.param(table((1000, SKARE_DIRECTIONS), (2000, SKARE_DIRECTIONS)), 1000, id="low"),
        pytest.param(table((2500, SKARE_DIRECTIONS)), 2500, id="one high shell"),
        pytest.param(
            table((1000, SKARE_DIRECTIONS[:3]), (2000, SKARE_DIRECTIONS[3:]), (3000, PLANE)),
            2000,
            id="few directions a shell",
        ),
        # Eight directions are enough in number, but lie in one plane.
        pytest.param(
            table((1000, PLANE), (2000, SKARE_DIRECTIONS), (3000, SKARE_DIRECTIONS)),
            2000,
            id="plane",
        ),
    ],
)
def test_the_selection_widens_until_it_determines_a_tensor(gtab, largest) -> None:
    index = select_shells(gtab)
    assert gtab.bvals[index].max() == largest
    assert set(index) == set(np.flatnonzero(gtab.bvals <= largest))
    assert determines_tensor(gtab)
    said = describe_widening(gtab, index)
    assert (said is None) if largest <= 1550 else (f"up to {largest} s/mm^2" in said)


def test_a_step_takes_a_jittered_shell_whole() -> None:
    axes = np.vstack([SKARE_DIRECTIONS, SKARE_DIRECTIONS])
    jitter = np.linspace(1985, 2015, 12)
    bvals = np.concatenate([[0, 1000, 1000], jitter, [3000]])
    gtab = GradientTable(bvals, np.vstack([np.zeros((1, 3)), axes[:2], axes, axes[:1]]))
    assert select_shells(gtab).tolist() == list(range(15))


def test_random_cartesian_sampling_is_fitted_and_says_so() -> None:
    gtab = cartesian()
    # Without the middle of the grid too few points lie below 1550 s/mm^2.
    sparse = gtab.select(np.flatnonzero((gtab.bvals < 100) | (gtab.bvals > 1000)))
    truth = np.diag([1.7e-3, 0.4e-3, 0.3e-3])
    signal = 1000 * np.exp(
        -sparse.bvals * np.einsum("ni,ij,nj->n", sparse.bvecs_ras, truth, sparse.bvecs_ras)
    )
    maps = fit_tensor(Dwi.from_arrays(signal.reshape(1, 1, 1, -1), np.eye(4), sparse))
    np.testing.assert_allclose(maps.md, truth.trace() / 3, rtol=1e-3)
    used = sparse.bvals[maps.metadata["Volumes"]]
    assert 1550 < used.max() < sparse.bvals.max()
    assert "do not determine a tensor" in maps.metadata["ShellSelection"]


def test_what_no_selection_can_mend_determines_no_tensor() -> None:
    assert not determines_tensor(table((1000, PLANE)))
    assert not determines_tensor(table((1000, SKARE_DIRECTIONS[:5])))
    # Without b=0 one shell leaves S0 and the trace open.
    assert not determines_tensor(GradientTable([1000] * 6, SKARE_DIRECTIONS))
