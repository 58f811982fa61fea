import json
from dataclasses import asdict, replace
from functools import partial
from shutil import copy

import nibabel as nib
import numpy as np
import pytest
import torch

from dmri_fm.errors import ConfigError, GradientError, ImageError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import identity
from dmri_fm.out_of_distribution import fit_reference
from dmri_fm.registry import load_tensor_network
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_networks import blocks
from dmri_fm.tensor_networks.gate import Gate, MapGate
from dmri_fm.tensor_networks.inputs import tensor_inputs
from dmri_fm.tensor_networks.predict import predict_tensor
from dmri_fm.tensor_networks.qcg_dti import QcgDti, QcgDtiConfig
from dmri_fm.tensor_networks.refiner import SIGMAS, RefinerConfig, TensorRefiner
from dmri_fm.weights import save_weights
from dmri_fm_lab.simulate import draw_protocol, draw_sample

#: The tensor refiner, whose weights are tiny here.
refine = partial(predict_tensor, model="tensor-refiner")

TINY = RefinerConfig(widths=(2, 4), encoder_blocks=(1, 1), decoder_blocks=(1,))


@pytest.fixture(scope="module")
def dti_weights(tmp_path_factory):
    torch.manual_seed(0)
    model = TensorRefiner(TINY)
    torch.nn.init.normal_(model.head.weight, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "dti.safetensors"
    return save_weights(
        path,
        model,
        name="tensor-refiner",
        version="0",
        training={},
    )


@pytest.fixture(scope="module")
def scan():
    rng = np.random.default_rng(0)
    gtab = draw_protocol(rng, scheme="shell", n_directions=10, bvals=1000, n_b0=2)
    sample = draw_sample(rng, shape=(18, 20, 14), gtab=gtab, snr=30, with_truth=False)
    return Dwi.from_arrays(sample.signal, sample.affine, gtab, mask=sample.mask)


def test_tensor_maps(scan, dti_weights):
    maps = refine(scan, weights=dti_weights)
    assert maps.model == "tensorrefiner"
    assert maps.diffusivity.shape == (*scan.shape[:3], 6)
    assert not maps.diffusivity[~scan.mask].any()
    assert 1e-5 < np.median(maps.md[scan.mask]) < 1e-2, "mm^2/s"
    assert np.isfinite(maps.fa).all()
    np.testing.assert_array_equal(maps.affine, scan.affine)
    metadata = maps.metadata
    assert metadata["B0Volumes"] == [0, 1]
    assert len(metadata["Volumes"]) == 6
    assert metadata["ConditionNumber"] < 3
    assert metadata["BValue"] == 1000
    assert len(metadata["SHA256"]) == 64
    assert metadata["Weights"] == "dti.safetensors"
    assert "Name" not in metadata, "the record names the model"


@pytest.fixture(scope="module")
def quiet_weights(tmp_path_factory):
    """Weights with which a network averages nothing and adds nothing."""
    model = TensorRefiner(TINY)
    with torch.no_grad():
        model.head.weight.zero_()
        # All shares to the narrowest Gaussian.
        model.head.bias.zero_()
        model.head.bias[[8, 8 + len(SIGMAS)]] = 100.0
        # And nothing from the locally denoised images.
        model.head.bias[8 + 2 * len(SIGMAS) :][:2] = -100.0
    path = tmp_path_factory.mktemp("weights") / "quiet.safetensors"
    return save_weights(
        path,
        model,
        name="tensor-refiner",
        version="0",
        training={},
    )


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)], ids=["axial", "sagittal"])
@pytest.mark.parametrize("flips", [(), (0,), (0, 2)], ids=["RAS", "LAS", "LAI"])
def test_storage_does_not_change_the_tensors(scan, quiet_weights, axes, flips):
    """The same head in another order of voxels: tensors stay in the scanner's axes."""
    expected = refine(scan, weights=quiet_weights)
    orientation = nib.orientations.axcodes2ornt(nib.aff2axcodes(scan.affine))
    wanted = orientation[list(axes)]
    wanted[list(flips), 1] *= -1
    change = nib.orientations.ornt_transform(orientation, wanted)

    def store(array):
        return nib.orientations.apply_orientation(array, change)

    affine = scan.affine @ nib.orientations.inv_ornt_aff(change, scan.shape[:3])
    stored = Dwi.from_arrays(store(scan.data), affine, scan.gtab, mask=store(scan.mask))
    found = refine(stored, weights=quiet_weights)
    np.testing.assert_allclose(found.diffusivity, store(expected.diffusivity), atol=2e-8)


