"""Reading of a raw dataset: its usable scans, opened, and a list of the unusable ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from dmri_fm.content import require_content, require_installed
from dmri_fm.errors import InputError, LayoutError
from dmri_fm.gradient_options import GradientOptions
from dmri_fm_workflows.bids.database import read_database
from dmri_fm_workflows.bids.filters import Filters, check_filters
from dmri_fm_workflows.bids.folders import misnamed_folder
from dmri_fm_workflows.bids.gradient_fixes import GradientFix
from dmri_fm_workflows.bids.listing import find_missing_folders, list_folders, list_images
from dmri_fm_workflows.bids.names import is_label
from dmri_fm_workflows.bids.participants import ParticipantReader
from dmri_fm_workflows.bids.reading import Merging, Reading
from dmri_fm_workflows.bids.records import Dataset, Participant, Problem
from dmri_fm_workflows.bids.sidecars import read_json_object

LOGGER = logging.getLogger(__name__)

#: Largest number of participants that an error lists.
N_LISTED = 20


def read_dataset(
    root: str | Path,
    *,
    participant_labels: Sequence[str] | None = None,
    session_labels: Sequence[str] | None = None,
    filters: Filters | None = None,
    database_dir: str | Path | None = None,
    gradient_options: GradientOptions = GradientOptions(),  # noqa: B008 (frozen)
    ignored: Sequence[str] = (),
    gradient_fixes: Sequence[GradientFix] = (),
    shares_anatomy: bool = False,
    merging: Merging = "all",
) -> Dataset:
    """Read a raw BIDS dataset.

    Headers and gradient files are checked; voxels are not read. A scan that cannot be used
    becomes a :class:`~dmri_fm_workflows.bids.Problem` and does not stop the others. The folder of
    a scan names its participant and session; a file name that does not agree is such a problem.
    Files that `.bidsignore` lists, and folders of a participant or session other than `anat`,
    `dwi` and `fmap`, are not read.

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
    ignored
        Images that are not used: some of `fieldmaps` (the `fmap` folder), `sbref` and `t1w`.
    gradient_fixes
        Repairs of b-vectors by scanner and protocol.
    shares_anatomy
        Whether all sessions take the anatomical image of the participant's first one.
    merging
        Which runs of a scan are merged.

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
    name = read_name(root)
    filters = filters or {}
    check_filters(filters)
    sessions = None if session_labels is None else {_strip(s, "ses-") for s in session_labels}
    reading = Reading(
        root,
        filters,
        sessions,
        gradient_options,
        tuple(ignored),
        tuple(gradient_fixes),
        shares_anatomy,
        merging,
    )
    folders, misnamed = choose_participants(reading, participant_labels)
    indexed = None
    if database_dir is not None:
        indexed = read_database(Path(database_dir), root, reading.is_ignored)
    reader = ParticipantReader(reading)
    participants = []
    for folder in folders:
        label = folder.name.removeprefix("sub-")
        images, faults = list_participant_images(folder, reading, indexed)
        for fault in faults:
            reader.note(label, fault)
        participants.append(Participant(label, reader.read(label, images)))
    troubled = {problem.participant for problem in reader.problems}
    without = [p.label for p in participants if not p.sessions and p.label not in troubled]
    if len(without) == len(folders) and not misnamed:
        raise _no_scans(root, reading, database_dir)
    for label in without:
        if participant_labels is None:
            LOGGER.info("sub-%s has no diffusion scan", label)
        else:
            reader.note(label, _no_scans(root / f"sub-{label}", reading, database_dir))
    usable = tuple(p for p in participants if p.sessions)
    return Dataset(root, name, usable, (*misnamed, *reader.problems))


