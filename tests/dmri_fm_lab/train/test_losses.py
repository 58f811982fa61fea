import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dmri_fm.tensor_networks.inputs import TensorEstimate
from dmri_fm_lab.train.losses import (
    COVERAGE,
    OFFSETS,
    SHARES,
    SMOOTHING,
    interval_loss,
    refinement_losses,
    squared_loss,
    tensor_error,
)

ROW, COLUMN = np.triu_indices(3)


def image(elements):
    """Put six elements, or one set per patch, into (B, 6, 1, 1, 1)."""
    return torch.tensor(np.atleast_2d(elements))[:, :, None, None, None]


def test_error_by_hand():
    # diag(1, 2, 2) off by zero elsewhere: norm 3; one mixed element counts twice.
    zero = image(np.zeros(6))
    assert tensor_error(image([1.0, 0, 0, 2, 0, 2]), zero).item() == pytest.approx(3, abs=1e-3)
    mixed = tensor_error(image([0, 3.0, 0, 0, 0, 0]), zero).item()
    assert mixed == pytest.approx(np.sqrt(18 + SMOOTHING**2))


def test_error_does_not_depend_on_the_frame():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 3))
    a = a + a.T
    turn = Rotation.random(random_state=0).as_matrix()
    zero = image(np.zeros(6))
    turned = (turn @ a @ turn.T)[ROW, COLUMN]
    assert tensor_error(image(a[ROW, COLUMN]), zero).item() == pytest.approx(
        tensor_error(image(turned), zero).item()
    )


def test_squared_loss_by_hand():
    weight = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    truth = image(np.zeros((2, 6)))
    loss = squared_loss(truth + image([[6.0**0.5, 0, 0, 0, 0, 0], [0] * 6]), truth, weight=weight)
    assert loss.item() == pytest.approx(0.25)


def test_patches_count_equally_against_the_baseline():
    truth = image([[1.0, 0, 0, 1, 0, 1], [1.0, 0, 0, 1, 0, 1]])
    off = image([[0.3, 0, 0, 0, 0, 0], [3.0, 0, 0, 0, 0, 0]])
    losses = refinement_losses(
        TensorEstimate(truth + off / 2, width=torch.full((2, 2, 1, 1, 1), 0.1)),
        truth,
        baseline=truth + off,
        weight=torch.ones(2, 1, 1, 1),
    )
    tensor = (0.15 / (0.3 + OFFSETS["tensor"]) + 1.5 / (3 + OFFSETS["tensor"])) / 2
    assert losses["tensor"].item() == pytest.approx(tensor, abs=5e-3)
    md = (0.05 / (0.1 + OFFSETS["md"]) + 0.5 / (1 + OFFSETS["md"])) / 2
    assert losses["md"].item() == pytest.approx(md, abs=1e-6)
    assert 0 < losses["fa"].item() < SHARES["fa"]
    parts = sum(v for k, v in losses.items() if k != "loss")
    assert losses["loss"].item() == pytest.approx(parts.item())


def test_intervals_do_not_pull_at_the_tensor():
    truth = image([1.0, 0, 0, 1, 0, 1]).float()
    tensor = (truth + 0.1).requires_grad_()
    width = torch.full((1, 2, 1, 1, 1), 0.1, requires_grad=True)
    losses = refinement_losses(
        TensorEstimate(tensor, width=width),
        truth,
        baseline=truth + 1,
        weight=torch.ones(1, 1, 1, 1),
    )
    losses["interval"].backward()
    assert tensor.grad is None
    assert width.grad.abs().sum() > 0


def test_the_best_width_holds_nine_errors_in_ten():
    error = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    widths = torch.linspace(0.8, 1.0, 41)
    losses = torch.stack([interval_loss(error, w.expand_as(error)).mean() for w in widths])
    assert widths[losses.argmin()].item() == pytest.approx(COVERAGE, abs=0.02)
