import re
from importlib.resources import files

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.registry import MODELS
from dmri_fm_lab.baseline_networks import BASELINE_NETWORKS
from dmri_fm_lab.train.config import (
    TensorTraining,
    read_pretraining,
    read_training,
)


@pytest.mark.parametrize("name", sorted([*MODELS, *BASELINE_NETWORKS]))
def test_every_model_has_settings(name):
    file = re.sub(r"-ablation.*", "-ablation", name)
    if name.startswith(("drope", "ssdiff", "artefact-unet")):
        settings = read_pretraining(file, model=name)
    else:
        settings = read_training(TensorTraining, file, model=name)
    assert settings.model == name
    assert settings.optimisation.n_steps > settings.optimisation.warmup_steps >= 0


def test_no_settings_without_a_model():
    folder = files("dmri_fm_lab") / "configs"
    names = {p.name.removesuffix(".toml") for p in folder.iterdir()}
    models = {re.sub(r"-ablation.*", "-ablation", name) for name in MODELS}
    assert names == {*models, *BASELINE_NETWORKS, "qcg-dti-ablation-fixed"}


def test_overrides():
    settings = read_training(
        TensorTraining, "tensor-refiner", optimisation={"n_steps": 7, "seed": 3}
    )
    assert (settings.optimisation.n_steps, settings.optimisation.seed) == (7, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "not TOML"),
        ('model = "tensor-refiner"', "missing"),
        ('model = "tensor-refiner"\nwidth = 3', "unknown"),
        ('model = "tensor-refiner"\nbatch = "two"', "batch"),
        ('model = "tensor-refiner"\nbatch = true', "batch"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    path = tmp_path / "run.toml"
    table = "\n[optimisation]\nn_steps=1\nwarmup_steps=1\nlearning_rate=1\nfinal_learning_rate=1\n"
    path.write_text(text + ("" if message == "missing" else table))
    with pytest.raises(ConfigError, match=message):
        read_training(TensorTraining, path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_training(TensorTraining, tmp_path / "none.toml")
