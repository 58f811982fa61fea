import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders import extract
from dmri_fm.encoders.drope.config import PAPER, SMALL
from dmri_fm.encoders.drope.extraction import patches_of_region
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.extract import extract_features
from dmri_fm.encoders.features import feature_columns
from dmri_fm.errors import ConfigError, GradientError, ImageError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import RESEARCH_ONLY, identity
from dmri_fm.out_of_distribution import ScanSummary, fit_scan_reference
from dmri_fm.registry import feature_grid, load_encoder
from dmri_fm.series import Dwi
from dmri_fm.weights import save_weights
from dmri_fm_lab.simulate import draw_protocol

TINY = replace(SMALL, dim=24, depth=1, heads=2)

#: The published grid, by few and large patches.
NARROW = replace(PAPER, dim=24, depth=1, heads=2, patch=(16, 16, 16))

INDICATORS = ("missing", "anatomy", "volumes", "evenness")


@pytest.fixture(scope="module")
def drope_weights(tmp_path_factory):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    scans = [
        ScanSummary(rng.normal(size=96), dict(zip(INDICATORS, rng.normal(size=4), strict=True)))
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


def read_row(table):
    """Return the one row of a table, cells as text."""
    head, row = (line.split("\t") for line in table.read_text().splitlines())
    return dict(zip(head, row, strict=True))


def test_features(drope_weights, tmp_path):
    dwi = mni_scan()
    features = extract_features(dwi, weights=drope_weights)
    assert {of: vector.shape for of, vector in features.vectors.items()} == {
        "cls": (24,),
        "pooled": (48,),
    }
    assert features.patches.tokens.shape == (12 * 14 * 24, 24)
    assert features.patches.grid_shape == (12, 14, 24)
    # 24 x 24 x 16 voxels of brain, aligned with patches of 8 x 8 x 4: 3 x 3 x 4 of them.
    assert features.patches.valid.sum() == 36
    assert features.patches.ijk[features.patches.valid].min(axis=0).tolist() == [5, 6, 10]
    assert not features.patches.tokens[~features.patches.valid].any()
    np.testing.assert_allclose(
        features.vectors["pooled"][:24],
        features.patches.tokens[features.patches.valid].mean(axis=0),
        atol=1e-5,
    )
    assert features.n_directions == 5
    assert features.max_bval == 1000
    assert 0 <= features.ood_percentile <= 100
    assert list(features.metadata["OODIndicators"]) == ["tokens", *INDICATORS]
    centre = dwi.affine @ [43.5, 51.5, 41.5, 1.0]
    first = np.flatnonzero(features.patches.valid)[0]
    np.testing.assert_allclose(features.patches.xyz_mm[first], centre[:3])
    np.testing.assert_allclose(
        features.patches.affine @ [*features.patches.ijk[first], 1.0],
        centre,
        err_msg="patch index to mm",
    )

    paths = features.save(tmp_path / "sub-01")
    assert {p.name for p in paths.values()} == {
        "sub-01_model-drope_desc-scan_features.tsv",
        "sub-01_model-drope_desc-patch_features.npz",
    }
    row = read_row(paths["scan"])
    assert list(row) == [
        *(f"cls{i:03d}" for i in range(24)),
        *(f"pooled{i:03d}" for i in range(48)),
        "ood_score",
        "ood_percentile",
        "direction_error",
        "n_directions",
        "max_bval",
        "weights_sha256",
    ]
    assert row["weights_sha256"] == features.weights_sha256
    for of, columns in feature_columns(row).items():
        saved = np.array([float(row[c]) if row[c] != "n/a" else np.nan for c in columns])
        np.testing.assert_array_equal(saved.astype(np.float32), features.vectors[of])
    stored = np.load(paths["patch"])
    np.testing.assert_array_equal(stored["tokens"], features.patches.tokens)
    np.testing.assert_array_equal(stored["grid_shape"], [12, 14, 24])


def test_the_sidecar_of_features_says_what_they_are_and_are_not_for(drope_weights, tmp_path):
    features = extract_features(mni_scan(), weights=drope_weights)
    path = features.save(tmp_path / "sub-01")["scan"].with_suffix(".json")
    model = json.loads(path.read_text())["Model"]
    assert model["SHA256"] == features.weights_sha256
    assert model["Weights"] == "drope.safetensors"
    assert model["Features"] == ["cls", "pooled"]
    assert model["Status"] == "experimental"
    assert model["Use"] == RESEARCH_ONLY
    assert "Pooled tokens" in model["Description"]


@pytest.mark.parametrize(
    ("n_directions", "has_error", "has_deviation"),
    [(5, False, False), (6, True, False), (7, True, True)],
)
def test_what_few_directions_do_not_tell_is_unknown(
    drope_weights, tmp_path, n_directions, has_error, has_deviation
):
    """Of one shell: six directions determine a tensor, a seventh the noise."""
    features = extract_features(mni_scan(n_directions=n_directions), weights=drope_weights)
    means, deviations = np.split(features.vectors["pooled"], 2)
    assert np.isfinite([*features.vectors["cls"], *means]).all()
    assert np.isfinite(deviations).tolist() == [has_deviation] * 24
    assert np.isfinite(features.patches.error[features.patches.valid]).tolist() == [has_error] * 36
    assert np.isnan(features.patches.error[~features.patches.valid]).all()
    row = read_row(features.save(tmp_path / "sub-01")["scan"])
    unknown = {column for column, cell in row.items() if cell == "n/a"}
    assert unknown == {
        *(() if has_deviation else (f"pooled{i:03d}" for i in range(24, 48))),
        *(() if has_error else ("direction_error",)),
    }
    assert not {"", "nan"} & {cell.lower() for cell in row.values()}
    if has_error:
        known = np.median(features.patches.error[features.patches.valid])
        assert float(row["direction_error"]) == pytest.approx(known)


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
    for of, vector in features.vectors.items():
        np.testing.assert_allclose(again.vectors[of], vector, atol=1e-4)
    np.testing.assert_allclose(again.patches.tokens, features.patches.tokens, atol=1e-4)


def test_features_of_one_direction_and_of_many(drope_weights):
    assert extract_features(mni_scan(n_directions=1), weights=drope_weights).n_directions == 1
    many = mni_scan(n_directions=14)
    a = extract_features(many, weights=drope_weights, seed=0)
    assert a.n_directions == 12
    b = extract_features(many, weights=drope_weights, seed=0)
    for of, vector in a.vectors.items():
        np.testing.assert_array_equal(b.vectors[of], vector)


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
    network = Drope(NARROW)
    path = tmp_path_factory.mktemp("weights") / "paper.safetensors"
    return save_weights(path, network, name="drope-paper", version="0", training={})


def test_the_published_encoder_gives_the_same_features(published_weights, tmp_path):
    dwi = published_scan()
    features = extract_features(dwi, model="drope-paper", weights=published_weights)
    assert [v.shape for v in features.vectors.values()] == [(24,), (48,)]
    assert features.model == "dropepaper"
    inside = patches_of_region(NARROW, "published")
    assert (features.patches.valid == inside).all(), "it reads patches without brain, too"
    assert features.metadata["Region"] == "published"
    assert features.patches.tokens.shape == (12 * 14 * 12, 24)
    assert np.isnan(features.ood_score)
    assert features.metadata["OODIndicators"] == {}
    paths = features.save(tmp_path / "sub-01")
    assert paths["scan"].name == "sub-01_model-dropepaper_desc-scan_features.tsv"
    row = read_row(paths["scan"])
    assert (row["ood_score"], row["ood_percentile"]) == ("n/a", "n/a")
    whole = extract_features(dwi, model="drope-paper", weights=published_weights, region="whole")
    assert whole.patches.valid.all()
    assert whole.metadata["Region"] == "whole"
    # The protocol by hand gives the same.
    encoder = load_encoder("drope-paper", weights=published_weights)
    assert encoder.name == "drope-paper"
    assert encoder.reference is None
    again = encoder.encode(encoder.prepare(dwi, n_directions=12, seed=0))
    for of, vector in features.vectors.items():
        np.testing.assert_array_equal(again.vectors[of], vector)


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
