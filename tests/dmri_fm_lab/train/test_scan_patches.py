"""Training patches of scans: frames above all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.errors import InputError
from dmri_fm.gradients import GradientTable
from dmri_fm.registry import load_weights
from dmri_fm.series import Dwi
from dmri_fm.tensor_networks.inputs import fit_least_squares, mean_diffusivity, tensor_fa
from dmri_fm_lab.scans import Scan
from dmri_fm_lab.simulate.protocol import spread_directions
from dmri_fm_lab.train import scan_patches
from dmri_fm_lab.train.config import TensorTraining, read_training
from dmri_fm_lab.train.scan_patches import draw_scan_patch, read_training_scans
from dmri_fm_lab.train.tensor_training import train_tensor_network

SIDE = 20
#: Principal axis of the only fibres there are, RAS; the b=0 image grows along it.
AXIS = np.array([0.6, 0.0, 0.8])

ORIENTATIONS = {
    "RAS": np.eye(3),
    "LAS": np.diag([-1.0, 1, 1]),
    "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "oblique": np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]),
}


def make_scan(orientation, *, n_directions=24, voxel_mm=(2.0, 2.0, 3.0)):
    """One tensor everywhere; the b=0 image is a ramp along the tensor's main axis."""
    axes = spread_directions(np.random.default_rng(0), n_directions)
    gtab = GradientTable(
        np.r_[0.0, np.full(n_directions, 1000.0)], np.concatenate([np.zeros((1, 3)), axes])
    )
    affine = np.eye(4)
    affine[:3, :3] = ORIENTATIONS[orientation] * voxel_mm
    place = np.indices((24, 24, 24)).reshape(3, -1)
    mm = affine[:3, :3] @ (place - 11.5)
    b0 = 1000 + 5 * (AXIS @ mm)
    tensor = 0.4e-3 * np.eye(3) + 1.2e-3 * np.outer(AXIS, AXIS)
    decay = np.exp(-gtab.bvals * np.einsum("ni,ij,nj->n", gtab.bvecs_ras, tensor, gtab.bvecs_ras))
    data = (b0[:, None] * decay).reshape(24, 24, 24, -1).astype(np.float32)
    dwi = Dwi.from_arrays(data, affine, gtab, mask=np.ones((24, 24, 24), dtype=bool))
    return Scan("sub-a", "a", "test", dwi, "raw")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("interpolated_share", [0.0, 1.0])
