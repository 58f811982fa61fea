"""Two protocols of the same heads, and the scaling of RISH features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm_lab.review.estimates import fit_voxels
from dmri_fm_lab.review.harmonisation import (
    REFERENCE,
    SOURCE,
    Heads,
    Mapping,
    amplitudes,
    draw_heads,
    harmonised,
    learned_mapping,
    linear_mapping,
    series_of,
)


@pytest.fixture(scope="module")
def heads() -> Heads:
    return draw_heads(torch.Generator().manual_seed(0), 1)


def test_protocols_measure_the_same_voxels_with_another_contrast(heads: Heads) -> None:
    first, other = (heads.scan(p) for p in (REFERENCE, SOURCE))
    assert len(first) == len(other) == heads.white_matter().sum() > 1000
    np.testing.assert_allclose(first[:, :2], 1, rtol=1e-6)
    assert other[:, 2:].mean() < first[:, 2:].mean(), "the higher b-value"
    noisy = heads.scan(SOURCE, torch.Generator().manual_seed(0))
    # Of the ratio to the mean of two b=0 volumes, about 1 / SNR in white matter.
    assert np.std((noisy - other)[:, 2:]) == pytest.approx(1 / SOURCE.snr, rel=0.4)
    fa = [
        fit_voxels(h.scan(REFERENCE), REFERENCE.table()).fa.mean()
        for h in (heads, heads.diseased())
    ]
    assert fa[1] < fa[0] - 0.02


def test_a_series_that_needs_no_scaling_has_the_tensor_of_its_signal(heads: Heads) -> None:
    signals = heads.scan(REFERENCE)
    truth = fit_voxels(signals, REFERENCE.table())
    found = harmonised(series_of(signals, REFERENCE), lambda s: np.ones((len(s), 3)))
    # A tensor is not a series of order 4, but nearly so.
    assert np.abs(found.fa - truth.fa).mean() < 0.02
    assert np.abs(found.md - truth.md).mean() < 0.005


def test_linear_scaling_undoes_a_scaling_of_orders() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(size=(50, 15))
    factors = np.array([1.1, 0.7, 2.0])
    target = source * factors[np.repeat([0, 1, 2], [1, 5, 9])]
    found = linear_mapping(source, target)(source)
    np.testing.assert_allclose(found, np.tile(factors, (50, 1)))
    np.testing.assert_allclose(amplitudes(source) * found, amplitudes(target))


def test_a_learned_mapping_finds_what_one_factor_cannot(tmp_path: Path) -> None:
    """The factor of order 2 depends on the voxel: on the power of its order 0."""
    rng = np.random.default_rng(0)

    def pairs(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        source = rng.normal(size=(n, 15))
        source[:, 0] = rng.uniform(1.0, 3.0, n)
        factors = np.ones((n, 15))
        factors[:, 1:6] = source[:, :1]
        # What is measured differs a little from what follows from the source.
        return source, source * factors * rng.normal(1.0, 0.01, (n, 15))

    source, target = pairs(3000)
    shown, wanted = pairs(500)
    learned = learned_mapping(source, target, seed=0, n_steps=60, folder=tmp_path / "run")
    linear = linear_mapping(source, target)

    def error(mapping: Mapping) -> float:
        found = amplitudes(shown) * mapping(shown)
        return float(np.abs(found - amplitudes(wanted))[:, 1].mean())

    assert error(learned) < 0.75 * error(linear)
    # Orders that need no scaling keep theirs.
    np.testing.assert_allclose(learned(shown)[:, 2].mean(), 1, atol=0.05)
    # A finished run is read back; one of other pairs is refused.
    again = learned_mapping(source, target, seed=0, n_steps=60, folder=tmp_path / "run")
    np.testing.assert_array_equal(again(shown), learned(shown))
    with pytest.raises(ConfigError):
        learned_mapping(source, 2 * target, seed=0, n_steps=60, folder=tmp_path / "run")
