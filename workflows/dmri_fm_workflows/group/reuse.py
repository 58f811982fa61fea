"""Maps that have not changed since the last run of `group` are not read again.

The long table of regional scalars holds what a map was summarised to. Its Parquet file keeps,
beside the columns, of each map the sizes and times of the map and its mask, and a hash of the
regions.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dmri_fm import __version__
from dmri_fm_workflows.group.regional import STATISTICS, RegionSource, Summary

LOGGER = logging.getLogger(__name__)

#: Key of the record in the metadata of the Parquet file.
RECORD_KEY = b"dmri_fm_maps"


def state_of(*paths: Path) -> tuple[int, ...]:
    """Return sizes and times (ns) of files; zeros for one that is missing."""
    found: list[int] = []
    for path in paths:
        try:
            entry = path.stat()
            found += [entry.st_size, entry.st_mtime_ns]
        except OSError:
            found += [0, 0]
    return tuple(found)


def hash_regions(sources: Sequence[RegionSource]) -> str:
    """Return a hash of regions and of the version that summarises maps in them."""
    digest = hashlib.sha256(__version__.encode())
    for source in sources:
        digest.update(json.dumps(dict(source.about)).encode())
        for array in source.arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class KnownMaps:
    """Summaries that the last run left.

    Attributes
    ----------
    states
        By path of a map: position of its summary, then :func:`state_of` map and mask.
    statistics, n_voxels, coverage
        Shapes (M, R, 3), (M, R), (M, R): see :class:`~dmri_fm_workflows.group.regional.Summary`.
    """

    states: Mapping[str, Sequence[int]] = field(default_factory=dict)
    statistics: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0, 3)))
    n_voxels: NDArray[np.int_] = field(default_factory=lambda: np.empty((0, 0), dtype=np.int_))
    coverage: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    def find(self, path: str, state: tuple[int, ...]) -> Summary | None:
        """Return the summary of a map, if map and mask are those that the last run saw."""
        row, *known = self.states.get(path, (0,))
        if tuple(known) != state:
            return None
        return Summary(self.statistics[row], self.n_voxels[row], self.coverage[row])


def read_known(path: Path, *, regions: str, n_regions: int) -> KnownMaps:
    """Read the summaries in the long table of the last run.

    Parameters
    ----------
    path
        The Parquet file.
    regions
        Hash of the regions of this run; the summaries of other regions are of no use.
    n_regions
        Number of regions.

    Returns
    -------
    KnownMaps
        Without any map if the file is missing, damaged, or of other regions.
    """
    if not path.is_file():
        return KnownMaps()
    try:
        table = pq.read_table(path, columns=["value", "n_voxels", "coverage"])
        record = json.loads((table.schema.metadata or {})[RECORD_KEY])
        if record["regions"] != regions:
            LOGGER.info("Regions are not those of %s: all maps are read", path.name)
            return KnownMaps()
        shape = (len(record["maps"]), n_regions, len(STATISTICS))
        value, n_voxels, coverage = (
            table[c].to_numpy().reshape(shape) for c in ("value", "n_voxels", "coverage")
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        pa.ArrowException,
    ) as error:
        LOGGER.warning("%s is not used, all maps are read: %s", path.name, error)
        return KnownMaps()
    return KnownMaps(record["maps"], value, n_voxels[..., 0], coverage[..., 0])


def make_record(states: Sequence[tuple[str, tuple[int, ...]]], *, regions: str) -> str:
    """Return the record of maps, in the order of their rows."""
    maps = {path: (row, *state) for row, (path, state) in enumerate(states)}
    return json.dumps({"regions": regions, "maps": maps})
