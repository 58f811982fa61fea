"""Group tables on disk: tab-separated text, the same as Parquet, and a data dictionary as JSON."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dmri_fm.identity import RESEARCH_ONLY, identity
from dmri_fm_workflows.group.ratings import RATING_COLUMNS
from dmri_fm_workflows.group.regional import MIN_VOXELS, SCALAR_SPACE, STATISTICS
from dmri_fm_workflows.group.reuse import RECORD_KEY
from dmri_fm_workflows.group.scalars import map_columns
from dmri_fm_workflows.group.tables import GroupTable, GroupTables
from dmri_fm_workflows.outputs.publish import publish_bytes, publish_json
from dmri_fm_workflows.outputs.sidecars import describe_columns, image_sidecar
from dmri_fm_workflows.outputs.tsv import MISSING, QC_EXCLUDE, SCAN_COLUMNS, SCAN_ID

#: Columns of text, whatever they look like: a run `01` is no number.
_TEXT = frozenset({
    *(SCAN_ID, *SCAN_COLUMNS, QC_EXCLUDE, *RATING_COLUMNS, "weights_sha256"),
    *("status", "reason", "run_uuid", "version", "started", "finished"),
})  # fmt: skip

#: How names of columns of whole numbers start; a type never depends on the values at hand alone.
_COUNTS = ("n_", "raw_num_", "preproc_num_", "num_")

#: Key of a sidecar under which columns stand whose names are BIDS entities: pybids takes a key
#: of such a name at the top of a sidecar for the entity itself, and refuses the dataset.
ENTITY_COLUMNS = "EntityColumns"

_ENTITIES = {
    "acquisition": "Label of the acquisition (acq-) of the scan",
    "ceagent": "Label of the contrast agent (ce-) of the scan",
    "reconstruction": "Label of the reconstruction (rec-) of the scan",
    "direction": "Label of the phase-encoding direction (dir-) of the scan",
    "run": "Index of the run (run-) of the scan, as written in its name",
    "echo": "Index of the echo (echo-) of the scan",
    "part": "Part of the complex signal (part-) of the scan",
    "chunk": "Index of the chunk (chunk-) of the scan",
    "model": "Label of the model that made the map: `tensor` is the tensor fit",
}

_UNKNOWN = "Column of the participants' tables that this version of the app does not know"

_ROWS_AT_ONCE = 200_000


def write_tables(output_dir: str | Path, tables: GroupTables) -> tuple[Path, ...]:
    """Write the tables, as text and as Parquet, and their sidecars into `group/`, by rename.

    Returns
    -------
    tuple
        Paths of the tables (`.tsv`).

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    written = []
    for item in tables.listed:
        path = Path(output_dir) / item.path()
        publish_json(describe_table(item, tables), path.with_suffix(".json"))
        publish_bytes(table_text(item.table), path)
        record = tables.scalars_long.record if item.type == "scalars_long" else None
        publish_bytes(
            [table_parquet(item.table, record)], Path(output_dir) / item.path(".parquet")
        )
        written.append(path)
    return tuple(written)


def table_text(table: pd.DataFrame) -> Iterable[bytes]:
    """Yield the text of a table in pieces, `n/a` for what is missing."""
    yield ("\t".join(table.columns) + "\n").encode()
    for start in range(0, len(table), _ROWS_AT_ONCE):
        piece = table.iloc[start : start + _ROWS_AT_ONCE]
        columns = [_as_words(piece[c]) for c in piece]
        lines = ["\t".join(row) for row in zip(*columns, strict=True)]
        yield ("\n".join(lines) + "\n").encode()


def _as_words(column: pd.Series) -> list[str]:
    if pd.api.types.is_float_dtype(column):
        return [MISSING if v != v else f"{v:.6g}" for v in column.tolist()]
    return [str(cell) for cell in column.tolist()]


