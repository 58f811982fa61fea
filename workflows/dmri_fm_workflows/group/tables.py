"""Tables over all participants, from an output folder and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import DmriError, GradientError, InputError
from dmri_fm.gradient_files import stated_b0_threshold
from dmri_fm.gradient_text import read_numbers
from dmri_fm.gradients import choose_b0_threshold
from dmri_fm.identity import DEFAULT_MODELS, ENCODERS, IDENTITIES, identity
from dmri_fm.json_files import read_object
from dmri_fm.series import load_image, read_array
from dmri_fm_workflows.group.collect import (
    OutputFile,
    Problem,
    find_files,
    find_unknown,
    list_participants,
)
from dmri_fm_workflows.group.regional import MIN_VOXELS, STATISTICS, RegionSet, summarise_map
from dmri_fm_workflows.group.status import ParticipantStatus, read_status
from dmri_fm_workflows.outputs.maps import SCAN_FEATURES, OutputType, load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.publish import publish_json, publish_text
from dmri_fm_workflows.outputs.sidecars import image_sidecar
from dmri_fm_workflows.outputs.tsv import MISSING, format_cell, format_table, read_table

__all__ = [
    "FeatureTable",
    "GroupTables",
    "collect_tables",
    "gather_features",
    "gather_rows",
    "gather_scalars",
    "map_columns",
    "write_tables",
]

#: Space of the maps that are summarised.
SCALAR_SPACE = "MNI152NLin2009aSym"

#: Columns that say which scan a row is about.
SCAN_COLUMNS = (
    "participant_id",
    "session_id",
    "acquisition",
    "ceagent",
    "reconstruction",
    "direction",
    "run",
    "echo",
    "part",
    "chunk",
)


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of all scans by one encoder.

    Attributes
    ----------
    model
        Label of the encoder.
    type
        Output type of the scan's features, a key in `maps.yaml`.
    table
        One row per scan.
    """

    model: str
    type: str
    table: pd.DataFrame

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

    features: tuple[FeatureTable, ...]
    scalars: pd.DataFrame
    quality: pd.DataFrame
    status: pd.DataFrame
    problems: tuple[Problem, ...]


def map_columns() -> dict[str, tuple[str, OutputType]]:
    """Return model label and output type of the maps that are summarised, by start of column.

    They are the maps in template space; columns start with `<label>_<type>`.
    """
    return {
        f"{model.label}_{of.name}": (model.label, of)
        for model in IDENTITIES.values()
        for of in load_catalogue().maps_of(model.name, space=SCALAR_SPACE)
    }


