"""Filters: conditions on the images of a request, in fmriprep's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm.json_files import read_object
from dmri_fm_workflows.bids.fieldmaps import FIELDMAP_SUFFIXES
from dmri_fm_workflows.bids.names import SCAN_ENTITIES

Filters = Mapping[str, Mapping[str, Any]]

#: Queries of a filter file that this program uses, and the suffixes they select among.
QUERIES: Mapping[str, tuple[str, ...]] = {
    "dwi": ("dwi", "sbref"),
    "t1w": ("T1w",),
    "t2w": ("T2w",),
    "fmap": ("epi", *FIELDMAP_SUFFIXES),
}

#: Entities that a name may have beside those of a scan. One that is absent is not looked up in
#: the sidecars.
_OTHER_ENTITIES = frozenset({"desc", "space", "inv", "flip", "mt", "task", "trc", "recording"})

_ANY = frozenset({"*", "Query.ANY", "Query.OPTIONAL"})

#: Datatype folder of each query.
FOLDERS: Mapping[str, str] = {"dwi": "dwi", "t1w": "anat", "t2w": "anat", "fmap": "fmap"}

#: Queries of anatomical images, the first to use first. They may come from any session.
ANATOMICAL = ("t1w", "t2w")


def read_filter_file(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a filter file as fmriprep's `--bids-filter-file` takes it.

    Parameters
    ----------
    path
        JSON: `{"dwi": {"acquisition": "multiband"}, "t1w": {"session": "01"}}`, with the queries
        `dwi`, `t1w`, `t2w` and `fmap`. A value is a label, null or `"Query.NONE"` (the entity must
        be absent), `"*"` or `"Query.ANY"` (any label), `"Query.OPTIONAL"` (either), or a list of
        these. Keys that are no entities are looked up in the sidecars.

    Raises
    ------
    ConfigError
        If the file is missing or is no such object.
    """
    content = read_object(
        path, error_class=ConfigError, expected='a filter file, {"dwi": {"acquisition": "x"}}'
    )
    check_filters(content, path=path)
    return content


def check_filters(filters: object, *, path: str | Path | None = None) -> None:
    """Refuse filters of another form, or without any query of :data:`QUERIES`.

    Raises
    ------
    ConfigError
        If they are refused. Queries for other programs beside ours are accepted.
    """
    if not isinstance(filters, Mapping) or not all(
        isinstance(query, Mapping) for query in filters.values()
    ):
        raise ConfigError(
            "the filters are no JSON object of objects",
            path=path,
            expected='{"dwi": {"acquisition": "x"}, "t1w": {"session": "01"}}',
        )
    if filters and not set(filters) & set(QUERIES):
        raise ConfigError(
            f"filters for {', '.join(map(repr, filters))} only",
            path=path,
            expected="filters for some of " + ", ".join(QUERIES),
        )


def wanted_suffixes(query: str, filters: Filters) -> list[str]:
    """Return the suffixes that a query selects among, by name.

    Examples
    --------
    >>> wanted_suffixes("t1w", {}), wanted_suffixes("t1w", {"t1w": {"suffix": "UNIT1"}})
    (['T1w'], ['UNIT1'])
    """
    wanted = _as_list(filters.get(query, {}).get("suffix", "*"))
    if not _ANY.isdisjoint(s for s in wanted if isinstance(s, str)):
        return sorted(QUERIES[query])
    return sorted(s for s in wanted if isinstance(s, str))


def passes(
    path: Path,
    query: str,
    filters: Filters,
    *,
    entities: Mapping[str, str],
    suffix: str,
    metadata: Callable[[Path], Mapping[str, Any]] | None,
) -> bool:
    """Tell whether an image belongs to a query.

    Parameters
    ----------
    path
        NIfTI image.
    query
        Key of :data:`QUERIES`.
    filters
        Conditions beside the suffix.
    entities
        Labels by long name, of an invalid name as far as it can be read; participant and session
        are those of the folder.
    suffix
        Claimed by the name.
    metadata
        Returns the merged sidecars of an image; called only if a condition needs them. None
        skips such conditions.
    """
    if "desc" in entities or "space" in entities:
        return False
    known = {
        **entities,
        "suffix": suffix,
        "extension": ".nii.gz" if path.name.lower().endswith(".gz") else ".nii",
        "datatype": path.parent.name,
    }
    names = {*SCAN_ENTITIES.values(), *_OTHER_ENTITIES}
    conditions = {"suffix": wanted_suffixes(query, filters), **filters.get(query, {})}
    for key, wanted in conditions.items():
        value = known.get(key)
        if key not in known and key not in names:
            if metadata is None:
                continue
            value = metadata(path).get(key)
        if not any(_agrees(value, w) for w in _as_list(wanted)):
            return False
    return True


def _as_list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _agrees(value: object, wanted: object) -> bool:
    """Compare a label with a wanted one; index 1 and label `01` are the same run."""
    if wanted == "Query.OPTIONAL":
        return True
    if wanted in (None, "Query.NONE"):
        return value is None
    if value is None:
        return False
    if wanted in ("*", "Query.ANY") or wanted == value or str(wanted) == str(value):
        return True
    labels = [str(v) for v in (wanted, value)]
    return all(v.isascii() and v.isdecimal() for v in labels) and (
        labels[0].lstrip("0") == labels[1].lstrip("0")
    )
