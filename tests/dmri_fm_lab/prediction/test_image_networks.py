"""Image networks on eight tiny participants."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.feature_cache import FeatureCache
from dmri_fm_lab.prediction.fold_training import FoldSettings
from dmri_fm_lab.prediction.image_networks import (
    ImageTraining,
    make_image_network,
    train_image_network,
)
from dmri_fm_lab.prediction.image_samples import MapImages, find_maps, vary
from dmri_fm_lab.prediction.study import EncoderSource, StudyFiles
from tests.dmri_fm_lab.prediction.tiny_cohort import AGES, TINY

SETTINGS = FoldSettings(epochs=2, batch=4, learning_rate=1e-3, n_draws=0)


def files_of(cohort, **changes):
    files = StudyFiles(cohort.derivatives, cohort.participants, "age", cohort.splits)
    return replace(files, **changes)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


# A comparison runs the third (test_compare.py).
@pytest.mark.parametrize("name", ["resnet18", "vit-raw"])
def test_each_network_runs_from_files_to_scores(tiny_cohort, shared, tmp_path, name):
    request = ImageTraining(
        name,
        encoder=EncoderSource(weights=tiny_cohort.weights),
        settings=SETTINGS,
        n_views=1,
        cache=shared,
    )
    record = train_image_network(tmp_path, files_of(tiny_cohort), request)
    assert json.loads((tmp_path / "scores.json").read_text())["network"] == name
    assert record["n_participants"] == len(AGES)
    assert all(np.isfinite(fold["scores"]["mse"]) for fold in record["folds"])
    log = np.genfromtxt(tmp_path / "fold-0" / "log.csv", delimiter=",", names=True)
    assert len(log) == 2
    assert np.isfinite(log["loss"]).all()


@pytest.mark.parametrize("name", ["resnet18", "vit-maps"])
def test_a_network_overfits_two_images(name):
    torch.manual_seed(0)
    network = make_image_network(ImageTraining(name), 2)
    images = [torch.randn(2, 16, 16, 16), torch.randn(2, 16, 16, 16)]
    target = torch.tensor([-1.0, 1.0])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(25):
        loss = (network(images) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05


def test_maps_on_the_grid_of_the_encoder(tiny_cohort, tmp_path):
    maps, lacking = find_maps(tiny_cohort.derivatives)
    assert (len(maps), lacking) == (8, [])
    own = {"sub-01": maps["sub-01"]}
    image = MapImages(own, TINY.grid, 2, FeatureCache(tmp_path)).views("sub-01")[0]
    assert image.shape == (2, 12, 14, 12)
    # FA and MD in um^2/ms in the middle of the box; noise of 2% over eight voxels.
    fa, md = image[:, 6, 6, 6].tolist()
    assert fa == pytest.approx(0.4 + 0.001 * AGES["01"], rel=0.03)
    assert md == pytest.approx(1.2 - 0.008 * AGES["01"], rel=0.03)
    assert (image[:, 0] == 0).all()


def test_a_participant_without_a_map_is_named(tiny_cohort, tmp_path):
    out = shutil.copytree(tiny_cohort.derivatives, tmp_path / "out")
    next(out.glob("sub-02/dwi/*param-fa*")).unlink()
    maps, lacking = find_maps(out)
    assert "sub-02" not in maps
    assert [tuple(item) for item in lacking] == [("sub-02", "no fa map")]
    for path in out.glob("sub-*/dwi/*param-*"):
        path.unlink()
    with pytest.raises(InputError, match="no scan has FA and MD maps in the template's space"):
        find_maps(out)


def test_too_few_directions(tiny_cohort, shared, tmp_path):
    request = ImageTraining(
        "vit-raw",
        encoder=EncoderSource(weights=tiny_cohort.weights),
        n_directions=17,
        cache=shared,
    )
    with pytest.raises(InputError, match="no scan has 17 distinct directions"):
        train_image_network(tmp_path, files_of(tiny_cohort), request)


def test_images_are_mirrored_and_moved():
    image = torch.arange(64.0).reshape(1, 4, 4, 4)
    drawn = {
        vary(image, np.random.default_rng(k), most_shift=1).flatten()[0].item() for k in range(40)
    }
    assert len(drawn) > 9
    for k in range(5):
        moved = vary(image, np.random.default_rng(k), most_shift=1)
        assert sorted(moved.flatten().tolist()) == image.flatten().tolist()
        assert moved[0, 0, 0].diff().eq(1).all(), "nothing moves from bottom to top"


def test_names_that_do_not_exist():
    with pytest.raises(ConfigError, match="network 'unet'"):
        ImageTraining("unet")
    with pytest.raises(ConfigError, match="size 'huge'"):
        ImageTraining("resnet18", size="huge")
