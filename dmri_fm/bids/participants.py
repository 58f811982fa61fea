"""Read one participant after another: open scans, group them, collect problems."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmri_fm.bids.bare_b0 import open_bare_b0
from dmri_fm.bids.fields import Candidate
from dmri_fm.bids.filters import QUERIES, Filters, passes
from dmri_fm.bids.links import read_statement, tie_to
from dmri_fm.bids.names import split_name
from dmri_fm.bids.records import DwiRun, EpiImage, Problem, Session, UnusedImage
from dmri_fm.bids.scans import (
    FIELDMAP_SUFFIXES,
    SIGNAL_DIRECTIONS,
    is_diffusion_signal,
    list_fieldmaps,
    open_epi,
    open_run,
    open_t1w,
)
from dmri_fm.bids.series import GroupedRuns, OpenedRun, SessionImages, group_runs
from dmri_fm.bids.sidecars import Sidecars
from dmri_fm.errors import InputError
from dmri_fm.volumes import Dwi

__all__ = ["ParticipantReader"]

LOGGER = logging.getLogger(__name__)

#: Key of the images that a filter leaves out, among the queries.
LEFT_OUT = "left out"


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
    """

    def __init__(self, root: Path, *, filters: Filters, sessions: Collection[str] | None) -> None:
        self.problems: list[Problem] = []
        self._root = root
        self._filters = filters
        self._sessions = sessions
        self._sidecars = Sidecars(root)

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
            All its images with a suffix of interest.

        Returns
        -------
        tuple of Session
            Those with a usable series, by label.
        """
        images = sorted(images)
        chosen = self._select(label, images)
        visits = []
        for session in sorted({_session_of(path) for path in chosen["dwi"]}):
            here = {
                q: [p for p in paths if _session_of(p) == session] for q, paths in chosen.items()
            }
            others = [p for p in images if _session_of(p) != session]
            found = self._read_series(label, here, others=others)
            if found.series:
                t1w, warnings = self._choose_t1w(label, session, chosen["t1w"])
                warnings = (*warnings, *found.warnings)
                visits.append(Session(session or None, t1w, found.series, warnings))
        return tuple(visits)

    def _select(self, label: str, images: Sequence[Path]) -> dict[str, list[Path]]:
        """Sort images by query; sessions restrict all but the T1-weighted images.

        Images that would correct distortion and that a filter leaves out are under `left out`.
        """
        chosen: dict[str, list[Path]] = {query: [] for query in (*QUERIES, LEFT_OUT)}
        for path in images:
            if path.suffix == ".nii" and path.with_name(path.name + ".gz") in images:
                self.note(label, _twice(path))
                continue
            for query in QUERIES:
                if query != "t1w" and not (
                    self._sessions is None or _session_of(path) in self._sessions
                ):
                    continue
                try:
                    if not passes(path, query, self._filters, metadata=self._sidecars.metadata):
                        if query != "t1w" and self._would_correct(path, query):
                            chosen[LEFT_OUT].append(path)
                        continue
                    if query == "dwi" and not self._is_signal(path):
                        LOGGER.info("%s is no diffusion signal: left out", path)
                        continue
                except InputError as error:
                    self.note(label, error)
                    continue
                chosen[query].append(path)
        return chosen

    def _would_correct(self, path: Path, query: str) -> bool:
        """Tell whether an image could correct distortion, filters aside."""
        entities, suffix, _ = split_name(path)
        if not passes(path, query, {}, metadata=self._sidecars.metadata):
            return False
        try:
            metadata = self._sidecars.metadata(path)
        except InputError as error:
            # What a filter leaves out is no problem of this run.
            LOGGER.debug("%s is left out by a filter: %s", path, error)
            metadata = {}
        return not suffix.startswith("magnitude") and is_diffusion_signal(entities, metadata)

    def _is_signal(self, path: Path) -> bool:
        entities, metadata = split_name(path)[0], self._sidecars.metadata(path)
        if is_diffusion_signal(entities, metadata):
            return True
        if not is_diffusion_signal(entities, metadata, n_directions=SIGNAL_DIRECTIONS):
            return False
        own = [path.with_name(path.name.partition(".")[0] + e) for e in (".bval", ".bvec")]
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
                ranked.append((open_t1w(path, self._sidecars.metadata(path)), path))
            except InputError as error:
                self.note(label, error)
        return tuple(path for _, path in sorted(ranked))

    def _read_series(
        self, label: str, here: Mapping[str, Sequence[Path]], *, others: Sequence[Path]
    ) -> GroupedRuns:
        """Open the images of a session, sorted by query, and group its runs."""
        opened: list[OpenedRun] = []
        bare, epis, sbrefs = [], [], []
        gradient_echo: dict[Path, dict[str, Any]] = {}
        unusable = [UnusedImage(path, "a filter leaves it out") for path in here[LEFT_OUT]]
        # Whether an image without gradients is a reverse-phase one is seen from the others.
        dwi = sorted(here["dwi"], key=lambda path: not self._has_own_gradients(path))
        for path in (*dwi, *here["fmap"]):
            suffix = split_name(path)[1]
            try:
                metadata = self._sidecars.metadata(path)
                if path in here["dwi"] and suffix == "sbref":
                    sbrefs.append(open_epi(path, metadata))
                elif path in here["dwi"]:
                    encodings = [o.run.phase_encoding for o in opened]
                    image = self._open_dwi(path, metadata, encodings=encodings)
                    if isinstance(image, OpenedRun):
                        opened.append(image)
                    else:
                        bare.append(image)
                elif suffix == "epi":
                    epis.append(open_epi(path, metadata))
                else:
                    gradient_echo[path] = metadata
            except InputError as error:
                self.note(label, error)
                unusable.append(UnusedImage(path, f"it cannot be read: {error.found}"))
        runs = [o.run for o in opened]
        elsewhere, maps_elsewhere, unread = self._find_elsewhere(runs, others)
        gradient_echo |= maps_elsewhere
        found = group_runs(
            SessionImages(
                opened,
                bare=bare,
                epis=epis,
                sbrefs=sbrefs,
                fieldmaps=list_fieldmaps(gradient_echo, metadata=gradient_echo),
                elsewhere=elsewhere,
                unusable=(*unusable, *unread),
            ),
            root=self._root,
        )
        for refused in found.errors:
            self.note(label, refused)
        return found

    def _has_own_gradients(self, path: Path) -> bool:
        stem = path.name.partition(".")[0]
        return all(path.with_name(stem + e).is_file() for e in (".bval", ".bvec"))

    def _open_dwi(
        self, path: Path, metadata: Mapping[str, Any], *, encodings: Collection[str | None] = ()
    ) -> OpenedRun | EpiImage:
        """Open a run, or an image of b=0 volumes that has no gradients."""
        image = open_bare_b0(path, metadata, sidecars=self._sidecars, encodings=encodings)
        return image or OpenedRun(*open_run(path, metadata, sidecars=self._sidecars))

    def _find_elsewhere(
        self, runs: Sequence[DwiRun], others: Sequence[Path]
    ) -> tuple[list[Candidate], dict[Path, dict[str, Any]], list[UnusedImage]]:
        """Find images of other sessions that name runs of this one.

        A file of another session that cannot be read is a problem where that session is read.

        Returns
        -------
        candidates
            Echo-planar images.
        gradient_echo
            Images of gradient-echo field maps, with their sidecars.
        unusable
            Images that name a run and cannot be opened.
        """
        candidates: list[Candidate] = []
        gradient_echo: dict[Path, dict[str, Any]] = {}
        unusable: list[UnusedImage] = []
        encodings = [run.phase_encoding for run in runs]
        for path in others:
            metadata = self._links_of(path, runs)
            if metadata is None:
                continue
            suffix = split_name(path)[1]
            try:
                if suffix in FIELDMAP_SUFFIXES:
                    gradient_echo[path] = metadata
                elif suffix in ("epi", "sbref"):
                    candidates.append(Candidate(open_epi(path, metadata), suffix, True))
                else:
                    image = self._open_dwi(path, metadata, encodings=encodings)
                    if isinstance(image, OpenedRun):
                        origin = "b0" if image.gtab.is_b0.all() else "dwi"
                        candidates.append(Candidate(image.run, origin, True))
                    else:
                        candidates.append(Candidate(image, "b0", True))
            except InputError as error:
                unusable.append(UnusedImage(path, f"it cannot be read: {error.found}"))
        return candidates, gradient_echo, unusable

    def _links_of(self, path: Path, runs: Sequence[DwiRun]) -> dict[str, Any] | None:
        """Return the sidecars of an image that names one of the runs; None if it does not."""
        suffix = split_name(path)[1]
        query = next((q for q, s in QUERIES.items() if suffix in s and q != "t1w"), None)
        if query is None:
            return None
        try:
            if not passes(path, query, self._filters, metadata=self._sidecars.metadata):
                return None
            metadata = self._sidecars.metadata(path)
        except InputError as error:
            LOGGER.debug("%s says nothing of this session: %s", path, error)
            return None
        statement = read_statement(path, [metadata], root=self._root)
        return metadata if tie_to(runs, statement).how else None


def _twice(path: Path) -> InputError:
    return InputError(
        f"exists a second time as {path.name}.gz, which is used",
        path=path,
        expected="one file per scan",
        advice="remove the one that is not the original",
    )


def _session_of(path: Path) -> str:
    """Return the session's label; empty where the name has none."""
    return split_name(path)[0].get("session", "")