def test_fibres_turn_with_the_image(monkeypatch, orientation, interpolated_share):
    monkeypatch.setattr(scan_patches, "NOISY_SHARE", 0.0)
    (scan,) = scan_patches._shells_of(make_scan(orientation))
    for seed in range(4):
        patch = draw_scan_patch(
            np.random.default_rng(seed),
            [scan],
            patch_voxels=SIDE,
            interpolated_share=interpolated_share,
        )
        inside = torch.nn.functional.avg_pool3d(patch.inputs.mask, 3, 1, 1)[0, 0] > 0.99
        slopes = torch.stack(torch.gradient(patch.inputs.s0[0, 0])) / patch.inputs.voxel_mm[
            0, :, None, None, None
        ].to(torch.float32)
        ramp = slopes[:, inside].mean(dim=1).numpy()
        found = patch.truth[0][:, inside].mean(dim=1).numpy()
        matrix = found[[0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(3, 3)
        main = np.linalg.eigh(matrix)[1][:, -1]
        assert abs(main @ ramp) / np.linalg.norm(ramp) > 0.999
        # What goes in tells the same.
        fitted = fit_least_squares(patch.inputs.ratios, patch.inputs.q)
        difference = (fitted - patch.truth)[0][:, inside]
        assert difference.abs().max() < 1e-3


def test_patches_are_copies():
    (scan,) = scan_patches._shells_of(make_scan("RAS"))
    known = np.unique(scan.images[1].numpy())
    for seed in range(4):
        cut, _, voxel_mm = scan_patches._cut(np.random.default_rng(seed), scan, SIDE)
        values = cut[1][cut[0] > 0.99].numpy()
        assert len(values) > 100
        assert np.abs(values[:, None] - known).min(axis=1).max() < 0.01
        assert sorted(voxel_mm.tolist()) == [2.0, 2.0, 3.0]


def test_noise_is_as_stated(monkeypatch):
    monkeypatch.setattr(scan_patches, "NOISY_SHARE", 1.0)
    monkeypatch.setattr(scan_patches, "SNR_RANGE", (20.0, 20.0))
    (scan,) = scan_patches._shells_of(make_scan("RAS"))
    patch = draw_scan_patch(
        np.random.default_rng(2), [scan], patch_voxels=SIDE, interpolated_share=0.0
    )
    assert float(patch.inputs.noise.max()) == pytest.approx(1 / 20, rel=0.4)
    # The truth is that of all directions, free of the noise.
    inside = patch.inputs.mask > 0
    assert float(mean_diffusivity(patch.truth)[inside].std()) < 1e-3
    assert float(tensor_fa(patch.truth)[inside[:, 0]].mean()) == pytest.approx(0.69, abs=0.02)


def test_few_directions_are_left_out():
    assert not list(scan_patches._shells_of(make_scan("RAS", n_directions=11)))
    (few,) = scan_patches._shells_of(make_scan("RAS", n_directions=13))
    (many,) = scan_patches._shells_of(make_scan("RAS", n_directions=14))
    assert (few.is_truth_apart, many.is_truth_apart) == (False, True)


def test_a_truth_that_holds_the_input_goes_with_added_noise(monkeypatch):
    monkeypatch.setattr(scan_patches, "NOISY_SHARE", 0.0)
    (scan,) = scan_patches._shells_of(make_scan("RAS", n_directions=13))
    patch = draw_scan_patch(
        np.random.default_rng(1), [scan], patch_voxels=SIDE, interpolated_share=0.0
    )
    inside = patch.inputs.mask.expand(-1, 6, -1, -1, -1) > 0
    fitted = fit_least_squares(patch.inputs.ratios, patch.inputs.q)
    assert float((fitted - patch.truth)[inside].std()) > 0.02


def test_real_scans(data_dir):
    scans = read_training_scans(data_dir / "ds-vendors", participant_labels=["umr"])
    assert len(scans) == 3
    assert {scan.brain_name for scan in scans} == {"sub-umr, UIH uMR 770"}
    for scan in scans:
        assert set(scan.subsets.shape[1:]) == {6}
        assert len(scan.subsets) > 20
    patch = draw_scan_patch(np.random.default_rng(0), scans, patch_voxels=24)
    inside = (patch.inputs.mask[:, 0] > 0) & (patch.csf < 0.2)
    assert 0.5 < float(mean_diffusivity(patch.truth)[:, 0][inside].median()) < 1.1


def test_datasets_without_enough_directions_are_refused(data_dir, monkeypatch):
    monkeypatch.setattr(scan_patches, "FEWEST_DIRECTIONS", 13)
    with pytest.raises(InputError, match="no series to train on"):
        read_training_scans(data_dir / "ds-vendors", participant_labels=["galan"])


def test_weights_name_the_scans_they_were_trained_on(tmp_path):
    settings = replace(
        read_training(
            TensorTraining, "tensor-refiner", optimisation={"n_steps": 2, "warmup_steps": 1}
        ),
        patch_voxels=16,
        batch=1,
        scan_share=1.0,
        n_reference=2,
        n_held_out=2,
    )
    (scan,) = scan_patches._shells_of(make_scan("RAS"))
    path = tmp_path / "x.safetensors"
    run = train_tensor_network(settings, tmp_path / "run", scans=[scan], weights=path)
    assert run.steps == 2
    training = load_weights(path).training
    assert training["scans"] == ["sub-a, test"] == [scan.brain_name]
    assert training["data"] == "1 real brain", "every sample was drawn from it"


def test_scans_without_enough_brain_are_named(monkeypatch):
    monkeypatch.setattr(scan_patches, "MOST_DRAWS", 3)
    (scan,) = scan_patches._shells_of(make_scan("RAS"))
    with pytest.raises(InputError, match="no patch of 64 voxels") as error:
        draw_scan_patch(np.random.default_rng(0), [scan], patch_voxels=64)
    assert "sub-a" in error.value.found
