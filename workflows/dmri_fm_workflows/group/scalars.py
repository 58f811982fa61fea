"""The tables of regional scalars: maps in template space, summarised in regions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import GradientError, InputError
from dmri_fm.gradient_files import stated_b0_threshold
from dmri_fm.gradient_text import read_numbers
from dmri_fm.gradients import choose_b0_threshold
from dmri_fm.identity import IDENTITIES
from dmri_fm.json_files import read_object
from dmri_fm.series import load_image, read_array
from dmri_fm_workflows.group.collect import OutputFile, Problem
from dmri_fm_workflows.group.regional import (
    SCALAR_SPACE,
    STATISTICS,
    Region,
    RegionSource,
    Summary,
    summarise_map,
)
from dmri_fm_workflows.group.reuse import hash_regions, make_record, read_known, state_of
from dmri_fm_workflows.outputs.maps import OutputType, load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.tsv import (
    MISSING,
    SCAN_COLUMNS,
    SCAN_ID,
    format_cell,
    scan_columns,
)
from dmri_fm_workflows.templates import OWN_SPACES

LOGGER = logging.getLogger(__name__)

#: Columns of the long table.
LONG_COLUMNS = (
    *(SCAN_ID, "participant_id", "session_id", "model", "map", "statistic", "region"),
    *("value", "units", "n_voxels", "coverage"),
)


def frame(rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Lay out rows: scan columns first, the others in order of first appearance."""
    seen = dict.fromkeys(column for row in rows for column in row)
    always = {SCAN_ID, *scan_columns({})}
    first = [c for c in (SCAN_ID, *SCAN_COLUMNS) if c in seen or c in always]
    columns = [*first, *(c for c in seen if c not in first)]
    ordered = sorted(rows, key=lambda r: [r.get(c, "") for c in first[1:]])
    return pd.DataFrame(
        [[row.get(c, MISSING) for c in columns] for row in ordered], columns=columns, dtype=object
    )


def map_columns() -> dict[str, tuple[str, OutputType]]:
    """Return model label and output type of the maps that are summarised, by start of column.

    They are the maps in template space; columns start with `<label>_<type>`.
    """
    return {
        f"{model.label}_{of.name}": (model.label, of)
        for model in IDENTITIES.values()
        for of in load_catalogue().maps_of(model.name, space=SCALAR_SPACE)
    }


@dataclass
class ScanScalars:
    """Regional scalars of a scan.

    Attributes
    ----------
    cells
        Leading cells of its row, protocol included.
    maps
        Summary of each map, by start of column.
    states
        Path and state of each map, by start of column.
    """

    cells: dict[str, str]
    maps: dict[str, Summary] = field(default_factory=dict)
    states: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)


class LongScalars(NamedTuple):
    """The long table, and what the next run has to know of the maps behind it.

    Attributes
    ----------
    table
        :data:`LONG_COLUMNS`. Numbers are float64 with the digits of the wide table, NaN where
        missing; texts are categories.
    record
        JSON, see :mod:`dmri_fm_workflows.group.reuse`.
    """

    table: pd.DataFrame
    record: str


