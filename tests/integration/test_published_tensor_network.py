"""The app with `qcg-dti-paper`: weights from a file, maps of a real scan."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from dmri_fm.series import load_image, read_array
from dmri_fm.tensor_networks.qcg_dti import PAPER, QcgDti, QcgDtiConfig
from dmri_fm.weights import save_weights

RunApp = Callable[..., tuple[int, str]]

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

NARROW = replace(PAPER, widths=(2, 4), qcf_hidden=4, pool_voxels=16)

#: Mean and deviation of the training tensors' elements, um^2/ms, of half precision.
TARGET = (0.375, 0.5)


@pytest.mark.parametrize("config", [NARROW, PAPER], ids=["narrow", "published"])
def test_maps_of_weights_from_a_file(
    run_app: RunApp, data_dir: Path, tmp_path: Path, config: QcgDtiConfig
) -> None:
    """Random weights; the published network takes a TFLOP or two, some minutes.

    The last layer of the narrow one is zero: every element is the mean that the weights hold.
    """
    torch.manual_seed(0)
    network = QcgDti(config)
    network.target.copy_(torch.tensor(TARGET))
    if config is NARROW:
        with torch.no_grad():
            network.head.weight.zero_()
            network.head.bias.zero_()
    weights = save_weights(
        tmp_path / "random.safetensors", network, name="qcg-dti-paper", version="0", training={}
    )
    arguments = [data_dir / "ds-vendors", tmp_path / "out", "participant"]
    arguments += ["--participant-label", "umr", "--sloppy"]
    arguments += ["--models", "qcg-dti-paper", "--weights", f"qcg-dti-paper={weights}"]
    code, text = run_app(*arguments)
    assert code == 0, text[-3000:]
    maps = sorted((tmp_path / "out" / "sub-umr").rglob("*space-ACPC*model-qcgdtipaper*dwimap*.gz"))
    found = {p.name.split("_param-")[1].split("_")[0]: p for p in maps if "_param-" in p.name}
    assert {"fa", "md", "ad", "rd"} <= found.keys(), maps
    assert not [p for p in maps if "desc-std" in p.name or "param-ood" in p.name]
    md = read_array(load_image(found["md"]))
    inside = md[md != 0]
    assert inside.size > 1000
    if config is NARROW:
        np.testing.assert_allclose(inside, 1e-3 * TARGET[0], rtol=1e-3)
    else:
        assert inside.std() > 0
        assert abs(inside.mean() - 1e-3 * TARGET[0]) < 10e-3 * TARGET[1]
    described = json.loads(
        found["md"].with_name(found["md"].name.replace(".nii.gz", ".json")).read_text("utf-8")
    )
    assert described["Model"]["SHA256"] == sha256(weights.read_bytes()).hexdigest()
