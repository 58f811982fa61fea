"""Read a dataset: find its scans with pybids, open them, and collect what cannot be used."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dmri_fm.bids.filters import Filters, check_filters, wanted_suffixes
from dmri_fm.bids.participants import ParticipantReader
from dmri_fm.bids.records import Dataset, Participant
from dmri_fm.bids.sidecars import read_json_object
from dmri_fm.errors import ConfigError, InputError, LayoutError
from dmri_fm.gradient_options import GradientOptions

__all__ = ["read_dataset"]

LOGGER = logging.getLogger(__name__)

#: Participants named in an error about an unknown one.
N_LISTED = 20

_IGNORED_FOLDERS = re.compile(r"^/(code|derivatives|models|sourcedata|stimuli)(/|$)")


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
    becomes a :class:`~dmri_fm.bids.Problem` and does not stop the others.

    Parameters
    ----------
    root
        Folder with `dataset_description.json`.
    participant_labels
        With or without `sub-`; all participants if None. Only their folders are indexed.
    session_labels
        With or without `ses-`; all sessions if None. T1-weighted images may come from another
        session, where a session has none.
    filters
        As :func:`~dmri_fm.bids.read_filter_file` returns them.
    database_dir
        Folder of a pybids database of the whole dataset; made at the first use. Remove it after
        the dataset changed.
    gradient_options
        How gradient files are read.

    Returns
    -------
    Dataset
        Participants that have a usable series, and problems.

    Raises
    ------
    LayoutError
        If the folder is no BIDS dataset, a label is unknown, or no diffusion scan is found.
    ConfigError
        If filters or database do not fit.
    """
    root = Path(root).resolve()
    name = _read_name(root)
    filters = {} if filters is None else filters
    check_filters(filters)
    labels = _choose_participants(root, participant_labels)
    sessions = (
        None
        if session_labels is None
        else frozenset(str(s).removeprefix("ses-") for s in session_labels)
    )
    images = _list_images(
        root,
        labels=labels,
        is_whole=participant_labels is None,
        suffixes=wanted_suffixes(filters),
        database_dir=None if database_dir is None else Path(database_dir),
    )
    reader = ParticipantReader(
        root, filters=filters, sessions=sessions, gradient_options=gradient_options
    )
    participants = []
    without: list[str] = []
    for label in labels:
        visits = reader.read(label, images.get(label, []))
        if visits:
            participants.append(Participant(label, visits))
        elif not any(p.participant == label for p in reader.problems):
            without.append(label)
    if len(without) == len(labels):
        raise _no_scans(root, sessions, filters, database_dir)
    for label in without:
        if participant_labels is None:
            LOGGER.info("sub-%s has no diffusion scan", label)
        else:
            reader.note(label, _no_scans(root / f"sub-{label}", sessions, filters, database_dir))
    return Dataset(root, name, tuple(participants), tuple(reader.problems))


def _read_name(root: Path) -> str:
    if not root.is_dir():
        raise LayoutError(
            "folder is missing",
            path=root,
            expected="a BIDS dataset",
            advice="give the folder that holds the sub-* folders and dataset_description.json",
        )
    path = root / "dataset_description.json"
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


def _choose_participants(root: Path, wanted: Sequence[str] | None) -> tuple[str, ...]:
    known = sorted(p.name.removeprefix("sub-") for p in root.glob("sub-*") if p.is_dir())
    if not known:
        raise LayoutError(
            "no sub-* folder",
            path=root,
            expected="a BIDS dataset with one folder per participant",
            advice="give the folder that holds the sub-* folders",
        )
    if wanted is None:
        return tuple(known)
    labels = sorted({str(label).removeprefix("sub-") for label in wanted})
    unknown = [label for label in labels if label not in known]
    if unknown or not labels:
        more = f" and {len(known) - N_LISTED} more" if len(known) > N_LISTED else ""
        raise LayoutError(
            f"no participant {', '.join(unknown)}" if unknown else "no participant is asked for",
            path=root,
            expected=f"some of {', '.join(known[:N_LISTED])}{more}",
            advice="give labels as in the folder names, with or without sub-",
        )
    return tuple(labels)


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


def _list_images(
    root: Path,
    *,
    labels: Sequence[str],
    is_whole: bool,
    suffixes: Sequence[str],
    database_dir: Path | None,
) -> dict[str, list[Path]]:
    """Find images by participant; without a database, other participants are not indexed."""
    # pybids and the database engine below it take a third of a second to import.
    from bids.layout import BIDSLayout, BIDSLayoutIndexer
    from sqlalchemy.exc import SQLAlchemyError

    ignore = [_IGNORED_FOLDERS]
    if database_dir is None and not is_whole:
        wanted = "|".join(map(re.escape, labels))
        ignore.append(re.compile(rf"^/sub-(?!({wanted})(/|$))"))
    # Sidecars are merged by our own rule, so pybids need not open every JSON file.
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore)
    images: dict[str, list[Path]] = {}
    try:
        layout = BIDSLayout(
            root, validate=False, config="bids", database_path=database_dir, indexer=indexer
        )
        if Path(layout.root).resolve() != root:
            raise ConfigError(
                f"database of another dataset, {layout.root}",
                path=database_dir,
                expected=f"the database of {root}",
                advice="give each dataset a database folder of its own",
            )
        for file in layout.get(suffix=list(suffixes), extension=[".nii", ".nii.gz"]):
            path = Path(file.path)
            folder = path.relative_to(layout.root).parts[0]
            if folder.startswith("sub-"):
                images.setdefault(folder.removeprefix("sub-"), []).append(
                    root / path.relative_to(layout.root)
                )
    except (SQLAlchemyError, OSError) as error:
        if database_dir is None:
            raise LayoutError(
                f"cannot be read ({error})",
                path=root,
                expected="folders and files that this user may read",
                advice="check the permissions",
            ) from error
        raise ConfigError(
            f"the pybids database cannot be used ({type(error).__name__})",
            path=database_dir,
            expected="a folder that can be written, or a database that pybids made",
            advice="remove the folder, or name another",
        ) from error
    return images