def test_quiet_network_gives_least_squares(scan, quiet_weights):
    """An independent check of the units."""
    maps = refine(scan, weights=quiet_weights)
    volumes = [0, 1, *maps.metadata["Volumes"]]
    gtab = scan.gtab.select(volumes)
    ratios = scan.data[..., volumes[2:]] / scan.data[..., :2].mean(axis=3)[..., None]
    g, b = gtab.bvecs_ras[2:], gtab.bvals[2:]
    x, y, z = g.T
    design = np.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z], axis=1) * b[:, None]
    expected = -np.log(np.clip(ratios, 0.01, 1.5)) @ np.linalg.inv(design).T
    inside = scan.mask & (np.abs(expected) < 6e-3).all(axis=3)
    # The narrowest Gaussian gives neighbours a few millionths.
    np.testing.assert_allclose(maps.diffusivity[inside], expected[inside], atol=1e-7)
    # And close to the weighted fit of the same volumes, where noise is low.
    fitted = fit_tensor(scan.select(volumes))
    assert np.median(np.abs(fitted.md - maps.md)[inside]) < 1e-4


def test_blocks_give_what_the_whole_gives(scan, dti_weights, monkeypatch):
    whole = refine(scan, weights=dti_weights).diffusivity
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 16)
    monkeypatch.setattr(RefinerConfig, "margin_voxels", 6)
    parts = refine(scan, weights=dti_weights).diffusivity
    # The margin is shorter than the network's reach: what is left is far below noise (1e-4).
    np.testing.assert_allclose(parts, whole, atol=2e-5)


def test_intervals_and_ood_percentiles(scan, dti_weights, tmp_path):
    assert refine(scan, weights=dti_weights).std is None, "weights without statistics"
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    weights = save_weights(
        tmp_path / "w.safetensors",
        TensorRefiner(TINY),
        name="tensor-refiner",
        version="0",
        training={},
        statistics={
            "width_factor": torch.tensor([2.0, 3.0]),
            **fit_reference(rng.normal(size=(50, 4)), rng.normal(size=(30, 4))),
        },
    )
    maps = refine(scan, weights=weights)
    assert set(maps.std) == {"fa", "md"}
    for std in maps.std.values():
        assert (std[scan.mask] > 0).all()
        assert not std[~scan.mask].any()
    # An untrained network says 0.05 for both, before calibration.
    assert np.median(maps.std["fa"][scan.mask]) == pytest.approx(2 * 0.05 / 1.645, rel=0.1)
    assert np.median(maps.std["md"][scan.mask]) == pytest.approx(3e-3 * 0.05 / 1.645, rel=0.1)
    assert 0 <= maps.ood_percentile.min() <= maps.ood_percentile.max() <= 100
    saved = maps.save(tmp_path / "sub-01")
    assert saved["fa_std"].name == "sub-01_model-tensorrefiner_param-fa_desc-std_dwimap.nii.gz"
    assert saved["ood"].name == "sub-01_model-tensorrefiner_param-ood_dwimap.nii.gz"


@pytest.mark.parametrize("part", ["intervals", "ood"])
def test_intervals_and_ood_percentiles_come_one_without_the_other(scan, tmp_path, part):
    rng = np.random.default_rng(0)
    reference = fit_reference(rng.normal(size=(50, 4)), rng.normal(size=(30, 4)))
    weights = save_weights(
        tmp_path / "w.safetensors",
        TensorRefiner(TINY),
        name="tensor-refiner",
        version="0",
        training={},
        statistics={"width_factor": torch.ones(2)} if part == "intervals" else reference,
    )
    network = load_tensor_network("tensor-refiner", weights=weights)
    assert (network.has_intervals, network.has_ood) == (part == "intervals", part == "ood")
    maps = refine(scan, weights=weights)
    assert (maps.std is None) == (part == "ood")
    assert (maps.ood_percentile is None) == (part == "intervals")
    saved = maps.save(tmp_path / "sub-01")
    assert ("fa_std" in saved, "ood" in saved) == (part == "intervals", part == "ood")


def test_order_of_volumes_and_signs_do_not_matter(scan, dti_weights):
    maps = refine(scan, weights=dti_weights)
    order = np.random.default_rng(1).permutation(scan.shape[3])
    shuffled = scan.select(order)
    signs = np.random.default_rng(2).choice([-1, 1], (len(order), 1))
    flipped = GradientTable(shuffled.gtab.bvals, shuffled.gtab.bvecs_ras * signs)
    again = refine(
        Dwi.from_arrays(shuffled.data, scan.affine, flipped, mask=scan.mask), weights=dti_weights
    )
    np.testing.assert_allclose(again.diffusivity, maps.diffusivity, atol=5e-8)


def test_scanner_scale_does_not_matter(scan, dti_weights):
    maps = refine(scan, weights=dti_weights)
    louder = Dwi.from_arrays(scan.data * 7.0, scan.affine, scan.gtab, mask=scan.mask)
    np.testing.assert_allclose(
        refine(louder, weights=dti_weights).diffusivity, maps.diffusivity, atol=1e-8
    )


def test_zero_b0_voxels_are_harmless(scan, dti_weights):
    data = scan.data.copy()
    data[5, 5, 5] = 0.0
    maps = refine(
        Dwi.from_arrays(data, scan.affine, scan.gtab, mask=scan.mask), weights=dti_weights
    )
    assert np.isfinite(maps.diffusivity).all()
    assert not maps.diffusivity[5, 5, 5].any()