class MapReader:
    """Summarises maps in regions; what scans share is computed once.

    Parameters
    ----------
    output_dir
        Output folder.
    sources
        Regions in the template's space.
    """

    def __init__(self, output_dir: Path, sources: Sequence[RegionSource]) -> None:
        self.names = [name for source in sources for name in source.about]
        self._output_dir = output_dir
        self._sources = sources
        self._grids: dict[tuple[Any, ...], tuple[Region, ...]] = {}
        self._mask: tuple[Path, NDArray[np.bool_]] | None = None
        self._hash = hash_regions(sources)
        path = output_dir / output_path({}, "group_scalars_long", extension=".parquet")
        self._known = read_known(path, regions=self._hash, n_regions=len(self.names))
        self.n_read = self.n_known = 0

    def add(self, file: OutputFile, scan: ScanScalars) -> None:
        """Add a map to a scan, from the last run's table if nothing has changed since.

        Raises InputError if the map or its mask is damaged.
        """
        path = file.path.relative_to(self._output_dir).as_posix()
        state = state_of(file.path, self._mask_path(file))
        summary = self._known.find(path, state)
        self.n_known += summary is not None
        if summary is None:
            data, affine = _read_map(file.path)
            mask = self._brain(file, data)
            summary = summarise_map(data, mask, regions=self._regions(data.shape, affine))
            self.n_read += 1
        scan.maps[_start(file)], scan.states[_start(file)] = summary, (path, state)

    def record(self, states: Sequence[tuple[str, tuple[int, ...]]]) -> str:
        """Return what the next run has to know, for maps in the order of their rows."""
        return make_record(states, regions=self._hash)

    def _mask_path(self, file: OutputFile) -> Path:
        return self._output_dir / output_path(
            file.name.source_entities,
            "dwi_mask",
            space=SCALAR_SPACE,
            resolution=file.name.entities.get("resolution"),
        )

    def _regions(self, shape: tuple[int, ...], affine: NDArray[np.float64]) -> tuple[Region, ...]:
        key = (shape, *np.round(affine, 3).ravel())
        if key not in self._grids:
            self._grids[key] = tuple(
                region for source in self._sources for region in source.on_grid(shape, affine)
            )
        return self._grids[key]

    def _brain(self, file: OutputFile, data: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the scan's mask where it is on the map's grid, else the voxels of a value."""
        path = self._mask_path(file)
        if self._mask is None or self._mask[0] != path:
            self._mask = (path, _read_map(path)[0] > 0) if path.is_file() else None
        if self._mask is not None and self._mask[1].shape == data.shape:
            return self._mask[1]
        return np.asarray(data != 0)


def _read_map(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a map; unlike a raw scan it may hold NaN, which the summary leaves out."""
    image = load_image(path, ndim=3)
    data = read_array(image, path=path, is_finite=False)
    return data, np.asarray(image.affine, dtype=np.float64)


def _protocol(file: OutputFile, output_dir: Path) -> dict[str, str]:
    """Return the largest b-value and the number of volumes, where the gradients are there.

    The series has the same gradients in all spaces; a folder may have it in one alone.
    """
    scan, resolution = file.name.source_entities, file.name.entities.get("resolution")
    paths = [
        output_dir
        / output_path(
            scan,
            "preproc_dwi",
            space=space,
            resolution=resolution if space == SCALAR_SPACE else None,
            extension=".bval",
        )
        for space in OWN_SPACES
    ]
    path = next((p for p in paths if p.is_file()), paths[0])
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
    files: Sequence[Sequence[OutputFile]], output_dir: str | Path, sources: Sequence[RegionSource]
) -> tuple[pd.DataFrame, LongScalars, tuple[Problem, ...]]:
    """Summarise the maps of participants in regions.

    Parameters
    ----------
    files
        Outputs of each participant; maps in template space are chosen from them.
    output_dir
        Output folder.
    sources
        Regions in the template's space.

    Returns
    -------
    wide : DataFrame
        One row per scan, cells as text: `<model>_<map>_<statistic>_<region>`.
    long : LongScalars
        A row per scan, map, statistic and region.
    problems
        Maps that could not be used.
    """
    starts = map_columns()
    types = {of.name for _, of in starts.values()}
    order = list(starts)
    reader = MapReader(Path(output_dir), sources)
    scans: list[ScanScalars] = []
    problems = []
    for outputs in files:
        maps = [
            f
            for f in outputs
            if f.name.type.name in types
            and f.name.extension == ".nii.gz"
            and f.name.entities.get("space") == SCALAR_SPACE
        ]
        by_scan: dict[str, ScanScalars] = {}
        for file in sorted(maps, key=lambda f: (f.scan, order.index(_start(f)))):
            scan = by_scan.get(file.scan) or ScanScalars(
                {**file.columns, **_protocol(file, Path(output_dir))}
            )
            try:
                reader.add(file, scan)
            except InputError as error:
                problems.append(Problem.of(error, file))
                continue
            by_scan[file.scan] = scan
        scans.extend(by_scan.values())
    if reader.n_known:
        LOGGER.info(
            "%d maps have not changed since the last run and were not read again; %d were read",
            reader.n_known,
            reader.n_read,
        )
    wide = frame([_wide_row(scan, reader.names, order) for scan in scans])
    scans.sort(key=lambda scan: scan.cells[SCAN_ID])
    states = [scan.states[start] for scan in scans for start in scan.maps]
    long = LongScalars(lay_out_long(scans, reader.names), reader.record(states))
    return wide, long, tuple(problems)


