"""Participants and files of an output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmri_fm.errors import ConfigError, DmriError, LayoutError
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.outputs.naming import OutputName, identify
from dmri_fm_workflows.outputs.tsv import SCAN_ID, scan_columns

#: Ends of names that the group reads: tables of features and quality, and maps.
_READ = ("_features.tsv", "_qc.tsv", "_dwimap.nii.gz")


@dataclass(frozen=True)
class OutputFile:
    """An output and its parsed name."""

    path: Path
    name: OutputName

    @property
    def scan(self) -> str:
        """Name of its scan, e.g. `sub-01_dir-AP`."""
        return scan_name(self.name.source_entities)

    @property
    def participant(self) -> str:
        """Its participant, with the prefix."""
        return f"sub-{self.name.entities['subject']}"

    @property
    def columns(self) -> Mapping[str, str]:
        """Leading cells of a table row about its scan."""
        return {SCAN_ID: self.scan, **scan_columns(self.name.source_entities)}


@dataclass(frozen=True)
class Problem:
    """A file that could not be used: its participant, with the prefix, and one line."""

    participant: str
    message: str

    @classmethod
    def of(cls, error: DmriError, file: OutputFile) -> Problem:
        """Return the problem of an output that raised an error.

        The error may name another file, such as the mask of a map.
        """
        name = (error.path or file.path).name
        return cls(file.participant, f"{name}: {' '.join(error.found.split())}")


def list_participants(output_dir: str | Path) -> tuple[str, ...]:
    """Return the participants of an output folder, with their prefix, sorted.

    Raises
    ------
    LayoutError
        If the folder is missing or holds no participant.
    """
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        raise LayoutError(
            "folder is missing",
            path=output_dir,
            expected="the output folder of the participant level",
            advice="run the participant level first, with this output folder",
        )
    participants = sorted(p.name for p in output_dir.glob("sub-*") if p.is_dir())
    if not participants:
        raise LayoutError(
            "no participant here",
            path=output_dir,
            expected="folders named sub-<label>, written by the participant level",
            advice="run the participant level first, with this output folder",
        )
    return tuple(participants)


def choose_participants(output_dir: str | Path, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the participants with some labels, or all if there are none, with their prefix.

    Raises
    ------
    LayoutError
        If the folder holds no participant, or not those asked for.
    """
    known = list_participants(output_dir)
    wanted = [f"sub-{label.removeprefix('sub-')}" for label in labels]
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise LayoutError(
            f"no outputs of {', '.join(unknown)}",
            expected=f"some of {', '.join(known)}",
            advice="run the participant level for them first",
        )
    return tuple(p for p in known if not wanted or p in wanted)


def list_outputs(
    output_dir: str | Path, participant: str
) -> tuple[tuple[OutputFile, ...], tuple[Problem, ...]]:
    """Find the tables and maps of a participant that the group reads.

    Parameters
    ----------
    output_dir
        Output folder.
    participant
        With the prefix.

    Returns
    -------
    outputs
        Sorted by path.
    problems
        One that names the first file whose name this version does not write, as earlier versions
        did, and counts them; or none.
    """
    output_dir = Path(output_dir)
    home = output_dir / participant
    outputs, unknown = [], []
    for folder in sorted({*home.glob("dwi"), *home.glob("ses-*/dwi")}):
        for path in sorted(p for p in folder.iterdir() if p.name.endswith(_READ)):
            if path.name.startswith("."):
                continue
            try:
                outputs.append(OutputFile(path, identify(path.relative_to(output_dir))))
            except ConfigError:
                unknown.append(path.name)
    if not unknown:
        return tuple(outputs), ()
    more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
    message = (
        f"{unknown[0]}{more}: no output of this version has such a name, so it is in no table; "
        "run the participant again"
    )
    return tuple(outputs), (Problem(participant, message),)
