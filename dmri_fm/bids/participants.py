"""Read one participant after another: open scans, group them, collect problems."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmri_fm.bids.filters import QUERIES, Filters, passes
from dmri_fm.bids.names import split_name
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
from dmri_fm.errors import InputError
from dmri_fm.gradient_files import read_raw_gradients
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.volumes import load_image

__all__ = ["ParticipantReader"]

LOGGER = logging.getLogger(__name__)


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
    gradient_options
        How gradient files are read.
    """

    def __init__(
        self,
        root: Path,
        *,
        filters: Filters,
        sessions: Collection[str] | None,
        gradient_options: GradientOptions,
    ) -> None:
        self.problems: list[Problem] = []
        self._root = root
        self._filters = filters
        self._sessions = sessions
        self._gradient_options = gradient_options
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
            if path.suffix == ".nii" and path.with_name(path.name + ".gz") in images:
                self.note(label, _twice(path))
                continue
            for query, paths in chosen.items():
                if query != "t1w" and not (
                    self._sessions is None or _session_of(path) in self._sessions
                ):
                    continue
                try:
                    if not passes(path, query, self._filters, metadata=self._sidecars.metadata):
                        continue
                    if query == "dwi" and not self._is_signal(path):
                        LOGGER.info("%s is no diffusion signal: left out", path)
                        continue
                except InputError as error:
                    self.note(label, error)
                    continue
                paths.append(path)
        return chosen

    def _is_signal(self, path: Path) -> bool:
        entities, metadata = split_name(path)[0], self._sidecars.metadata(path)
        if is_diffusion_signal(entities, metadata):
            return True
        if not is_diffusion_signal(entities, metadata, n_directions=SIGNAL_DIRECTIONS):
            return False
        own = [path.with_name(path.name.partition(".")[0] + e) for e in (".bval", ".bvec")]
        try:
            image = load_image(path, ndim=4)
            found = read_raw_gradients(
                *own,
                affine=image.affine,
                n_volumes=image.shape[3],
                # Directions alone count here; what lengths mean is asked when it is opened.
                options=replace(self._gradient_options, b_scaling="none"),
            )
            n_directions = found.gtab.count_directions()
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
        self, label: str, dwi: Sequence[Path], fmap: Sequence[Path]
    ) -> tuple[DwiSeries, ...]:
        opened, epis = [], []
        gradient_echo: dict[Path, dict[str, Any]] = {}
        for path in (*dwi, *fmap):
            suffix = split_name(path)[1]
            try:
                metadata = self._sidecars.metadata(path)
                if path in dwi:
                    run, gtab, warnings = open_run(
                        path,
                        metadata,
                        sidecars=self._sidecars,
                        gradient_options=self._gradient_options,
                    )
                    opened.append(OpenedRun(run, gtab, warnings))
                elif suffix == "epi":
                    epis.append(open_epi(path, metadata, gradient_options=self._gradient_options))
                else:
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


def _session_of(path: Path) -> str:
    """Return the session's label; empty where the name has none."""
    return split_name(path)[0].get("session", "")