def _start(file: OutputFile) -> str:
    return f"{file.name.model}_{file.name.type.name}"


def _wide_row(scan: ScanScalars, names: Sequence[str], order: Sequence[str]) -> dict[str, str]:
    first = next(iter(scan.maps.values()))
    row = scan.cells | {
        f"coverage_{name}": format_cell(float(share))
        for name, share in zip(names, first.coverage, strict=True)
    }
    for start in (s for s in order if s in scan.maps):
        for name, numbers in zip(names, scan.maps[start].statistics.tolist(), strict=True):
            for statistic, value in zip(STATISTICS, numbers, strict=True):
                row[f"{start}_{statistic}_{name}"] = format_cell(value)
    return row


def lay_out_long(scans: Sequence[ScanScalars], names: Sequence[str]) -> pd.DataFrame:
    """Return a row per scan, map, region and statistic."""
    if not scans:
        return pd.DataFrame(columns=list(LONG_COLUMNS), dtype=object)
    about = map_columns()
    blocks = [(scan, start, summary) for scan in scans for start, summary in scan.maps.items()]
    n_regions, n_statistics = len(names), len(STATISTICS)
    each = n_regions * n_statistics

    def per_block(values: Sequence[str]) -> pd.Categorical:
        found = pd.Categorical(values)
        return pd.Categorical.from_codes(np.repeat(found.codes, each), found.categories)

    def per_row(codes: NDArray[np.int_], categories: Sequence[str]) -> pd.Categorical:
        return pd.Categorical.from_codes(np.tile(codes, len(blocks)), list(categories))

    def per_region(attribute: str) -> NDArray:
        stacked = np.stack([getattr(summary, attribute) for *_, summary in blocks])
        return np.repeat(stacked.ravel(), n_statistics)

    values = np.stack([summary.statistics for *_, summary in blocks]).ravel()
    columns = {
        c: per_block([scan.cells[c] for scan, *_ in blocks])
        for c in (SCAN_ID, "participant_id", "session_id")
    }
    columns |= {
        "model": per_block([about[start][0] for _, start, _ in blocks]),
        "map": per_block([about[start][1].name for _, start, _ in blocks]),
        "statistic": per_row(np.tile(np.arange(n_statistics), n_regions), STATISTICS),
        "region": per_row(np.repeat(np.arange(n_regions), n_statistics), names),
        "value": round_digits(values),
        "units": per_block([str(about[start][1].units) for _, start, _ in blocks]),
        "n_voxels": per_region("n_voxels"),
        "coverage": round_digits(per_region("coverage")),
    }
    return pd.DataFrame(columns)


def round_digits(values: NDArray[np.float64], digits: int = 6) -> NDArray[np.float64]:
    """Round to significant digits, as cells of tables are.

    Examples
    --------
    >>> round_digits(np.array([0.00071234567, 0.0, np.nan])).tolist()
    [0.000712346, 0.0, nan]
    """
    return np.array([float(f"{v:.{digits}g}") for v in values.tolist()], dtype=np.float64)
