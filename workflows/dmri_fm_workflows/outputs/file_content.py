"""Content of output files by name: numbers as arrays, everything else as text.

Two files of one type have comparable content: their names are the same where the files are made
alike, whatever the bytes around them (compression, order of keys).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dmri_fm.image_files import open_nifti
from dmri_fm.json_files import read_object
from dmri_fm_workflows.outputs.tsv import MISSING

Content: TypeAlias = Mapping[str, NDArray[Any] | str]

#: Command and options on a participant's page, which differ between runs of the same scans.
_RUN_ON_PAGE = re.compile(
    r"<h3>Command</h3>\s*<pre>.*?</pre>"
    r"|<details><summary>Configuration of the run</summary>\s*<pre>.*?</pre></details>",
    re.DOTALL,
)

#: Fields of a NIfTI-1 header that say what the voxels mean.
_HEADER_FIELDS = (
    "dim", "datatype", "pixdim", "scl_slope", "scl_inter", "xyzt_units", "qform_code",
    "sform_code", "intent_code", "descrip",
)  # fmt: skip


def read_content(path: Path) -> Content | None:
    """Return the content of a file; None, if no reader knows its type.

    Raises
    ------
    DmriError, OSError, ValueError
        If the file is damaged.
    """
    ending = next((e for e in sorted(_READERS, key=len)[::-1] if path.name.endswith(e)), None)
    return None if ending is None else _READERS[ending](path)


def _read_image(path: Path) -> Content:
    image = open_nifti(path)
    header = {name: str(image.header[name]) for name in _HEADER_FIELDS}
    return {**header, "affine": image.affine, "voxels": np.asanyarray(image.dataobj)}


def _read_json(path: Path) -> Content:
    return dict(_flatten(read_object(path), ""))


def _flatten(value: Any, name: str) -> Iterator[tuple[str, NDArray[Any] | str]]:
    """Yield the leaves of a JSON value with their paths, parts joined by dots."""
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            yield from _flatten(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, np.asarray(value, dtype=np.float64)
    else:
        yield name, repr(value)


def _read_table(path: Path) -> Content:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    head, cells = (rows[0], rows[1:]) if rows else ([], [])
    if any(len(row) != len(head) for row in cells):
        raise ValueError("rows of different lengths")
    return {"columns": " ".join(head)} | {
        name: _as_numbers([row[i] for row in cells]) for i, name in enumerate(head)
    }


def _read_lines(path: Path) -> Content:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {f"line {i}": _as_numbers(line.split()) for i, line in enumerate(lines, 1)}


def _as_numbers(words: list[str]) -> NDArray[Any] | str:
    """Return words as numbers, NaN for missing ones; as text if one is neither."""
    try:
        return np.array([np.nan if w == MISSING else float(w) for w in words], dtype=np.float64)
    except ValueError:
        return "\t".join(words)


def _read_arrays(path: Path) -> Content:
    # Opened here: numpy leaves a damaged file open.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return {name: _plain(stored[name]) for name in stored.files}


def _read_matlab(path: Path) -> Content:
    from scipy.io import loadmat

    return {k: _plain(v) for k, v in loadmat(path).items() if not k.startswith("__")}


def _read_hdf5(path: Path) -> Content:
    import h5py

    found: dict[str, NDArray[Any] | str] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = _plain(np.asarray(item[()]))

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return found


def _read_parquet(path: Path) -> Content:
    import pyarrow.parquet as pq
    from pandas.api.types import is_numeric_dtype

    table = pq.read_table(path)
    found: dict[str, NDArray[Any] | str] = {"schema": str(table.schema.remove_metadata())}
    for name, column in table.to_pandas().items():
        if is_numeric_dtype(column.dtype):
            found[str(name)] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            found[str(name)] = "\t".join(map(str, column))
    return found


def _plain(values: NDArray[Any]) -> NDArray[Any] | str:
    """Return an array of numbers unchanged, one of anything else as text."""
    is_number = np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_
    return values if is_number else repr(values.tolist())


def _read_page(path: Path) -> Content:
    text = path.read_text(encoding="utf-8")
    run = "\n".join(_RUN_ON_PAGE.findall(text))
    return {"page": _RUN_ON_PAGE.sub("", text), "command and configuration": run}


_READERS: Mapping[str, Callable[[Path], Content]] = {
    ".nii.gz": _read_image,
    ".json": _read_json,
    ".tsv": _read_table,
    ".txt": _read_lines,
    ".bval": _read_lines,
    ".bvec": _read_lines,
    ".b": _read_lines,
    ".npz": _read_arrays,
    ".mat": _read_matlab,
    ".h5": _read_hdf5,
    ".parquet": _read_parquet,
    ".html": _read_page,
}
