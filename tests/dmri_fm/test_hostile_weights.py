"""Weights that lie: typed errors, and no memory for shapes that the file does not hold."""

from __future__ import annotations

import json
import os
import time
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save as pack

from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.tensor_networks.gate import Gate
from dmri_fm.tensor_networks.refiner import RefinerConfig
from dmri_fm.weights import save_weights

TINY = RefinerConfig(widths=(2, 4), encoder_blocks=(1, 1), decoder_blocks=(1,))


@pytest.fixture
def path(tmp_path):
    """A sound checkpoint."""
    torch.manual_seed(0)
    return save_weights(
        tmp_path / "w.safetensors",
        MODELS["tensor-refiner"][1](TINY),
        name="tensor-refiner",
        version="1",
        training={},
    )


def describe(path, **changes):
    beside = path.with_suffix(".json")
    description = json.loads(beside.read_text()) | changes
    # NaN and Infinity are written as Python writes them.
    beside.write_text(json.dumps(description))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "1"},
        {"format": True},
        {"model": ["tensor-refiner"]},
        {"model": {}},
        {"version": 1},
        {"sha256": None},
        {"config": []},
        {"normalisation": "x"},
        {"training": 3},
        {"gate": 3},
        {"gate": {}},
        {"gate": {"maps": {"fa": {"bvals": 3}}, "reasons": {}}},
        {"gate": {"maps": {"fa": {"bvals": [0, 1], "snrs": [1, 2], "voxel_mm": [1, 2],
                                  "most_directions": float("inf"), "most_ood": 0.1}},
                  "reasons": {}}},
        {"gate": {"maps": [], "reasons": 3}},
        {"pretraining": [1]},
    ],
)  # fmt: skip
def test_entry_of_another_type_is_refused(path, changes) -> None:
    describe(path, **changes)
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert caught.value.path in (path, path.with_suffix(".json"))


@pytest.mark.parametrize(
    "changes",
    [
        {"widths": [2.0, 4]},
        {"widths": [2, True]},
        {"widths": [[2], 4]},
        {"widths": 2},
        {"widths": []},
        {"widths": [0, 4]},
        {"widths": [2, 4] * 1000},
        {"widths": [2, 10**12]},
        {"widths": [100_000, 100_000]},
        {"encoder_blocks": [100_000, 1]},
        {"branch_scale": "0.1"},
        {"branch_scale": float("nan")},
        {"branch_scale": 10**300},
    ],
)
def test_configuration_that_the_file_does_not_bear_out_is_refused_at_once(path, changes) -> None:
    config = json.loads(path.with_suffix(".json").read_text())["config"]
    describe(path, config=config | changes)
    start = time.perf_counter()
    with pytest.raises(WeightsError):
        load_weights(path)
    # Widths of 100,000 are a network of terabytes, 100,000 blocks one of minutes.
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "changes",
    [{"patch": [8, 8, 0]}, {"patch": [8, 8]}, {"heads": 0}, {"depth": 10**5}, {"rotary": "no"}],
)
def test_impossible_encoder_is_refused(tmp_path, changes) -> None:
    config = MODELS["drope"][0]
    path = tmp_path / "w.safetensors"
    path.write_bytes(pack({"a": torch.zeros(1)}))
    digest = sha256(path.read_bytes()).hexdigest()
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(config).items()}
    entries = {"format": 1, "model": "drope", "version": "1", "sha256": digest,
               "config": values | changes, "normalisation": {}, "training": {}}  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(entries))
    with pytest.raises(WeightsError):
        load_weights(path)


def header(entries: dict) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2**60).to_bytes(8, "little"),
        header({}),
        header({"a": TENSOR}),
        header({"a": TENSOR | {"shape": [10**12]}}) + bytes(4),
        header({"a": TENSOR | {"shape": [0, 2**62], "data_offsets": [0, 0]}}),
        header({"a": TENSOR | {"shape": [-1]}}) + bytes(4),
        header({"a": TENSOR | {"dtype": "F8_E4M3", "shape": [4]}}) + bytes(4),
        header({"a": TENSOR | {"dtype": "BOOL", "shape": [4]}}) + bytes(4),
        header({"a": TENSOR | {"dtype": "X"}}) + bytes(4),
        header({"a": TENSOR, "b": TENSOR | {"data_offsets": [2, 6]}}) + bytes(6),
        header({"a": TENSOR}) + b"\x00\x00\xc0\x7f",
        (3).to_bytes(8, "little") + b'{"\xff',
        pack({"a": torch.zeros(1)})[:-2],
    ],
)
def test_tensors_that_lie_are_refused(path, content) -> None:
    path.write_bytes(content)
    describe(path, sha256=sha256(content).hexdigest())
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert caught.value.path == path
    str(caught.value).encode()


def test_folders_and_deep_text_in_place_of_files_are_refused(path) -> None:
    beside = path.with_suffix(".json")
    beside.write_text("[" * 100_000)
    with pytest.raises(WeightsError, match="nests deeper"):
        load_weights(path)
    beside.unlink()
    beside.mkdir()
    with pytest.raises(WeightsError, match="no regular file"):
        load_weights(path)
    beside.rmdir()
    os.rename(path, path.with_name("x.safetensors"))
    path.mkdir()
    describing = {"format": 1, "model": "drope", "version": "1", "sha256": "", "config": {},
                  "normalisation": {}, "training": {}}  # fmt: skip
    beside.write_text(json.dumps(describing))
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(path)


def test_gate_of_anything_is_refused() -> None:
    for values in (3, "x", [1], {"bvals": 1}, {"maps": {"fa": 1}, "reasons": {}}):
        with pytest.raises(ConfigError):
            Gate.from_json(values)
