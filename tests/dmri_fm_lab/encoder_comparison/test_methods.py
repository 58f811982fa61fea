"""Methods on one scan of a ball: regional measures, connectome, untrained encoders, costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmri_fm.encoders.drope.config import SMALL, DropeConfig
from dmri_fm.encoders.drope.encoder import DropeEncoder
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.weights import Weights
from dmri_fm_lab.encoder_comparison.connectome import connect, connectome_method, track
from dmri_fm_lab.encoder_comparison.encoders import (
    as_method,
    encoder_methods,
    on_grid,
    untrained_encoder,
)
from dmri_fm_lab.encoder_comparison.method import COST, Sample, measured
from dmri_fm_lab.encoder_comparison.noddi import fit_noddi, has_amico, noddi_obstacle
from dmri_fm_lab.encoder_comparison.regional import rish_method, tensor_method, white_regions
from dmri_fm_lab.encoder_comparison.study import find_response
from tests.dmri_fm_lab.encoder_comparison.conftest import AFFINE, SIDE


def test_regional_fa_and_md_are_means_over_the_regions(sample: Sample) -> None:
    found = measured(tensor_method(), sample)
    names = list(sample.labels.names.values())
    fa, md = np.split(found[""], 2)
    assert len(fa) == len(names) == 16, "octants of white and of grey matter"
    white = np.array([name.startswith("wm_") for name in names])
    assert fa[white].min() > 2 * fa[~white].max()
    maps = fit_tensor(sample.dwi, mask=sample.dwi.mask)
    inside = sample.labels.image == next(iter(sample.labels.names))
    assert fa[0] == pytest.approx(maps.fa[inside].mean(), rel=1e-5)
    assert md[0] == pytest.approx(1e3 * maps.md[inside].mean(), rel=1e-5)
    seconds, mib = found[COST]
    assert 0 < seconds < 60
    assert np.isnan(mib) or mib >= 0


def test_rish_is_of_white_matter_by_a_common_response(sample: Sample) -> None:
    response = find_response([sample])
    assert response[0] > 2 * response[1] > 0
    method = rish_method(response)
    found = method.compute(sample)[""]
    assert found.shape == (3 * len(white_regions(sample.labels).names),)
    assert np.isfinite(found).all()
    few = sample.dwi.gtab.select(np.arange(12))
    assert "order 4 needs 15" in str(method.obstacle(few))
    assert method.obstacle(sample.dwi.gtab) is None


def test_streamlines_join_what_the_fibres_join(sample: Sample) -> None:
    """Fibres run along x: they join the left with the right, and no back with a front."""
    maps = fit_tensor(sample.dwi, mask=sample.dwi.mask)
    lines = track(maps)
    assert len(lines) > 50
    along = np.concatenate([np.diff(line, axis=0) for line in lines])
    assert np.abs(along[:, 0]).mean() > 0.95 * np.linalg.norm(along, axis=1).mean()
    place = np.indices((SIDE,) * 3) > 7
    left_right, back_front = (np.where(maps.mask, 1 + place[k], 0) for k in (0, 1))
    counts, fa = connect(maps, left_right, 2)
    assert counts[0, 1] == counts[1, 0] > 50
    assert 0.3 < fa[0, 1] < 0.9
    across, _ = connect(maps, back_front, 2)
    assert across[0, 1] < 0.1 * counts[0, 1]
    assert connectome_method().compute(sample)[""].shape == (8 * 7,), "octants: 28 pairs, twice"


def test_streamlines_turn_with_the_voxel_axes(sample: Sample) -> None:
    maps = fit_tensor(sample.dwi, mask=sample.dwi.mask)
    # The same brain stored with its first axis from right to left.
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = SIDE - 1
    dwi = Dwi.from_arrays(
        sample.dwi.data[::-1].copy(), AFFINE @ mirror, sample.dwi.gtab, mask=maps.mask[::-1].copy()
    )
    lines = track(fit_tensor(dwi, mask=dwi.mask))
    along = np.concatenate([np.diff(line, axis=0) for line in lines])
    assert np.abs(along[:, 0]).mean() > 0.95 * np.linalg.norm(along, axis=1).mean()


def test_noddi_needs_two_shells(sample: Sample) -> None:
    assert noddi_obstacle(sample.dwi.gtab) is None
    single = sample.dwi.gtab.select(np.arange(22))
    assert noddi_obstacle(single) == "1 shell; NODDI needs 2 or more"
    weighted = GradientTable(np.full(6, 1000.0), np.eye(3)[[0, 1, 2, 0, 1, 2]])
    assert noddi_obstacle(weighted) == "no b=0 volume"


@pytest.mark.slow
@pytest.mark.skipif(not has_amico(), reason="dmri-amico is not installed")
def test_noddi_by_amico(sample: Sample) -> None:
    inside = sample.labels.image > 0
    ndi, odi, fwf = fit_noddi(sample.dwi.data[inside], sample.dwi.gtab).T
    white = np.isin(sample.labels.image[inside], list(white_regions(sample.labels).names))
    assert ndi[white].mean() > ndi[~white].mean()
    assert odi[white].mean() < odi[~white].mean()
    assert ((fwf >= 0) & (fwf < 0.5)).all()


def test_an_untrained_encoder_reads_scans_as_the_app_does(sample: Sample, monkeypatch) -> None:
    monkeypatch.setattr(DropeConfig, "grid", Grid((SIDE,) * 3, AFFINE))
    config = replace(SMALL, grid_shape=(SIDE,) * 3, dim=24, depth=1, heads=2)
    network = Drope(config).eval()
    weights = Weights("drope", "", "", config, network, {}, {}, {})
    method = as_method("x", DropeEncoder(weights), "", 0)
    found = measured(method, sample)
    assert {k: v.shape for k, v in found.items()} == {"cls": (24,), "pooled": (48,), COST: (2,)}
    assert method.row("cls") == "x cls"


def test_untrained_weights_follow_the_seed() -> None:
    first, again, other = (
        untrained_encoder("ssdiff", seed=seed).weights.model.state_dict() for seed in (0, 0, 1)
    )
    assert all((first[k] == again[k]).all() for k in first)
    assert any((first[k] != other[k]).any() for k in first)


def test_encoders_without_weights_are_named(tmp_path) -> None:
    methods, absent = encoder_methods(["artefact-unet"], weights={})
    if absent:
        assert absent[0].title == "artefact-unet"
        assert absent[0].reason.startswith("no weights")
    assert "untrained artefact-unet" in [m.title for m in methods]
    axes = np.vstack([np.zeros(3), np.eye(3)])
    few = GradientTable(np.array([0.0, *[1000.0] * 3]), axes)
    assert methods[-1].obstacle(few) == "no shell of 15 spread directions"
    with pytest.raises(WeightsError):
        encoder_methods(["artefact-unet"], weights={"artefact-unet": tmp_path / "no.safetensors"})
    with pytest.raises(ConfigError):
        encoder_methods(["tensor-refiner"], weights={})


def test_a_series_is_resampled_only_to_another_grid(sample: Sample) -> None:
    assert on_grid(sample.dwi, Grid((SIDE,) * 3, AFFINE)) is sample.dwi
    coarse = np.diag([4.0, 4.0, 4.0, 1.0])
    coarse[:3, 3] = -14.0
    placed = on_grid(sample.dwi, Grid((8, 8, 8), coarse))
    assert placed.shape[:3] == (8, 8, 8)
    # The middle of a ball of white matter keeps its signal.
    assert placed.data[4, 4, 4, 0] == pytest.approx(float(sample.dwi.data[8, 8, 8, 0]), rel=0.1)
