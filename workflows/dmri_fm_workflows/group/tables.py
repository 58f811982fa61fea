"""Tables over all participants, from an output folder alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath

import pandas as pd

from dmri_fm.errors import InputError
from dmri_fm_workflows.group.collect import (
    OutputFile,
    Problem,
    find_files,
    find_unknown,
    list_participants,
)
from dmri_fm_workflows.group.regional import RegionSet
from dmri_fm_workflows.group.scalars import describe_scalars, frame, gather_scalars
from dmri_fm_workflows.group.status import ParticipantStatus, read_status
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.publish import publish_json, publish_text
from dmri_fm_workflows.outputs.sidecars import image_sidecar
from dmri_fm_workflows.outputs.tsv import (
    MISSING,
    SCAN_COLUMNS,
    format_cell,
    format_table,
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
        One row per scan or participant, cells as text.
    model
        Label of the model that made it, or None.
    """

    type: str
    table: pd.DataFrame
    model: str | None = None

    @property
    def path(self) -> PurePosixPath:
        """Path of the table, relative to the output folder."""
        return output_path({}, f"group_{self.type}", model=self.model)


@dataclass(frozen=True, eq=False)
class GroupTables:
    """The tables of a group, cells as text, `n/a` where there is nothing.

    Attributes
    ----------
    features
        Features of the whole scan, a table per encoder.
    scalars
        One row per scan: `<model>_<map>_<statistic>_<region>`, `coverage_<region>`, `max_bval`,
        `n_volumes`.
    quality
        One row per scan: image quality.
    status
        One row per participant.
    problems
        Files that could not be used; they are in the reasons of `status` as well.
    """

    features: tuple[GroupTable, ...]
    scalars: pd.DataFrame
    quality: pd.DataFrame
    status: pd.DataFrame
    problems: tuple[Problem, ...]

    @property
    def listed(self) -> tuple[GroupTable, ...]:
        """All tables, in the order of the page."""
        return (
            *self.features,
            GroupTable("scalars", self.scalars),
            GroupTable("image_qc", self.quality),
            GroupTable("status", self.status),
        )


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
        measures = {k: v or MISSING for k, v in found[0].items() if k not in SCAN_COLUMNS}
        rows.append({**file.columns, **measures})
    return frame(rows), tuple(problems)


def gather_features(
    output_dir: str | Path, *, participants: Sequence[str]
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
    for participant in participants:
        for file in find_files(output_dir, [of], participant=participant):
            by_encoder[str(file.name.model)].append(file)
    tables: list[GroupTable] = []
    problems: list[Problem] = []
    for label, files in by_encoder.items():
        if files:
            table, unusable = gather_rows(files)
            tables.append(GroupTable(of, table, label))
            problems += unusable
    return tuple(tables), tuple(problems)


def collect_tables(
    output_dir: str | Path,
    regions: RegionSet,
    *,
    participants: Sequence[str] | None = None,
) -> GroupTables:
    """Collect everything that the group level tabulates.

    Parameters
    ----------
    output_dir
        Output folder of the participant level.
    regions
        Regions in the template's space.
    participants
        With their prefix; all by default.

    Raises
    ------
    LayoutError
        If the folder holds no participant.
    """
    output_dir = Path(output_dir)
    everybody = list_participants(output_dir) if participants is None else tuple(participants)
    features, bad_features = gather_features(output_dir, participants=everybody)
    quality, bad_quality = gather_rows(
        file
        for participant in everybody
        for file in find_files(output_dir, ["image_qc"], participant=participant)
    )
    scalars, bad_scalars = gather_scalars(output_dir, regions, participants=everybody)
    unknown = [p for who in everybody for p in find_unknown(output_dir, participant=who)]
    problems = (*bad_features, *bad_quality, *bad_scalars, *unknown)
    cells = [f.table for f in features] + [quality, scalars]
    scans = pd.concat([t[[c for c in SCAN_COLUMNS if c in t]] for t in cells])
    counts = scans.fillna(MISSING).drop_duplicates()["participant_id"].value_counts()
    rows = [
        read_status(output_dir, who, problems=problems, n_scans=int(counts.get(who, 0)))
        for who in everybody
    ]
    status = pd.DataFrame(
        [[format_cell(value) for value in asdict(row).values()] for row in rows],
        columns=[f.name for f in fields(ParticipantStatus)],
        dtype=str,
    )
    return GroupTables(features, scalars, quality, status, problems)


def write_tables(output_dir: str | Path, tables: GroupTables) -> tuple[Path, ...]:
    """Write the tables and their sidecars into `group/`, each by rename.

    Returns
    -------
    tuple
        Paths of the tables.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    written = []
    for item in tables.listed:
        columns = list(item.table.columns)
        path = Path(output_dir) / item.path
        sidecar = image_sidecar(
            f"group_{item.type}",
            model=item.model,
            columns=columns,
            extra=describe_scalars(columns) if item.type == "scalars" else None,
        )
        publish_json(sidecar, path.with_suffix(".json"))
        publish_text(format_table(item.table.to_dict("records"), columns), path)
        written.append(path)
    return tuple(written)