def _frame(rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Lay out rows: scan columns first, the others in order of first appearance."""
    seen = dict.fromkeys(column for row in rows for column in row)
    always = ("participant_id", "session_id", "acquisition", "direction", "run")
    first = [c for c in SCAN_COLUMNS if c in seen or c in always]
    columns = [*first, *(c for c in seen if c not in first)]
    ordered = sorted(rows, key=lambda r: [r.get(c, "") for c in first])
    return pd.DataFrame(
        [[row.get(c, MISSING) for c in columns] for row in ordered], columns=columns, dtype=str
    )


def _one_line(error: DmriError, file: OutputFile) -> Problem:
    # What is damaged may be another file than the map: its mask.
    name = (error.path or file.path).name
    return Problem(file.participant, f"{name}: {' '.join(error.found.split())}")


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
            problems.append(_one_line(error, file))
            continue
        measures = {k: v or MISSING for k, v in found[0].items() if k not in SCAN_COLUMNS}
        rows.append({**file.columns, **measures})
    return _frame(rows), tuple(problems)


def gather_features(
    output_dir: str | Path, *, participants: Sequence[str]
) -> tuple[tuple[FeatureTable, ...], tuple[Problem, ...]]:
    """Join the features of all scans, a table per encoder and type of features.

    Returns
    -------
    tuple of FeatureTable
        In the order of the models' records. That of the encoder that runs by default is there
        even where it is empty.
    tuple of Problem
        Files that could not be read.
    """
    (default,) = (identity(name) for name in DEFAULT_MODELS if name in ENCODERS)
    by_encoder: dict[tuple[str, str], list[OutputFile]] = {
        (record.label, of): []
        for record in IDENTITIES.values()
        for of in SCAN_FEATURES
        if load_catalogue().output_type(of).is_of(record.name)
    }
    for participant in participants:
        for file in find_files(output_dir, SCAN_FEATURES, participant=participant):
            by_encoder[str(file.name.model), file.name.type.name].append(file)
    tables: list[FeatureTable] = []
    problems: list[Problem] = []
    for (label, of), files in by_encoder.items():
        if files or (label, of) == (default.label, f"features_{default.features}"):
            table, unusable = gather_rows(files)
            tables.append(FeatureTable(label, of, table))
            problems += unusable
    return tuple(tables), tuple(problems)


def _read_map(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a map; unlike a raw scan it may hold NaN, which the summary leaves out."""
    image = load_image(path, ndim=3)
    data = read_array(image, path=path, is_finite=False)
    return data, np.asarray(image.affine, dtype=np.float64)


def _brain(file: OutputFile, data: NDArray[np.float32], output_dir: Path) -> NDArray[np.bool_]:
    """Return the scan's mask where it is on the map's grid, else the voxels of a value."""
    path = output_dir / output_path(
        file.name.source_entities,
        "dwi_mask",
        space=SCALAR_SPACE,
        resolution=file.name.entities.get("resolution"),
    )
    if path.is_file():
        mask, _ = _read_map(path)
        if mask.shape == data.shape:
            return np.asarray(mask > 0)
    return np.asarray(data != 0)


def _protocol(file: OutputFile, output_dir: Path) -> dict[str, str]:
    """Return the largest b-value and the number of volumes, where the gradients are there."""
    path = output_dir / output_path(
        file.name.source_entities, "preproc_dwi", space="ACPC", extension=".bval"
    )
    try:
        bvals = read_numbers(path, "b-values").ravel()
    except GradientError:
        return {"max_bval": MISSING, "n_volumes": MISSING}
    largest = float(bvals.max())
    threshold = _b0_threshold(path.with_suffix(".json")) or choose_b0_threshold(bvals)
    return {
        # Scanners add a few s/mm^2 to what was asked for.
        "max_bval": format_cell(round(largest, -1) if largest >= threshold else 0.0),
        "n_volumes": str(len(bvals)),
    }


def _b0_threshold(sidecar: Path) -> float | None:
    try:
        return stated_b0_threshold(read_object(sidecar))
    except InputError:
        return None


def gather_scalars(
    output_dir: str | Path, regions: RegionSet, *, participants: Sequence[str]
) -> tuple[pd.DataFrame, tuple[Problem, ...]]:
    """Summarise the scalar maps of all scans in the regions of the template.

    Parameters
    ----------
    output_dir
        Output folder.
    regions
        On any grid of the template's space.
    participants
        With their prefix.

    Returns
    -------
    DataFrame
        One row per scan.
    tuple
        Maps that could not be used.
    """
    output_dir = Path(output_dir)
    starts = list(map_columns())
    types = {of.name for _, of in map_columns().values()}
    rows: list[dict[str, str]] = []
    problems = []
    grids: dict[tuple[Any, ...], RegionSet] = {}

    def start(file: OutputFile) -> str:
        return f"{file.name.model}_{file.name.type.name}"

    for participant in participants:
        by_scan: dict[str, dict[str, str]] = {}
        files = find_files(output_dir, types, participant=participant, extension=".nii.gz")
        in_space = [f for f in files if f.name.entities.get("space") == SCALAR_SPACE]
        for file in sorted(in_space, key=lambda f: starts.index(start(f))):
            try:
                data, affine = _read_map(file.path)
                mask = _brain(file, data, output_dir)
                key = (data.shape, *np.round(affine, 3).ravel())
                if key not in grids:
                    grids[key] = regions.on_grid(data.shape, affine)
                numbers, coverage = summarise_map(data, mask, regions=grids[key])
            except InputError as error:
                problems.append(_one_line(error, file))
                continue
            row = by_scan.setdefault(
                file.scan,
                {
                    **file.columns,
                    **_protocol(file, output_dir),
                    **{f"coverage_{r}": format_cell(c) for r, c in coverage.items()},
                },
            )
            row |= {
                f"{start(file)}_{statistic}_{region}": format_cell(found[statistic])
                for region, found in numbers.items()
                for statistic in STATISTICS
            }
        rows.extend(by_scan.values())
    return _frame(rows), tuple(problems)


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
    listed = (*(f.table for f in features), quality, scalars)
    tables = [t[[c for c in SCAN_COLUMNS if c in t]] for t in listed]
    scans = pd.concat(tables).fillna(MISSING).drop_duplicates()
    counts = scans["participant_id"].value_counts()
    rows = []
    for participant in everybody:
        found = read_status(
            output_dir,
            participant,
            problems=problems,
            n_scans=int(counts.get(participant, 0)),
        )
        rows.append([format_cell(value) for value in asdict(found).values()])
    columns = [f.name for f in fields(ParticipantStatus)]
    status = pd.DataFrame(rows, columns=columns, dtype=str)
    return GroupTables(features, scalars, quality, status, problems)


def _describe_scalars(columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return description and units of the columns of the scalar table."""
    found: dict[str, dict[str, Any]] = {
        "n_volumes": {"Description": "Volumes of the preprocessed series, b=0 included"}
    }
    for column in columns:
        if column.startswith("coverage_"):
            region = column.removeprefix("coverage_")
            found[column] = {
                "Description": f"Share of the region {region} inside the scan's mask, 0 to 1"
            }
            continue
        for start, (model, of) in map_columns().items():
            statistic, _, region = column.removeprefix(f"{start}_").partition("_")
            if column.startswith(f"{start}_") and statistic in STATISTICS:
                status = ", experimental" if identity(model).is_experimental else ""
                words = {"std": "Standard deviation"}.get(statistic, statistic.capitalize())
                found[column] = {
                    "Description": f"{words} of {of.title.lower()} ({model}{status}) in {region}",
                    "Units": of.units,
                }
    return found


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
    output_dir = Path(output_dir)
    space = f"Regions and maps are in {SCALAR_SPACE}"
    scalars = _describe_scalars(list(tables.scalars.columns)) | {
        "Regions": f"{space}; fewer than {MIN_VOXELS} voxels of a region give n/a."
    }
    written = []
    for of, model, table, extra in (
        *((f"group_{f.type}", f.model, f.table, None) for f in tables.features),
        ("group_scalars", None, tables.scalars, scalars),
        ("group_image_qc", None, tables.quality, None),
        ("group_status", None, tables.status, None),
    ):
        columns = list(table.columns)
        path = output_dir / output_path({}, of, model=model)
        sidecar = image_sidecar(of, model=model, columns=columns, extra=extra)
        publish_json(sidecar, path.with_suffix(".json"))
        publish_text(format_table(table.to_dict("records"), columns), path)
        written.append(path)
    return tuple(written)
