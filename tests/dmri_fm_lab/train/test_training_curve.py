"""Curves of a training, from its log."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from benchmarks.training_curve import draw


@pytest.mark.parametrize("apart", [1, 10])
def test_a_curve_has_a_hundred_means_whatever_steps_the_log_has(
    tmp_path: Path, apart: int
) -> None:
    steps = np.arange(apart, 10_001, apart)
    log = pd.DataFrame({"step": steps, "minutes": steps / 60, "loss": 1.0 / steps})
    draw(log, ["loss"], tmp_path / "curve.png")
    (line,) = plt.gcf().axes[0].lines
    plt.close("all")
    np.testing.assert_array_equal(line.get_xdata(), np.arange(100, 10_001, 100))
    assert (tmp_path / "curve.png").is_file()
