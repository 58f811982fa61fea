"""The table of regional scalars: maps in template space, summarised in regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import GradientError, InputError
from dmri_fm.gradient_files import stated_b0_threshold
from dmri_fm.gradient_text import read_numbers
from dmri_fm.gradients import choose_b0_threshold
from dmri_fm.identity import IDENTITIES, identity
from dmri_fm.json_files import read_object
from dmri_fm.series import load_image, read_array
from dmri_fm_workflows.group.collect import OutputFile, Problem, find_files
from dmri_fm_workflows.group.regional import MIN_VOXELS, STATISTICS, RegionSet, summarise_map
from dmri_fm_workflows.outputs.maps import OutputType, load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.tsv import MISSING, SCAN_COLUMNS, format_cell, scan_columns

#: Space of the maps that are summarised.
SCALAR_SPACE = "MNI152NLin2009aSym"


def frame(rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Lay out rows: scan columns first, the others in order of first appearance."""
    seen = dict.fromkeys(column for row in rows for column in row)
    always = scan_columns({})
    first = [c for c in SCAN_COLUMNS if c in seen or c in always]
    columns = [*first, *(c for c in seen if c not in first)]
    ordered = sorted(rows, key=lambda r: [r.get(c, "") for c in first])
    return pd.DataFrame(
        [[row.get(c, MISSING) for c in columns] for row in ordered], columns=columns, dtype=str
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
    """Summarise the maps of participants in regions, which may be on any grid of the template.

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
                problems.append(Problem.of(error, file))
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
    return frame(rows), tuple(problems)


def describe_scalars(columns: Sequence[str]) -> dict[str, Any]:
    """Return what the sidecar of the table says of its regions, and of its columns."""
    found: dict[str, Any] = {
        "Regions": f"Regions and maps are in {SCALAR_SPACE}; fewer than {MIN_VOXELS} voxels of a "
        "region give n/a.",
        "n_volumes": {"Description": "Volumes of the preprocessed series, b=0 included"},
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
                status = (
                    ", experimental unless the sidecar of the map says primary"
                    if identity(model).is_experimental
                    else ""
                )
                words = {"std": "Standard deviation"}.get(statistic, statistic.capitalize())
                found[column] = {
                    "Description": f"{words} of {of.title.lower()} ({model}{status}) in {region}",
                    "Units": of.units,
                }
    return found
