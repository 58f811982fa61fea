"""Preprocessed datasets without BIDS names: a folder for each participant, with fixed file names.

The name of the folder alone says whose scan it holds. It is checked against every other name that
tells a participant, and a file that is kept in another participant's folder is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from dmri_fm.content import require_content, require_installed
from dmri_fm.errors import InputError, LayoutError
from dmri_fm_workflows.bids.ages import read_age
from dmri_fm_workflows.bids.dataset import check_labels
from dmri_fm_workflows.bids.folders import find_link_out
from dmri_fm_workflows.bids.listing import list_entries, unreadable
from dmri_fm_workflows.bids.prepared import PreparedT1w, Preprocessing
from dmri_fm_workflows.bids.preprocessed.gradients import GradientFiles
from dmri_fm_workflows.bids.preprocessed.layouts import FolderLayout
from dmri_fm_workflows.bids.preprocessed.owners import check_owner, check_stores
from dmri_fm_workflows.bids.preprocessed.runs import describe_t1w, no_series, open_series, open_t1w
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.records import DwiSeries, Participant, Problem, Session

LOGGER = logging.getLogger(__name__)


def read_folders(
    reading: Reading, layout: FolderLayout, wanted: Sequence[str] | None
) -> tuple[list[Participant], list[Problem]]:
    """Read the participants of a dataset whose folders have fixed file names.

    Parameters
    ----------
    reading
        Of the dataset.
    layout
        Where its files are.
    wanted
        Labels of participants; all if None.

    Raises
    ------
    LayoutError
        If a participant that is asked for is not there.
    """
    found = set(layout.list_folders(reading.root))
    others = [p for p in _list_others(reading) if p not in found]
    problems: list[Problem] = []
    visits: dict[str, list[tuple[str, Path]]] = {}
    for folder in sorted(found):
        if reading.is_ignored(folder, is_folder=True):
            continue
        owner = layout.find_owner(folder.name)
        if owner is None:
            problems.append(Problem(None, _misnamed(folder, layout)))
            continue
        visits.setdefault(owner[0], []).append((owner[1], folder))
    empty = _sort_out(others, layout)
    known = {*visits, *(label for label, _, _ in empty)}
    labels = sorted(visits) if wanted is None else _choose(reading, layout, known, wanted)
    if wanted is None:
        problems += _describe_empty(empty)
    else:
        problems = []
    participants = []
    for label in labels:
        sessions, of_label = _read_sessions(reading, layout, label, visits.get(label, []))
        if wanted is not None:
            of_label += [
                Problem(label, fault or no_series(folder, layout.image))
                for other, folder, fault in empty
                if other == label
            ]
            if not sessions and not of_label:
                of_label = [Problem(label, no_series(visits[label][0][1], layout.image, reading))]
        problems += of_label
        if sessions:
            participants.append(Participant(label, sessions))
    return participants, problems


def _choose(
    reading: Reading, layout: FolderLayout, known: Collection[str], wanted: Sequence[str]
) -> list[str]:
    """Return labels that are asked for; the name of a folder stands for its participant."""
    owners = [layout.find_owner(label) for label in wanted]
    named = sorted({o[0] for o in owners if o is not None and o[0] in known})
    return check_labels(
        wanted,
        sorted(known),
        reading.root,
        advice="participants are named by their folders, "
        f"{layout.name_rule}; give the first part alone"
        + (f", as --participant-label {' '.join(named)}" if named else ""),
    )


def _list_others(reading: Reading) -> Iterator[Path]:
    """Yield the folders of a dataset, and links that lead nowhere."""
    for path in list_entries(reading.root):
        is_folder = path.is_dir() or (path.is_symlink() and not path.exists())
        if is_folder and not reading.is_ignored(path, is_folder=True):
            yield path


def _sort_out(
    folders: Sequence[Path], layout: FolderLayout
) -> list[tuple[str, Path, LayoutError | None]]:
    """Return participant, folder and fault, if any, of folders without a series.

    Folders whose name tells no participant are left out, unless they cannot be read.
    """
    found = []
    for folder in folders:
        owner = layout.find_owner(folder.name)
        fault = _find_absence(folder, layout)
        if owner is not None or fault is not None:
            found.append((owner[0] if owner is not None else "", folder, fault))
    return found


def _find_absence(folder: Path, layout: FolderLayout) -> LayoutError | None:
    """Return why the folder of a series cannot be there: not fetched, or not readable."""
    inside = Path(layout.image).parent
    try:
        for part in (*reversed(inside.parents), inside):
            path = folder / part
            require_content(path, LayoutError)
            require_installed(path, LayoutError)
            if path.is_dir():
                list_entries(path)
    except LayoutError as error:
        return error
    except PermissionError:
        return unreadable(folder, "Permission denied")
    return None


def _describe_empty(empty: Sequence[tuple[str, Path, LayoutError | None]]) -> Iterator[Problem]:
    """Yield the faults of folders without a series, and log the names of the rest."""
    for label, _, fault in empty:
        if fault is not None:
            yield Problem(label or None, fault)
    if plain := [folder.name for _, folder, fault in empty if fault is None]:
        LOGGER.warning(
            "%d folders could be those of participants and have no series: %s",
            len(plain),
            ", ".join(plain),
        )


def _read_sessions(
    reading: Reading, layout: FolderLayout, label: str, visits: Sequence[tuple[str, Path]]
) -> tuple[tuple[Session, ...], list[Problem]]:
    sessions, problems = [], []
    for session, folder in sorted(visits):
        if not reading.includes(session):
            continue
        same = [other for s, other in visits if s == session and other != folder]
        try:
            if same:
                raise LayoutError(
                    f"names the same participant and visit as {same[0].name}",
                    path=folder,
                    expected="one folder for each",
                    advice="find out whose scans they are, and rename or move one of them",
                )
            found, faults = _read_session(reading, layout, label, session, folder)
            sessions.append(found)
            problems += [Problem(label, fault) for fault in faults]
        except InputError as error:
            problems.append(Problem(label, error))
        except PermissionError as error:
            place = Path(error.filename) if error.filename else folder
            problems.append(Problem(label, unreadable(place, "Permission denied")))
    return tuple(sessions), problems


def _read_session(
    reading: Reading, layout: FolderLayout, label: str, session: str, folder: Path
) -> tuple[Session, list[InputError]]:
    """Return a session, and the errors of what it does without."""
    check_owner(layout, folder)
    series = _open_series(reading, layout, label, session, folder)
    is_wanted = "t1w" not in reading.ignored
    t1w, faults = _find_t1w(layout, folder) if is_wanted else (None, [])
    files = [p for run in series.runs for p in (run.path, run.bval, run.bvec)]
    files += series.preprocessing.files if series.preprocessing is not None else ()
    files += [p for p in (t1w.path, t1w.mask) if p is not None] if t1w is not None else []
    warnings = (*check_stores(layout, folder, files), *describe_t1w(t1w, faults))
    if t1w is None and not faults and is_wanted:
        listed = ", ".join(dict.fromkeys(files.image for files in layout.t1w))
        warnings += (f"{folder.name} has no T1-weighted image ({listed}).",)
    age = read_age(reading.root, label, session)
    paths = (t1w.path,) if t1w else ()
    return Session(session or None, paths, (series,), warnings, age, t1w), faults


def _open_series(
    reading: Reading, layout: FolderLayout, label: str, session: str, folder: Path
) -> DwiSeries:
    bvec = _find(folder, layout.bvecs) or folder / layout.bvecs[0]
    warnings = []
    if bvec != folder / layout.bvecs[0]:
        warnings.append(
            f"{Path(layout.bvecs[0]).name} is missing, so {bvec.name} is read: whether these "
            "b-vectors were turned with the head is not known."
        )
    mask = _find(folder, layout.masks)
    if mask is None:
        warnings.append(
            f"{folder.name} has no brain mask of the series ({', '.join(layout.masks)}): one is "
            "made."
        )
    deviation = _find(folder, [layout.deviation] if layout.deviation else [])
    if layout.deviation and deviation is None:
        warnings.append(
            f"{folder.name} has no {layout.deviation}: the deviation of the gradient coils is not "
            "corrected, in the tensor fit either."
        )
    preprocessing = Preprocessing(
        by=layout.by,
        space=layout.space,
        mask=mask,
        gradient_deviation=deviation,
        is_nominal=deviation is None,
    )
    image, bval = folder / layout.image, folder / layout.bvals
    for path in (image, bval, bvec):
        if fault := find_link_out(path, folder):
            raise fault
    entities = {"subject": label} | ({"session": session} if session else {})
    return open_series(
        image,
        GradientFiles(bval=bval, bvec=bvec),
        entities=entities,
        preprocessing=preprocessing,
        root=reading.root,
        options=reading.gradient_options,
        warnings=warnings,
    )


def _find(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of some files that exists, fetched or not, and is the participant's own."""
    for name in names:
        path = folder / name
        require_content(path, LayoutError)
        if path.exists():
            if fault := find_link_out(path, folder):
                raise fault
            return path
    return None


def _find_t1w(layout: FolderLayout, folder: Path) -> tuple[PreparedT1w | None, list[InputError]]:
    """Return the T1w image, and the errors of what cannot be used."""
    for files in layout.t1w:
        image = _find(folder, [files.image])
        mask = _find(folder, [files.mask]) if files.mask else None
        if image is None or (files.mask and mask is None):
            continue
        return open_t1w(
            PreparedT1w(
                path=image,
                mask=mask,
                is_brain=files.is_brain,
                is_unbiased=files.is_unbiased,
                is_acpc=layout.space == "ACPC",
            )
        )
    return None, []


def _misnamed(folder: Path, layout: FolderLayout) -> LayoutError:
    return LayoutError(
        f"{folder.name!r} does not tell participant and visit",
        path=folder,
        expected=layout.name_rule,
        advice="rename the folder, or list it in .bidsignore",
    )
