import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from dmri_fm import predict
from dmri_fm.encoders.drope import network as drope
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.out_of_distribution import SIGNS, ScanCode, fit_unusual
from dmri_fm.errors import ConfigError, GradientError, ImageError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.out_of_distribution import fit_familiarity
from dmri_fm.predict import extract_features, feature_grid, predict_tensor
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_networks.refiner import SIGMAS, RefinerConfig, TensorRefiner
from dmri_fm.weights import save_weights
from dmri_fm_lab.simulate import draw_protocol, draw_sample

TINY_DTI = RefinerConfig(widths=(2, 4), encoder_blocks=(1, 1), decoder_blocks=(1,))
TINY_DROPE = replace(drope.SMALL, dim=24, depth=1, heads=2)


@pytest.fixture(scope="module")
def dti_weights(tmp_path_factory):
    torch.manual_seed(0)
    model = TensorRefiner(TINY_DTI)
    torch.nn.init.normal_(model.head.weight, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "dti.safetensors"
    return save_weights(
        path,
        model,
        name="tensor-refiner",
        config=TINY_DTI,
        version="0",
        normalisation={},
        training={},
    )


@pytest.fixture(scope="module")
def drope_weights(tmp_path_factory):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    codes = [
        ScanCode(np.zeros(48), np.zeros((1, 24)), rng.normal(size=72), rng.normal(size=4))
        for _ in range(30)
    ]
    statistics = fit_unusual(codes[:20], codes[20:])
    path = tmp_path_factory.mktemp("weights") / "drope.safetensors"
    return save_weights(
        path,
        Drope(TINY_DROPE),
        name="drope",
        config=TINY_DROPE,
        version="0",
        normalisation={},
        training={},
        statistics=statistics,
    )


@pytest.fixture(scope="module")
def scan():
    rng = np.random.default_rng(0)
    gtab = draw_protocol(rng, scheme="shell", n_directions=10, bvals=1000, n_b0=2)
    sample = draw_sample(rng, shape=(18, 20, 14), gtab=gtab, snr=30, with_truth=False)
    return Dwi.from_arrays(sample.signal, sample.affine, gtab, mask=sample.mask)


def mni_scan(*, n_directions=5, seed=0, axes=None):
    """Build a small 'brain' on the encoder's grid."""
    rng = np.random.default_rng(seed)
    grid = feature_grid("drope")
    gtab = draw_protocol(rng, scheme="shell", n_directions=n_directions, bvals=1000, n_b0=1)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[40:64, 48:72, 40:56] = True
    data = np.zeros((*grid.shape, len(gtab)), dtype=np.float32)
    data[mask] = rng.uniform(100, 300, (int(mask.sum()), len(gtab)))
    data[mask, 0] = 400.0
    return Dwi.from_arrays(data, grid.affine, gtab, mask=mask)


def test_tensor_maps(scan, dti_weights):
    maps = predict_tensor(scan, weights=dti_weights)
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
    model = TensorRefiner(TINY_DTI)
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
        config=TINY_DTI,
        version="0",
        normalisation={},
        training={},
    )


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)], ids=["axial", "sagittal"])
@pytest.mark.parametrize("flips", [(), (0,), (0, 2)], ids=["RAS", "LAS", "LAI"])
def test_storage_does_not_change_the_tensors(scan, quiet_weights, axes, flips):
    """The same head in another order of voxels: tensors stay in the scanner's axes."""
    expected = predict_tensor(scan, weights=quiet_weights)
    orientation = nib.orientations.axcodes2ornt(nib.aff2axcodes(scan.affine))
    wanted = orientation[list(axes)]
    wanted[list(flips), 1] *= -1
    change = nib.orientations.ornt_transform(orientation, wanted)

    def store(array):
        return nib.orientations.apply_orientation(array, change)

    affine = scan.affine @ nib.orientations.inv_ornt_aff(change, scan.shape[:3])
    stored = Dwi.from_arrays(store(scan.data), affine, scan.gtab, mask=store(scan.mask))
    found = predict_tensor(stored, weights=quiet_weights)
    np.testing.assert_allclose(found.diffusivity, store(expected.diffusivity), atol=2e-8)


def test_quiet_network_gives_least_squares(scan, quiet_weights):
    """An independent check of the units."""
    maps = predict_tensor(scan, weights=quiet_weights)
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
    whole = predict_tensor(scan, weights=dti_weights).diffusivity
    monkeypatch.setattr(predict, "BLOCK_VOXELS", 16)
    monkeypatch.setattr(predict, "MARGIN_VOXELS", 6)
    blocks = predict_tensor(scan, weights=dti_weights).diffusivity
    # The margin is shorter than the network's reach: what is left is far below noise (1e-4).
    np.testing.assert_allclose(blocks, whole, atol=2e-5)


