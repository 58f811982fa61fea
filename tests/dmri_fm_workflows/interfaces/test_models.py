"""Interfaces around the models."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from dmri_fm.encoders.features import feature_columns
from dmri_fm.errors import WeightsError
from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.out_of_distribution import FEATURE_STATISTICS
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_networks.refiner import RefinerConfig, TensorRefiner
from dmri_fm.weights import save_weights
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate.baselines import BASELINES
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.interfaces.models import FitTensor
from dmri_fm_workflows.outputs import load_catalogue
from dmri_fm_workflows.outputs.sidecars import column_metadata
from dmri_fm_workflows.plan.weights import (
    check_weights,
    explain_lacking,
    network_maps,
)
from dmri_fm_workflows.stages.outputs import map_outputs


def test_zeros_that_interpolation_left_do_not_become_monstrous_diffusivities(
    tmp_path: Path,
) -> None:
    gtab = GradientTable([0] + [1000] * 6, np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    data = 800 * np.exp(-gtab.bvals * 0.8e-3) * np.ones((6, 6, 4, 1))
    data[0, 0, 0, :] = [0, 3, 0, 0, 9, 0, 2]
    data[1, 0, 0, 3] = 0
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    save_image(data, affine, tmp_path / "dwi.nii.gz")
    write_gradients(gtab, tmp_path / "dwi.bval", tmp_path / "dwi.bvec", affine=affine)
    mask = save_image(np.ones((6, 6, 4)), affine, tmp_path / "mask.nii.gz", dtype=np.uint8)
    files = [str(tmp_path / f"dwi.{end}") for end in ("nii.gz", "bval", "bvec")] + [str(mask)]
    done = FitTensor(
        **dict(zip(("dwi_file", "bval_file", "bvec_file", "mask_file"), files, strict=True))
    ).run(cwd=tmp_path)
    md = read_array(load_image(done.outputs.md_file))
    assert md.max() < 10e-3
    np.testing.assert_allclose(md[2:], 0.8e-3, rtol=1e-3)
    assert done.outputs.record["MinimalSignal"] > 0.5

    # The library, its command and the evaluation fit the same tensor.
    dwi = Dwi.from_files(*files)
    command = ["tensor", files[0], str(tmp_path / "out"), "--mask", files[3]]
    assert main(command) == 0
    fitted, evaluated = fit_tensor(dwi), BASELINES["wls"].apply(dwi)
    for of in load_catalogue().maps_of("tensor"):
        param = of.entities["param"]
        app = read_array(load_image(getattr(done.outputs, f"{of.name}_file")))
        told = read_array(load_image(tmp_path / f"out_model-tensor_param-{param}_dwimap.nii.gz"))
        np.testing.assert_array_equal(of.find_in(fitted), app, err_msg=param)
        np.testing.assert_array_equal(told, app, err_msg=param)
        np.testing.assert_array_equal(of.find_in(evaluated), app, err_msg=param)


def test_features_are_named_and_described_once() -> None:
    """The table's columns share an entry of the sidecar for each type of features."""
    names = {of: [f"{of}{i:03d}" for i in range(n)] for of, n in (("cls", 192), ("pooled", 384))}
    row = ["participant_id", *names["cls"], *names["pooled"]]
    assert list(column_metadata(row)) == ["participant_id", "cls[0-9]*", "pooled[0-9]*"]
    assert feature_columns(row) == names


@pytest.mark.parametrize(
    ("statistics", "given"),
    [
        ((), set()),
        (("width_factor",), {"fa_std", "md_std"}),
        (FEATURE_STATISTICS, {"ood"}),
        (FEATURE_STATISTICS[1:], set()),
        (("width_factor", *FEATURE_STATISTICS), {"fa_std", "md_std", "ood"}),
    ],
)
def test_statistics_of_weights_decide_on_the_maps(tmp_path: Path, statistics, given) -> None:
    config = RefinerConfig(widths=(2, 4), encoder_blocks=(1, 1), decoder_blocks=(1,))
    path = save_weights(
        tmp_path / "bare.safetensors", TensorRefiner(config), name="tensor-refiner", version="0",
        training={}, statistics={name: torch.ones(2) for name in statistics},
    )  # fmt: skip
    request = RunConfig(tmp_path / "in", tmp_path / "out", weights={"tensor-refiner": path})
    check_weights(request)
    maps = network_maps("tensor-refiner", request.weights)
    assert set(maps) == {"diffusivity", "fa", "md", "ad", "rd"} | given
    assert {o.type for o in map_outputs("tensor-refiner", maps) if "figure" not in o.type} == set(
        maps
    )
    warnings = " ".join(explain_lacking("tensor-refiner", maps))
    assert ("desc-std" in warnings) == ("fa_std" not in given)
    assert ("param-ood" in warnings) == ("ood" not in given)
    assert ("its weights hold no statistics" in warnings) == bool(warnings)


def test_weights_of_a_network_are_loaded_once_for_all_series(tmp_path: Path) -> None:
    config = RefinerConfig(widths=(2, 4), encoder_blocks=(1, 1), decoder_blocks=(1,))
    path = save_weights(
        tmp_path / "own.safetensors",
        TensorRefiner(config),
        name="tensor-refiner",
        version="0",
        training={},
    )
    maps, changed = network_maps("tensor-refiner", {"tensor-refiner": path}), path.stat()
    path.write_bytes(b"damaged")
    os.utime(path, ns=(changed.st_atime_ns, changed.st_mtime_ns))
    assert network_maps("tensor-refiner", {"tensor-refiner": path}) == maps
    os.utime(path, ns=(changed.st_atime_ns, changed.st_mtime_ns + 1))
    with pytest.raises(WeightsError):
        network_maps("tensor-refiner", {"tensor-refiner": path})


def test_packaged_weights_give_what_the_record_says() -> None:
    own = {
        "tensor-refiner": Path(str(files("dmri_fm") / "data/weights/tensor-refiner.safetensors"))
    }
    assert network_maps("tensor-refiner", {}) == network_maps("tensor-refiner", own)
    assert not [*explain_lacking("tensor-refiner", network_maps("tensor-refiner", {}))]
