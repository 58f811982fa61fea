"""Reading of a preprocessed dataset: which layout it has, and its participants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dmri_fm.content import require_content, require_installed
from dmri_fm.errors import InputError, LayoutError
from dmri_fm.gradient_options import GradientOptions
from dmri_fm_workflows.bids.dataset import read_name
from dmri_fm_workflows.bids.listing import list_entries, list_folders
from dmri_fm_workflows.bids.preprocessed.derivatives import SERIES, read_derivatives
from dmri_fm_workflows.bids.preprocessed.folders import read_folders
from dmri_fm_workflows.bids.preprocessed.layouts import LAYOUTS, FolderLayout
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.records import Dataset


def read_preprocessed(
    root: str | Path,
    *,
    participant_labels: Sequence[str] | None = None,
    session_labels: Sequence[str] | None = None,
    gradient_options: GradientOptions = GradientOptions(),  # noqa: B008 (frozen)
    ignored: Sequence[str] = (),
) -> Dataset:
    """Read a dataset whose series were corrected before.

    Its layout follows from the files in it. A scan that cannot be used becomes a
    :class:`~dmri_fm_workflows.bids.Problem` and does not stop the others.

    Parameters
    ----------
    root
        Folder that holds those of the participants.
    participant_labels
        With or without `sub-`; all participants if None.
    session_labels
        With or without `ses-`; all sessions if None.
    gradient_options
        How gradient files are read.
    ignored
        Images that are not used: `t1w`, or none.

    Returns
    -------
    Dataset
        Participants that have a usable series, and problems.

    Raises
    ------
    LayoutError
        If the layout is none of those that are known, or a label is unknown.
    """
    root = Path(root).resolve()
    wanted = (
        None if session_labels is None else {str(s).removeprefix("ses-") for s in session_labels}
    )
    reading = Reading(root, {}, wanted, gradient_options, tuple(ignored))
    layout = find_layout(reading)
    if layout is None:
        participants, problems = read_derivatives(reading, participant_labels)
        name = read_name(root)
    else:
        participants, problems = read_folders(reading, layout, participant_labels)
        has_name = (root / "dataset_description.json").exists()
        name = read_name(root) if has_name else root.name
    if not participants and not problems:
        raise _no_series(root, session_labels)
    return Dataset(root, name, tuple(participants), tuple(problems))


def find_layout(reading: Reading) -> FolderLayout | None:
    """Return the layout of a dataset; None for BIDS derivatives.

    Raises
    ------
    LayoutError
        If it has none of them, or two.
    """
    root = reading.root
    if not root.is_dir():
        raise LayoutError("folder is missing", path=root, expected="a preprocessed dataset")
    found: list[FolderLayout | None] = [layout for layout in LAYOUTS if layout.list_folders(root)]
    if _has_derivatives(reading):
        found.append(None)
    if len(found) == 1:
        return found[0]
    if found:
        raise LayoutError(
            "two layouts in one folder: " + " and ".join(map(_pattern, found)),
            path=root,
            expected="one of them",
            advice="move the participants of one pipeline into a folder of their own",
        )
    for path in list_entries(root):
        # Nothing was fetched: no layout can be told.
        require_content(path, LayoutError)
        require_installed(path, LayoutError)
    inside = [layout for layout in LAYOUTS if (root / layout.image).exists()]
    raise LayoutError(
        f"the folder of a participant, with {inside[0].image}"
        if inside
        else "no preprocessed series",
        path=root,
        expected="a folder that holds " + "; or ".join(map(_pattern, (None, *LAYOUTS))),
        advice=_advise_above(root, inside[0])
        if inside
        else "give the folder that holds those of the participants; for a raw dataset leave out "
        "--input-type",
    )


def _advise_above(folder: Path, layout: FolderLayout) -> str:
    """Say how to ask for a participant whose own folder was given."""
    owner = layout.find_owner(folder.name)
    if owner is None:
        return (
            f"name the folder by the rule of the layout, {layout.name_rule}, and give that above"
        )
    session = f" --session-label {owner[1]}" if owner[1] else ""
    return f"give the folder above, {folder.parent}, and --participant-label {owner[0]}{session}"


def _has_derivatives(reading: Reading) -> bool:
    folders = list_folders(reading.root, "sub-", reading.is_ignored)
    patterns = (f"dwi/*{SERIES}.nii*", f"ses-*/dwi/*{SERIES}.nii*")
    return any(next(f.glob(pattern), None) for f in folders for pattern in patterns)


def _pattern(layout: FolderLayout | None) -> str:
    if layout is None:
        return f"sub-*/[ses-*/]dwi/*_{SERIES}.nii.gz (BIDS derivatives, as of QSIPrep or this app)"
    return f"*/{layout.image} ({layout.by})"


def _no_series(root: Path, sessions: Sequence[str] | None) -> InputError:
    asked = "" if sessions is None else f" in session {', '.join(sorted(sessions))}"
    return LayoutError(
        f"no preprocessed series{asked}",
        path=root,
        expected="a series of a participant and session that are asked for",
        advice="check the labels; --dry-run prints what is there",
    )
