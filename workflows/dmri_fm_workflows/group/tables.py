"""Tables over all participants, from an output folder alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath

import pandas as pd

from dmri_fm.errors import InputError
from dmri_fm_workflows.group.collect import OutputFile, Problem, list_outputs, list_participants
from dmri_fm_workflows.group.conditions import Condition
from dmri_fm_workflows.group.exclusion import Exclusions, exclude_scans
from dmri_fm_workflows.group.ratings import Ratings
from dmri_fm_workflows.group.regional import RegionSource
from dmri_fm_workflows.group.scalars import LongScalars, frame, gather_scalars
from dmri_fm_workflows.group.status import ParticipantStatus, read_status
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.tsv import (
    MISSING,
    SCAN_COLUMNS,
    SCAN_ID,
    format_cell,
    read_table,
)


@dataclass(frozen=True, eq=False)
class GroupTable:
    """A table of the group.

    Attributes
    ----------
    type
        Its output type in `maps.yaml`, without `group_`.
    table
        One row per scan or participant, cells as text; the long table of scalars has numbers.
    model
        Label of the model that made it, or None.
    """

    type: str
    table: pd.DataFrame
    model: str | None = None

    def path(self, extension: str | None = None) -> PurePosixPath:
        """Return the path of the table, relative to the output folder."""
        return output_path({}, f"group_{self.type}", model=self.model, extension=extension)


@dataclass(frozen=True, eq=False)
class GroupTables:
    """The tables of a group, cells as text, `n/a` where there is nothing.

    Tables of scans start with `scan_id`, the columns that name the scan, and `qc_exclude`.

    Attributes
    ----------
    features
        Features of the whole scan, a table per encoder.
    scalars
        One row per scan: `<model>_<map>_<statistic>_<region>`, `coverage_<region>`, `max_bval`,
        `n_volumes`.
    scalars_long
        One row per scan, map, region and statistic.
    quality
        One row per scan: image quality.
    status
        One row per participant.
    problems
        Files that could not be used; they are in the reasons of `status` as well.
    scans
        `scan_id` and `participant_id` of all scans.
    exclusions
        Scans that quality control excludes, marked in the tables.
    regions
        What each region is, by name.
    ratings
        Ratings that `quality` has taken up.
    """

    features: tuple[GroupTable, ...]
    scalars: pd.DataFrame
    scalars_long: LongScalars
    quality: pd.DataFrame
    status: pd.DataFrame
    problems: tuple[Problem, ...]
    scans: pd.DataFrame
    exclusions: Exclusions = field(default_factory=Exclusions)
    regions: Mapping[str, str] = field(default_factory=dict)
    ratings: Ratings = field(default_factory=Ratings)

    @property
    def listed(self) -> tuple[GroupTable, ...]:
        """All tables, in the order of the page."""
        return (
            *self.features,
            GroupTable("scalars", self.scalars),
            GroupTable("scalars_long", self.scalars_long.table),
            GroupTable("image_qc", self.quality),
            GroupTable("status", self.status),
        )


def list_scans(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return `scan_id` and `participant_id` of all scans of some tables, sorted."""
    cells = pd.concat([t[[SCAN_ID, "participant_id"]] for t in tables])
    return cells.drop_duplicates().sort_values(SCAN_ID, ignore_index=True)


def gather_rows(files: Iterable[OutputFile]) -> tuple[pd.DataFrame, tuple[Problem, ...]]:
    """Join the one-row tables of all scans.

    Parameters
    ----------
    files
        Tables of one row each.

    Returns
    -------
    DataFrame
        Cells as they stand in the files; which scan a row is about is read from the file's name.
    tuple
        Files that could not be read, or hold another number of rows.
    """
    rows: list[dict[str, str]] = []
    problems = []
    for file in files:
        try:
            found = read_table(file.path)
            if len(found) != 1:
                raise InputError(f"table has {len(found)} rows, not one", path=file.path)
        except InputError as error:
            problems.append(Problem.of(error, file))
            continue
        measures = {
            k: v or MISSING for k, v in found[0].items() if k not in (SCAN_ID, *SCAN_COLUMNS)
        }
        rows.append({**file.columns, **measures})
    return frame(rows), tuple(problems)


