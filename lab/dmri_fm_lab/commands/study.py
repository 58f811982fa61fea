"""`dmri-fm study`: experiments that answer a question of the literature, with their numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm study`."""
    study = subparsers.add_parser("study", help="experiments of the literature, run anew")
    studies = study.add_subparsers(required=True, metavar="STUDY")
    _add_review(studies)
    _add_artefacts(studies)


def _add_review(studies: Subparsers) -> None:
    parser = studies.add_parser(
        "review",
        help="experiments of a review of machine learning in diffusion MRI",
        description="1: an MLP from six directions against least squares. 2: context against "
        "voxels and smoothing, Rician noise. 3: losses at low SNR. 4: fibre orientations by an "
        "MLP against spherical deconvolution. 5: a learned harmonisation against linear RISH "
        "scaling. On simulated voxels whose truth is known; each takes some minutes a seed.",
    )
    parser.add_argument("folder", type=Path, metavar="RUNS", help="keeps what is trained")
    parser.add_argument(
        "--which",
        type=int,
        nargs="+",
        default=[1, 2, 3, 4, 5],
        metavar="N",
        help="default: all five",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S")
    parser.add_argument(
        "--steps", type=int, default=1500, metavar="N", help="of a training; default 1500"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.set_defaults(run=run_review_study)


def _add_artefacts(studies: Subparsers) -> None:
    parser = studies.add_parser(
        "artefacts",
        help="does pretraining by artefact removal help? tissue, number of peaks, direction",
        description="Pretraining by artefact removal, by a plain autoencoder, and none, on three "
        "tasks (Weninger et al. 2022): 15, 5 and 8 scans for training, validation and test. "
        "Labels are the truth of simulated brains, or, with --scans, fits to real ones. About an "
        "hour on one processor core.",
    )
    parser.add_argument("folder", type=Path, metavar="RUNS", help="keeps what is trained")
    parser.add_argument(
        "--scans",
        type=Path,
        metavar="BIDS",
        help="real scans with 28 directions or more in a shell, in place of simulated brains",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="OBJECTIVE=FILE",
        help="artefacts=FILE autoencoder=FILE, both: weights of `dmri-fm pretrain artefact-unet` "
        "by the same settings and scans, in place of a pretraining on cubes of simulated brains; "
        "of --scans, participants whom they have seen are left out",
    )
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="tissue, peaks, direction")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[3, 15], metavar="N", help="training scans"
    )
    parser.add_argument("--runs", type=int, default=4, metavar="N", help="of each start; 4")
    parser.add_argument(
        "--steps", type=int, default=100, metavar="N", help="of a training; default 100"
    )
    parser.add_argument(
        "--pretraining-steps", type=int, default=500, metavar="N", help="default 500"
    )
    parser.add_argument(
        "--strength", default="light", metavar="NAME", help="of artefacts: light, strong, paper"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.set_defaults(run=run_artefact_study)


def run_review_study(options: argparse.Namespace) -> None:
    """Run the experiments of the review and print their tables."""
    from dmri_fm_lab.evaluate.records import json_ready, versions, write_json
    from dmri_fm_lab.review.experiments import run_review
    from dmri_fm_lab.review.outcomes import Setting
    from dmri_fm_lab.review.report import format_review

    setting = Setting(n_steps=options.steps)
    record = run_review(options.which, options.folder, seeds=options.seeds, setting=setting)
    print(format_review(record))
    if options.json:
        write_json(json_ready({"experiments": record, "versions": versions()}), options.json)


def run_artefact_study(options: argparse.Namespace) -> None:
    """Run the study of artefact-removal pretraining and print its tables."""
    from dmri_fm.registry import find_model
    from dmri_fm_lab.artefact_study.cubes import Cube, cut_cubes
    from dmri_fm_lab.artefact_study.pretrained import drop_seen, read_pretrained, split_names
    from dmri_fm_lab.artefact_study.report import format_study
    from dmri_fm_lab.artefact_study.study import StudySize, run_study
    from dmri_fm_lab.artefact_study.tasks import TASKS
    from dmri_fm_lab.evaluate.records import json_ready, versions, write_json
    from dmri_fm_lab.train.dataset_cache import SCANS, cache_scans

    encoder = find_model("artefact-unet").config
    size = StudySize(
        sizes=tuple(options.sizes),
        n_runs=options.runs,
        n_steps=options.steps,
        n_pretraining=options.pretraining_steps,
        strength=options.strength,
    )
    size.check(encoder)
    paths = split_names(options.weights)
    pretrained = read_pretrained(paths)
    cubes: list[Cube] | None = None
    seen: list[str] = []
    if options.scans:
        scans = cache_scans(options.scans, options.folder / SCANS, encoder.grid)
        scans, seen = drop_seen(scans, options.scans, paths)
        cubes = cut_cubes(scans, encoder, edge=size.edge, seed=options.seed)
    record = run_study(
        options.folder,
        encoder,
        size=size,
        seed=options.seed,
        pretrained=pretrained,
        cubes=cubes,
        tasks=options.tasks or tuple(TASKS),
    ) | {"seen": seen}
    print(format_study(record))
    if options.json:
        write_json(json_ready({**record, "versions": versions()}), options.json)