def table_parquet(table: pd.DataFrame, record: str | None) -> bytes:
    """Return a table as Parquet: numbers typed, null for what is missing."""
    packed = pa.table({name: _typed(table[name]) for name in table})
    if record is not None:
        packed = packed.replace_schema_metadata({RECORD_KEY: record})
    stream = io.BytesIO()
    pq.write_table(packed, stream, compression="zstd")
    return stream.getvalue()


def _typed(column: pd.Series) -> pa.Array:
    if isinstance(column.dtype, pd.CategoricalDtype):
        words = [None if word == MISSING else str(word) for word in column.cat.categories]
        codes = column.cat.codes.to_numpy(np.int32)
        is_missing = np.array([word is None for word in words], dtype=bool)[codes]
        names = pa.array([word or MISSING for word in words], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=is_missing), names)
    if pd.api.types.is_numeric_dtype(column):
        return pa.array(column, from_pandas=True)
    known = column.where(column != MISSING, None)
    if column.name not in _TEXT and known.notna().any():
        numbers = pd.to_numeric(known, errors="coerce")
        if not (numbers.isna() & known.notna()).any():
            is_count = str(column.name).startswith(_COUNTS) and (numbers.dropna() % 1 == 0).all()
            return pa.array(numbers.astype("Int64" if is_count else np.float64), from_pandas=True)
    return pa.array(known.tolist(), type=pa.string())


def describe_table(item: GroupTable, tables: GroupTables) -> dict[str, Any]:
    """Return the sidecar of a table: every column is described.

    Numbered features and regional scalars share a key each, a pattern (`cls[0-9]*`,
    `tensor_fa_mean_*`); `Regions` names what stands for `*`.
    """
    columns = list(item.table.columns)
    extra: dict[str, Any] = {"Use": RESEARCH_ONLY, **tables.exclusions.describe()}
    if item.type in ("scalars", "scalars_long"):
        extra |= describe_regions(tables.regions)
    scalars = describe_scalars(columns) if item.type == "scalars" else {}
    entities = {c: {"Description": _ENTITIES[c]} for c in columns if c in _ENTITIES}
    apart = _named_by(scalars, columns) | set(entities)
    others = [c for c in columns if c not in apart]
    described = describe_columns(others)
    unknown = {c: {"Description": _UNKNOWN} for c in others if c not in described}
    return image_sidecar(
        f"group_{item.type}",
        model=item.model,
        columns=others,
        extra=extra | scalars | unknown | ({ENTITY_COLUMNS: entities} if entities else {}),
    )


def _named_by(patterns: Mapping[str, Any], columns: Sequence[str]) -> set[str]:
    starts = tuple(p.removesuffix("*") for p in patterns)
    return {c for c in columns if starts and c.startswith(starts)}


def describe_regions(regions: Mapping[str, str]) -> dict[str, Any]:
    """Return what a sidecar says of regions."""
    return {
        "Regions": dict(regions),
        "RegionSpace": f"Regions and maps are in {SCALAR_SPACE}; fewer than {MIN_VOXELS} voxels "
        "of a region give n/a.",
    }


def describe_scalars(columns: Sequence[str]) -> dict[str, Any]:
    """Return the patterns of the columns of regional scalars, and what they hold."""
    found: dict[str, Any] = {}
    if any(c.startswith("coverage_") for c in columns):
        found["coverage_*"] = {
            "Description": "Share of the region that the rest of the name names inside the scan's "
            "mask, 0 to 1"
        }
    for start, (model, of) in map_columns().items():
        for statistic in STATISTICS:
            if any(c.startswith(f"{start}_{statistic}_") for c in columns):
                experimental = (
                    ", experimental unless the sidecar of the map says primary"
                    if identity(model).is_experimental
                    else ""
                )
                words = {"std": "Standard deviation"}.get(statistic, statistic.capitalize())
                found[f"{start}_{statistic}_*"] = {
                    "Description": f"{words} of {of.title.lower()} ({model}{experimental}) in the "
                    "region that the rest of the name names",
                    "Units": of.units,
                }
    return found
