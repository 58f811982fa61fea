"""`dmri-fm finetune`: fine-tune an encoder on a target, fold by fold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dmri_fm_lab.commands.options import Subparsers

if TYPE_CHECKING:
    from dmri_fm_lab.prediction.study import StudyFiles


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm finetune`."""
    parser = subparsers.add_parser(
        "finetune",
        help="fine-tune a D-RoPE encoder on a target of yours; research only",
        description="Fine-tune a D-RoPE encoder on a target of yours. No other encoder can be "
        "fine-tuned. Research only.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="RUN", help="for logs and results; a run is continued"
    )
    add_study(parser)
    _add_encoder(parser)
    _add_tuning(parser)
    _add_settings(parser)
    parser.add_argument("--accelerator", choices=("cpu", "cuda", "auto"), default="cpu")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="scans on the encoder's grid, shared by runs",
    )
    parser.add_argument(
        "--save-encoders", action="store_true", help="write the tuned encoder of each fold"
    )
    parser.set_defaults(run=run)


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add scans, participants, target and splits."""
    parser.add_argument(
        "--derivatives", type=Path, required=True, metavar="OUT", help="output of drope-bidsapp"
    )
    parser.add_argument(
        "--participants", type=Path, required=True, metavar="TSV", help="participants.tsv"
    )
    parser.add_argument("--sessions", type=Path, metavar="TSV", help="a row for each session")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="what is predicted")
    parser.add_argument(
        "--classes",
        nargs=2,
        default=(),
        metavar=("NEG", "POS"),
        help="negative and positive class",
    )
    parser.add_argument(
        "--splits",
        type=Path,
        required=True,
        metavar="TSV",
        help="fold, participant_id, set",
    )


def _add_encoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="drope", help="a D-RoPE encoder, no other; default drope"
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights", type=Path, metavar="PATH", help="weights to start from; default: packaged"
    )
    weights.add_argument(
        "--pretraining", type=Path, metavar="RUN", help="pretraining run to start from"
    )


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        default="small",
        metavar="NAME",
        help="settings: small (default), or those published for age, sex, mci, adas",
    )
    parser.add_argument("--mode", choices=("last-layer", "lora"), help="default: the preset's")
    parser.add_argument(
        "--tuned-blocks", type=int, metavar="N", help="last blocks to tune, 0 for all; default 1"
    )
    parser.add_argument("--rank", type=int, metavar="R", help="of LoRA; default 12")
    parser.add_argument("--alpha", type=int, metavar="A", help="of LoRA; default 12")
    parser.add_argument("--head", choices=("linear", "mlp"), help="default mlp")
    parser.add_argument("--head-input", choices=("cls", "pooled"), help="default cls")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, metavar="N", help="default: the preset's")
    parser.add_argument("--batch", type=int, metavar="N", help="participants a step; default 6")
    parser.add_argument("--learning-rate", type=float, metavar="R", help="at the first step")
    parser.add_argument("--final-learning-rate", type=float, metavar="R", help="at the last step")
    parser.add_argument(
        "--weighted", action="store_true", default=None, help="same weight for both classes"
    )
    parser.add_argument(
        "--draws",
        type=int,
        metavar="N",
        help="random views of a scan that epochs cycle through; 0: new ones in each epoch",
    )
    parser.add_argument("--seed", type=int, metavar="S", help="default 0")
    parser.add_argument(
        "--directions", type=int, default=12, metavar="N", help="random directions; default 12"
    )
    parser.add_argument(
        "--slices", type=int, default=4, metavar="N", help="of a slab, 0 for the brain; default 4"
    )
    parser.add_argument(
        "--views", type=int, default=6, metavar="N", help="slabs that predict; default 6"
    )


def run(options: argparse.Namespace) -> None:
    """Fine-tune, and print the scores."""
    from dmri_fm_lab.prediction.finetune import Finetuning, finetune
    from dmri_fm_lab.prediction.finetune_scans import ViewSettings
    from dmri_fm_lab.prediction.network_records import format_run
    from dmri_fm_lab.prediction.presets import find_preset
    from dmri_fm_lab.prediction.study import EncoderSource
    from dmri_fm_lab.train.loop import Hardware

    preset = find_preset(options.preset).replaced(
        mode=options.mode,
        blocks=options.tuned_blocks,
        lora_rank=options.rank,
        lora_alpha=options.alpha,
        head=options.head,
        head_input=options.head_input,
        epochs=options.epochs,
        batch=options.batch,
        learning_rate=options.learning_rate,
        final_learning_rate=options.final_learning_rate,
        is_weighted=options.weighted,
        n_draws=options.draws,
        seed=options.seed,
    )
    request = Finetuning(
        encoder=EncoderSource(options.model, options.weights, options.pretraining),
        tuning=preset.tuning,
        settings=preset.settings,
        views=ViewSettings(options.directions, options.slices, options.views),
        hardware=Hardware(options.accelerator),
        cache=options.cache,
        saves_encoders=options.save_encoders,
    )
    print(format_run(finetune(options.folder, read_study_files(options), request)))
    print(options.folder)


def read_study_files(options: argparse.Namespace) -> StudyFiles:
    """Read what :func:`add_study` added."""
    from dmri_fm_lab.prediction.study import StudyFiles

    return StudyFiles(
        derivatives=options.derivatives,
        participants=options.participants,
        target=options.target,
        splits=options.splits,
        sessions=options.sessions,
        classes=tuple(options.classes),
    )
