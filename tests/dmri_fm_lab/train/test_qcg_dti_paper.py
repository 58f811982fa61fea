"""The published training of QCG-DTI, on a tiny network, and single steps of the whole one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.errors import ConfigError
from dmri_fm.qspace import SKARE_DIRECTIONS, condition_number, skare_angle_deg
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.tensor_networks.qcg_dti import PAPER
from dmri_fm_lab.evaluate.network_runs import load_tensor_run
from dmri_fm_lab.train.config import TensorTraining, read_training
from dmri_fm_lab.train.loop import learning_rate_at
from dmri_fm_lab.train.scan_patches import TrainingScan
from dmri_fm_lab.train.tensor_training import (
    draw_tensor_batch,
    draw_training_protocol,
    train_tensor_network,
)
from dmri_fm_lab.train.validation import split_scans

SETTINGS = read_training(TensorTraining, "qcg-dti-paper")


def shorten(n_steps, **changes):
    """Return the published settings, few steps of small blocks."""
    optimisation = replace(SETTINGS.optimisation, n_steps=n_steps, matmul_precision="highest")
    return replace(SETTINGS, optimisation=optimisation, **changes)


@pytest.fixture
def tiny(monkeypatch):
    """Put a narrow network of the published form in the registry's place."""
    config = replace(PAPER, widths=(2, 4), qcf_hidden=4, pool_voxels=16)
    monkeypatch.setitem(MODELS, "qcg-dti-paper", MODELS["qcg-dti-paper"]._replace(config=config))
    return {"patch_voxels": 16, "batch": 1, "validation_steps": 2, "n_validation": 2}


def test_settings_are_those_of_the_publication():
    o = SETTINGS.optimisation
    assert (o.beta2, o.weight_decay, o.final_weight_decay) == (0.9999, 0.0, 0.0)
    assert SETTINGS.patch_voxels == PAPER.pool_voxels == 64
    assert o.n_steps == 16 * SETTINGS.validation_steps, "an epoch between validations"
    rates = [
        learning_rate_at(i, o) for i in (0, o.n_steps // 2 - 1, o.n_steps // 2, o.n_steps - 1)
    ]
    assert rates == [6e-4, 6e-4, 3e-5, 3e-5]


def test_directions_are_turned_skare_sets_or_always_the_same():
    rng = np.random.default_rng(0)
    for _ in range(5):
        axes = draw_training_protocol(rng, spread_share=SETTINGS.spread_share, n_b0=1).bvecs_ras[
            1:
        ]
        assert condition_number(axes) < 2
        assert skare_angle_deg(axes) < 7
        fixed = draw_training_protocol(rng, spread_share=0.0, n_b0=2, is_fixed=True)
        np.testing.assert_allclose(fixed.bvecs_ras[2:], SKARE_DIRECTIONS)
    batch = draw_tensor_batch(rng, batch=2, patch_voxels=8, spread_share=0.0, is_fixed=True)
    expected = torch.tensor(SKARE_DIRECTIONS.tolist())
    torch.testing.assert_close(batch.inputs.q[..., :3], expected.expand(2, 6, 3))


def test_weights_of_the_lowest_validation_error_are_written(tiny, tmp_path):
    path = tmp_path / "paper.safetensors"
    run = train_tensor_network(shorten(6, **tiny), tmp_path / "run", weights=path)
    rows = (tmp_path / "run" / "validation.csv").read_text(encoding="utf-8").split()[1:]
    errors = {int(step): float(error) for step, error in (row.split(",") for row in rows)}
    assert list(errors) == [2, 4, 6]
    assert run.best_step == min(errors, key=lambda step: errors[step])
    loaded = load_weights(path, model="qcg-dti-paper")
    assert loaded.training["validation"]["step"] == run.best_step
    assert "deviation" in loaded.normalisation["images"]
    kept = load_tensor_run(tmp_path / "run").state_dict()
    for name, tensor in loaded.model.state_dict().items():
        torch.testing.assert_close(tensor, kept[name].half().float())


def test_target_statistics_are_those_of_the_training_tensors(tiny, tmp_path):
    settings = shorten(2, **tiny)
    run = train_tensor_network(settings, tmp_path / "run")
    mean, deviation = run.model.target.tolist()
    # Two of six elements differ little from zero on average, three lie at .7 to 1.2 um^2/ms.
    assert 0.2 < mean < 0.9
    assert 0.2 < deviation < 1.5
    again = train_tensor_network(settings, tmp_path / "run")
    assert torch.equal(again.model.target, run.model.target)


def make_scan(brain):
    """Return a training scan of which only the brain's name is read."""
    return TrainingScan(
        name=brain,
        brain_name=brain,
        images=torch.zeros(8, 2, 2, 2),
        q=torch.zeros(6, 4),
        subsets=np.arange(6)[None],
        voxel_mm=np.ones(3),
        n_b0=1,
        noise=1.0,
    )


def test_brains_are_held_out_whole():
    scans = [make_scan(f"brain {k // 2}") for k in range(24)]
    training, held_out = split_scans(scans, SETTINGS)
    assert (len(training), len(held_out)) == (20, 4)
    names = ({s.brain_name for s in part} for part in (training, held_out))
    assert not set.intersection(*names)
    assert split_scans(scans, replace(SETTINGS, validation_steps=0)) == (scans, [])


def test_fixed_directions_allow_no_scans(tmp_path):
    settings = shorten(1, directions="fixed")
    with pytest.raises(ConfigError, match="fixed directions"):
        train_tensor_network(settings, tmp_path, scans=[make_scan("a")])
    with pytest.raises(ConfigError, match="'turned'"):
        train_tensor_network(shorten(1, directions="turned"), tmp_path)


@pytest.mark.parametrize("side", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_a_step_of_the_whole_network(side, tmp_path):
    """20M parameters; a block of 64^3 takes minutes of a processor."""
    settings = shorten(1, patch_voxels=side, batch=1, validation_steps=1, n_validation=1)
    path = tmp_path / "paper.safetensors"
    run = train_tensor_network(settings, tmp_path / "run", weights=path)
    assert run.steps == 1
    assert run.best_error is not None
    assert np.isfinite(run.best_error)
    loaded = load_weights(path)
    assert 19e6 < sum(p.numel() for p in loaded.model.parameters()) < 21e6
