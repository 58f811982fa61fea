import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders import extract
from dmri_fm.encoders.drope.config import PAPER, SMALL
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.extract import extract_features
from dmri_fm.errors import ConfigError, GradientError, ImageError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import identity
from dmri_fm.out_of_distribution import ScanSummary, fit_scan_reference
from dmri_fm.registry import feature_grid, load_encoder
from dmri_fm.series import Dwi
from dmri_fm.weights import save_weights
from dmri_fm_lab.simulate import draw_protocol

TINY = replace(SMALL, dim=24, depth=1, heads=2)

INDICATORS = ("missing", "anatomy", "volumes", "evenness")


@pytest.fixture(scope="module")
def drope_weights(tmp_path_factory):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    scans = [
        ScanSummary(rng.normal(size=72), dict(zip(INDICATORS, rng.normal(size=4), strict=True)))
        for _ in range(30)
    ]
    statistics = fit_scan_reference(scans[:20], scans[20:])
    path = tmp_path_factory.mktemp("weights") / "drope.safetensors"
    return save_weights(
        path,
        Drope(TINY),
        name="drope",
        version="0",
        training={},
        statistics=statistics,
    )


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
    assert list(features.metadata["OODIndicators"]) == ["tokens", *INDICATORS]
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
    assert sidecar["Model"]["Status"] == "experimental"
    assert "class token of the publication is not used" in sidecar["Model"]["Description"]
    own_token = replace(features, feature_type="cls").save(tmp_path / "sub-02")["scan"]
    assert own_token.name == "sub-02_model-drope_desc-cls_features.tsv"
    assert own_token.read_text().startswith("cls000\tcls001")


def test_an_encoder_that_is_not_experimental_does_not_say_so(drope_weights, monkeypatch):
    drope = identity("drope")
    methods = drope.methods.replace("experimental", "proven")
    proven = replace(drope, is_experimental=False, methods=methods)
    monkeypatch.setattr(extract, "identity", {"drope": proven}.get)
    assert "Status" not in extract_features(mni_scan(), weights=drope_weights).metadata["Model"]


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


def published_scan():
    """Build a small 'brain' on the grid of the published encoder."""
    rng = np.random.default_rng(1)
    grid = feature_grid("drope-paper")
    assert grid.shape == (192, 224, 192)
    gtab = draw_protocol(rng, scheme="shell", n_directions=3, bvals=1000, n_b0=1)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[80:96, 96:112, 80:92] = True
    data = np.zeros((*grid.shape, len(gtab)), dtype=np.float32)
    data[mask] = rng.uniform(100, 300, (int(mask.sum()), len(gtab)))
    data[mask, 0] = 400.0
    return Dwi.from_arrays(data, grid.affine, gtab, mask=mask)


@pytest.fixture(scope="module")
def published_weights(tmp_path_factory):
    """Weights of a narrow published encoder, without statistics or decoder."""
    torch.manual_seed(0)
    network = Drope(replace(PAPER, dim=24, depth=1, heads=2, patch=(16, 16, 16)))
    path = tmp_path_factory.mktemp("weights") / "paper.safetensors"
    return save_weights(path, network, name="drope-paper", version="0", training={})


def test_the_published_encoder_gives_its_class_token(published_weights, tmp_path):
    dwi = published_scan()
    features = extract_features(dwi, model="drope-paper", weights=published_weights)
    assert features.feature_type == "cls"
    assert features.vector.shape == (24,)
    assert features.model == "dropepaper"
    assert features.valid.all(), "it reads patches without brain, too"
    assert features.tokens.shape == (12 * 14 * 12, 24)
    assert np.isnan(features.ood_score)
    assert features.metadata["OODIndicators"] == {}
    assert np.isnan(features.error).all()
    paths = features.save(tmp_path / "sub-01")
    assert paths["scan"].name == "sub-01_model-dropepaper_desc-cls_features.tsv"
    assert paths["scan"].read_text().startswith("cls000\tcls001")
    # The protocol by hand gives the same.
    encoder = load_encoder("drope-paper", weights=published_weights)
    assert encoder.name == "drope-paper"
    assert encoder.reference is None
    again = encoder.encode(encoder.prepare(dwi, n_directions=12, seed=0))
    np.testing.assert_array_equal(again.vector, features.vector)


def test_feature_refusals(drope_weights, published_weights, tmp_path):
    dwi = mni_scan(n_directions=2)
    elsewhere = Dwi.from_arrays(dwi.data[:18, :20, :14], dwi.affine, dwi.gtab)
    with pytest.raises(ImageError, match="grid of 'drope'"):
        extract_features(elsewhere, weights=drope_weights)
    with pytest.raises(ConfigError, match="no encoder"):
        extract_features(dwi, model="tensor-refiner")
    with pytest.raises(ConfigError, match="one or more"):
        extract_features(dwi, weights=drope_weights, n_directions=0)
    with pytest.raises(WeightsError):
        extract_features(dwi, weights=published_weights)
    with pytest.raises(WeightsError, match="no weights of 'drope-paper' ship"):
        extract_features(published_scan(), model="drope-paper")
    config = replace(TINY, grid_shape=(48, 56, 48), voxel_size_mm=4.0)
    coarse = save_weights(
        tmp_path / "coarse.safetensors", Drope(config), name="drope", version="0", training={}
    )
    with pytest.raises(WeightsError, match="another grid"):
        extract_features(dwi, weights=coarse)
    with pytest.raises(GradientError, match="b=0"):
        extract_features(dwi.select([1, 2]), weights=drope_weights)
    with pytest.raises(GradientError, match="diffusion-weighted"):
        extract_features(dwi.select([0]), weights=drope_weights)
    with pytest.raises(ImageError, match="mask"):
        extract_features(dwi.with_mask(np.zeros(dwi.shape[:3])), weights=drope_weights)
