"""`dmri-fm export`: measures of scans in the forms that other programs read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmri_fm.errors import ConfigError
from dmri_fm_lab.commands.options import Subparsers, print_left_out

if TYPE_CHECKING:
    from dmri_fm_lab.scan_tables import Cohort


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm export`."""
    parser = subparsers.add_parser(
        "export", help="write tables of scans for PLINK 2, REGENIE and R, and norms by age"
    )
    kinds = parser.add_subparsers(required=True, metavar="WHAT")
    _add_genetics(kinds, "plink", "phenotype and covariate files of PLINK 2")
    _add_genetics(kinds, "regenie", "phenotype and covariate files of REGENIE")
    _add_csv(kinds)
    _add_norms(kinds)


def _add_source(parser: argparse.ArgumentParser, *, several: bool) -> None:
    parser.add_argument(
        "tables", type=Path, nargs="+", metavar="TABLE",
        help="tables of scans (.tsv, .csv, .parquet, .npz), such as those of `drope-bidsapp "
        "group`; a scan has to be in all of them",
    )  # fmt: skip
    parser.add_argument(
        "--participants", type=Path, required=True, metavar="TABLE",
        help="participants.tsv, or any table with participant_id",
    )  # fmt: skip
    parser.add_argument(
        "--sessions", type=Path, metavar="TABLE", help="table with participant_id and session_id"
    )
    choices = ("first", "mean", "all") if several else ("first", "mean")
    parser.add_argument(
        "--scans", choices=choices, help="which scan counts where a participant has several"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="file, or start of files' names"
    )


def _add_genetics(kinds: Subparsers, name: str, help: str) -> None:
    parser = kinds.add_parser(name, help=help)
    _add_source(parser, several=False)
    parser.add_argument(
        "--pheno", nargs="+", default=[], metavar="COLUMN",
        help="quantitative traits, names or patterns such as 'tensor_fa_mean_*'",
    )  # fmt: skip
    parser.add_argument(
        "--binary", nargs="+", default=[], metavar="COLUMN=CASE",
        help="binary traits of participants, and the class that is the case",
    )  # fmt: skip
    parser.add_argument(
        "--covar", nargs="+", default=[], metavar="COLUMN",
        help="covariates; text becomes indicator columns",
    )  # fmt: skip
    parser.add_argument(
        "--factor", nargs="+", default=[], metavar="COLUMN",
        help="covariates that are categories though they are numbers, such as codes of sites",
    )  # fmt: skip
    parser.add_argument(
        "--inverse-normal", action="store_true",
        help="turn quantitative traits into rank-based normal scores (Blom)",
    )  # fmt: skip
    parser.add_argument(
        "--where", nargs="+", default=[], metavar="CONDITION",
        help="participants to use, such as 'age >= 40'; all conditions have to hold",
    )  # fmt: skip
    for flag in ("--fid", "--iid"):
        parser.add_argument(
            flag, metavar="COLUMN",
            help="column of participants with this identifier of the genotypes; default: the "
            "label without sub-",
        )  # fmt: skip
    parser.set_defaults(run=run_genetics, dialect=name)


def _add_csv(kinds: Subparsers) -> None:
    parser = kinds.add_parser("csv", help="one table of participants and measures for R")
    _add_source(parser, several=True)
    parser.add_argument(
        "--columns", nargs="+", default=["*"], metavar="COLUMN", help="measures; default: all"
    )
    parser.set_defaults(run=run_csv)


def _add_norms(kinds: Subparsers) -> None:
    parser = kinds.add_parser("norms", help="z-scores against a reference cohort, by age and sex")
    _add_source(parser, several=False)
    parser.add_argument("--columns", nargs="+", required=True, metavar="COLUMN", help="measures")
    parser.add_argument(
        "--reference", required=True, metavar="CONDITION",
        help="who is of the reference cohort, such as 'group == control'",
    )  # fmt: skip
    parser.add_argument(
        "--site", required=True, metavar="COLUMN", help="column of the scanner; none: there is one"
    )
    parser.add_argument("--age", default="age", metavar="COLUMN", help="default: age")
    parser.add_argument("--sex", default="sex", metavar="COLUMN", help="default: sex")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the folds; default 0")
    parser.set_defaults(run=run_norms)


def _read(options: argparse.Namespace, *text: str | None) -> Cohort:
    from dmri_fm_lab.exports import Source, read_source

    identifiers = tuple(column for column in text if column)
    return read_source(
        Source(options.tables, options.participants, options.sessions, options.scans, identifiers)
    )


def _print_paths(paths: Sequence[Path]) -> None:
    for path in paths:
        print(path)


def run_genetics(options: argparse.Namespace) -> None:
    """Write phenotype and covariate files."""
    from dmri_fm_lab.exports import GeneticsRequest, export_genetics

    pairs = [text.partition("=") for text in options.binary]
    if bad := [column for column, _, case in pairs if not case]:
        raise ConfigError(f"--binary {bad[0]}", expected="COLUMN=CASE")
    request = GeneticsRequest(
        options.pheno, {column: case for column, _, case in pairs},
        [*options.covar, *options.factor], options.fid,
        options.iid, options.inverse_normal, options.where,
    )  # fmt: skip
    done = export_genetics(
        _read(options, options.fid, options.iid, *options.factor),
        request,
        options.out,
        dialect=options.dialect,
    )
    record = done.record
    print(
        f"{record['Participants']} participants, {len(record['Phenotypes'])} phenotypes, "
        f"{len(record['Covariates'])} covariates"
    )
    print_left_out(record["LeftOutCounts"])
    _print_paths(done.paths)
    for flags in record["Flags"]:
        print(f"{record['Program']}: {flags}")


def run_csv(options: argparse.Namespace) -> None:
    """Write one table for R."""
    from dmri_fm_lab.exports import write_csv

    record = write_csv(_read(options), options.out, columns=options.columns)
    print(
        f"{record['Scans']} scans of {record['Participants']} participants, "
        f"{record['Columns']} columns"
    )
    print_left_out(record["LeftOutCounts"])
    _print_paths([options.out, options.out.with_suffix(".json")])


def _share(numbers: Mapping[str, Any], name: str) -> str:
    low, high = numbers[f"{name}Interval"]
    return f"{100 * numbers[name]:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def run_norms(options: argparse.Namespace) -> None:
    """Write normative scores and their calibration."""
    from dmri_fm_lab.exports import NormsRequest, export_norms

    site = None if options.site == "none" else options.site
    request = NormsRequest(options.columns, options.reference, options.age, options.sex, site)
    paths, record = export_norms(
        _read(options, site, options.sex), request, options.out, seed=options.seed
    )
    print(
        f"{record['Participants']} participants, {record['ReferenceParticipants']} of them the "
        f"reference ({record['Reference']}); held-out scores of the reference:"
    )
    print(f"  {record['CalibrationRule']}")
    for name, numbers in record["Calibration"].items():
        verdict = f"REFUSED: {', '.join(numbers['Faults'])}" if numbers["Faults"] else "calibrated"
        print(
            f"  {name}: mean {numbers['Mean']:.2f}, sd {numbers['StandardDeviation']:.2f}, "
            f"{_share(numbers, 'ShareBelow5thCentile')} below the 5% centile, "
            f"{_share(numbers, 'ShareAbove95thCentile')} above the 95% centile: {verdict}"
        )
    print_left_out(record["LeftOutCounts"])
    _print_paths(paths)
