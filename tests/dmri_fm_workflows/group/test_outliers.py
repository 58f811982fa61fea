"""Outliers: laws of the score, sides, protocols, limits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dmri_fm_workflows.group.outliers import Z_LIMIT, bad_side, flag_scans, robust_z


def _table(**columns):
    return pd.DataFrame({k: [f"{v:g}" for v in values] for k, values in columns.items()})


def test_score_ignores_units_and_follows_the_sign():
    values = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(robust_z(3 * values + 7), robust_z(values), atol=1e-9)
    np.testing.assert_allclose(robust_z(-values), -robust_z(values), atol=1e-9)


def test_score_of_a_normal_sample_is_a_z_score():
    values = np.random.default_rng(1).normal(size=20_000)
    # The median absolute deviation of 20,000 samples is known to about 1%.
    assert robust_z(values).std() == pytest.approx(1, abs=0.03)


def test_missing_values_stay_missing():
    assert np.isnan(robust_z([np.nan, 1, 2, 3])[0])
    assert np.isnan(robust_z([np.nan])).all()


def test_half_equal_values_do_not_hide_the_far_one():
    assert robust_z([0] * 9 + [10])[-1] > Z_LIMIT


def test_only_the_bad_side_is_flagged():
    usual = list(np.linspace(0.9, 1.1, 11))
    table = _table(snr_b0=[*usual, 9.0, -5.0], mean_fd=[*np.linspace(0.1, 0.2, 11), 0.9, -5])
    found = [(f.row, f.column) for f in flag_scans(table, ["snr_b0", "mean_fd"])]
    # A negative displacement is impossible: outside its limits, not merely unusual.
    assert found == [(11, "mean_fd"), (12, "snr_b0"), (12, "mean_fd")]
    assert bad_side("mask_volume_ml") == "both"


def test_too_few_scans_say_nothing():
    assert flag_scans(_table(snr_b0=[1, 1.1, 1.2, -50]), ["snr_b0"]) == ()


def test_limits_hold_for_a_single_scan():
    (flag,) = flag_scans(_table(mean_fd=[3.0]), ["mean_fd"])
    assert (flag.row, flag.value) == (0, "3")


def test_measures_of_the_b_value_are_compared_within_a_protocol():
    md = [*np.linspace(0.70, 0.72, 12), *np.linspace(0.50, 0.52, 3)]
    table = _table(tensor_md_median_wm=md)
    assert len(flag_scans(table, ["tensor_md_median_wm"])) == 3
    protocol = {i: "b=1000" if i < 12 else "b=2500" for i in range(15)}
    assert flag_scans(table, ["tensor_md_median_wm"], protocol=protocol) == ()
