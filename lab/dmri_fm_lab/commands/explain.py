"""`dmri-fm explain`: what features go with, and which regions of a scan a prediction reads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dmri_fm_lab.commands.options import Subparsers, add_series, print_paths, read_series

if TYPE_CHECKING:
    from dmri_fm_lab.prediction.explain_scan import CohortRequest


def add_parser(subparsers: Subparsers) -> None:
    """Add the parsers of `dmri-fm explain features` and `dmri-fm explain scan`."""
    parser = subparsers.add_parser(
        "explain", help="what features go with, and which regions a prediction reads"
    )
    parts = parser.add_subparsers(required=True, metavar="WHAT")
    _add_features(parts)
    _add_scan(parts)


def _add_features(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "features",
        help="correlations with regions, age, site and QC; embeddings by PCA and UMAP",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for tables and figures")
    parser.add_argument("--features", type=Path, required=True, metavar="TABLE")
    parser.add_argument("--participants", type=Path, required=True, metavar="TSV")
    parser.add_argument("--sessions", type=Path, metavar="TSV")
    parser.add_argument(
        "--measures",
        type=Path,
        nargs="+",
        default=[],
        metavar="TABLE",
        help="other tables of the same scans: desc-scalars_features.tsv, desc-image_qc.tsv",
    )
    parser.add_argument(
        "--columns", nargs="+", default=[], metavar="PATTERN", help="default: cls and pooled"
    )
    parser.add_argument(
        "--colour", nargs="+", default=[], metavar="COLUMN", help="of the embeddings"
    )
    parser.add_argument("--methods", nargs="+", choices=("pca", "umap"), default=["pca"])
    parser.add_argument("--components", type=int, default=10, metavar="N", help="default 10")
    parser.add_argument("--several", choices=("first", "mean"), default="first")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of UMAP; default 0")
    parser.set_defaults(run=run_features)


def _add_scan(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "scan", help="occlusion map of a prediction or a feature, and attention of the CLS"
    )
    add_series(parser)
    parser.add_argument(
        "--resample", action="store_true", help="resample the series to the encoder's grid"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--target",
        metavar="COLUMN",
        help="map a prediction; needs --features, --participants and whose scan it is",
    )
    what.add_argument(
        "--dimension", type=int, metavar="N", help="map number N of the feature itself, from 0"
    )
    parser.add_argument("--features", type=Path, metavar="TABLE", help="features of the cohort")
    parser.add_argument("--participants", type=Path, metavar="TSV")
    parser.add_argument("--classes", nargs=2, default=[], metavar=("NEG", "POS"))
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--participant-label", metavar="LABEL", help="whose scan it is: not used to fit the head"
    )
    who.add_argument(
        "--not-in-table", action="store_true", help="the scan's participant is not in the table"
    )
    parser.add_argument(
        "--feature", choices=("cls", "pooled"), default="pooled", help="default pooled"
    )
    parser.add_argument("--model", default="drope", help="the encoder; default drope")
    parser.add_argument("--weights", type=Path, metavar="PATH", help="default: the shipped ones")
    parser.add_argument("--device", default="cpu", help="default cpu")
    parser.add_argument(
        "--directions", type=int, metavar="N", help="default 12; SSDiff reads all of them"
    )
    parser.add_argument("--region", choices=("whole", "published"))
    parser.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="patches (of SSDiff: its blocks of 4 mm) that are masked together along each axis; "
        "default 2 (4)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.set_defaults(run=run_scan)


def run_features(options: argparse.Namespace) -> None:
    """Correlate and draw the features of a cohort, and print the strongest correlations."""
    from dmri_fm_lab.prediction.explain_features import ExplainRequest, explain_features

    request = ExplainRequest(
        features=options.features,
        participants=options.participants,
        sessions=options.sessions,
        measures=tuple(options.measures),
        columns=tuple(options.columns),
        colours=tuple(options.colour),
        methods=tuple(options.methods),
        n_components=options.components,
        several=options.several,
        seed=options.seed,
    )
    explanation = explain_features(request, options.folder)
    print(explanation.text, end="\n\n")
    print_paths({str(path): path for path in explanation.paths})


def run_scan(options: argparse.Namespace) -> None:
    """Write the maps of a scan, and print how well the head predicts others."""
    from dmri_fm import feature_grid, resample_series
    from dmri_fm_lab.prediction.explain_scan import ScanRequest, explain_scan

    cohort = _read_cohort(options) if options.target else None
    dwi = read_series(options)
    maps = explain_scan(
        resample_series(dwi, feature_grid(options.model)) if options.resample else dwi,
        ScanRequest(
            cohort=cohort,
            dimension=options.dimension,
            feature=options.feature,
            model=options.model,
            weights=options.weights,
            device=options.device,
            n_directions=options.directions,
            region=options.region,
            seed=options.seed,
            block=options.block,
        ),
        options.stem,
        report=lambda done, of: print(f"block {done} of {of}", file=sys.stderr),
    )
    print(maps.text)
    print_paths({str(path): path for path in maps.paths})


def _read_cohort(options: argparse.Namespace) -> CohortRequest:
    """Return the cohort of `--target`; ConfigError if it is not whole."""
    from dmri_fm.errors import ConfigError
    from dmri_fm_lab.prediction.explain_scan import CohortRequest

    says_who = options.participant_label or options.not_in_table
    if not (options.features and options.participants and says_who):
        raise ConfigError(
            f"--target {options.target} without its cohort",
            expected="--features, --participants, and --participant-label or --not-in-table",
        )
    return CohortRequest(
        features=options.features,
        participants=options.participants,
        target=options.target,
        classes=tuple(options.classes),
        excluded=(options.participant_label,) if options.participant_label else (),
    )
