from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.calibration import calibrate, draw_calibration


def test_a_group_of_predictions_is_never_one_participant(tmp_path) -> None:
    """Each participant is tested ten times, with nearly the same prediction."""
    who = np.repeat([f"sub-{i}" for i in range(12)], 10)
    predicted = np.repeat(np.arange(12.0), 10) + np.tile(np.arange(10) / 100, 12)
    found = calibrate(predicted, predicted, who)
    assert found["n_participants"] == [6, 6]
    assert found["n"] == [60, 60]
    assert found["slope"] == pytest.approx(1.0)
    few = calibrate(predicted[:40], predicted[:40], who[:40])
    assert few["n"] == few["observed"] == [], "four participants are no group"
    with pytest.raises(ConfigError, match="too few test participants"):
        draw_calibration({"cls": few}, "age", tmp_path / "c.svg")
