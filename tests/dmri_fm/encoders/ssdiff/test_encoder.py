"""From a series to the features of SSDiff: input, rotations by a warp, sensitivity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.encoders.ssdiff.blocks import brain_blocks
from dmri_fm.encoders.ssdiff.config import SsdiffConfig
from dmri_fm.encoders.ssdiff.encoder import (
    SsdiffEncoder,
    directions_at,
    prepare_volumes,
    sensitivity,
)
from dmri_fm.encoders.ssdiff.network import Ssdiff
from dmri_fm.errors import ConfigError, GradientError, ImageError
from dmri_fm.series import Dwi
from dmri_fm.weights import Weights
from tests.dmri_fm.encoders.ssdiff.narrow import NARROW, draw_scan


@pytest.fixture(scope="module")
def scan() -> Dwi:
    return draw_scan(NARROW)


def make(config: SsdiffConfig = NARROW) -> SsdiffEncoder:
    torch.manual_seed(0)
    return SsdiffEncoder(Weights("ssdiff", "0", "", config, Ssdiff(config).eval(), {}, {}, {}))


def test_input_is_the_mean_of_each_block_over_b0(scan: Dwi) -> None:
    prepared = prepare_volumes(scan, NARROW)
    blocks = brain_blocks(NARROW, 2)
    assert prepared.signal.shape == (8, len(blocks)), "b=0 is divided by, not read"
    assert not prepared.directions[:, 0].eq(0).all()
    i, j, k = 2 * blocks.ijk[10]
    where = np.s_[i : i + 2, j : j + 2, k : k + 2]
    inside = scan.data[where][scan.brain[where]]
    np.testing.assert_allclose(prepared.signal[:, 10], inside[:, 2:].mean(axis=0) / 400, rtol=1e-4)
    assert prepared.metadata["Volumes"] == 8
    assert prepared.metadata["LocalRotation"] is False
    published = prepare_volumes(scan, replace(NARROW, reads_b0=True))
    assert published.signal.shape[0] == 10
    assert published.directions[:2].eq(torch.tensor([1.0, 0, 0])).all(), "as published"


def test_b_vectors_are_those_of_the_scanner_s_world(scan: Dwi) -> None:
    vectors = directions_at(scan.gtab, None, scan.brain, NARROW)
    np.testing.assert_allclose(vectors[2:, 1], scan.gtab.bvecs_ras[2:], atol=1e-6)


def turns_of(config: SsdiffConfig, vector: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.broadcast_to(vector, (*config.grid_shape, 3)).astype(np.float32)


def test_a_turn_by_the_warp_is_a_turn_of_the_table(scan: Dwi) -> None:
    """One rotation everywhere equals that rotation of the gradient table."""
    vector = np.array([0.2, -0.4, 0.3])
    turned = scan.gtab.rotated(Rotation.from_rotvec(vector).as_matrix())
    by_table = prepare_volumes(
        Dwi.from_arrays(scan.data, scan.affine, turned, mask=scan.brain), NARROW
    )
    by_warp = prepare_volumes(scan, NARROW, rotations=turns_of(NARROW, vector))
    np.testing.assert_allclose(by_warp.directions, by_table.directions, atol=1e-5)
    assert by_warp.metadata["LocalRotation"] is True


def test_rotations_act_where_they_are(scan: Dwi) -> None:
    left = turns_of(NARROW, np.array([0.0, 0.0, 0.5])).copy()
    left[16:] = 0.0
    found = prepare_volumes(scan, NARROW, rotations=left).directions
    plain = prepare_volumes(scan, NARROW).directions
    is_left = torch.from_numpy(brain_blocks(NARROW, 4).ijk[:, 0] < 4)
    torch.testing.assert_close(found[:, ~is_left], plain[:, ~is_left])
    assert not torch.allclose(found[:, is_left], plain[:, is_left], atol=0.05)


def test_features_and_sensitivity_of_a_scan(scan: Dwi) -> None:
    encoder = make()
    features = encoder.encode(encoder.prepare(scan, n_directions=None, seed=0))
    assert {of: v.shape for of, v in features.vectors.items()} == {"cls": (24,), "pooled": (24,)}
    assert (features.n_directions, features.max_bval) == (8, 1000.0)
    assert features.patches is None
    assert features.metadata["SensitivityProbes"] == 16
    assert 0.05 < features.metadata["SensitivityRelativeError"] < 0.4
    image = features.sensitivity
    assert image is not None
    assert image.data.shape == (16, 20, 16)
    np.testing.assert_allclose(np.diag(image.affine)[:3], [12, 12, 12])
    inside = brain_blocks(NARROW, 2).image(np.ones(len(brain_blocks(NARROW, 2)))) > 0
    assert (image.data[inside] > 0).mean() > 0.95
    assert not image.data[~inside].any()


def test_sensitivity_is_that_of_finite_differences(scan: Dwi) -> None:
    """Exact gradient norm of one block, by changing its signal in all volumes."""
    network = make()._network.double()
    prepared = prepare_volumes(scan, NARROW)
    signal, directions, bvals = (x.double()[None] for x in prepared[:3])
    signal = signal.nan_to_num(NARROW.signal_mean)

    def pooled(change: float) -> torch.Tensor:
        moved = signal.clone()
        moved[..., 40] += change
        with torch.inference_mode():
            found: torch.Tensor = network(moved, directions, bvals)[1].mean(dim=1)
        return found

    exact = float((pooled(1e-4) - pooled(-1e-4)).norm() / 2e-4)
    found = sensitivity(make()._network, prepared).values[40]
    # The estimate from 16 random signs has a relative spread of about sqrt(2 / 16) / 2.
    assert found == pytest.approx(exact, rel=0.5)
    runs = [sensitivity(make()._network, prepared, seed=s) for s in range(12)]
    assert np.mean([run.values[40] ** 2 for run in runs]) == pytest.approx(exact**2, rel=0.25)
    # What a run says of its error is what differs between runs.
    values = np.stack([run.values for run in runs])
    spread = np.median(values.std(axis=0, ddof=1) / values.mean(axis=0))
    assert np.mean([run.relative_error for run in runs]) == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize(
    "request_", [{"n_directions": 6}, {"n_directions": None, "region": "published"}]
)
def test_a_part_of_a_scan_is_no_choice(scan: Dwi, request_: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="reads all volumes of the whole brain"):
        make().prepare(scan, seed=0, **request_)  # type: ignore[arg-type]


def test_scans_that_cannot_be_read(scan: Dwi) -> None:
    no_b0 = Dwi.from_arrays(
        scan.data[..., 2:], scan.affine, scan.gtab.select(np.arange(2, 10)), mask=scan.brain
    )
    with pytest.raises(GradientError, match="b=0"):
        make().prepare(no_b0, n_directions=None, seed=0)
    low = scan.brain.copy()
    low[:, :, 12:] = False
    partial = Dwi.from_arrays(scan.data, scan.affine, scan.gtab, mask=low)
    with pytest.raises(ImageError, match="of the template's brain lies outside the mask"):
        make().prepare(partial, n_directions=None, seed=0)