def test_uncertainty_and_unfamiliarity(scan, dti_weights, tmp_path):
    assert predict_tensor(scan, weights=dti_weights).std is None, "weights without statistics"
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    weights = save_weights(
        tmp_path / "w.safetensors",
        TensorRefiner(TINY_DTI),
        name="tensor-refiner",
        config=TINY_DTI,
        version="0",
        normalisation={},
        training={},
        statistics={
            "width_factor": torch.tensor([2.0, 3.0]),
            **fit_familiarity(rng.normal(size=(50, 4)), rng.normal(size=(30, 4))),
        },
    )
    maps = predict_tensor(scan, weights=weights)
    assert set(maps.std) == {"fa", "md"}
    for std in maps.std.values():
        assert (std[scan.mask] > 0).all()
        assert not std[~scan.mask].any()
    # An untrained network says 0.05 for both, before calibration.
    assert np.median(maps.std["fa"][scan.mask]) == pytest.approx(2 * 0.05 / 1.645, rel=0.1)
    assert np.median(maps.std["md"][scan.mask]) == pytest.approx(3e-3 * 0.05 / 1.645, rel=0.1)
    assert 0 <= maps.unfamiliarity.min() <= maps.unfamiliarity.max() <= 100
    saved = maps.save(tmp_path / "sub-01")
    assert saved["fa_std"].name == "sub-01_model-tensorrefiner_param-fa_desc-std_dwimap.nii.gz"
    assert saved["unfamiliarity"].exists()


def test_order_of_volumes_and_signs_do_not_matter(scan, dti_weights):
    maps = predict_tensor(scan, weights=dti_weights)
    order = np.random.default_rng(1).permutation(scan.shape[3])
    shuffled = scan.select(order)
    signs = np.random.default_rng(2).choice([-1, 1], (len(order), 1))
    flipped = GradientTable(shuffled.gtab.bvals, shuffled.gtab.bvecs_ras * signs)
    again = predict_tensor(
        Dwi.from_arrays(shuffled.data, scan.affine, flipped, mask=scan.mask), weights=dti_weights
    )
    np.testing.assert_allclose(again.diffusivity, maps.diffusivity, atol=5e-8)


def test_scanner_scale_does_not_matter(scan, dti_weights):
    maps = predict_tensor(scan, weights=dti_weights)
    louder = Dwi.from_arrays(scan.data * 7.0, scan.affine, scan.gtab, mask=scan.mask)
    np.testing.assert_allclose(
        predict_tensor(louder, weights=dti_weights).diffusivity, maps.diffusivity, atol=1e-8
    )


def test_zero_b0_voxels_are_harmless(scan, dti_weights):
    data = scan.data.copy()
    data[5, 5, 5] = 0.0
    maps = predict_tensor(
        Dwi.from_arrays(data, scan.affine, scan.gtab, mask=scan.mask), weights=dti_weights
    )
    assert np.isfinite(maps.diffusivity).all()
    assert not maps.diffusivity[5, 5, 5].any()


def test_tensor_refusals(scan, dti_weights, drope_weights):
    with pytest.raises(ConfigError, match="unknown model"):
        predict_tensor(scan, model="resnet")
    with pytest.raises(ConfigError, match="estimates no tensor"):
        predict_tensor(scan, model="drope")
    with pytest.raises(WeightsError):
        predict_tensor(scan, weights=drope_weights)
    with pytest.raises(GradientError, match="six"):
        predict_tensor(scan.select(range(6)), weights=dti_weights)
    with pytest.raises(GradientError, match="no b=0"):
        predict_tensor(scan.select(range(2, 12)), weights=dti_weights)
    with pytest.raises(ImageError, match="mask"):
        predict_tensor(scan, weights=dti_weights, mask=np.zeros(scan.shape[:3]))
    with pytest.raises(ImageError, match="mask"):
        predict_tensor(scan, weights=dti_weights, mask=np.ones((2, 2, 2)))