def list_participant_images(
    folder: Path, reading: Reading, indexed: Mapping[Path, list[Path]] | None = None
) -> tuple[list[Path], list[LayoutError]]:
    """Return the images of a participant, and the errors of folders that hide images.

    Parameters
    ----------
    folder
        Of the participant.
    reading
        Of the dataset.
    indexed
        Images by participant's folder, of a database; None: folders are listed.
    """
    is_ignored = reading.is_ignored
    faults: list[LayoutError] = []
    try:
        require_content(folder, LayoutError)
        for path in list_folders(folder, "ses-", is_ignored):
            session = path.name.removeprefix("ses-")
            if not is_label(session) and reading.includes(session):
                faults.append(misnamed_folder(path))
        require_installed(folder, LayoutError)
        faults += find_missing_folders(folder, is_ignored, sessions=reading.sessions)
        listed = list_images(folder, is_ignored) if indexed is None else indexed.get(folder, [])
        return listed, faults
    except LayoutError as error:
        return [], [*faults, error]


def _strip(label: object, prefix: str) -> str:
    return str(label).removeprefix(prefix)


def read_name(root: Path) -> str:
    """Return the name of a dataset by its `dataset_description.json`, which it has to have."""
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


def choose_participants(
    reading: Reading, wanted: Sequence[str] | None
) -> tuple[list[Path], list[Problem]]:
    """Return the requested folders, and a problem for each whose label BIDS does not allow.

    The participant of such a folder has no name, so nothing of it is read.
    """
    root = reading.root
    listed = list_folders(root, "sub-", reading.is_ignored)
    folders = {path.name.removeprefix("sub-"): path for path in listed}
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
                Problem(None, misnamed_folder(path))
                for label, path in folders.items()
                if not is_label(label)
            ],
        )
    labels = check_labels(
        wanted,
        [label for label in folders if is_label(label)],
        root,
        found=folders,
        advice="give labels as in the folder names, with or without sub-; "
        "folders that .bidsignore lists are left out",
    )
    for label in labels:
        if not is_label(label):
            raise misnamed_folder(folders[label])
    return [folders[label] for label in labels], []


def check_labels(
    wanted: Sequence[str],
    known: Sequence[str],
    root: Path,
    *,
    found: Collection[str] = (),
    advice: str,
) -> list[str]:
    """Return the requested labels of participants without `sub-`, each once.

    Parameters
    ----------
    wanted
        With or without `sub-`.
    known
        Labels that an error lists.
    root
        Folder of the dataset.
    found
        Further labels that may be requested.
    advice
        What the error says to do.

    Raises
    ------
    LayoutError
        If one is in neither list, or none is requested.
    """
    labels = sorted({_strip(label, "sub-") for label in wanted})
    unknown = [label for label in labels if label not in known and label not in found]
    if unknown or not labels:
        more = f" and {len(known) - N_LISTED} more" if len(known) > N_LISTED else ""
        raise LayoutError(
            f"no participant {', '.join(unknown)}" if unknown else "no participant is asked for",
            path=root,
            expected=f"some of {', '.join(known[:N_LISTED])}{more}",
            advice=advice,
        )
    return labels


def _no_scans(folder: Path, reading: Reading, database_dir: str | Path | None) -> LayoutError:
    """Return the error of a dataset's or a participant's folder without diffusion scans."""
    found = "no diffusion scan"
    advice = "check folders and names with the BIDS validator"
    if reading.sessions is not None:
        found += f" in session {', '.join(sorted(reading.sessions))}"
        pattern = "ses-*" if folder.name.startswith("sub-") else "sub-*/ses-*"
        known = sorted({p.name.removeprefix("ses-") for p in folder.glob(pattern)})
        advice = f"sessions there: {', '.join(known) or 'none'}"
    if "dwi" in reading.filters:
        found += f" that passes the filter {json.dumps(dict(reading.filters['dwi']))}"
    if database_dir is not None:
        advice += f"; remove {database_dir} if the dataset changed since it was made"
    return LayoutError(
        found,
        path=folder,
        expected="sub-*/[ses-*/]dwi/*_dwi.nii.gz with measured signal",
        advice=advice,
    )
