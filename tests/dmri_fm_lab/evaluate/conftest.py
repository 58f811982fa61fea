"""A simulated series with a reference to be made of it; a scan and an autoencoder on a grid."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.mae import MaskedAutoencoder
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.series import Dwi, save_image
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.simulated import build_brain, simulated_scan
from dmri_fm_lab.grid_scans import simulated_scans
from dmri_fm_lab.simulate import draw_protocol, draw_sample
from dmri_fm_lab.train.config import DropePretraining, read_training
from dmri_fm_lab.train.drope import pretrain_drope
from tests.dmri_fm_lab.evaluate.tiny_drope import (
    TINY,
    TINY_MAE,
    middle_of_the_brain,
    register_tiny,
)


def draw_series(*, n_directions: int, n_b0: int, snr: float, side: int = 24):
    """Return a series with its brain mask, its true tensor and its tissue."""
    rng = np.random.default_rng(8)
    gtab = draw_protocol(rng, scheme="shell", n_directions=n_directions, bvals=1000, n_b0=n_b0)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    # In the middle of the head, where all tissues are.
    affine[:3, 3] = [4, -30, 0]
    sample = draw_sample(
        rng, shape=(side,) * 3, affine=affine, gtab=gtab, snr=snr, atlas_weight=1.0
    )
    dwi = Dwi.from_arrays(sample.signal, sample.affine, gtab, mask=sample.mask)
    truth = TensorMaps.from_tensor(
        sample.truth_tensor, sample.mask, affine=sample.affine, model="tensor"
    )
    return dwi, truth, sample.mask & (sample.fractions[..., 2] < 0.1)


@pytest.fixture(scope="session")
def noisy():
    """Fourteen directions, two b=0, much noise."""
    return draw_series(n_directions=14, n_b0=2, snr=12)


@pytest.fixture(scope="session")
def brain():
    return build_brain(0, voxel_size_mm=6.0, has_lesions=True)


@pytest.fixture(scope="session")
def scans(brain):
    """The brain with noise and without, with the same six directions."""
    return [simulated_scan(brain, snr=s, n_b0=2, seed=3) for s in (10, float("inf"))]


@pytest.fixture
def derivative(tmp_path, noisy):
    """A folder like the app's, with one corrected series."""
    dwi, _, _ = noisy
    root = tmp_path / "derivative"
    stem = root / "sub-01" / "dwi" / "sub-01_space-ACPC_desc-preproc_dwi"
    dwi.save(stem)
    save_image(dwi.mask, dwi.affine, stem.with_name("sub-01_space-ACPC_desc-brain_mask.nii.gz"))
    stem.with_suffix(".json").write_text(json.dumps({"Manufacturer": "Simulated"}))
    (root / "dataset_description.json").write_text(json.dumps({"DatasetType": "derivative"}))
    return root


@pytest.fixture
def raw(tmp_path, noisy):
    """A raw dataset of the noisy series, and its truth."""
    dwi, truth, _ = noisy
    root = tmp_path / "raw"
    stem = root / "sub-01" / "dwi" / "sub-01_dir-AP_dwi"
    dwi.save(stem)
    stem.with_suffix(".json").write_text(
        json.dumps({"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05})
    )
    description = {"Name": "noisy", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    folder = root / "derivatives" / "truth" / "sub-01" / "dwi"
    mask = truth.mask.astype(np.float32)
    images = {
        "model-tensor_param-diffusivity_desc-truth_dwimap": truth.diffusivity,
        **{
            f"model-tensor_param-{name}_desc-truth_dwimap": image
            for name, image in truth.scalars.items()
        },
        "desc-truth_fieldmap": 0 * mask,
        "label-WM_desc-truth_probseg": mask,
        "label-GM_desc-truth_probseg": 0 * mask,
        "label-CSF_desc-truth_probseg": 0 * mask,
        "desc-truth_mask": mask,
    }
    for name, image in images.items():
        save_image(image, truth.affine, folder / f"sub-01_{name}.nii.gz")
    return root


@pytest.fixture(scope="session")
def grid_scan():
    """A simulated scan with its truth on the tiny grid: sixteen directions of two shells."""
    return list(simulated_scans(middle_of_the_brain(), 2, n_directions=16))[1]


@pytest.fixture
def tiny_network():
    torch.manual_seed(0)
    return MaskedAutoencoder(TINY_MAE).eval()


@pytest.fixture(scope="session")
def trained(tmp_path_factory, grid_scan):
    """Folder of a tiny autoencoder that was pretrained for a few steps."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    changes = {"n_steps": 3, "warmup_steps": 1, "precision": "32-true"}
    settings = read_training(DropePretraining, "drope", optimisation=changes)
    few = tokenise(grid_scan.signal, grid_scan.gtab, grid_scan.mask, TINY)
    with pytest.MonkeyPatch.context() as patch:
        register_tiny(patch)
        pretrain_drope(settings, folder, draw=lambda _: [few])
    return folder


@pytest.fixture
def run(trained, monkeypatch):
    """Folder of the tiny autoencoder, which is in the registry's place."""
    register_tiny(monkeypatch)
    return trained