def test_features(drope_weights, tmp_path):
    dwi = mni_scan()
    features = extract_features(dwi, weights=drope_weights)
    assert features.vector.shape == (48,)
    assert features.tokens.shape == (12 * 14 * 12, 24)
    assert features.grid_shape == (12, 14, 12)
    # 24 x 24 x 16 voxels of brain, aligned with patches of 8: 3 x 3 x 2 of them.
    assert features.valid.sum() == 18
    assert features.ijk[features.valid].min(axis=0).tolist() == [5, 6, 5]
    assert not features.tokens[~features.valid].any()
    assert features.n_directions == 5
    assert features.max_bval == 1000
    assert 0 <= features.ood_percentile <= 100
    assert list(features.metadata["UnusualSigns"]) == list(SIGNS)
    assert np.isnan(features.error).all(), "these weights have no decoder"
    centre = dwi.affine @ [43.5, 51.5, 43.5, 1.0]
    first = np.flatnonzero(features.valid)[0]
    np.testing.assert_allclose(features.xyz_mm[first], centre[:3])
    np.testing.assert_allclose(
        features.affine @ [*features.ijk[first], 1.0], centre, err_msg="patch index to mm"
    )

    paths = features.save(tmp_path / "sub-01")
    head, row = paths["scan"].read_text().splitlines()
    columns = head.split("\t")
    assert columns[:2] == ["pooled000", "pooled001"]
    assert {p.name for p in paths.values()} == {
        "sub-01_model-drope_desc-pooled_features.tsv",
        "sub-01_model-drope_desc-patch_features.npz",
    }
    assert columns[48:] == [
        "ood_score",
        "ood_percentile",
        "direction_error",
        "n_directions",
        "max_bval",
        "weights_sha256",
    ]
    assert row.split("\t")[-1] == features.weights_sha256
    assert float(row.split("\t")[0]) == pytest.approx(float(features.vector[0]), rel=1e-5)
    stored = np.load(paths["patch"])
    np.testing.assert_array_equal(stored["tokens"], features.tokens)
    np.testing.assert_array_equal(stored["grid_shape"], [12, 14, 12])
    sidecar = json.loads(paths["scan"].with_suffix(".json").read_text())
    assert sidecar["Model"]["SHA256"] == features.weights_sha256
    assert sidecar["Model"]["Weights"] == "drope.safetensors"
    assert sidecar["Model"]["Features"] == "pooled"
    assert "class token of the publication is not used" in sidecar["Model"]["Description"]
    own_token = replace(features, kind="cls").save(tmp_path / "sub-02")["scan"]
    assert own_token.name == "sub-02_model-drope_desc-cls_features.tsv"
    assert own_token.read_text().startswith("cls000\tcls001")


def test_features_do_not_depend_on_order_sign_or_scale(drope_weights):
    dwi = mni_scan()
    features = extract_features(dwi, weights=drope_weights)
    order = [3, 1, 0, 5, 2, 4]
    signs = np.array([1, -1, 1, -1, 1, -1])[:, None]
    gtab = GradientTable(dwi.gtab.bvals[order], dwi.gtab.bvecs_ras[order] * signs)
    other = Dwi.from_arrays(dwi.data[..., order] * 3.0, dwi.affine, gtab, mask=dwi.mask)
    again = extract_features(other, weights=drope_weights)
    np.testing.assert_allclose(again.vector, features.vector, atol=1e-4)
    np.testing.assert_allclose(again.tokens, features.tokens, atol=1e-4)


def test_features_of_one_direction_and_of_many(drope_weights):
    assert extract_features(mni_scan(n_directions=1), weights=drope_weights).n_directions == 1
    many = mni_scan(n_directions=14)
    a = extract_features(many, weights=drope_weights, seed=0)
    assert a.n_directions == 12
    b = extract_features(many, weights=drope_weights, seed=0)
    np.testing.assert_array_equal(a.vector, b.vector)


def test_feature_refusals(scan, drope_weights, dti_weights):
    with pytest.raises(ImageError, match="grid of 'drope'"):
        extract_features(scan, weights=drope_weights)
    dwi = mni_scan(n_directions=2)
    with pytest.raises(ConfigError, match="no encoder"):
        extract_features(dwi, model="tensor-refiner")
    with pytest.raises(ConfigError, match="one or more"):
        extract_features(dwi, weights=drope_weights, n_directions=0)
    with pytest.raises(WeightsError):
        extract_features(dwi, weights=dti_weights)
    with pytest.raises(GradientError, match="b=0"):
        extract_features(dwi.select([1, 2]), weights=drope_weights)
    with pytest.raises(GradientError, match="diffusion-weighted"):
        extract_features(dwi.select([0]), weights=drope_weights)
    with pytest.raises(ImageError, match="mask"):
        extract_features(dwi.with_mask(np.zeros(dwi.shape[:3])), weights=drope_weights)
