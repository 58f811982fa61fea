import json
import pickle
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dmri_fm.encoders.drope import config as drope
from dmri_fm.errors import WeightsError
from dmri_fm.identity import ENCODERS, RESEARCH_ONLY, identity
from dmri_fm.participants import seen_participants
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.tensor_networks.refiner import RefinerConfig, TensorRefiner
from dmri_fm.weights import save_weights

TINY_DTI = RefinerConfig(widths=(2, 4), encoder_blocks=(1, 1), decoder_blocks=(1,))
TINY_DROPE = replace(drope.SMALL, dim=24, depth=1, heads=2)
SHIPPED = ("tensor-refiner", "drope", "ssdiff")


def save(path, *, name="tensor-refiner", statistics=None):
    torch.manual_seed(0)
    config = TINY_DTI if name == "tensor-refiner" else TINY_DROPE
    model = MODELS[name][1](config)
    save_weights(
        path,
        model,
        name=name,
        version="1.2",
        training={"steps": 3},
        statistics=statistics,
    )
    return model


def rewrite(path, **changes):
    beside = path.with_suffix(".json")
    description = json.loads(beside.read_text())
    description.update(changes)
    beside.write_text(json.dumps(description))


def test_own_weights_are_described_by_their_own_file(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path)
    rewrite(path, license="CC-BY-NC-4.0")
    described = load_weights(path).describe()
    assert described == {
        "Version": "1.2",
        "Weights": "w.safetensors",
        "SHA256": sha256(path.read_bytes()).hexdigest(),
        "License": "CC-BY-NC-4.0",
        "Use": "Research only: not for diagnosis or treatment.",
    }
    beside = path.with_suffix(".json")
    without = {k: v for k, v in json.loads(beside.read_text()).items() if k != "license"}
    beside.write_text(json.dumps(without))
    assert "License" not in load_weights(path).describe()
    rewrite(path, license=3)
    with pytest.raises(WeightsError, match="license is a int"):
        load_weights(path)


def test_weights_state_their_use_and_older_ones_load_without(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path)
    rewrite(path, use="Phantoms only.")
    assert load_weights(path).describe()["Use"] == "Phantoms only."
    rewrite(path, use=["Research only."])
    with pytest.raises(WeightsError, match="use is a list"):
        load_weights(path)
    beside = path.with_suffix(".json")
    without = {k: v for k, v in json.loads(beside.read_text()).items() if k != "use"}
    beside.write_text(json.dumps(without))
    assert load_weights(path).use == ""
    assert "Use" not in load_weights(path).describe()


@pytest.mark.parametrize("name", SHIPPED)
def test_packaged_weights_say_so(name):
    described = load_weights(name).describe()
    assert (described["Weights"], described["License"]) == ("packaged", "Apache-2.0")
    assert described["Use"] == RESEARCH_ONLY
    # What is true of these weights alone is not said of every checkpoint of the name.
    assert "packaged weights" in identity(name).methods


@pytest.mark.parametrize("name", ["tensor-refiner", "drope"])
def test_save_and_load_give_the_same_network(tmp_path, name):
    path = tmp_path / "w.safetensors"
    statistics = {"mean": torch.tensor([1.0, 1e-7])}
    model = save(path, name=name, statistics=statistics)
    loaded = load_weights(path)
    assert (loaded.name, loaded.version, loaded.training) == (name, "1.2", {"steps": 3})
    assert loaded.config == (TINY_DTI if name == "tensor-refiner" else TINY_DROPE)
    assert loaded.sha256 == sha256(path.read_bytes()).hexdigest()
    assert not loaded.model.training
    for key, value in model.state_dict().items():
        # What was written is half precision, and exactly that comes back.
        torch.testing.assert_close(loaded.model.state_dict()[key], value.half().float())
    torch.testing.assert_close(loaded.statistics["mean"], statistics["mean"], atol=0, rtol=0)


def test_same_network_same_bytes(tmp_path):
    save(tmp_path / "a.safetensors")
    save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_changed_byte_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="sha256"):
        load_weights(path)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pkl", ".bin"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="run code"):
        load_weights(path)


def test_a_pickle_under_another_name_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    rewrite(path, sha256=sha256(path.read_bytes()).hexdigest())
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_weights(path)


def test_missing_files_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="no such weights"):
        load_weights(path)
    save(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match=r"w\.json"):
        load_weights(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"model": "resnet"}, "resnet"),
        ({"config": {"widths": [2, 4]}}, "configuration"),
        ({"model": "drope"}, "configuration"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path, changes, message):
    path = tmp_path / "w.safetensors"
    save(path)
    rewrite(path, **changes)
    with pytest.raises(WeightsError, match=message):
        load_weights(path)


@pytest.mark.parametrize("widths", [[2, 6], [2, 4, 8], "many", [2, -1]])
def test_wrong_configurations_are_refused(tmp_path, widths):
    path = tmp_path / "w.safetensors"
    save(path)
    config = json.loads(path.with_suffix(".json").read_text())["config"]
    rewrite(path, config={**config, "widths": widths})
    with pytest.raises(WeightsError):
        load_weights(path)


def test_wrong_tensors_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path)
    tensors = load_file(path)
    first = sorted(tensors)[0]
    for broken in (
        {k: v for k, v in tensors.items() if k != first},
        {**tensors, "extra": torch.zeros(1)},
        {**tensors, first: torch.full_like(tensors[first], float("nan"))},
    ):
        save_file(broken, path)
        rewrite(path, sha256=sha256(path.read_bytes()).hexdigest())
        with pytest.raises(WeightsError):
            load_weights(path)


def test_weights_of_another_model_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path)
    with pytest.raises(WeightsError, match="'drope'"):
        load_weights(path, model="drope")


def test_weights_that_overflow_half_precision_are_not_saved(tmp_path):
    model = TensorRefiner(TINY_DTI)
    with torch.no_grad():
        model.head.weight[0] = 1e6
    with pytest.raises(WeightsError, match="half precision"):
        save_weights(
            tmp_path / "w.safetensors",
            model,
            name="tensor-refiner",
            version="1",
            training={},
        )


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_load_and_are_small(name):
    loaded = load_weights(name)
    assert loaded.config == MODELS[name][0]
    assert sum(p.numel() for p in loaded.model.parameters()) <= 10_000_000
    assert bool(loaded.pretraining) == (name == "drope"), "the decoder"
    if name in ENCODERS:
        has_real = bool(loaded.training["scans"])
        assert bool(seen_participants(loaded)) == has_real, "who was trained on is listed"
    else:
        assert loaded.training["scans"] == [
            "sub-galan, Canon Galan 3T",
            "sub-galan5, Toshiba Galan 3T",
            "sub-galan6, Canon Galan 3T",
            "sub-umr, UIH uMR 770",
        ]


def test_all_shipped_weights_are_below_60_megabytes():
    folder = files("dmri_fm") / "data" / "weights"
    sizes = [Path(str(path)).stat().st_size for path in folder.iterdir()]
    assert 1e6 < sum(sizes) < 60e6
