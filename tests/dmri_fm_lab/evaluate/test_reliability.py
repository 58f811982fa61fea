"""Intraclass correlation of features, and the draws of directions behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from dmri_fm.encoders.drope.config import ABLATION
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.evaluate.reliability import (
    PARTS,
    draw_directions,
    format_reliability,
    intraclass_correlation,
    score_reliability,
)
from dmri_fm_lab.evaluate.representations import with_untrained
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.simulate import spread_directions


def test_the_worked_example_of_shrout_and_fleiss() -> None:
    # Their table 2: six targets, four judges; ICC(1,1) is .17 (BMS 11.24, WMS 6.26).
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]],
        dtype=float,
    )
    assert intraclass_correlation(ratings).item() == pytest.approx(0.17, abs=0.005)
    exact = (11.2417 - 6.2639) / (11.2417 + 3 * 6.2639)
    assert intraclass_correlation(ratings).item() == pytest.approx(exact, abs=1e-4)


def test_features_are_scored_apart() -> None:
    rng = np.random.default_rng(0)
    of_scans, noise = rng.normal(size=(200, 1, 3)), rng.normal(size=(200, 4, 3))
    # Variances of scans and of draws of 1 and 0, 1 and 1, 0 and 1.
    values = of_scans * np.array([1.0, 1.0, 0.0]) + noise * np.array([0.0, 1.0, 1.0])
    # Standard errors of about .04 with 200 scans.
    np.testing.assert_allclose(intraclass_correlation(values), [1.0, 0.5, 0.0], atol=0.12)
    assert np.isnan(intraclass_correlation(np.ones((3, 2, 1)))).all()
    with pytest.raises(ConfigError, match="1 measurements of 3 scans"):
        intraclass_correlation(np.ones((3, 1)))


def test_draws_are_disjoint_as_long_as_directions_last() -> None:
    rng = np.random.default_rng(0)
    gtab = GradientTable(np.full(30, 1000.0), spread_directions(rng, 30))
    draws = draw_directions(gtab, 3, n_directions=12, seed=0, gamma=0.5)
    assert [len(np.unique(draw)) for draw in draws] == [12, 12, 12]
    assert not np.isin(draws[0], draws[1]).any()
    assert np.isin(draws[2], np.concatenate(draws[:2])).any(), "six are left, too few"


def test_draws_never_share_a_direction_that_was_measured_twice() -> None:
    axes = spread_directions(np.random.default_rng(0), 16)
    gtab = GradientTable(np.full(32, 1000.0), np.concatenate([axes, -axes]))
    first, second = draw_directions(gtab, 2, n_directions=8, seed=0, gamma=0.5)
    assert sorted((np.concatenate([first, second]) % 16).tolist()) == list(range(16))


def _ball(name: str, origin: str, gtab: GradientTable) -> GridScan:
    mask = np.ones((2, 2, 2), dtype=bool)
    signal = np.full((2, 2, 2, len(gtab)), 0.5, dtype=np.float32)
    return GridScan(name, origin, signal, gtab, mask, np.eye(4), 0 * signal[..., 0])


def test_protocols_are_scored_apart() -> None:
    rng = np.random.default_rng(0)
    axes = spread_directions(rng, 8)
    table = {b: GradientTable(np.full(8, b), axes) for b in (990.0, 1010.0, 2000.0)}
    scans = [
        *(_ball(f"low {i}", "raw", table[b]) for i, b in enumerate((990.0, 1010.0))),
        *(_ball(f"high {i}", "raw", table[2000.0]) for i in range(2)),
        _ball("alone", "other generator", table[2000.0]),
    ]

    def read_bval(encoders: Mapping[str, Drope], scan: GridScan) -> dict[str, np.ndarray]:
        # Nothing but the shell, and noise: reliable over pooled protocols, and within none.
        value = scan.gtab.bvals.mean().round(-2) + rng.normal(size=4)
        return {f"{start}{k}": value for start in encoders for k in ("cls", "pooled")}

    encoder = Drope(replace(ABLATION, dim=12, depth=1, heads=1))
    found = score_reliability(
        with_untrained(encoder), scans, n_draws=4, n_directions=4, compute=read_bval
    )
    names = ["raw, b 1000", "raw, b 2000", "other generator, b 2000"]
    assert list(found["protocols"]) == names
    assert found["protocols"]["raw, b 1000"]["scans"] == ["low 0", "low 1"]
    for name in names[:2]:
        icc = np.array(found["protocols"][name]["icc"]["cls"])
        assert np.median(icc) < 0.6, "differences of the b-value do not count"
    assert found["protocols"][names[2]]["icc"] == {}
    assert f"{names[2]}: no intraclass correlation of one scan, alone" in format_reliability(found)


def test_the_table_counts_known_features() -> None:
    icc = {part: [0.5, 0.7, 0.9, 1.0, None] for part in PARTS}
    protocols = {"raw, b 1000": {"scans": ["a", "b"], "shared": 0.25, "icc": icc}}
    record = {"n_draws": 4, "n_directions": 12, "protocols": protocols}
    lines = format_reliability(record).splitlines()
    assert "raw, b 1000: 2 scans x 4 draws of 12 directions, 25 % of directions shared" in lines[0]
    assert "one b=0 normalisation a scan" in lines[0]
    assert lines[2] == "| encoder, cls | 4 | 0.65 | 0.80 | 0.93 | 0.50 |"
    empty = format_reliability(record | {"protocols": {}})
    assert empty == "no scan of more than 12 directions to draw from"
