"""Read one participant after another: open scans, group them, collect problems."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from dmri_fm.bids.filters import FOLDERS, QUERIES, Filters, passes, wanted_suffixes
from dmri_fm.bids.folders import check_name, claimed_suffix, owner_of
from dmri_fm.bids.ignore import BidsIgnore
from dmri_fm.bids.names import find_fault, split_name
from dmri_fm.bids.records import DwiSeries, Problem, Session
from dmri_fm.bids.scans import (
    SIGNAL_DIRECTIONS,
    is_diffusion_signal,
    list_fieldmaps,
    open_epi,
    open_run,
    open_t1w,
)
from dmri_fm.bids.series import OpenedRun, group_runs
from dmri_fm.bids.sidecars import Sidecars
from dmri_fm.content import require_content
from dmri_fm.errors import GradientError, ImageError, InputError, LayoutError
from dmri_fm.volumes import Dwi

__all__ = ["ParticipantReader"]

LOGGER = logging.getLogger(__name__)

#: Entities whose labels are numbers: `run-1` and `run-01` are one.
_INDICES = ("run", "echo", "chunk")


class ParticipantReader:
    """Turns lists of images into sessions, and remembers what could not be used.

    Parameters
    ----------
    root
        Folder of the dataset, absolute.
    filters
        Conditions on the images.
    sessions
        Labels asked for; all if None.
    is_ignored
        Tells which files are not part of the dataset.
    """

    def __init__(
        self,
        root: Path,
        *,
        filters: Filters,
        sessions: Collection[str] | None,
        is_ignored: BidsIgnore,
    ) -> None:
        self.problems: list[Problem] = []
        self._root = root
        self._filters = filters
        self._sessions = sessions
        self._misnamed: set[Path] = set()
        self._sidecars = Sidecars(root, is_ignored=is_ignored)

    def note(self, label: str, error: InputError) -> None:
        """Add a problem of a participant, once."""
        if all((p.path, str(p.error)) != (error.path, str(error)) for p in self.problems):
            self.problems.append(Problem(label, error.path, error))

    def read(self, label: str, images: Iterable[Path]) -> tuple[Session, ...]:
        """Read a participant.

        Parameters
        ----------
        label
            Without `sub-`.
        images
            All in its datatype folders.

        Returns
        -------
        tuple of Session
            Those with a usable series, by label.
        """
        chosen = self._select(label, images)
        visits = []
        for session in sorted({_session_of(path) for path in chosen["dwi"]}):
            here = {
                q: [p for p in paths if _session_of(p) == session] for q, paths in chosen.items()
            }
            series = self._read_series(label, here["dwi"], here["fmap"])
            if series:
                t1w, warnings = self._choose_t1w(label, session, chosen["t1w"])
                visits.append(Session(session or None, t1w, series, warnings))
        return tuple(visits)

    def _select(self, label: str, images: Iterable[Path]) -> dict[str, list[Path]]:
        """Sort images by query; sessions restrict all but the T1-weighted images."""
        chosen: dict[str, list[Path]] = {query: [] for query in QUERIES}
        images = sorted(images)
        for path in images:
            query = self._query_of(path)
            if query != "t1w" and not (
                self._sessions is None or _session_of(path) in self._sessions
            ):
                continue
            try:
                if query is None:
                    self._check_other(path)
                elif self._is_wanted(label, path, query):
                    if path.suffix == ".nii" and path.with_name(path.name + ".gz") in images:
                        self.note(label, _twice(path))
                    else:
                        chosen[query].append(path)
            except InputError as error:
                self.note(label, error)
        for path in (*chosen["dwi"], *chosen["fmap"]):
            for fault in self._sidecars.misnamed(path):
                self._note_misnamed(label, fault)
        chosen["dwi"] = self._drop_doubles(label, chosen["dwi"])
        return chosen

    def _query_of(self, path: Path) -> str | None:
        """Return the query that an image is for by its suffix; that of its folder comes first."""
        claimed = [
            query
            for query in QUERIES
            if claimed_suffix(path.name, wanted_suffixes(query, self._filters))
        ]
        here = [query for query in claimed if FOLDERS[query] == path.parent.name]
        if here or find_fault(path.name):
            claimed = here
        return claimed[0] if claimed else None

    def _is_wanted(self, label: str, path: Path, query: str) -> bool:
        """Tell whether an image passes the filters, and is what its query asks for."""
        fault = self._find_fault(path, query)
        owner = owner_of(path.parent, self._root)
        labels = {"subject": owner.subject, "session": owner.session}
        if not passes(
            path,
            query,
            self._filters,
            entities=split_name(path)[0] | {k: v for k, v in labels.items() if v is not None},
            suffix=self._claimed_suffix(path, query),
            metadata=None if fault else self._sidecars.metadata,
        ):
            return False
        if query == "t1w":
            return True  # few of them are opened, and checked then
        if fault:
            self._note_misnamed(label, fault)
            return False
        if query == "dwi" and not self._is_signal(path):
            LOGGER.info("%s is no diffusion signal: left out", path)
            return False
        return True

    def _claimed_suffix(self, path: Path, query: str) -> str:
        return claimed_suffix(path.name, wanted_suffixes(query, self._filters)) or ""

    def _find_fault(self, path: Path, query: str) -> LayoutError | None:
        suffix = self._claimed_suffix(path, query)
        try:
            check_name(path, self._root, suffix=suffix, datatype=FOLDERS[query])
        except LayoutError as error:
            return error
        return None

    def _check_other(self, path: Path) -> None:
        """Refuse a file in `dwi` that is no known image, unless its name says what it is."""
        if path.parent.name == "dwi":
            entities, suffix, _ = split_name(path)
            is_named = bool(entities) and find_fault(path.name) is None
            check_name(path, self._root, suffix=suffix if is_named else "dwi")

    def _note_misnamed(self, label: str, error: LayoutError) -> None:
        """Add a problem of a name; the files of one name are one problem."""
        assert error.path is not None
        name = error.path.with_name(error.path.name.partition(".")[0])
        if name not in self._misnamed:
            self._misnamed.add(name)
            self.note(label, error)

    def _drop_doubles(self, label: str, paths: Sequence[Path]) -> list[Path]:
        """Refuse scans whose names say the same: their outputs would have one name."""
        kept = []
        for path in paths:
            same = [p for p in paths if p != path and _meaning(p) == _meaning(path)]
            if same:
                self.note(label, _double(path, same[0]))
            else:
                kept.append(path)
        return kept

    def _is_signal(self, path: Path) -> bool:
        entities, metadata = split_name(path)[0], self._sidecars.metadata(path)
        if is_diffusion_signal(entities, metadata):
            return True
        if not is_diffusion_signal(entities, metadata, n_directions=SIGNAL_DIRECTIONS):
            return False
        own = [path.with_name(path.name.partition(".")[0] + e) for e in (".bval", ".bvec")]
        for file in (path, *own):
            require_content(file, ImageError if file == path else GradientError)
        try:
            n_directions = Dwi.from_files(path, *own).gtab.count_directions()
        except InputError:
            return False
        return is_diffusion_signal(entities, metadata, n_directions=n_directions)

    def _choose_t1w(
        self, label: str, session: str, paths: Sequence[Path]
    ) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """Take the session's images, else those above the sessions, else the first other's."""
        others = sorted({_session_of(p) for p in paths} - {session, ""})
        for source in (session, "", *others):
            usable = self._rank_t1w(label, [p for p in paths if _session_of(p) == source])
            if usable and source in (session, ""):
                return usable, ()
            if usable:
                where = f"ses-{session}" if session else "the participant's folder"
                return usable, (
                    f"{where} has no T1-weighted image that can be used; "
                    f"{usable[0].name} is used.",
                )
        return (), ()

    def _rank_t1w(self, label: str, paths: Sequence[Path]) -> tuple[Path, ...]:
        ranked = []
        for path in paths:
            if split_name(path)[0].get("part", "mag") != "mag":
                continue
            try:
                if fault := self._find_fault(path, "t1w"):
                    raise fault
                ranked.append((open_t1w(path, self._sidecars.metadata(path)), path))
            except InputError as error:
                self.note(label, error)
        return tuple(path for _, path in sorted(ranked))

    def _read_series(
        self, label: str, dwi: Sequence[Path], fmap: Sequence[Path]
    ) -> tuple[DwiSeries, ...]:
        opened, epis = [], []
        gradient_echo: dict[Path, dict[str, Any]] = {}
        for path in (*dwi, *fmap):
            suffix = split_name(path)[1]
            try:
                metadata = self._sidecars.metadata(path)
                if path in dwi:
                    run, gtab, warnings = open_run(path, metadata, sidecars=self._sidecars)
                    opened.append(OpenedRun(run, gtab, warnings))
                elif suffix == "epi":
                    epis.append(open_epi(path, metadata))
                else:
                    require_content(path, ImageError)
                    gradient_echo[path] = metadata
            except InputError as error:
                self.note(label, error)
        series, errors = group_runs(
            opened,
            epis=epis,
            fieldmaps=list_fieldmaps(gradient_echo, metadata=gradient_echo),
            root=self._root,
        )
        for refused in errors:
            self.note(label, refused)
        return series


def _twice(path: Path) -> InputError:
    return InputError(
        f"exists a second time as {path.name}.gz, which is used",
        path=path,
        expected="one file per scan",
        advice="remove the one that is not the original",
    )


def _double(path: Path, other: Path) -> LayoutError:
    return LayoutError(
        f"has the entities of {other.name}, so their outputs would have one name",
        path=path,
        expected="labels that tell the two scans apart; the order of entities and zeros before a "
        "number do not",
        advice="give one of them another `run` or `acq` label, or remove the copy",
    )


def _meaning(path: Path) -> tuple[str, frozenset[tuple[str, str]]]:
    """Return what a name says: entities in no order, indices as numbers."""
    entities, suffix, _ = split_name(path)
    labels = {
        key: label.lstrip("0") or "0" if key in _INDICES and label.isdigit() else label
        for key, label in entities.items()
    }
    return f"{_session_of(path)} {suffix}", frozenset(labels.items())


def _session_of(path: Path) -> str:
    """Return the label of the session's folder; empty outside the sessions."""
    folder = path.parent.parent.name
    return folder.removeprefix("ses-") if folder.startswith("ses-") else ""