def gather_features(
    files: Iterable[OutputFile],
) -> tuple[tuple[GroupTable, ...], tuple[Problem, ...]]:
    """Join the features of all scans, a table per encoder.

    Returns
    -------
    tuple of GroupTable
        Those of encoders that ran, in the order of the models' records.
    tuple of Problem
        Files that could not be read.
    """
    of = "features_scan"
    by_encoder: dict[str, list[OutputFile]] = {
        label: [] for label in load_catalogue().output_type(of).models if label is not None
    }
    for file in files:
        by_encoder[str(file.name.model)].append(file)
    tables: list[GroupTable] = []
    problems: list[Problem] = []
    for label, found in by_encoder.items():
        if found:
            table, unusable = gather_rows(found)
            tables.append(GroupTable(of, table, label))
            problems += unusable
    return tuple(tables), tuple(problems)


def collect_tables(
    output_dir: str | Path,
    sources: Sequence[RegionSource],
    *,
    participants: Sequence[str] | None = None,
    rules: Sequence[Condition] = (),
    ratings: Ratings | None = None,
) -> GroupTables:
    """Collect everything that the group level tabulates.

    Parameters
    ----------
    output_dir
        Output folder of the participant level.
    sources
        Regions in the template's space; names are unique over all.
    participants
        With their prefix; all by default.
    rules
        Of the exclusion of scans by their quality.
    ratings
        Ratings of scans, which the table of image quality takes up.

    Raises
    ------
    LayoutError
        If the folder holds no participant.
    ConfigError
        If a rule names an unknown column; no map has been read then.
    """
    output_dir = Path(output_dir)
    everybody = list_participants(output_dir) if participants is None else tuple(participants)
    listing = [list_outputs(output_dir, who) for who in everybody]
    tables = [f for outputs, _ in listing for f in outputs if f.name.extension == ".tsv"]
    quality, bad_quality = gather_rows(f for f in tables if f.name.type.name == "image_qc")
    ratings = ratings or Ratings()
    quality = ratings.add_to(quality)
    exclude_scans(rules, quality, quality, {})  # unknown columns are told before the work
    features, bad_features = gather_features(
        f for f in tables if f.name.type.name == "features_scan"
    )
    wide, long, bad_scalars = gather_scalars(
        [outputs for outputs, _ in listing], output_dir, sources
    )
    unknown = [problem for _, problems in listing for problem in problems]
    problems = (*bad_features, *bad_quality, *bad_scalars, *unknown)
    scans = list_scans([*(f.table for f in features), quality, wide])
    n_scans = scans["participant_id"].value_counts()
    of_person: dict[str, list[Problem]] = {}
    for problem in problems:
        of_person.setdefault(problem.participant, []).append(problem)
    found = [
        read_status(
            output_dir, who, problems=of_person.get(who, ()), n_scans=int(n_scans.get(who, 0))
        )
        for who in everybody
    ]
    exclusions = exclude_scans(
        rules, scans, quality, {row.participant_id: row.status for row in found}
    )
    return GroupTables(
        tuple(GroupTable(f.type, exclusions.mark(f.table), f.model) for f in features),
        exclusions.mark(wide),
        long._replace(table=exclusions.mark(long.table)),
        exclusions.mark(quality),
        _status_table(found, scans, exclusions),
        problems,
        scans,
        exclusions,
        {name: text for source in sources for name, text in source.about.items()},
        ratings,
    )


def _status_table(
    status: Sequence[ParticipantStatus], scans: pd.DataFrame, exclusions: Exclusions
) -> pd.DataFrame:
    out = scans[scans[SCAN_ID].isin(list(exclusions.rule_of))]["participant_id"].value_counts()
    columns = [f.name for f in fields(ParticipantStatus)]
    rows = [[format_cell(value) for value in asdict(row).values()] for row in status]
    table = pd.DataFrame(rows, columns=columns, dtype=object)
    place = columns.index("n_scans") + 1
    table.insert(place, "n_qc_excluded", [str(out.get(r.participant_id, 0)) for r in status])
    return table
