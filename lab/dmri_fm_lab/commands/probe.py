"""`dmri-fm probe`: predict a phenotype from vectors of scans, beside what site and motion do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers
from dmri_fm_lab.commands.splits import add_drawing, read_drawing

#: Names of :data:`dmri_fm_lab.prediction.heads.HEADS`, and published tasks; a test compares them.
HEADS = ("tuned", "linear", "ridge", "logistic", "mlp")
PUBLISHED = ("age", "sex", "mci", "adas")


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm probe`."""
    parser = subparsers.add_parser(
        "probe",
        help="predict a column of participants.tsv from vectors of scans",
        description="Predict a column of participants.tsv from vectors of scans in held-out "
        "participants, beside what site, motion and covariates predict. Research only.",
    )
    add_cohort(parser)
    add_target(parser)
    add_heads(parser)
    splits = parser.add_argument_group("splits")
    splits.add_argument(
        "--splits", type=Path, metavar="TSV", help="columns fold, participant_id, set; or draw:"
    )
    add_drawing(splits)
    seen = parser.add_argument_group("participants of the pretraining")
    seen.add_argument(
        "--weights", type=Path, metavar="PATH", help="weights of the features, if not shipped"
    )
    seen.add_argument(
        "--dataset",
        type=Path,
        metavar="BIDS",
        help="dataset whose name identifies participants; "
        "default: the folder above that of the table",
    )
    seen.add_argument(
        "--exclude-seen", action="store_true", help="leave out participants of the pretraining"
    )
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    outputs.add_argument(
        "--write-splits", type=Path, metavar="TSV", help="file for the splits that were used"
    )
    outputs.add_argument(
        "--figure", type=Path, metavar="FILE", help="calibration plot (.png, .svg, .pdf)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.set_defaults(run=run)


def add_cohort(parser: argparse.ArgumentParser) -> None:
    """Add the tables of features and of participants."""
    group = parser.add_argument_group("cohort")
    group.add_argument(
        "--features",
        type=Path,
        nargs="+",
        required=True,
        metavar="TABLE",
        help="vectors of scans: tables of the group level, or any .tsv, .csv, .parquet or .npz",
    )
    group.add_argument("--participants", type=Path, required=True, metavar="TSV")
    group.add_argument(
        "--sessions", type=Path, metavar="TSV", help="columns of sessions; one row per session"
    )
    group.add_argument(
        "--qc",
        type=Path,
        metavar="TABLE",
        help="measures of the same scans, for --baselines: "
        "desc-image_qc.tsv has mean_fd and mask_volume_ml",
    )
    group.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="feature columns, each pattern "
        "a set of its own ('fa_mean_*'); default: cls and pooled, else all",
    )
    group.add_argument(
        "--several", choices=("first", "mean"), default="first", help="of several scans of a row"
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the target, and what else is known about participants."""
    group = parser.add_argument_group("target and baselines")
    group.add_argument("--target", required=True, metavar="COLUMN")
    group.add_argument(
        "--classes",
        nargs=2,
        default=[],
        metavar=("NEG", "POS"),
        help="two classes of the target; rows of others are left out and counted",
    )
    group.add_argument(
        "--covariates",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="predict alone, as a baseline, and together with the features",
    )
    group.add_argument(
        "--site",
        default="",
        metavar="COLUMN",
        help="site or cohort: a baseline, scores within each, and permutations within each",
    )
    group.add_argument(
        "--family", default="", metavar="COLUMN", help="members are never in two sets of a fold"
    )
    group.add_argument(
        "--baselines",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="each predicts alone: motion, head size",
    )
    group.add_argument(
        "--combat", action="store_true", help="ComBat by --site, fitted to training sets"
    )
    group.add_argument(
        "--combat-covariates",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="effects that ComBat preserves; never the target",
    )
    group.add_argument("--published", choices=PUBLISHED, help="quote the published rows of a task")


def add_heads(parser: argparse.ArgumentParser) -> None:
    """Add heads and their settings."""
    group = parser.add_argument_group("heads")
    group.add_argument(
        "--head",
        nargs="+",
        choices=HEADS,
        default=["tuned"],
        help="tuned (default): ridge or "
        "logistic regression, penalty by nested cross-validation; linear: without penalty, the "
        "published probe; ridge, logistic: penalty of --penalty; mlp: several seeds",
    )
    group.add_argument("--penalty", type=float, default=1.0, metavar="P", help="default 1")
    group.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="networks of mlp; default 5"
    )
    group.add_argument(
        "--weighted", action="store_true", help="both classes count alike in the loss"
    )
    group.add_argument(
        "--permutations",
        type=int,
        default=0,
        metavar="N",
        help="of the target, within sites and by whole families, for p values; default 0",
    )
    group.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; default 1")


def run(options: argparse.Namespace) -> None:
    """Probe a cohort, and print notes, warnings and tables."""
    from dmri_fm_lab.evaluate.records import json_ready, versions, write_json
    from dmri_fm_lab.prediction.calibration import draw_calibration
    from dmri_fm_lab.prediction.cohort_vectors import VectorRequest
    from dmri_fm_lab.prediction.probe_cohort import ProbeRequest, probe_cohort
    from dmri_fm_lab.prediction.splits import write_splits

    request = ProbeRequest(
        features=tuple(options.features),
        participants=options.participants,
        sessions=options.sessions,
        qc=options.qc,
        vectors=VectorRequest(
            target=options.target,
            classes=tuple(options.classes),
            columns=tuple(options.columns),
            covariates=tuple(options.covariates),
            site=options.site,
            family=options.family,
            baselines=tuple(options.baselines),
            by_session=options.sessions is not None,
            several=options.several,
        ),
        splits=options.splits,
        drawn=read_drawing(options),
        heads=tuple(options.head),
        is_weighted=options.weighted,
        penalty=options.penalty,
        n_seeds=options.seeds,
        n_permutations=options.permutations,
        n_jobs=options.jobs,
        seed=options.seed,
        combat=options.combat,
        combat_covariates=tuple(options.combat_covariates),
        published=options.published,
        weights=options.weights,
        dataset=options.dataset,
        excludes_seen=options.exclude_seen,
    )
    result = probe_cohort(request, report=lambda text: print(text, file=sys.stderr))
    print(result.text)
    if options.json:
        print(write_json(json_ready({"versions": versions(), **result.record}), options.json))
    if options.write_splits:
        print(write_splits(result.folds, options.write_splits))
    if options.figure:
        curves = {p.title: p.calibration for p in result.predictions if p.role == "features"}
        print(draw_calibration(curves, options.target, options.figure))
