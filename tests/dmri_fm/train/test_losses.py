import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dmri_fm.train.losses import OFFSET, SMOOTHING, relative_tensor_loss, tensor_error

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


def test_patches_count_equally_against_the_rival():
    truth = image(np.zeros((2, 6)))
    rival = image([[1.0, 0, 0, 0, 0, 0], [10.0, 0, 0, 0, 0, 0]])
    weight = torch.ones(2, 1, 1, 1)
    loss, error = relative_tensor_loss(rival / 2, truth, rival=rival, weight=weight)
    assert loss.item() == pytest.approx((0.5 / (1 + OFFSET) + 5 / (10 + OFFSET)) / 2, abs=1e-3)
    assert error.item() == pytest.approx(2.75, abs=1e-3)
