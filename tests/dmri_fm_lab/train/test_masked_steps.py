"""What a step of pretraining sees, and what of it is masked."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from dmri_fm.encoders.drope.mae import SMALL_MAE, MaskedAutoencoder, ramp_tau
from dmri_fm.encoders.drope.tokens import ScanTokens, patch_centres
from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.train import scan_variation
from dmri_fm_lab.train.masked_steps import (
    ScanSource,
    choose_mask,
    masks_patches,
    mean_of_visible,
    step_losses,
)


@pytest.fixture(scope="module")
def training(training):
    """Give the settings of a longer run."""
    return replace(training, optimisation=replace(training.optimisation, n_steps=100))


def make(tiny):
    torch.manual_seed(0)
    narrow = {"decoder_dim": 24, "decoder_depth": 1, "decoder_heads": 2}
    return MaskedAutoencoder(replace(SMALL_MAE, encoder=tiny, **narrow))


def equal(first, second):
    return all(
        torch.equal(a.patches, b.patches) and torch.equal(a.qspace, b.qspace)
        for a, b in zip(first, second, strict=True)
    )


def test_a_step_sees_slabs_of_brains(tiny, training, brains):
    source = ScanSource(tiny, training, brains)
    starts = set()
    for step in range(12):
        slabs = source.get(step)
        assert len(slabs) == training.batch
        assert 6 <= len(slabs[0].qspace) <= 8
        for slab in slabs:
            assert slab.qspace.shape == slabs[0].qspace.shape, "one number of directions a step"
            # One layer of patches, anywhere in the head.
            (height,) = slab.positions[:, 2].unique().tolist()
            starts.add(height - 1.5)
            assert 1 <= len(slab.index) <= 4 * 5
            assert 0.05 < slab.patches[:, slab.brain > 0].median() < 0.95
            assert not slab.patches[:, slab.brain == 0].any()
            layer = patch_centres(tiny, (32, 40, 4), (0, 0, int(height - 1.5)))
            np.testing.assert_allclose(slab.positions, layer[slab.index])
    assert len(starts) > 6
    assert any(start % 4 for start in starts), "slabs begin at any slice"


def test_a_step_depends_on_nothing_but_its_number(tiny, training, brains, tmp_path):
    first, second = (ScanSource(tiny, training, brains) for _ in range(2))
    second.get(7)
    assert equal(first.get(3), second.get(3))
    assert not equal(first.get(3), first.get(4))
    other = replace(training, optimisation=replace(training.optimisation, seed=1))
    assert not equal(first.get(0), ScanSource(tiny, other, tmp_path).get(0))


def test_whole_brains_come_late(tiny, training, brains):
    late = replace(training, whole_from=0.02, whole_directions=5)
    source = ScanSource(tiny, late, brains)
    assert len(source.get(1)) == training.batch
    (whole,) = source.get(2)
    assert len(whole.qspace) == 5
    assert len(whole.positions[:, 2].unique()) > 4
    assert len(ScanSource(tiny, training, brains).get(3)) == training.batch, "1: never"
    # Steps count, not the numbers that devices draw.
    several = ScanSource(tiny, late, brains, devices=2)
    assert [len(several.get(number)) for number in range(2, 6)] == [2, 2, 1, 1]


def test_brains_are_drawn_one_by_one(tiny, training, brains, tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("purpose-0_seed-0_brain-00000", "purpose-0_seed-0_brain-00001"):
        (tmp_path / "b" / name).symlink_to(brains / name)
    source = ScanSource(tiny, training, tmp_path / "b")
    for step in range(4):
        source.get(step)
    assert len(list((tmp_path / "b").iterdir())) == 2, "two brains for the first four steps"
    third = source.brain(2)
    assert np.array_equal(
        np.load(third.folder / "signal.npy"),
        np.load(brains / "purpose-0_seed-0_brain-00002" / "signal.npy"),
    ), "the same brain again"
    assert 400 <= third.gtab.bvals.min() <= third.gtab.bvals.max() <= 3000
    assert len(third.gtab) == training.scan_directions


def test_brains_of_another_grid_are_refused(tiny, training, brains):
    finer = replace(tiny, grid_shape=(64, 80, 64), voxel_size_mm=3.0)
    with pytest.raises(InputError, match="encoder's grid"):
        ScanSource(finer, training, brains).get(0)


def test_real_scans_take_their_share(tiny, training, brains, twins):
    source = ScanSource(tiny, replace(training, scan_share=0.3), brains, scans=[twins])
    shells = {1.0, 2.5}
    real = [
        {*slab.qspace[:, 0].tolist()} <= shells for step in range(40) for slab in source.get(step)
    ]
    assert 12 <= sum(real) <= 36, "24 expected of 80, standard deviation 4"
    none = ScanSource(tiny, replace(training, scan_share=0.0), brains, scans=[twins])
    drawn = [slab for step in range(10) for slab in none.get(step)]
    assert not any({*slab.qspace[:, 0].tolist()} <= shells for slab in drawn)


def test_no_step_sees_two_volumes_of_one_direction(tiny, training, brains, twins, monkeypatch):
    """A masked direction whose twin is visible would be copied."""
    monkeypatch.setattr(scan_variation, "NOISY_SHARE", 0.0)
    every = replace(training, scan_share=1.0, min_directions=8, max_directions=20)
    source = ScanSource(tiny, every, brains, scans=[twins])
    volumes = set()
    for step in range(20):
        for slab in source.get(step):
            numbers = slab.patches[:, slab.brain > 0][:, 0]
            assert len(numbers.unique()) == len(numbers), "each direction once"
            v = torch.stack([slab.qspace[:, 1].cos(), slab.qspace[:, 2].cos()])
            volumes |= {tuple(x) for x in v.T.round(decimals=4).tolist()}
    assert len(volumes) > 30, "either volume of a direction is drawn"
    # No more directions than there are, however many are asked for.
    rng = np.random.default_rng(0)
    assert len(twins.draw(rng, tiny, n_directions=40).qspace) == 20


def test_masking_alternates_epoch_by_epoch(training):
    assert [masks_patches(training, step) for step in range(6)] == [True] * 2 + [False] * 2 + [
        True
    ] * 2
    assert masks_patches(replace(training, masking="spatial"), 2)
    assert not masks_patches(replace(training, masking="diffusion"), 0)
    with pytest.raises(ConfigError, match="both"):
        masks_patches(replace(training, masking="both"), 0)


def test_a_step_masks_what_is_published(tiny, training, brains):
    model, rng = make(tiny), np.random.default_rng(0)
    (scan,) = ScanSource(tiny, replace(training, batch=1, min_directions=8), brains).get(0)
    patches = choose_mask(rng, model, training, scan, is_spatial=True)
    n = len(scan.index)
    assert patches.kept.shape == (1, round(n / 4))
    directions = choose_mask(rng, model, training, scan, is_spatial=False)
    assert directions.kept.shape == (1, 4)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_shells_are_masked_as_an_option(tiny, training, twins, share):
    model, rng = make(tiny), np.random.default_rng(0)
    scan = twins.draw(rng, tiny, n_directions=12)
    settings = replace(training, shell_share=share)
    rho, whole = scan.qspace[:, 0], 0
    for _ in range(60):
        kept = choose_mask(rng, model, settings, scan, is_spatial=False).kept[0]
        masked = np.setdiff1d(np.arange(12), kept)
        whole += len(rho[kept].unique()) == 1 and not np.isin(rho[masked], rho[kept]).any()
    assert (whole == 60 * share) if share in (0, 1) else (15 < whole < 45)
    one = scan.select(np.flatnonzero(rho.numpy() < 2))
    kept = choose_mask(rng, model, settings, one, is_spatial=False).kept
    assert kept.shape[1] == round(len(one.qspace) / 2), "a single shell has no other to go by"


class Watched(torch.nn.Module):
    """A network that notes the masks it is given."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, patches, qspace, positions, mask):
        self.seen.append(mask.kept)
        return self.model(patches, qspace, positions, mask)


