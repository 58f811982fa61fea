"""Table of the run and phase encoding of each volume of a merged series, passed between nodes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dmri_fm.distortion import PhaseEncoding


@dataclass(frozen=True)
class VolumeOrigin:
    """One volume's run and phase encoding.

    Attributes
    ----------
    run
        Position of its run in the series.
    phase_encoding
        `i`, `i-`, `j`, `j-`, `k`, `k-`, or None where the sidecar does not say.
    readout_s
        Total readout time, s.
    original_file
        Name of the raw image.
    """

    run: int
    phase_encoding: str | None
    readout_s: float
    original_file: str

    @property
    def encoding(self) -> PhaseEncoding:
        """Phase encoding and readout time."""
        return PhaseEncoding(self.phase_encoding, self.readout_s)


def write_volumes(origins: Sequence[VolumeOrigin], path: Path) -> Path:
    """Write the table as TSV, `n/a` for an unknown phase encoding."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow([f.name for f in fields(VolumeOrigin)])
        for origin in origins:
            writer.writerow(["n/a" if v is None else v for v in asdict(origin).values()])
    return path


def read_volumes(path: str | Path) -> list[VolumeOrigin]:
    """Read a table written by :func:`write_volumes`."""
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return [
            VolumeOrigin(
                run=int(row["run"]),
                phase_encoding=None if row["phase_encoding"] == "n/a" else row["phase_encoding"],
                readout_s=float(row["readout_s"]),
                original_file=row["original_file"],
            )
            for row in csv.DictReader(stream, delimiter="\t")
        ]
