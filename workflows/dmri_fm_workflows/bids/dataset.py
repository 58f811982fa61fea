"""Read a dataset: find its scans, open them, and collect what cannot be used."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from dmri_fm.content import require_content, require_installed
from dmri_fm.errors import InputError, LayoutError
from dmri_fm.gradient_options import GradientOptions
from dmri_fm_workflows.bids.database import read_database
from dmri_fm_workflows.bids.filters import Filters, check_filters
from dmri_fm_workflows.bids.folders import misnamed_folder
from dmri_fm_workflows.bids.ignore import BidsIgnore
from dmri_fm_workflows.bids.listing import (
    find_missing_folders,
    list_images,
    list_participant_folders,
    list_session_folders,
)
from dmri_fm_workflows.bids.names import is_label
from dmri_fm_workflows.bids.participants import ParticipantReader
from dmri_fm_workflows.bids.records import Dataset, Participant, Problem
from dmri_fm_workflows.bids.sidecars import read_json_object

__all__ = ["read_dataset"]

LOGGER = logging.getLogger(__name__)

#: Participants named in an error about an unknown one.
N_LISTED = 20


def read_dataset(
    root: str | Path,
    *,
    participant_labels: Sequence[str] | None = None,
    session_labels: Sequence[str] | None = None,
    filters: Filters | None = None,
    database_dir: str | Path | None = None,
    gradient_options: GradientOptions = GradientOptions(),  # noqa: B008 (frozen)
) -> Dataset:
    """Read a raw BIDS dataset.

    Headers and gradient files are checked; voxels are not read. A scan that cannot be used
    becomes a :class:`~dmri_fm_workflows.bids.Problem` and does not stop the others. Whose a scan
    is, its
    folder says; a name that does not agree is such a problem. Files that `.bidsignore` lists, and
    folders of a participant or session other than `anat`, `dwi` and `fmap`, are left alone.

    Parameters
    ----------
    root
        Folder with `dataset_description.json`.
    participant_labels
        With or without `sub-`; all participants if None. Only their folders are looked at.
    session_labels
        With or without `ses-`; all sessions if None. T1-weighted images may come from another
        session, where a session has none.
    filters
        As :func:`~dmri_fm_workflows.bids.read_filter_file` returns them.
    database_dir
        Folder of a pybids database of the whole dataset, to take its images from; made at the
        first use. Remove it after the dataset changed. Folders are listed if None.
    gradient_options
        How gradient files are read.

    Returns
    -------
    Dataset
        Participants that have a usable series, and problems.

    Raises
    ------
    LayoutError
        If the folder is no BIDS dataset, a label is unknown or not allowed, or no diffusion scan
        is found.
    ConfigError
        If filters or database do not fit.
    """
    root = Path(root).resolve()
    name = _read_name(root)
    filters = {} if filters is None else filters
    check_filters(filters)
    is_ignored = BidsIgnore(root)
    folders, misnamed = _choose_participants(root, is_ignored, participant_labels)
    sessions = (
        None
        if session_labels is None
        else frozenset(str(s).removeprefix("ses-") for s in session_labels)
    )
    indexed = None
    if database_dir is not None:
        indexed = read_database(Path(database_dir), root, is_ignored)
    reader = ParticipantReader(
        root,
        filters=filters,
        sessions=sessions,
        is_ignored=is_ignored,
        gradient_options=gradient_options,
    )
    participants = []
    without: list[str] = []
    for folder in folders:
        label = folder.name.removeprefix("sub-")
        listed = _images_of(folder, label, reader, is_ignored, sessions, indexed=indexed)
        visits = reader.read(label, listed)
        if visits:
            participants.append(Participant(label, visits))
        elif not any(p.participant == label for p in reader.problems):
            without.append(label)
    if len(without) == len(folders) and not misnamed:
        raise _no_scans(root, sessions, filters, database_dir)
    for label in without:
        if participant_labels is None:
            LOGGER.info("sub-%s has no diffusion scan", label)
        else:
            reader.note(label, _no_scans(root / f"sub-{label}", sessions, filters, database_dir))
    return Dataset(root, name, tuple(participants), (*misnamed, *reader.problems))


def _images_of(
    folder: Path,
    label: str,
    reader: ParticipantReader,
    is_ignored: BidsIgnore,
    sessions: Collection[str] | None,
    *,
    indexed: Mapping[Path, list[Path]] | None,
) -> list[Path]:
    """List the images of a participant; what keeps some from being listed is a problem."""
    try:
        require_content(folder, LayoutError)
        for path in list_session_folders(folder, is_ignored):
            session = path.name.removeprefix("ses-")
            if not is_label(session) and (sessions is None or session in sessions):
                reader.note(label, misnamed_folder(path))
        require_installed(folder, LayoutError)
        for missing in find_missing_folders(folder, is_ignored, sessions=sessions):
            reader.note(label, missing)
        return list_images(folder, is_ignored) if indexed is None else indexed.get(folder, [])
    except LayoutError as error:
        reader.note(label, error)
        return []


def _read_name(root: Path) -> str:
    if not root.is_dir():
        raise LayoutError(
            "folder is missing",
            path=root,
            expected="a BIDS dataset",
            advice="give the folder that holds the sub-* folders and dataset_description.json",
        )
    path = root / "dataset_description.json"
    require_content(path, LayoutError)
    if not path.is_file():
        raise LayoutError(
            "file is missing",
            path=path,
            expected="the description every BIDS dataset has",
            advice='create it with {"Name": "...", "BIDSVersion": "1.10.0"}, or '
            "give the folder that holds it",
        )
    try:
        description = read_json_object(path)
    except InputError as error:
        raise LayoutError(
            error.found, path=path, expected=error.expected, advice=error.advice
        ) from None
    return str(description.get("Name") or root.name)


def _choose_participants(
    root: Path, is_ignored: BidsIgnore, wanted: Sequence[str] | None
) -> tuple[list[Path], list[Problem]]:
    """Return the folders asked for, and a problem for each whose label BIDS does not allow.

    Such a folder is of no participant that could be named, so nothing of it is read.
    """
    folders = {p.name.removeprefix("sub-"): p for p in list_participant_folders(root, is_ignored)}
    if not folders:
        raise LayoutError(
            "no sub-* folder",
            path=root,
            expected="a BIDS dataset with one folder per participant",
            advice="give the folder that holds the sub-* folders",
        )
    if wanted is None:
        return (
            [path for label, path in folders.items() if is_label(label)],
            [
                Problem(None, path, misnamed_folder(path))
                for label, path in folders.items()
                if not is_label(label)
            ],
        )
    labels = sorted({str(label).removeprefix("sub-") for label in wanted})
    unknown = [label for label in labels if label not in folders]
    if unknown or not labels:
        known = [label for label in folders if is_label(label)]
        more = f" and {len(known) - N_LISTED} more" if len(known) > N_LISTED else ""
        raise LayoutError(
            f"no participant {', '.join(unknown)}" if unknown else "no participant is asked for",
            path=root,
            expected=f"some of {', '.join(known[:N_LISTED])}{more}",
            advice="give labels as in the folder names, with or without sub-; "
            "folders that .bidsignore lists are left out",
        )
    for label in labels:
        if not is_label(label):
            raise misnamed_folder(folders[label])
    return [folders[label] for label in labels], []


def _no_scans(
    folder: Path,
    sessions: Iterable[str] | None,
    filters: Filters,
    database_dir: str | Path | None,
) -> LayoutError:
    found = "no diffusion scan"
    if sessions is not None:
        found += f" in session {', '.join(sorted(sessions))}"
    if "dwi" in filters:
        found += f" that passes the filter {json.dumps(dict(filters['dwi']))}"
    advice = "check folders and names with the BIDS validator"
    if sessions is not None:
        known = sorted({p.name.removeprefix("ses-") for p in _session_folders(folder)})
        advice = f"sessions there: {', '.join(known) or 'none'}"
    if database_dir is not None:
        advice += f"; remove {database_dir} if the dataset changed since it was made"
    return LayoutError(
        found,
        path=folder,
        expected="sub-*/[ses-*/]dwi/*_dwi.nii.gz with measured signal",
        advice=advice,
    )


def _session_folders(folder: Path) -> Iterable[Path]:
    return folder.glob("ses-*" if folder.name.startswith("sub-") else "sub-*/ses-*")