def test_masks_depend_on_nothing_but_the_step(tiny, training, brains):
    watched = Watched(make(tiny))
    scans = ScanSource(tiny, training, brains).get(0)
    for step in (0, 1, 0, 2, 3, 2):
        with torch.no_grad():
            step_losses(watched.model, training, watched, scans, step)
    seen = watched.seen
    one, two, again, three, four, again_three = (seen[i : i + 2] for i in range(0, 12, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(three, again_three, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(three, four, strict=True))


@pytest.fixture
def as_rank():
    """Make this process one of two that train together, without a partner to talk to."""

    def join(rank):
        if distributed.is_initialized():
            distributed.destroy_process_group()
        distributed.init_process_group("fake", rank=rank, world_size=2, store=FakeStore())

    yield join
    distributed.destroy_process_group()


def test_devices_draw_masks_and_slabs_of_their_own(tiny, training, brains, as_rank):
    """In one step, of patches and of directions; masks differ even for equal scans."""
    source = ScanSource(tiny, training, brains, devices=2)
    for step in (0, 3):
        own = [source.get(2 * step + rank) for rank in range(2)]
        assert not equal(*own)
        kept = []
        for rank in range(2):
            as_rank(rank)
            watched = Watched(make(tiny))
            with torch.no_grad():
                step_losses(watched.model, training, watched, own[0], step)
            kept.append(watched.seen)
        for first, second in zip(*kept, strict=True):
            assert first.shape == second.shape
        assert not all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


def test_losses_by_hand(tiny, training, brains):
    """The loss is the ramp between the two errors, in units of the network's input."""
    model = make(tiny)
    scans = ScanSource(tiny, training, brains).get(0)
    for step, way, other in (
        (1, "masked_spatial", "masked_diffusion"),
        (3, "masked_diffusion", "masked_spatial"),
    ):
        losses = step_losses(model, training, model, scans, step)
        tau = ramp_tau(step / 100)
        total = (1 - tau) * losses["visible"] + tau * losses[way]
        torch.testing.assert_close(losses["loss"], total / tiny.signal_std**2)
        assert losses[other].isnan()
        assert losses["over_mean"].isnan() == (way == "masked_spatial")
        assert losses["loss"].requires_grad


def test_the_mean_of_visible_directions_is_that_of_the_nearest_shell():
    rho = torch.tensor([1.0, 1.01, 3.0, 2.9, 1.0])
    qspace = torch.stack([rho, torch.rand(5), torch.rand(5)], dim=1).double()
    patches = torch.tensor([1.0, 3.0, 10.0, 20.0, 99.0])[:, None, None].expand(-1, 2, 4)
    scan = ScanTokens(patches, qspace, torch.zeros(2, 3), torch.ones(2, 4), np.arange(2))
    found = mean_of_visible(scan, torch.tensor([0, 1, 2]))
    assert found[:, 0, 0].tolist() == pytest.approx([2, 2, 10, 10, 2])
