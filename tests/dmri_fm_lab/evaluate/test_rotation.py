"""R of masked directions, and networks that are told permuted directions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.mae import MaskedAutoencoder, draw_mask
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate.permuted_directions import draw_permutation, permute_directions
from dmri_fm_lab.evaluate.rotation import (
    PERMUTATIONS,
    TITLES,
    RotationRequest,
    format_rotation,
    score_rotation,
    score_rotations,
)
from dmri_fm_lab.evaluate.rotation_verdicts import judge_run, judge_seeds
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.train.masked_steps import mean_of_visible
from tests.dmri_fm_lab.evaluate.tiny_drope import TINY, TINY_MAE

ALL = RotationRequest(n_directions=16, n_masks=2, n_permutations=0)
ONE = replace(ALL, n_masks=1)


def read(scan):
    return tokenise(scan.signal, scan.gtab, scan.mask, TINY)


def test_a_prediction_without_error_explains_everything(
    grid_scan, tiny_network, monkeypatch
) -> None:
    truth = read(replace(grid_scan, signal=grid_scan.clean)).patches
    monkeypatch.setattr(tiny_network, "forward", lambda *_: truth[None])
    record = score_rotation(tiny_network, grid_scan, ALL)
    row = record["rows"]["network"]
    assert row["r"] == pytest.approx(1.0, abs=1e-5)
    assert row["rmse"] == pytest.approx(record["floor"]["rmse"], rel=1e-5)
    assert record["floor"]["source"] == "truth"


def test_the_mean_of_visible_directions_explains_nothing(
    grid_scan, tiny_network, monkeypatch
) -> None:
    tokens = read(grid_scan)

    def forward(_patches, _qspace, _positions, mask):
        return mean_of_visible(tokens, mask.kept[0])[None]

    monkeypatch.setattr(tiny_network, "forward", forward)
    rows = score_rotation(tiny_network, grid_scan, ALL)["rows"]
    assert rows["network"]["r"] == pytest.approx(0.0, abs=1e-5)
    assert rows["mean"]["r"] == 0
    assert rows["gaussian-process"]["r"] > 0.1
    assert rows["gaussian-process"]["of_process"] == 1


def test_rows_of_permutations(grid_scan, tiny_network) -> None:
    request = RotationRequest(n_directions=12, n_masks=1, n_permutations=2)
    record = score_rotations(tiny_network, [grid_scan], request)
    (scan,) = record["scans"]
    assert set(scan["rows"]) == set(TITLES)
    assert all(scan["rows"][name]["spread"] > 0 for name in PERMUTATIONS)
    assert scan["rows"]["network"]["spread"] is None
    assert record["means"]["training generator"] == scan["rows"]
    text = format_rotation(scan)
    assert "| permuted: distances, encoder |" in text
    assert "(truth)" in text
    json.dumps(record, allow_nan=False)


def test_the_noise_of_a_real_scan_comes_from_repeats(grid_scan, tiny_network) -> None:
    """Two volumes of each direction, with noise of .02 each."""
    noise = 0.02 * np.random.default_rng(0).normal(size=(*grid_scan.mask.shape, 32))
    clean = np.repeat(grid_scan.clean, 2, axis=3)
    twice = replace(
        grid_scan,
        signal=((clean + noise) * grid_scan.mask[..., None]).astype(np.float32),
        gtab=grid_scan.gtab.select(np.repeat(np.arange(16), 2)),
        clean=None,
    )
    record = score_rotation(tiny_network, twice, ONE)
    assert record["floor"]["source"] == "repeats"
    assert record["floor"]["rmse"] == pytest.approx(0.02, rel=0.05)
    once = replace(grid_scan, clean=None)
    assert score_rotation(tiny_network, once, ONE)["floor"]["source"] == "estimate"


def rows(**r):
    return {name: {"r": value, "of_process": value / 0.6} for name, value in r.items()}


def test_verdicts_follow_the_numbers() -> None:
    good = rows(network=0.5, **{"gaussian-process": 0.6, "both, encoder": -0.1})
    poor = rows(network=0.3, **{"gaussian-process": 0.6, "both, encoder": 0.1})
    simulated, permuted = judge_run({"other generator": good}).splitlines()[2:]
    assert simulated == "| R >= 0.5 | other generator | 0.500 | met |"
    assert permuted.endswith("encoder | other generator | -0.100 | met |")
    (real, permuted) = judge_run({"raw": poor}).splitlines()[2:]
    assert real.endswith("process's | raw | 0.500 (0.300 of 0.600) | NOT met |")
    assert permuted.endswith("| 0.100 | NOT met |")
    unknown = {"network": {"r": None, "of_process": None}}
    assert judge_run({"other generator": unknown}).endswith("| - | not measured |")


def test_verdicts_over_seeds_compare_with_their_spread() -> None:
    seeds = [rows(network=r, **{"distances, encoder": r - 0.03}) for r in (0.30, 0.34, 0.38)]
    plain = [rows(network=r) for r in (0.10, 0.12, 0.14)]
    distances, training = judge_seeds({"raw": seeds}, {"raw": plain}).splitlines()[2:]
    assert distances.endswith("| raw | 0.030, spread 0.040 | NOT met |")
    assert training.endswith("| raw | 0.220, spread 0.040 | met |")
    one = judge_seeds({"raw": seeds[:1]}, {"raw": plain[:1]})
    assert one.count("not measured") == 2


def test_scans_that_cannot_be_scored(grid_scan, tiny_network) -> None:
    with pytest.raises(ConfigError, match="no scan"):
        score_rotations(tiny_network, [grid_scan], RotationRequest(n_directions=17))
    grey = replace(grid_scan, clean=np.full_like(grid_scan.signal, 0.4))
    assert score_rotation(tiny_network, grey, ONE) is None
    with pytest.raises(ConfigError, match="a mask or more"):
        RotationRequest(n_masks=0)


def test_directions_are_permuted_within_shells_and_none_keeps_its_own() -> None:
    bvals = [1000, 2000, 1000, 1000, 2000, 3000, 1000, 2000]
    gtab = GradientTable(bvals, spread_directions(np.random.default_rng(0), 8))
    for seed in range(20):
        order = draw_permutation(np.random.default_rng(seed), gtab)
        assert sorted(order.tolist()) == list(range(8))
        np.testing.assert_array_equal(gtab.bvals[order], bvals)
        assert np.flatnonzero(order == np.arange(8)).tolist() == [5]


@pytest.fixture
def inputs(grid_scan):
    """Patches, measurements and positions, a mask, and an order of the visible directions."""
    tokens = read(grid_scan)
    rng = np.random.default_rng(3)
    mask = draw_mask(rng, TINY_MAE, kind="diffusion", n_directions=16, n_patches=4)
    order = draw_permutation(rng, grid_scan.gtab.select(mask.kept[0].numpy()))
    return (tokens.patches[None], tokens.qspace[None], tokens.positions[None], mask), order


def permuted(network, inputs, what, *, in_decoder):
    arguments, order = inputs
    kept = arguments[3].kept[0].numpy()
    options = {"kept": kept, "n_directions": 16, "what": what, "in_decoder": in_decoder}
    with permute_directions(network, order, **options), torch.inference_mode():
        return network(*arguments)


def test_both_in_encoder_and_decoder_are_a_permuted_gradient_table(tiny_network, inputs) -> None:
    (patches, qspace, positions, mask), order = inputs
    changed = qspace.clone()
    changed[:, mask.kept[0]] = qspace[:, mask.kept[0]][:, torch.from_numpy(order)]
    with torch.inference_mode():
        before = tiny_network(patches, qspace, positions, mask)
        expected = tiny_network(patches, changed, positions, mask)
    found = permuted(tiny_network, inputs, "both", in_decoder=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (found - before).abs().max() > 1e-5
    # Nothing stays behind.
    with torch.inference_mode():
        torch.testing.assert_close(tiny_network(*inputs[0]), before, rtol=0, atol=0)


@pytest.mark.parametrize("in_decoder", [False, True])
def test_distances_and_code_are_permuted_apart(tiny_network, inputs, in_decoder) -> None:
    """Without rotation there are no distances to permute; with an empty code, no code."""
    plain = MaskedAutoencoder(replace(TINY_MAE, encoder=replace(TINY, rotary="none"))).eval()
    plain.load_state_dict(tiny_network.state_dict())
    without_code = MaskedAutoencoder(TINY_MAE).eval()
    without_code.load_state_dict(tiny_network.state_dict())
    for part in (without_code.encoder, without_code.decoder):
        torch.nn.init.zeros_(part.position.qpos_embed.weight)
    for network, inert, other in (
        (plain, "distances", "code"),
        (without_code, "code", "distances"),
    ):
        with torch.inference_mode():
            before = network(*inputs[0])
        same = permuted(network, inputs, inert, in_decoder=in_decoder)
        torch.testing.assert_close(same, before, rtol=0, atol=1e-6)
        changed = permuted(network, inputs, other, in_decoder=in_decoder)
        assert (changed - before).abs().max() > 1e-6
        both = permuted(network, inputs, "both", in_decoder=in_decoder)
        torch.testing.assert_close(both, changed, rtol=0, atol=1e-6)


def test_the_decoder_may_know_the_truth(tiny_network, inputs) -> None:
    encoder, everywhere = (
        permuted(tiny_network, inputs, "both", in_decoder=d) for d in (False, True)
    )
    assert (encoder - everywhere).abs().max() > 1e-6


def test_the_command(run, tmp_path, capsys) -> None:
    out = tmp_path / "scores.json"
    options = ["--simulated", "1", "--masks", "1", "--permutations", "2", "--json", str(out)]
    assert main(["evaluate", "rotation", str(run), *options]) == 0
    printed = capsys.readouterr().out
    assert "| permuted: both, encoder and decoder |" in printed
    assert "mean of scans, training generator" in printed
    assert "| R <= 0 with distances and code permuted, encoder | training generator |" in printed
    assert json.loads(out.read_text())["request"]["n_directions"] == 12
    assert main(["evaluate", "rotation", str(run)]) == 1
    assert "no scan" in capsys.readouterr().err
