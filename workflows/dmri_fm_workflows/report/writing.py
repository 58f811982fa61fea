"""Write the pages of a participant, where they are asked for."""

from __future__ import annotations

import shlex
import sys
from base64 import b64encode
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from dmri_fm import __version__
from dmri_fm_workflows.outputs.pages import list_pages, list_viewers, page_path
from dmri_fm_workflows.outputs.publish import publish_text
from dmri_fm_workflows.report.content import ReportData, ReportWarning, RunError, RunSummary
from dmri_fm_workflows.report.page import render_report
from dmri_fm_workflows.report.participant import list_series, read_report
from dmri_fm_workflows.report.viewer import write_viewer

#: Packages whose versions decide the numbers.
PACKAGES = ("antspyx", "deepbet", "dipy", "nibabel", "nipype", "niworkflows", "numpy", "torch")


def summarise_run(config: str, errors: Sequence[RunError]) -> RunSummary:
    """Return what a page says about the run of this process: its configuration and errors."""
    return RunSummary(
        version=__version__,
        command=shlex.join(["drope-bidsapp", *sys.argv[1:]]),
        config=config,
        software={name: version(name) for name in PACKAGES},
        errors=tuple(errors),
    )


def write_participant_pages(
    output_dir: Path,
    label: str,
    *,
    dataset: str,
    run: RunSummary,
    level: str = "root",
    is_self_contained: bool = False,
    has_viewer: bool = False,
    stale: Collection[Path] = (),
    warnings: Sequence[ReportWarning] = (),
) -> tuple[Path, ...]:
    """Write the pages of a participant from the outputs, and remove those of other levels.

    Parameters
    ----------
    output_dir
        Root of the output dataset.
    label
        Participant, without `sub-`.
    dataset
        Name of the raw dataset.
    run
        The run that made the outputs.
    level
        `root`, `subject` or `session` (:func:`~dmri_fm_workflows.outputs.pages.page_path`). A
        page of a session shows what is in its folder, and the errors of the whole run.
    is_self_contained
        Figures stand inside the pages.
    has_viewer
        A viewer of each series is written as well; without, those of earlier runs are removed.
    stale
        Outputs of earlier runs, which the pages do not show.
    warnings
        Further warnings.

    Returns
    -------
    tuple of Path
        The pages, and behind them the viewers.

    Raises
    ------
    DmriError
        If an output cannot be read, or a page cannot be written.
    """
    participant = f"sub-{label}"
    home = output_dir / participant
    there = set(home.rglob("*")).difference(stale)
    viewers = _place_viewers(output_dir, participant, there, has_viewer=has_viewer)
    sessions = sorted({p.relative_to(home).parts[0] for p in there if p.match("ses-*/*/*.json")})
    pages = []
    for session in sessions if level == "session" and sessions else [""]:
        path = page_path(participant, level, session)
        empty = ReportData(
            label,
            dataset,
            run,
            session=session,
            root="../" * (len(path.parts) - 1),
            warnings=tuple(warnings),
        )
        report = read_report(output_dir, _of_session(there, home, session), empty)
        if is_self_contained:
            # A page that is sent alone would link to a viewer that stays behind.
            alone = tuple(replace(section, viewer="") for section in report.series)
            report = replace(report, embedded=_embed(output_dir, report), series=alone)
        publish_text(render_report(report), output_dir / path)
        pages.append(path)
    for path in set(list_pages(output_dir, participant)).difference(pages):
        (output_dir / path).unlink()
    return tuple(output_dir / path for path in (*pages, *viewers))


def _place_viewers(
    output_dir: Path, participant: str, there: set[Path], *, has_viewer: bool
) -> list[PurePosixPath]:
    """Remove old viewers and write new ones; `there`, the participant's files, follows."""
    for path in list_viewers(output_dir, participant):
        (output_dir / path).unlink()
        there.discard(output_dir / path)
    if not has_viewer:
        return []
    scans = list_series(output_dir, there)
    there.update(write_viewer(output_dir, frozenset(there), scan) for scan in scans)
    return list_viewers(output_dir, participant)


def _of_session(paths: Collection[Path], home: Path, session: str) -> set[Path]:
    """Return the outputs of one session, or all without one; figures lie beside the sessions."""
    figures = f"{home.name}_{session}_*"
    return {
        p
        for p in paths
        if not session or home / session in p.parents or p.match(f"figures/{figures}")
    }


def _embed(output_dir: Path, report: ReportData) -> dict[str, str]:
    """Return the figures of a page as `data:` URIs, by path."""
    return {
        figure.path: "data:image/svg+xml;base64,"
        + b64encode((output_dir / figure.path).read_bytes()).decode("ascii")
        for figure in report.figures
    }
