import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from dmri_fm.normalise.noise import spline_noise_gain


@pytest.mark.parametrize("order", [1, 3])
def test_gain_is_that_of_interpolated_noise(order):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((64, 64, 64)).astype(np.float32)
    for shift in ([0, 0, 0], [0.5, 0, 0.25], [0.5, 0.5, 0.5], [0.9, 0.1, 0.3]):
        points = np.indices(noise.shape).reshape(3, -1).T + shift
        inside = points[(points < 56).all(axis=1) & (points > 8).all(axis=1)]
        moved = map_coordinates(noise, inside.T, order=order)
        gain = spline_noise_gain(inside, order)
        assert np.ptp(gain) < 1e-6
        assert moved.std() == pytest.approx(float(gain[0]), rel=0.02)
