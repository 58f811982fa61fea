"""Fine-tuning of a tiny encoder on eight tiny participants, from files to scores."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.participants import PARTICIPANTS, hash_participant
from dmri_fm.registry import load_weights
from dmri_fm.weights import save_weights
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.feature_cache import FeatureCache
from dmri_fm_lab.prediction.finetune import Finetuning, finetune, standardise_head
from dmri_fm_lab.prediction.finetune_network import TunedEncoder, Tuning, frozen_front
from dmri_fm_lab.prediction.finetune_scans import FrontViews, ViewSettings
from dmri_fm_lab.prediction.fold_training import FoldSettings, train_fold
from dmri_fm_lab.prediction.outcomes import Outcome
from dmri_fm_lab.prediction.splits import Fold, write_splits
from dmri_fm_lab.prediction.study import EncoderSource, StudyFiles
from dmri_fm_lab.train.dataset_cache import cache_scans
from dmri_fm_lab.train.loop import LOG
from dmri_fm_lab.train.seen import Seen
from tests.dmri_fm_lab.prediction.tiny_cohort import AGES, TINY, tiny_encoder

EVERYBODY = frozenset(f"sub-{label}" for label in AGES)
AGE = Outcome("age", "regression", {f"sub-{label}": age for label, age in AGES.items()})
VIEWS = ViewSettings(n_directions=6, n_views=2)


@pytest.fixture(scope="module")
def scans(tiny_cohort, tmp_path_factory):
    """Return the tiny cohort's scans on the encoder's grid, by participant."""
    folder = tmp_path_factory.mktemp("scans")
    cached = cache_scans(tiny_cohort.derivatives, folder, TINY.grid, prefers_template=True)
    return {scan.participant: scan for scan in cached}


def samples_of(scans, tuning, *, cache=None, is_kept=True):
    front = frozen_front(tiny_encoder(), tuning)
    return FrontViews(scans, front, VIEWS, cache or FeatureCache(), is_kept)


def train(samples, tuning, folder, *, settings, max_steps=0, val=frozenset({"sub-03"})):
    """Train on six participants, and test on one."""
    fold = Fold("1", EVERYBODY - {"sub-03", "sub-06"}, val, frozenset({"sub-06"}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tuned = TunedEncoder(tiny_encoder(), tuning)
    standardise_head(tuned, samples, sorted(fold.train))
    return train_fold(
        tuned,
        samples,
        fold,
        AGE,
        settings=settings,
        folder=folder,
        description={},
        max_steps=max_steps,
    )


def test_scans_in_the_template_are_read_where_they_lie(scans, tiny_cohort):
    signal = np.load(scans["sub-01"].folder / "signal.npy").astype(float)
    mask = scans["sub-01"].read_mask()
    assert mask.sum() == 12 * 16 * 14, "no voxel of the mask is lost to interpolation"
    along = (scans["sub-01"].gtab.bvecs_ras @ np.array([0.6, 0.8, 0.0])) ** 2
    md = 1.2 - 0.008 * AGES["01"]
    expected = np.exp(-md * (0.6 + 1.2 * along))
    # Noise of 1% in each voxel, averaged over 2688.
    np.testing.assert_allclose(signal[:, mask].mean(axis=1), expected, atol=2e-3)


def test_a_tuned_encoder_overfits_six_participants(scans, tmp_path):
    tuning = Tuning("last-layer", 1)
    settings = FoldSettings(epochs=16, learning_rate=1e-2, n_draws=1)
    nobody = frozenset()
    result = train(samples_of(scans, tuning), tuning, tmp_path, settings=settings, val=nobody)
    losses = np.genfromtxt(tmp_path / LOG, delimiter=",", names=True)["loss"]
    assert losses[-1] < 0.1 < losses[0], "of targets of variance one"
    found = result.predictions["train"]  # of other slabs and directions than those trained on
    assert np.corrcoef(list(found.values()), [AGE.values[p] for p in found])[0, 1] > 0.6
    assert result.is_done
    assert result.best_epoch == 16, "without validation the last epoch counts"
    assert result.scale == pytest.approx(np.std([AGE.values[p] for p in found], ddof=1))


def test_an_interrupted_run_ends_as_if_it_had_not_been(scans, tmp_path):
    tuning = Tuning("lora", 2)
    samples = samples_of(scans, tuning, is_kept=False)
    settings = FoldSettings(epochs=2, batch=2, learning_rate=5e-3, n_draws=0)
    whole = train(samples, tuning, tmp_path / "whole", settings=settings)
    part = train(samples, tuning, tmp_path / "parts", settings=settings, max_steps=4)
    assert not part.is_done
    assert part.predictions == {}
    done = train(samples, tuning, tmp_path / "parts", settings=settings)
    assert done.predictions == whole.predictions
    assert done.best_epoch == whole.best_epoch
    with pytest.raises(ConfigError, match="other settings"):
        train(samples, tuning, tmp_path / "parts", settings=replace(settings, seed=1))


def test_the_front_is_computed_once(scans, tmp_path):
    tuning, cache = Tuning(blocks=1), FeatureCache(tmp_path)
    samples = samples_of(scans, tuning, cache=cache)
    first = samples.draw("sub-01", 0)
    samples.views("sub-01")
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert len(kept) == 1 + VIEWS.n_views
    again = samples_of(scans, tuning, cache=cache)
    torch.testing.assert_close(again.draw("sub-01", 0).patches, first.patches, rtol=0, atol=0)
    again.views("sub-01")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == kept
    samples_of(scans, tuning, cache=cache, is_kept=False).draw("sub-01", 7)
    samples_of(scans, Tuning(blocks=0), cache=cache).draw("sub-01", 7)
    assert len(list(tmp_path.iterdir())) == len(kept), "new views and empty fronts are not kept"


def test_views_are_slabs_of_random_directions(scans):
    samples = samples_of(scans, Tuning(blocks=0), is_kept=False)
    low, high = samples.views("sub-02")
    assert low.patches.shape[1] == low.qspace.shape[1] == VIEWS.n_directions
    assert low.patches.shape[2] < np.prod(TINY.patch_grid[:2]), (
        "one layer of patches that hold brain"
    )
    assert not torch.equal(low.qspace, high.qspace)
    a, b, same = (samples.draw("sub-02", n) for n in (0, 1, 0))
    assert not torch.equal(a.qspace, b.qspace)
    assert torch.equal(a.patches, same.patches)


def test_the_command_from_files_to_scores(tiny_cohort, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = [
        "finetune", str(run), "--derivatives", str(tiny_cohort.derivatives),
        "--participants", str(tiny_cohort.participants), "--target", "sex", "--classes", "F", "M",
        "--splits", str(tiny_cohort.splits), "--weights", str(tiny_cohort.weights),
        "--mode", "lora", "--epochs", "1", "--views", "2", "--weighted", "--save-encoders",
    ]  # fmt: skip
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "sex (classification), 8 participants, 2 folds, test sets without overlap" in text
    assert "AUROC" in text
    assert "Research only" in text
    record = json.loads((run / "scores.json").read_text())
    assert record["classes"] == ["F", "M"]
    assert record["tuned_weights"]["n"] == 2 * 12 * (24 + 72 + 24 + 24)
    assert [fold["n_test"] for fold in record["folds"]] == [2, 2]
    predictions = pd.read_csv(run / "predictions.tsv", sep="\t")
    assert predictions["participant_id"].tolist() == ["sub-04", "sub-08", "sub-02", "sub-06"]
    assert predictions["observed"].tolist() == [1, 0, 1, 0]
    assert predictions["predicted"].between(0, 1).all()
    assert predictions["use"].str.startswith("Research only").all()
    tuned = load_weights(run / "encoder_fold-0.safetensors", model="drope")
    before = load_weights(tiny_cohort.weights).model.state_dict()
    changed = {k for k, v in tuned.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all("blocks.2.attn" in name for name in changed), "the last block's attention alone"


def test_participants_of_the_pretraining_are_flagged(scans, tiny_cohort, tmp_path):
    seen = {PARTICIPANTS: [hash_participant("tiny", "sub-03")]}
    weights = save_weights(
        tmp_path / "seen.safetensors", tiny_encoder(), name="drope", version="0", training=seen
    )
    assert EncoderSource(weights=weights).find_seen(scans).participants == {"sub-03"}
    unlisted = EncoderSource(weights=tiny_cohort.weights).find_seen(scans)
    assert "list no participants" in unlisted.unknown
    nobody = save_weights(
        tmp_path / "no.safetensors",
        tiny_encoder(),
        name="drope",
        version="0",
        training={PARTICIPANTS: []},
    )
    assert EncoderSource(weights=nobody).find_seen(scans) == Seen()


def ask(cohort, folder, **changes):
    files = StudyFiles(cohort.derivatives, cohort.participants, "age", cohort.splits)
    request = Finetuning(EncoderSource(weights=cohort.weights))
    return finetune(folder, replace(files, **changes), request)


def test_input_that_cannot_be_used(tiny_cohort, tmp_path):
    people = tmp_path / "people.tsv"
    people.write_text("participant_id\tage\tgroup\nsub-91\t3\ta\nsub-92\t4\ta\n")
    with pytest.raises(InputError, match=r"none of the 8 scans .*sub-01.* against sub-91, sub-92"):
        ask(tiny_cohort, tmp_path, participants=people)
    with pytest.raises(ConfigError, match="no column height"):
        ask(tiny_cohort, tmp_path, target="height")
    rows = [f"{p}\t3\ta" for p in sorted(EVERYBODY)]
    people.write_text("\n".join(["participant_id\tage\tgroup", *rows]) + "\n")
    with pytest.raises(ConfigError, match="group is a for all of 8 rows"):
        ask(tiny_cohort, tmp_path, participants=people, target="group")
    with pytest.raises(ConfigError, match="age is 3 for all of 8 rows"):
        ask(tiny_cohort, tmp_path, participants=people)
    others = [Fold("1", frozenset({"sub-91"}), frozenset(), frozenset({"sub-92"}))]
    with pytest.raises(InputError, match="no participant of the splits has a usable scan"):
        ask(tiny_cohort, tmp_path, splits=write_splits(others, tmp_path / "splits.tsv"))


def test_a_training_set_of_one_class(tiny_cohort, tmp_path):
    young = [f"sub-0{i}" for i in range(1, 5)]
    fold = Fold("1", frozenset(young), frozenset(), EVERYBODY - set(young))
    splits = write_splits([fold], tmp_path / "splits.tsv")
    with pytest.raises(ConfigError, match="fold 1: sex is the same in all 4 training"):
        ask(tiny_cohort, tmp_path / "run", splits=splits, target="sex")


def test_settings_that_make_no_sense():
    with pytest.raises(ConfigError, match="0 epochs"):
        FoldSettings(epochs=0)
    with pytest.raises(ConfigError, match="0 directions"):
        ViewSettings(n_directions=0)
