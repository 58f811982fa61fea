"""Places of the participants' pages: root, participant's folder, or a page for each session."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dmri_fm_workflows.options import REPORT_LEVELS


def page_path(participant: str, level: str, session: str = "") -> PurePosixPath:
    """Return the path of a page, relative to the output folder.

    Parameters
    ----------
    participant, session
        With the prefix; the session is empty where the dataset has none.
    level
        One of `REPORT_LEVELS`.

    Examples
    --------
    >>> [str(page_path("sub-01", level, "ses-a")) for level in ("root", "subject", "session")]
    ['sub-01.html', 'sub-01/sub-01.html', 'sub-01/ses-a/sub-01_ses-a.html']
    >>> str(page_path("sub-01", "session"))
    'sub-01/sub-01.html'
    """
    if level == "root":
        return PurePosixPath(f"{participant}.html")
    if level == "session" and session:
        return PurePosixPath(participant, session, f"{participant}_{session}.html")
    return PurePosixPath(participant, f"{participant}.html")


def list_viewers(output_dir: str | Path, participant: str) -> list[PurePosixPath]:
    """Return the viewers of a participant's series, relative to the output folder."""
    folder = Path(output_dir, participant, "figures")
    return sorted(
        PurePosixPath(participant, "figures", path.name)
        for path in folder.glob("*_desc-viewer_dwi.html")
    )


def list_pages(
    output_dir: str | Path, participant: str, levels: Iterable[str] = REPORT_LEVELS
) -> list[PurePosixPath]:
    """Return the pages of a participant that exist at some levels, relative to the output folder.

    Without sessions, the page of the level `session` is that of `subject`.
    """
    output_dir = Path(output_dir)
    sessions = sorted(p.name for p in (output_dir / participant).glob("ses-*"))
    paths = dict.fromkeys(
        page_path(participant, level, session) for level in levels for session in sessions or [""]
    )
    return [path for path in paths if (output_dir / path).is_file()]