@pytest.fixture(scope="module")
def published_weights(tmp_path_factory):
    """Weights of a narrow QCG-DTI, which has neither intervals nor a reference."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "qcg.safetensors"
    network = QcgDti(QcgDtiConfig(widths=(2, 4)))
    return save_weights(path, network, name="qcg-dti-paper", version="0", training={})


def test_the_published_network_gives_maps_without_intervals(scan, published_weights, tmp_path):
    maps = predict_tensor(scan, model="qcg-dti-paper", weights=published_weights)
    assert maps.model == "qcgdtipaper"
    assert maps.std is None
    assert maps.ood_percentile is None
    assert np.isfinite(maps.diffusivity).all()
    assert maps.diffusivity[scan.mask].any()
    assert maps.metadata["Status"] == "experimental"
    names = {path.name for path in maps.save(tmp_path / "sub-01").values()}
    assert "sub-01_model-qcgdtipaper_param-fa_dwimap.nii.gz" in names
    assert not any("desc-std" in name or "param-ood" in name for name in names)


def test_a_gate_makes_the_maps_that_it_names_primary(scan, published_weights, tmp_path):
    """From the description of the weights to the status in each map's sidecar."""
    weights = tmp_path / "gated.safetensors"
    for suffix in (".safetensors", ".json"):
        copy(published_weights.with_suffix(suffix), weights.with_suffix(suffix))
    beside = weights.with_suffix(".json")
    sizes = (scan.voxel_size_mm.min() - 0.1, scan.voxel_size_mm.max() + 0.1)
    gate = MapGate((500, 2000), (1, 500), (float(sizes[0]), float(sizes[1])), 99, 0.1)
    few = replace(gate, most_directions=5)
    content = json.loads(beside.read_text()) | {
        "gate": asdict(Gate({"fa": gate, "md": few}, {"rd": "worse in grey matter"}))
    }
    beside.write_text(json.dumps(content))
    maps = predict_tensor(scan, model="qcg-dti-paper", weights=weights)
    assert maps.metadata["Status"] == "primary for fa alone"
    found = {}
    for name, path in maps.save(tmp_path / "sub-01").items():
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        found[name] = sidecar["Model"]
        assert "StatusByMap" not in str(sidecar)
    assert (found["fa"]["Status"], found["fa"]["StatusReasons"]) == ("primary", [])
    assert found["md"]["Status"] == "experimental"
    assert "weighted volumes is better" in found["md"]["StatusReasons"][0]
    assert found["rd"]["StatusReasons"][0].endswith("worse in grey matter")
    for name in ("ad", "diffusivity", "v1"):
        assert found[name]["StatusReasons"][0].endswith("no numbers of this map")


def test_a_prediction_by_hand_is_that_of_refine(scan, published_weights):
    """The protocol: load, predict; and its members agree with the model's record."""
    for name, weights in (("qcg-dti-paper", published_weights), ("tensor-refiner", None)):
        network = load_tensor_network(name, weights=weights)
        assert network.name == name
        assert network.has_intervals == identity(name).has_intervals
        assert network.has_ood == identity(name).has_ood
        maps = predict_tensor(scan, model=name, weights=weights)
        volumes = [*maps.metadata["B0Volumes"], *maps.metadata["Volumes"]]
        inputs = tensor_inputs(
            scan.data[..., volumes], scan.gtab.select(volumes), scan.mask, scan.affine
        )
        prediction = network.predict(inputs)
        # MD does not depend on the frame of the tensor.
        md = prediction.tensor[[0, 3, 5]].mean(dim=0).numpy() * 1e-3
        np.testing.assert_allclose(
            maps.diffusivity[..., [0, 3, 5]].mean(axis=3), md * maps.mask, atol=1e-9
        )
        assert (prediction.half_width is not None) == network.has_intervals
        assert (prediction.ood_percentile is not None) == network.has_ood


def test_tensor_refusals(scan, dti_weights, published_weights):
    with pytest.raises(ConfigError, match="unknown model"):
        predict_tensor(scan, model="resnet")
    with pytest.raises(ConfigError, match="no tensor network"):
        predict_tensor(scan, model="drope")
    with pytest.raises(WeightsError, match="weights of model 'qcg-dti-paper'"):
        refine(scan, weights=published_weights)
    with pytest.raises(WeightsError, match="no weights of 'qcg-dti-paper' ship"):
        predict_tensor(scan, model="qcg-dti-paper")
    with pytest.raises(GradientError, match="six"):
        refine(scan.select(range(6)), weights=dti_weights)
    with pytest.raises(GradientError, match="no b=0"):
        refine(scan.select(range(2, 12)), weights=dti_weights)
    with pytest.raises(ImageError, match="mask"):
        refine(scan, weights=dti_weights, mask=np.zeros(scan.shape[:3]))
    with pytest.raises(ImageError, match="mask"):
        refine(scan, weights=dti_weights, mask=np.ones((2, 2, 2)))
