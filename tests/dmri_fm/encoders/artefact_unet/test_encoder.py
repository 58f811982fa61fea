"""From a series to the features of the artefact-removal U-Net."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dmri_fm.encoders.artefact_unet.encoder import (
    UnetEncoder,
    prepare_shell,
    summarise,
    template_brain,
)
from dmri_fm.encoders.artefact_unet.network import ArtefactUnet
from dmri_fm.errors import ConfigError, GradientError, ImageError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.out_of_distribution import fit_scan_reference
from dmri_fm.series import Dwi
from dmri_fm.shell_resampling import fixed_directions
from dmri_fm.weights import Weights
from dmri_fm_lab.simulate import spread_directions
from tests.dmri_fm.encoders.artefact_unet.narrow import NARROW

#: A tensor, mm^2/s, RAS+.
TENSOR = 1e-3 * np.array([[1.6, 0.2, 0.0], [0.2, 0.5, 0.1], [0.0, 0.1, 0.4]])


def signal_of(directions: NDArray[np.float64], bval: float = 1000.0) -> NDArray[np.float64]:
    signal: NDArray[np.float64] = np.exp(
        -bval * np.einsum("ni,ij,nj->n", directions, TENSOR, directions)
    )
    return signal


def draw_scan(n_directions: int = 60, scale: float = 400.0, seed: int = 0) -> Dwi:
    """Return a series of one tensor everywhere in the template's brain, two b=0 among it."""
    axes = spread_directions(np.random.default_rng(seed), n_directions)
    bvals = np.array([0.0, 5.0, *[1000.0] * n_directions])
    gtab = GradientTable(bvals, np.vstack([np.zeros((2, 3)), axes]))
    mask = template_brain(NARROW)
    data = np.zeros((*mask.shape, len(bvals)), dtype=np.float32)
    data[mask] = scale * np.concatenate([[1.0, 1.0], signal_of(axes)])
    return Dwi.from_arrays(data, NARROW.grid.affine, gtab, mask=mask)


def make() -> UnetEncoder:
    torch.manual_seed(0)
    network = ArtefactUnet(NARROW).eval()
    return UnetEncoder(Weights("artefact-unet", "0", "", NARROW, network, {}, {}, {}))


def test_input_is_the_signal_over_b0_on_the_fixed_directions() -> None:
    scan = draw_scan()
    prepared = prepare_shell(scan, NARROW)
    inside = prepared.signal[:, scan.brain].numpy()
    expected = signal_of(fixed_directions(16))
    # Order 8 leaves the signal of a tensor at b=1000 with an error below 1e-3.
    np.testing.assert_allclose(inside, np.repeat(expected[:, None], inside.shape[1], 1), atol=1e-3)
    assert not prepared.signal[:, ~scan.brain].any()
    assert prepared.metadata["SphericalHarmonicOrder"] == 8
    assert prepared.metadata["Volumes"] == list(range(2, 62))


def test_features_follow_neither_protocol_nor_scanner_scale() -> None:
    encoder = make()
    found = [
        encoder.encode(encoder.prepare(scan, n_directions=None, seed=0))
        for scan in (draw_scan(), draw_scan(90, scale=7.0, seed=1))
    ]
    assert [f.n_directions for f in found] == [60, 90]
    assert {of: v.shape for of, v in found[0].vectors.items()} == {"pooled": (5,)}
    # The two protocols differ by what order 8 leaves out, which instance normalisation magnifies.
    np.testing.assert_allclose(found[0].vectors["pooled"], found[1].vectors["pooled"], atol=0.02)
    assert (found[0].max_bval, found[0].patches, found[0].model) == (1000.0, None, "artefactunet")
    assert np.isnan(found[0].ood_score)


def test_pooled_features_are_the_mean_over_the_brain() -> None:
    network = make()._network
    prepared = prepare_shell(draw_scan(), NARROW)
    brain = torch.zeros_like(prepared.brain)
    brain[8:16, 8:16, 8:16] = True
    code = network.encode(prepared.signal[None])[0, :, 1, 1, 1]
    found = summarise(network, prepared.signal, brain)
    np.testing.assert_allclose(found.code, code.detach().numpy(), rtol=1e-5)
    share = float(template_brain(NARROW)[8:16, 8:16, 8:16].sum() / template_brain(NARROW).sum())
    assert found.indicators["missing"] == pytest.approx(1 - share)


def test_score_by_the_statistics_of_the_weights() -> None:
    encoder, scan = make(), draw_scan()
    prepared = encoder.prepare(scan, n_directions=None, seed=0)
    rng = np.random.default_rng(0)
    own = summarise(encoder._network, prepared.signal, prepared.brain)
    others = [own._replace(code=own.code + rng.normal(0, 0.01, 5)) for _ in range(20)]
    reference = fit_scan_reference(others[:10], others[10:])
    scored = UnetEncoder(replace(encoder.weights, statistics=reference)).encode(prepared)
    assert scored.ood_percentile < 60
    brain = prepared.brain.clone()
    brain[:, :, 10:] = False
    half = prepared._replace(signal=prepared.signal * 0.3, brain=brain)
    worse = UnetEncoder(replace(encoder.weights, statistics=reference)).encode(half)
    assert worse.ood_percentile == 100
    assert worse.metadata["MissingFraction"] > 0.3


@pytest.mark.parametrize(
    "request_", [{"n_directions": 6}, {"n_directions": None, "region": "published"}]
)
def test_a_part_of_a_scan_is_no_choice(request_: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="reads one shell of the whole brain"):
        make().prepare(draw_scan(), seed=0, **request_)  # type: ignore[arg-type]


def test_scans_that_cannot_be_read() -> None:
    with pytest.raises(GradientError, match=r"too few distinct directions .* \(12 at b 1000\)"):
        make().prepare(draw_scan(12), n_directions=None, seed=0)
    scan = draw_scan(20)
    no_b0 = Dwi.from_arrays(
        scan.data[..., 2:], scan.affine, scan.gtab.select(np.arange(2, 22)), mask=scan.brain
    )
    with pytest.raises(GradientError, match="b=0"):
        make().prepare(no_b0, n_directions=None, seed=0)


def test_a_slab_without_half_of_the_brain_is_refused() -> None:
    scan = draw_scan(20)
    mask = scan.brain.copy()
    mask[:, :, 8:] = False
    slab = Dwi.from_arrays(scan.data, scan.affine, scan.gtab, mask=mask)
    with pytest.raises(ImageError, match="% of the template's brain lies outside the mask"):
        make().prepare(slab, n_directions=None, seed=0)


def test_the_control_is_no_encoder() -> None:
    weights = make().weights
    artefacts = {"settings": {"objective": "artefacts"}}
    assert UnetEncoder(replace(weights, training=artefacts)).name == "artefact-unet"
    control = {"settings": {"objective": "autoencoder"}}
    with pytest.raises(WeightsError, match=r"(?s)plain autoencoder.*objective artefacts"):
        UnetEncoder(replace(weights, training=control))
