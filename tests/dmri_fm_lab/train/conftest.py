"""A narrow encoder of heads at 6 mm, real and simulated scans on its grid."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dmri_fm.encoders.drope import config as drope
from dmri_fm.encoders.drope import mae
from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.gradients import GradientTable
from dmri_fm.registry import MODELS
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.train import drope as drope_training
from dmri_fm_lab.train.config import DropePretraining, Optimisation
from dmri_fm_lab.train.masked_steps import ScanSource
from dmri_fm_lab.train.scan_cache import CachedScan

TINY = replace(
    drope.SMALL, grid_shape=(32, 40, 32), voxel_size_mm=6.0, dim=24, depth=1, heads=2
)  # fmt: skip

#: Four steps: an epoch of patches, then one of directions.
TRAINING = DropePretraining(
    model="drope",
    optimisation=Optimisation(
        n_steps=4,
        warmup_steps=1,
        learning_rate=1e-3,
        final_learning_rate=1e-5,
        matmul_precision="highest",
    ),
    batch=2,
    min_directions=6,
    max_directions=8,
    steps_per_epoch=2,
    n_brains=3,
    scan_directions=12,
    n_reuse=2,
    n_reference=6,
    n_held_out=4,
)


@pytest.fixture(scope="session")
def tiny() -> DropeConfig:
    return TINY


@pytest.fixture(scope="session")
def training() -> DropePretraining:
    return TRAINING


@pytest.fixture
def tiny_drope(monkeypatch):
    """Put a narrow encoder and decoder in the registry's place."""
    monkeypatch.setitem(MODELS, "drope", MODELS["drope"]._replace(config=TINY))
    narrow = replace(mae.SMALL_MAE, decoder_dim=24, decoder_depth=1, decoder_heads=2)
    monkeypatch.setitem(drope_training.MAE_CONFIGS, "drope", narrow)


@pytest.fixture(scope="session")
def brains(tmp_path_factory):
    """Give a folder with all the simulated brains that the settings ask for."""
    folder = tmp_path_factory.mktemp("brains")
    source = ScanSource(TINY, TRAINING, folder)
    for number in range(TRAINING.n_brains):
        source.brain(number)
    return folder


@pytest.fixture(scope="session")
def twins(tmp_path_factory):
    """Give a real scan with every direction measured twice, half a degree apart.

    Its signal grows with the number of the direction, so that a draw shows what it is made of;
    and from left to right, with some noise.
    """
    dataset = tmp_path_factory.mktemp("study")
    (dataset / "sub-01" / "dwi").mkdir(parents=True)
    (dataset / "dataset_description.json").write_text(json.dumps({"Name": "Study of twins"}))
    rng = np.random.default_rng(0)
    axes = np.concatenate([spread_directions(rng, 10), spread_directions(rng, 10)])
    across = np.cross(axes, [0.6, 0.0, 0.8])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    again = -(axes * np.cos(0.01) + across * np.sin(0.01))
    bvals = np.repeat([1000.0, 2500.0], 10)
    gtab = GradientTable(np.tile(bvals, 2), np.concatenate([axes, again]))
    mask = np.zeros(TINY.grid_shape, dtype=bool)
    mask[4:28, 6:34, 6:26] = True
    level = 0.02 * (1 + np.tile(np.arange(20), 2)) + 0.003 * np.arange(32)[:, None, None, None]
    noise = rng.normal(scale=0.001, size=(*mask.shape, 1))
    signal = (mask[..., None] * (level + noise)).astype(np.float32)
    folder = tmp_path_factory.mktemp("cache") / "sub-01"
    file = dataset / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
    return CachedScan.write(folder, signal, mask, gtab, origin={"file": str(file)})
