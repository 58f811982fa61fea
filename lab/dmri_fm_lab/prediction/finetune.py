"""Fine-tuning of an encoder on a target of one's own, fold by fold.

Published: the last layer of the encoder with a head on the class token (Kung et al. 2026,
section 4.3, https://doi.org/10.48550/arXiv.2603.25977). Here training sees slabs of the scans, and
a prediction is the mean over slabs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from dmri_fm import __version__
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.participants import PARTICIPANTS
from dmri_fm.weights import save_weights
from dmri_fm_lab.feature_cache import FeatureCache
from dmri_fm_lab.prediction.finetune_network import (
    TunedEncoder,
    Tuning,
    count_tuned,
    frozen_front,
    join_encoder,
)
from dmri_fm_lab.prediction.finetune_scans import FrontViews, ViewSettings
from dmri_fm_lab.prediction.fold_training import (
    FoldSettings,
    NetworkRun,
    Samples,
    train_folds,
)
from dmri_fm_lab.prediction.network_records import describe_run, write_run
from dmri_fm_lab.prediction.pretrained_on import record_seen
from dmri_fm_lab.prediction.splits import Fold
from dmri_fm_lab.prediction.study import (
    EncoderSource,
    StudyFiles,
    read_series,
    read_study,
)
from dmri_fm_lab.train.dataset_cache import SCANS, hash_participants
from dmri_fm_lab.train.loop import CPU, Hardware
from dmri_fm_lab.train.runs import list_seen
from dmri_fm_lab.train.scan_cache import CachedScan
from dmri_fm_workflows.bids.names import plain_label

#: Folder, in that of cached scans, of what frozen fronts give.
FRONTS = "fronts"


@dataclass(frozen=True)
class Finetuning:
    """A fine-tuning run.

    Attributes
    ----------
    encoder
        Where it starts.
    tuning, settings, views
        What is trained, how, and on which parts of the scans.
    hardware
        One processor.
    cache
        Folder of scans on the encoder's grid and of what the front gives of them; runs can share
        it. None: in the run's folder.
    saves_encoders
        Whether the tuned encoder of each fold is written as weights, for `dmri-fm features`.
    """

    encoder: EncoderSource = field(default_factory=EncoderSource)
    tuning: Tuning = field(default_factory=Tuning)
    settings: FoldSettings = field(default_factory=FoldSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    hardware: Hardware = CPU
    cache: Path | None = None
    saves_encoders: bool = False


def finetune(folder: Path, files: StudyFiles, request: Finetuning) -> dict[str, Any]:
    """Fine-tune an encoder on each fold, and score it on the test set.

    A run in the folder is continued. Beside logs and checkpoints, the folder then holds
    `predictions.tsv` (test sets), `scores.json` and, if asked for, `encoder_fold-<name>`.

    Parameters
    ----------
    folder
        Of the run.
    files
        Scans, target and splits.
    request
        Encoder and settings.

    Returns
    -------
    dict
        The record, as in `scores.json`: see :func:`.network_records.describe_run`; with the
        encoder, the numbers that were tuned, and participants that it was pretrained on.

    Raises
    ------
    ConfigError, InputError, WeightsError
        If settings, files or weights cannot be used.
    """
    encoder, origin = request.encoder.load()
    cache = request.cache or folder / SCANS
    scans, unusable = read_series(files.derivatives, cache, encoder)
    study = read_study(files, list(scans), unusable)
    own = {participant: scans[name] for participant, name in study.scans.items()}
    views = replace(request.views, seed=request.settings.seed)
    front = frozen_front(encoder, request.tuning)
    samples = FrontViews(
        own,
        front.to(_device(request.hardware)),
        views,
        FeatureCache.of(cache / FRONTS, front, asdict(views)),
        is_kept=request.settings.n_draws > 0,
    )

    def make_network(fold: Fold) -> TunedEncoder:
        tuned = TunedEncoder(encoder, request.tuning)
        standardise_head(tuned, samples, sorted(fold.train))
        return tuned

    description = {
        "encoder": origin,
        "tuning": asdict(request.tuning),
        "views": asdict(views),
        "target": files.target,
    }
    run = train_folds(
        make_network,
        samples,
        study.folds,
        study.outcome,
        settings=request.settings,
        folder=folder,
        hardware=request.hardware,
        description=description,
    )
    seen = request.encoder.find_seen(own)
    n_tuned, n_all = count_tuned(TunedEncoder(encoder, request.tuning), encoder)
    record = {
        **describe_run(run, study.outcome, study.folds, study.left_out),
        **description,
        "settings": asdict(request.settings),
        "tuned_weights": {"n": n_tuned, "of": n_all, "share": n_tuned / n_all},
        "pretrained_on": record_seen("encoder", seen),
    }
    write_run(folder, record, run, seen=seen)
    if request.saves_encoders:
        _save_encoders(folder, request, encoder, run, study.folds, own, description)
    return record


def standardise_head(tuned: TunedEncoder, samples: Samples, participants: Sequence[str]) -> None:
    """Set mean and deviation of the features that enter the head to those of a training set."""
    with torch.no_grad():
        features = torch.cat([tuned.encode(samples.draw(p, 0)) for p in participants])
    tuned.head.mean.copy_(features.mean(dim=0))
    tuned.head.std.copy_(features.std(dim=0, correction=0).clamp(min=1e-6))


def _save_encoders(
    folder: Path,
    request: Finetuning,
    encoder: Drope,
    run: NetworkRun,
    folds: Sequence[Fold],
    scans: Mapping[str, CachedScan],
    description: Mapping[str, Any],
) -> None:
    """Write the tuned encoder of each fold, which lists whom it has seen, as weights."""
    before = list_seen(request.encoder.source, model=request.encoder.model)
    for fold in folds:
        own = [scans[p] for p in sorted(fold.train | fold.val)]
        training = {**description, "data": f"fine-tuned, fold {fold.name}"}
        if before is not None:
            training[PARTICIPANTS] = sorted({*before, *hash_participants(own)})
        save_weights(
            folder / f"encoder_fold-{plain_label(fold.name)}.safetensors",
            join_encoder(encoder, cast(TunedEncoder, run.networks[fold.name])),
            name=request.encoder.model,
            version=__version__,
            training=training,
        )


def _device(hardware: Hardware) -> str:
    is_cpu = hardware.accelerator == "cpu" or not torch.cuda.is_available()
    return "cpu" if is_cpu else "cuda"
