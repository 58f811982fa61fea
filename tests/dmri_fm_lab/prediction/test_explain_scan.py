"""Maps of a small scan by a tiny encoder on a grid in the middle of the brain."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from einops import rearrange
from torch.nn import functional

from dmri_fm.encoders.artefact_unet.network import ArtefactUnet
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.encoders.ssdiff.blocks import brain_blocks
from dmri_fm.encoders.ssdiff.encoder import prepare_volumes
from dmri_fm.encoders.ssdiff.network import Ssdiff
from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.series import Dwi
from dmri_fm.weights import save_weights
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.grid_scans import simulated_scans
from dmri_fm_lab.prediction.explain_scan import ScanRequest, explain_scan
from dmri_fm_lab.prediction.scan_maps import DropeScan, SsdiffScan, cls_attention, occlude
from tests.dmri_fm.encoders.artefact_unet.narrow import NARROW as NARROW_UNET
from tests.dmri_fm.encoders.ssdiff.narrow import NARROW, draw_scan
from tests.dmri_fm_lab.evaluate.tiny_drope import TINY, middle_of_the_brain, register_tiny


@pytest.fixture(scope="module")
def scan():
    """A simulated scan on the tiny grid, of eight directions."""
    (found,) = simulated_scans(middle_of_the_brain(), 1, n_directions=8)
    return found


@pytest.fixture
def network(monkeypatch):
    register_tiny(monkeypatch)
    torch.manual_seed(0)
    return Drope(TINY).eval()


@pytest.fixture
def tokens(scan):
    return tokenise(scan.signal, scan.gtab, scan.mask, TINY)


@pytest.mark.parametrize("feature", ["cls", "pooled"])
def test_a_masked_block_changes_the_prediction_by_what_the_encoder_loses(
    network, tokens, feature
) -> None:
    weights = np.random.default_rng(0).normal(size=TINY.dim * (1 if feature == "cls" else 2))

    def predict(vector):
        return float(np.nan_to_num(vector) @ weights)

    done = []
    scan = DropeScan(network, tokens, feature)
    changes = occlude(scan, predict, block=1, report=lambda *n: done.append(n))
    n = len(tokens.index)
    assert done[-1] == (n, n)
    assert np.ptp(changes) > 0
    without = tokens.select_patches(np.arange(1, n))
    cls, _ = network(without.patches[None], without.qspace[None], without.positions[None])
    if feature == "cls":
        lost = float(cls[0].detach().double().numpy() @ weights)
        # In pieces and at once, in single precision.
        assert changes[0] == pytest.approx(lost - predict(scan.vector()), abs=1e-4)
    blocks = occlude(scan, predict, block=2)
    ijk = np.stack(np.unravel_index(tokens.index, TINY.patch_grid), axis=1) // 2
    for own in np.unique(ijk, axis=0):
        assert np.ptp(blocks[(ijk == own).all(axis=1)]) == 0
    assert not occlude(scan, lambda _: 3.0).any()


def test_blocks_that_hold_everything_or_nothing_are_refused(network, tokens) -> None:
    scan = DropeScan(network, tokens, "cls")
    with pytest.raises(ConfigError, match="holds the scan"):
        occlude(scan, lambda _: 0.0, block=99)
    with pytest.raises(ConfigError, match="blocks of 0 places"):
        occlude(scan, lambda _: 0.0, block=0)


@pytest.mark.parametrize("feature", ["cls", "pooled"])
def test_a_masked_block_of_ssdiff_loses_its_signal(feature) -> None:
    torch.manual_seed(0)
    network = Ssdiff(NARROW).eval()
    prepared = prepare_volumes(draw_scan(NARROW), NARROW)
    scan = SsdiffScan(network, prepared, feature)
    changes = occlude(scan, lambda vector: float(vector[3]), block=8)
    blocks = brain_blocks(NARROW, NARROW.block)
    cubes = blocks.ijk // 8
    assert all(
        np.ptp(changes[(cubes == own).all(axis=1)]) == 0 for own in np.unique(cubes, axis=0)
    )
    inside = (cubes == cubes[100]).all(axis=1)
    signal = prepared.signal.clone()
    signal[:, inside] = NARROW.signal_mean
    whole, lost = (
        network(values[None], prepared.directions[None], prepared.bvals[None])
        for values in (prepared.signal, signal)
    )
    place = 0 if feature == "cls" else 1
    whole, lost = (x[place].detach().reshape(-1, NARROW.dim).mean(dim=0) for x in (whole, lost))
    assert changes[100] == pytest.approx(float(lost[3] - whole[3]), abs=1e-5)
    image = scan.image(changes)
    assert image.shape == (16, 20, 16)
    np.testing.assert_allclose(image.affine, blocks.affine(NARROW.grid))
    assert np.asarray(image.dataobj)[tuple(blocks.ijk[100])] == np.float32(changes[100])


def test_attention_is_that_of_the_layer(network, tokens) -> None:
    weights = cls_attention(network, tokens)
    layer = network.blocks[-1].attn_space
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    network(tokens.patches[None], tokens.qspace[None], tokens.positions[None])
    hook.remove()
    q, k, _ = rearrange(layer.qkv(seen[0]), "b n (c h d) -> c b h n d", c=3, h=layer.heads)
    # Values that name their token: what comes out is the weight of each.
    names = torch.eye(q.shape[2]).expand(*q.shape[:2], -1, -1)
    mixed = functional.scaled_dot_product_attention(q, k, names)[:, :, 0].mean(dim=(0, 1))
    np.testing.assert_allclose(weights, mixed[1:].detach(), atol=1e-6)
    assert 0 < weights.sum() < 1
    assert all(p.requires_grad for p in network.parameters())
    with pytest.raises(ConfigError, match="block 7"):
        cls_attention(network, tokens, block=7)


def test_an_image_of_patches_lies_where_the_patches_are(network, tokens) -> None:
    values = np.arange(1.0, len(tokens.index) + 1)
    image = DropeScan(network, tokens, "cls").image(values)
    data = np.asarray(image.dataobj)
    np.testing.assert_array_equal(image.affine, middle_of_the_brain().affine)
    for value, centre in zip(values, tokens.positions.numpy(), strict=True):
        assert data[tuple(np.floor(centre).astype(int))] == value
    assert (data > 0).sum() == len(values) * np.prod(TINY.patch)


def test_the_command(scan, network, tokens, tmp_path, capsys) -> None:
    gtab = GradientTable([0, *scan.gtab.bvals], [[0, 0, 0], *scan.gtab.bvecs_ras])
    b0 = np.ones((*scan.mask.shape, 1), dtype=np.float32)
    data = 100 * np.concatenate([b0, scan.signal], axis=-1) * scan.mask[..., None]
    Dwi.from_arrays(data, middle_of_the_brain().affine, gtab, mask=scan.mask).save(
        tmp_path / "scan"
    )
    nib.save(
        nib.Nifti1Image(scan.mask.astype(np.uint8), middle_of_the_brain().affine),
        tmp_path / "mask.nii.gz",
    )
    weights = tmp_path / "tiny.safetensors"
    save_weights(weights, network, name="drope", version="0", training={})
    vectors = np.random.default_rng(0).normal(size=(40, 2 * TINY.dim))
    table = pd.DataFrame(vectors, columns=[f"pooled{i:03d}" for i in range(2 * TINY.dim)])
    table.insert(0, "participant_id", [f"sub-{i:02d}" for i in range(40)])
    table.to_csv(tmp_path / "f.tsv", sep="\t", index=False)
    people = table[["participant_id"]].assign(age=50 + 10 * vectors[:, 0])
    people.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    common = ["explain", "scan", str(tmp_path / "scan.nii.gz"), str(tmp_path / "out" / "x")]
    common += ["--mask", str(tmp_path / "mask.nii.gz"), "--weights", str(weights)]
    common += ["--features", str(tmp_path / "f.tsv"), "--participants", str(tmp_path / "p.tsv")]
    common += ["--target", "age", "--directions", "8", "--block", "1"]
    assert main([*common, "--participant-label", "03"]) == 0
    text = capsys.readouterr().out
    found = re.search(r"age from pooled in 39 other scans, 5 folds: rho (\S+)", text)
    assert found
    assert float(found[1]) > 0.7
    for name in ("occlusion", "clsattention"):
        image = nib.load(tmp_path / "out" / f"x_desc-{name}_map.nii.gz")
        assert image.shape == TINY.grid_shape
        assert np.ptp(np.asarray(image.dataobj)) > 0
        about = json.loads((tmp_path / "out" / f"x_desc-{name}_map.json").read_text())
        assert about["Use"].startswith("Research only")
        assert about["Space"] == "MNI152NLin2009aSym"
    assert RESEARCH_ONLY in text
    assert "f.tsv does not say its weights_sha256, which must be" in text
    sha256 = load_weights(weights).sha256
    for column, value, words in (
        ("n_directions", 12, "n_directions 12 of f.tsv, 8 of the scan"),
        ("n_directions", 8, ""),
        ("weights_sha256", "f" * 64, "weights_sha256 ffffffffffff of f.tsv"),
        ("weights_sha256", sha256, "participant sub-99 is not in"),
    ):
        table[column] = value
        table.to_csv(tmp_path / "f.tsv", sep="\t", index=False)
        assert main([*common, "--participant-label", "99"]) == 1
        assert words in capsys.readouterr().err
    assert main([*common, "--participant-label", "99"]) == 1
    assert "participant sub-99 is not in f.tsv" in capsys.readouterr().err
    assert main(common) == 1
    assert "--target age without its cohort" in capsys.readouterr().err


def test_the_command_maps_a_dimension_of_ssdiff(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setitem(MODELS, "ssdiff", MODELS["ssdiff"]._replace(config=NARROW))
    torch.manual_seed(0)
    weights = tmp_path / "narrow.safetensors"
    save_weights(weights, Ssdiff(NARROW), name="ssdiff", version="0", training={})
    scan = draw_scan(NARROW)
    scan.save(tmp_path / "scan")
    nib.save(nib.Nifti1Image(scan.brain.astype(np.uint8), scan.affine), tmp_path / "mask.nii.gz")
    common = ["explain", "scan", str(tmp_path / "scan.nii.gz"), str(tmp_path / "x")]
    common += ["--mask", str(tmp_path / "mask.nii.gz"), "--weights", str(weights)]
    common += ["--model", "ssdiff", "--feature", "pooled", "--block", "8"]
    assert main([*common, "--dimension", "23"]) == 0
    text = capsys.readouterr().out
    assert "Number 23 of pooled, of 24." in text
    assert "directions are those of the gradient table at every place" in text
    assert not (tmp_path / "x_desc-clsattention_map.nii.gz").exists(), "its tokens are volumes"
    assert nib.load(tmp_path / "x_desc-occlusion_map.nii.gz").shape == (16, 20, 16)
    about = json.loads((tmp_path / "x_desc-occlusion_map.json").read_text())
    assert (about["Dimension"], about["BlockVoxels"], about["Units"]) == (23, 8, "arbitrary")
    assert about["LocalRotation"] is False
    for wrong, words in (
        (["--dimension", "24"], "dimension 24 of pooled"),
        (["--dimension", "0", "--directions", "6"], "reads all volumes of the whole brain"),
    ):
        assert main([*common, *wrong]) == 1
        assert words in capsys.readouterr().err


def test_the_unet_has_no_maps(monkeypatch, tmp_path) -> None:
    changed = MODELS["artefact-unet"]._replace(config=NARROW_UNET)
    monkeypatch.setitem(MODELS, "artefact-unet", changed)
    weights = tmp_path / "unet.safetensors"
    save_weights(
        weights, ArtefactUnet(NARROW_UNET), name="artefact-unet", version="0", training={}
    )
    request = ScanRequest(dimension=0, feature="pooled", model="artefact-unet", weights=weights)
    with pytest.raises(ConfigError, match=r"(?s)artefact-unet.*a D-RoPE or an SSDiff encoder"):
        explain_scan(draw_scan(NARROW), request, tmp_path / "x")
