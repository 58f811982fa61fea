"""Preprocessed datasets of BIDS derivatives: those of QSIPrep, of this app, and their like."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dmri_fm.content import require_content
from dmri_fm.errors import InputError, LayoutError
from dmri_fm_workflows.bids.ages import read_age
from dmri_fm_workflows.bids.dataset import choose_participants, list_participant_images
from dmri_fm_workflows.bids.folders import find_foreign_link, find_misplacement
from dmri_fm_workflows.bids.names import scan_name, session_of, split_name
from dmri_fm_workflows.bids.prepared import CORRECTIONS, PreparedT1w, Preprocessing
from dmri_fm_workflows.bids.preprocessed.gradients import choose_gradients
from dmri_fm_workflows.bids.preprocessed.runs import (
    describe_t1w,
    name_apart,
    no_series,
    open_series,
    open_t1w,
)
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.records import DwiSeries, Participant, Problem, Session
from dmri_fm_workflows.bids.sidecars import read_json_object

LOGGER = logging.getLogger(__name__)

#: Ends of the names of a preprocessed series, of its T1w image, and of their masks.
SERIES, T1W, MASK = "desc-preproc_dwi", "desc-preproc_T1w", "desc-brain_mask"

#: Spaces of a series that are read, best first; None: no `space` in the name, its own.
SPACES: tuple[Literal["ACPC", "T1w"] | None, ...] = ("ACPC", "T1w", None)

#: Pipelines whose T1w images lie on the axes of a template, also where names have no `space-ACPC`.
ACPC_PIPELINES = ("qsiprep", "drope-bidsapp")


@dataclass(frozen=True)
class Pipeline:
    """The pipeline that wrote a dataset, as its description says.

    Attributes
    ----------
    name
        Its name; empty if the dataset does not say.
    shown
        Name and version, for texts.
    """

    name: str
    shown: str

    @property
    def is_acpc(self) -> bool:
        """Whether its T1w space is ACPC."""
        return self.name.lower() in ACPC_PIPELINES


def describe_pipeline(root: Path) -> Pipeline:
    """Return the pipeline of a dataset."""
    path = root / "dataset_description.json"
    if not path.is_file():
        raise LayoutError(
            "file is missing",
            path=path,
            expected="the description of the derivatives, with GeneratedBy",
            advice="copy it from the folder that the pipeline wrote",
        )
    description = read_json_object(path)
    # Before BIDS 1.4 there was `PipelineDescription`, an object, as older QSIPrep wrote it.
    entry = _first(description.get("GeneratedBy")) or _first(
        [description.get("PipelineDescription")]
    )
    name = str(entry.get("Name") or "")
    version = str(entry.get("Version") or "")
    # A semicolon parts the methods of runs in a sidecar.
    shown = " ".join(word for word in (name, version) if word).replace(";", ",")
    return Pipeline(name, shown or "a pipeline that the dataset does not name")


def _first(entries: Any) -> dict[str, Any]:
    listed = entries if isinstance(entries, list) else []
    return next((e for e in listed if isinstance(e, dict)), {})


def read_derivatives(
    reading: Reading, wanted: Sequence[str] | None
) -> tuple[list[Participant], list[Problem]]:
    """Read the participants of a dataset of BIDS derivatives.

    Parameters
    ----------
    reading
        Of the dataset.
    wanted
        Labels of participants; all if None.

    Raises
    ------
    LayoutError
        If the dataset has no description, or a participant that is asked for is not there.
    """
    pipeline = describe_pipeline(reading.root)
    folders, problems = choose_participants(reading, wanted)
    participants, without = [], []
    for folder in folders:
        reader = _Reader(reading, folder.name.removeprefix("sub-"), pipeline)
        sessions = reader.read(folder)
        problems += reader.problems
        if sessions:
            participants.append(Participant(reader.label, sessions))
        elif not reader.problems:
            without.append(folder)
    if wanted is not None:
        pattern = f"[ses-*/]dwi/*_{SERIES}.nii.gz"
        problems += [
            Problem(folder.name.removeprefix("sub-"), no_series(folder, pattern, reading))
            for folder in without
        ]
    elif without:
        LOGGER.warning("no preprocessed series: %s", ", ".join(folder.name for folder in without))
    return participants, problems


class _Reader:
    """Reads one participant, and collects problems."""

    def __init__(self, reading: Reading, label: str, pipeline: Pipeline) -> None:
        self.label = label
        self.problems: list[Problem] = []
        self._reading, self._pipeline = reading, pipeline

    def read(self, folder: Path) -> tuple[Session, ...]:
        """Return the sessions with a series that can be used."""
        images, faults = list_participant_images(folder, self._reading)
        self.problems += [Problem(self.label, fault) for fault in faults]
        found = [p for p in images if p.parent.name == "dwi" and is_named(p, SERIES)]
        sessions = []
        for session in sorted({session_of(path) for path in found}):
            if self._reading.includes(session):
                here = [p for p in found if session_of(p) == session]
                sessions += self._read_session(session, here, images)
        return tuple(sessions)

    def _read_session(
        self, session: str, found: Sequence[Path], images: Sequence[Path]
    ) -> list[Session]:
        space = next((s for s in SPACES if any(space_of(p) == s for p in found)), None)
        chosen = [p for p in found if space_of(p) == space]
        opened: list[DwiSeries] = []
        for path in chosen:
            try:
                opened.append(self._open_series(path, space))
            except InputError as error:
                self.problems.append(Problem(self.label, error))
        series, clashes = name_apart(self.label, opened)
        self.problems += clashes
        names = {scan_name(split_name(p)[0]) for p in chosen}
        for path in found:
            if scan_name(split_name(path)[0]) not in names:
                self.problems.append(Problem(self.label, _other_space(path, chosen)))
        if not series:
            return []
        t1w, warnings = self._choose_t1w(session, space, images)
        age = read_age(self._reading.root, self.label, session)
        paths = (t1w.path,) if t1w else ()
        return [Session(session or None, paths, series, warnings, age, t1w)]

    def _check(self, path: Path, suffix: str, datatype: str) -> None:
        """Refuse a file whose name or link tells another owner than its folder."""
        root = self._reading.root
        fault = find_misplacement(path, root, suffix=suffix, datatype=datatype)
        if fault := fault or find_foreign_link(path, root):
            raise fault

    def _open_series(self, path: Path, space: Literal["ACPC", "T1w"] | None) -> DwiSeries:
        files = choose_gradients(path, self._pipeline.name)
        mask = path.with_name(path.name.replace(SERIES, MASK))
        for file in (path, files.bval, files.bvec, *([files.other] if files.other else [])):
            self._check(file, "dwi", "dwi")
        self._check(mask, "mask", "dwi")
        require_content(mask, LayoutError)
        warnings = []
        if not mask.exists():
            warnings.append(f"{path.name} has no brain mask ({mask.name}): one is made.")
        metadata = self._reading.sidecars.metadata(path)
        warnings += [f"The sidecar of the input warns: {w}" for w in read_warnings(metadata)]
        return open_series(
            path,
            files,
            entities=split_name(path)[0],
            preprocessing=Preprocessing(
                by=self._pipeline.shown,
                # On the axes of the template, whatever its name, as the T1w image is.
                space="ACPC" if space == "T1w" and self._pipeline.is_acpc else space,
                mask=mask if mask.exists() else None,
                stated={
                    # A semicolon parts the methods of runs in a sidecar.
                    key: value.replace(";", ",")
                    for key in CORRECTIONS
                    if isinstance(value := metadata.get(key), str)
                },
            ),
            root=self._reading.root,
            options=self._reading.gradient_options,
            metadata=metadata,
            warnings=warnings,
        )

    def _choose_t1w(
        self, session: str, space: str | None, images: Sequence[Path]
    ) -> tuple[PreparedT1w | None, tuple[str, ...]]:
        """Return the T1w image in the space of the series, of this session or of none."""
        if "t1w" in self._reading.ignored:
            return None, ()
        candidates = [p for p in images if p.parent.name == "anat" and is_named(p, T1W)]
        for source in dict.fromkeys((session, "")):
            here = [p for p in candidates if session_of(p) == source]
            named = [p for p in here if space_of(p) == space and space is not None]
            # The T1w image that `space-T1w` means has no `space` in its name.
            bare = [p for p in here if space_of(p) is None]
            if fitting := named or (bare if space != "ACPC" or self._pipeline.is_acpc else []):
                return self._open_t1w(fitting[0], is_acpc=bool(named) and space == "ACPC")
        return None, (
            f"{'ses-' + session if session else 'sub-' + self.label} has no T1-weighted image in "
            "the space of the series.",
        )

    def _open_t1w(
        self, path: Path, *, is_acpc: bool
    ) -> tuple[PreparedT1w | None, tuple[str, ...]]:
        mask = path.with_name(path.name.replace(T1W, MASK))
        faults: list[InputError] = []
        t1w: PreparedT1w | None = None
        try:
            for file, suffix in ((path, "T1w"), (mask, "mask")):
                self._check(file, suffix, "anat")
            require_content(mask, LayoutError)
            given = PreparedT1w(
                path=path,
                mask=mask if mask.exists() else None,
                is_unbiased=True,
                is_acpc=is_acpc or self._pipeline.is_acpc,
            )
            t1w, faults = open_t1w(given)
        except InputError as error:
            faults = [error]
        self.problems += [Problem(self.label, fault) for fault in faults]
        return t1w, describe_t1w(t1w, faults)


def read_warnings(metadata: Mapping[str, Any]) -> list[str]:
    """Return the warnings of a sidecar of this app."""
    found = metadata.get("Warnings")
    return [w for w in found if isinstance(w, str)] if isinstance(found, list) else []


def is_named(path: Path, end: str) -> bool:
    """Tell whether a file's name, without extension, ends so."""
    return path.name.partition(".")[0].endswith(end)


def space_of(path: Path) -> str | None:
    """Return the label of `space` in a file's name, or None."""
    return split_name(path)[0].get("space")


def _other_space(path: Path, chosen: Sequence[Path]) -> LayoutError:
    used = chosen[0].name if chosen else "there is none"
    return LayoutError(
        f"a preprocessed series in space {space_of(path) or 'of its own'}",
        path=path,
        expected="space-ACPC, space-T1w or no `space`, the same for all series of a session "
        f"({used})",
        advice="run the pipeline again with one output space, or list the file in .bidsignore",
    )
