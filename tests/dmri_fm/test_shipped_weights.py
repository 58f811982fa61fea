"""What the weights in the package must do at least; figures are in the model cards."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from dmri_fm import extract_features, feature_grid, predict_tensor
from dmri_fm.encoders.drope.mae import draw_mask
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.gradients import GradientTable
from dmri_fm.registry import load_weights
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm.tensor_networks import blocks
from dmri_fm_lab.evaluate.rotation import RotationRequest, score_rotations
from dmri_fm_lab.grid_scans import simulated_scans
from dmri_fm_lab.simulate import draw_protocol, draw_sample
from dmri_fm_lab.train.description import describe_data
from dmri_fm_lab.train.runs import load_autoencoder

#: Tensor networks that must be better than least squares.
BETTER = ["tensor-refiner", "qcg-dti"]

CARDS = Path(__file__).parents[2] / "docs" / "model_cards"


@pytest.mark.parametrize("model", BETTER)
@pytest.mark.parametrize("snr", [12, 25])
def test_tensor_networks_beat_least_squares_on_simulation(snr, model):
    """Seeds that training cannot draw; the margin is far below what the card reports."""
    rng = np.random.default_rng([777_001, snr])
    gtab = draw_protocol(rng, scheme="skare6", bvals=1000)
    sample = draw_sample(rng, shape=(28, 28, 28), gtab=gtab, snr=snr)
    dwi = Dwi.from_arrays(sample.signal, sample.affine, gtab, mask=sample.mask)
    where = sample.mask & (sample.fractions[..., 2] < 0.5)
    network, fit = (
        np.abs(maps.diffusivity - sample.truth_tensor)[where].mean()
        for maps in (predict_tensor(dwi, model=model), fit_tensor(dwi))
    )
    assert network < 0.9 * fit


def test_tensor_network_turns_with_the_subject():
    """A quarter turn of image and b-vectors turns the tensors: a consistency of frames.

    The network's convolutions know no rotations, so agreement is statistical only; a frame
    error would swap MD-neutral elements and put V1 at a right angle.
    """
    rng = np.random.default_rng([777_002])
    gtab = draw_protocol(rng, scheme="skare6", bvals=1000)
    sample = draw_sample(rng, shape=(24, 24, 24), gtab=gtab, snr=40)
    maps = predict_tensor(Dwi.from_arrays(sample.signal, np.eye(4), gtab, mask=sample.mask))
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    data = np.rot90(sample.signal, 1, axes=(0, 1))
    mask = np.rot90(sample.mask, 1, axes=(0, 1))
    turned = predict_tensor(Dwi.from_arrays(data, np.eye(4), gtab.rotated(turn), mask=mask))
    back = np.rot90(turned.v1, -1, axes=(0, 1)) @ turn
    fibres = sample.mask & (maps.fa > 0.4)
    cosine = np.abs((back * maps.v1).sum(axis=3))[fibres]
    assert np.rad2deg(np.arccos(np.median(cosine.clip(0, 1)))) < 6


def test_size_of_blocks_does_not_change_the_tensors(monkeypatch):
    """The margin that is computed and thrown away is wide enough: 1e-3 um^2/ms at most."""
    rng = np.random.default_rng([777_004])
    gtab = draw_protocol(rng, scheme="skare6", bvals=1000)
    sample = draw_sample(rng, shape=(100, 28, 28), gtab=gtab, snr=20)
    dwi = Dwi.from_arrays(sample.signal, sample.affine, gtab, mask=sample.mask)
    whole = predict_tensor(dwi)
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 80)
    parts = predict_tensor(dwi)
    assert np.abs(parts.diffusivity - whole.diffusivity).max() < 1e-6
    np.testing.assert_allclose(parts.std["fa"], whole.std["fa"], atol=1e-3)


def test_intervals_hold_nine_errors_in_ten_on_simulation():
    """Of patches that neither training nor calibration drew."""
    held = []
    for seed in range(4):
        rng = np.random.default_rng([777_005, seed])
        gtab = draw_protocol(rng, scheme="skare6", bvals=1000)
        sample = draw_sample(rng, shape=(32, 32, 32), gtab=gtab)
        dwi = Dwi.from_arrays(sample.signal, sample.affine, gtab, mask=sample.mask)
        maps = predict_tensor(dwi)
        truth = TensorMaps.from_tensor(
            sample.truth_tensor, sample.mask, affine=sample.affine, model="tensor"
        )
        where = sample.mask & (sample.fractions[..., 2] < 0.5)
        held.append((np.abs(maps.fa - truth.fa) < 1.645 * maps.std["fa"])[where].mean())
    assert 0.75 < np.mean(held) <= 1.0


def simulated_scan(seed, *, n_directions):
    rng = np.random.default_rng([777_003, seed])
    grid = feature_grid("drope")
    gtab = draw_protocol(rng, scheme="shell", n_directions=n_directions, bvals=1000, n_b0=1)
    sample = draw_sample(
        rng, shape=grid.shape, affine=grid.affine, gtab=gtab, snr=30, with_truth=False
    )
    return Dwi.from_arrays(sample.signal, grid.affine, gtab, mask=sample.mask)


@pytest.mark.parametrize(("model", "cls", "pooled"), [("drope", 192, 384), ("ssdiff", 128, 128)])
def test_encoder_knows_simulated_brains_and_not_noise(model, cls, pooled):
    dwi = simulated_scan(0, n_directions=12)
    features = extract_features(dwi, model=model)
    sizes = {of: len(v) for of, v in features.vectors.items()}
    assert sizes == {"cls": cls, "pooled": pooled}
    assert all(np.isfinite(vector).all() for vector in features.vectors.values())
    assert features.ood_percentile < 100.0
    if model == "drope":
        assert 0.0 < features.patches.direction_error < 0.2
        assert np.isfinite(features.patches.error[features.patches.valid]).all()
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 500, dwi.shape).astype(np.float32) * dwi.mask[..., None]
    noise = Dwi.from_arrays(noise, dwi.affine, dwi.gtab, mask=dwi.mask)
    strange = extract_features(noise, model=model)
    assert strange.ood_percentile > 95.0
    assert strange.ood_score > 2 * max(features.ood_score, 1.0)


def test_masked_directions_and_patches_are_filled_better_than_by_means():
    """Of a simulated brain that training did not draw, directions in white matter alone.

    Where directions matter little, the mean of the visible ones keeps detail that a token loses;
    the card has the errors of the whole brain, and other baselines.
    """
    network = load_autoencoder("drope")
    config = network.config.encoder
    protocol = {"n_directions": 12, "seed": 777_003, "protocols": [(1000.0,)]}
    (scan,) = simulated_scans(config.grid, 1, **protocol)
    record = score_rotations(network, [scan], RotationRequest(12, n_masks=1, n_permutations=0))
    (rows,) = record["means"].values()
    assert rows["network"]["r"] > 0.1, "0 is the mean of the visible directions"
    tokens = tokenise(scan.signal, scan.gtab, scan.mask, config)
    patches, brain, n_patches = tokens.patches, tokens.brain, len(tokens.index)
    rng = np.random.default_rng(0)
    mask = draw_mask(rng, network.config, kind="spatial", n_directions=12, n_patches=n_patches)
    with torch.inference_mode():
        found = network(patches[None], tokens.qspace[None], tokens.positions[None], mask)[0]
    kept = mask.kept[0]
    inside = brain[kept]
    means = ((patches[:, kept] * inside).sum(dim=(1, 2)) / inside.sum())[:, None, None]
    masked = mask.masked(12, n_patches)[0][..., None] * brain
    clean = tokenise(scan.clean, scan.gtab, scan.mask, config).patches
    error, baseline = (((x - clean) * masked).square().sum() for x in (found, means))
    assert error < 0.95 * baseline


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tensor-refiner", "fourteen series of real brains"),
        ("drope", "simulat"),
        ("ssdiff", "simulat"),
    ],
)
def test_card_names_the_weights_that_ship(name, data):
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    loaded = load_weights(name)
    assert loaded.sha256 in card
    head = card[:600]
    assert data in head
    assert "xperimental" in head
    assert str(loaded.training["steps"]) in card


@pytest.mark.parametrize(
    ("name", "noun"), [("tensor-refiner", "brain"), ("drope", "scan"), ("ssdiff", "scan")]
)
def test_shipped_weights_say_what_they_learnt_from(name, noun):
    training = load_weights(name).training
    share = training["settings"]["scan_share"]
    assert training["data"] == describe_data(training["scans"], scan_share=share, noun=noun)
    assert training["settings"]["model"] == name


@pytest.mark.realdata
@pytest.mark.parametrize("model", BETTER)
def test_tensor_networks_on_a_real_crop(data_dir, model):
    """A few slices of a real scan: plausible MD, and closer to a full fit than WLS-6 is."""
    stem = str(next((data_dir / "ds-vendors" / "sub-trio" / "dwi").glob("*_dwi.nii.gz")))
    stem = stem.removesuffix(".nii.gz")
    whole = Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")
    image = whole.image.slicer[20:80, 20:84, 26:38]
    data = np.asarray(image.dataobj, dtype=np.float32)
    b0 = data[..., whole.gtab.is_b0].mean(axis=3)
    mask = b0 > 0.25 * np.percentile(b0, 95)
    dwi = Dwi(nib.Nifti1Image(data, image.affine), whole.gtab, mask)
    first_half = [
        int(np.flatnonzero(whole.gtab.is_b0)[0]),
        *np.flatnonzero(~whole.gtab.is_b0)[:20],
    ]
    maps = predict_tensor(dwi.select(first_half), model=model)
    six = [first_half[i] for i in maps.metadata["Volumes"]]
    rest = [i for i in range(len(dwi.gtab)) if i not in (*six, first_half[0])]
    reference = fit_tensor(dwi.select(rest))
    fit = fit_tensor(dwi.select([first_half[0], *six]))
    where = mask & (reference.md < 1.6e-3) & (reference.md > 3e-4)
    assert 0.6e-3 < np.median(maps.md[where]) < 1.1e-3
    error, baseline = (
        np.abs(m.diffusivity - reference.diffusivity)[where].mean() for m in (maps, fit)
    )
    assert error < 0.95 * baseline


def test_gradient_table_of_one_shell_is_enough():
    """The smallest series: one b=0 and six directions."""
    gtab = GradientTable(
        np.r_[0.0, np.full(6, 1000.0)],
        np.r_[
            np.zeros((1, 3)),
            draw_protocol(np.random.default_rng(0), scheme="skare6", bvals=1000).bvecs_ras[1:],
        ],
    )
    data = np.full((6, 6, 6, 7), 300.0, dtype=np.float32)
    data[..., 0] = 700.0
    maps = predict_tensor(Dwi.from_arrays(data, np.eye(4), gtab, mask=np.ones((6, 6, 6), bool)))
    assert 0.5e-3 < np.median(maps.md) < 1.2e-3


@pytest.mark.slow
def test_pooled_tokens_retrieve_a_brain_from_other_directions():
    """Of four simulated brains, each by two sets of 12 directions of one shell."""
    halves: list[list[np.ndarray]] = [[], []]
    for seed in range(4):
        dwi = simulated_scan(10 + seed, n_directions=24)
        weighted = np.flatnonzero(~dwi.gtab.is_b0)
        for half, vectors in enumerate(halves):
            part = dwi.select([*np.flatnonzero(dwi.gtab.is_b0), *weighted[half::2]])
            vectors.append(extract_features(part).vectors["pooled"])
    apart = np.linalg.norm(np.stack(halves[0])[:, None] - np.stack(halves[1])[None], axis=2)
    assert apart.argmin(axis=1).tolist() == [0, 1, 2, 3]
