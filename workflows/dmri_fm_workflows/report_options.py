"""Options of the request about pages and the group level."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dmri_fm_workflows.options import GROUP_LEVEL, REPORT_LEVELS, REPORTS, option


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """A field for each option of these headings of `--help`, with its argument."""

    reports_only: bool = option(
        False,
        REPORTS,
        "process nothing: write the pages again from what lies in OUTPUT_DIR; `participant` those "
        "of participants, `group` these and its own",
    )
    boilerplate_only: bool = option(
        False, REPORTS, "process nothing: write the methods text (logs/CITATION.*) by the plan"
    )
    report_output_level: str = option(
        "root",
        REPORTS,
        "place of pages: OUTPUT_DIR, the participant's folder, or each session's (default: root)",
        choices=REPORT_LEVELS,
    )
    self_contained_reports: bool = option(
        False, REPORTS, "put the figures into the pages, so that one file can be sent"
    )
    report_viewer: bool = option(
        False,
        REPORTS,
        "write a viewer of each series' maps, linked from the page: one HTML file of some MB, to "
        "slice them in any direction",
    )
    qc_exclude: tuple[str, ...] = option(
        (),
        GROUP_LEVEL,
        "mark scans as excluded by a rule on columns of the image quality table or `status`, e.g. "
        "'mean_fd > 0.5 or snr_b0 < 5' (may be given several times)",
        metavar="RULE",
        is_repeated=True,
    )
    ratings: tuple[str, ...] = option(
        (),
        GROUP_LEVEL,
        "tables of ratings, as saved by the pages of reports, that are joined with the image "
        "quality table (may be given several times)",
        metavar="FILE",
        is_repeated=True,
    )
    atlas: tuple[str, ...] = option(
        (),
        GROUP_LEVEL,
        "label image in the template's space, with a table of `index` and `name` beside it or "
        "after a colon, whose regions are tabulated too (may be given several times)",
        metavar="FILE[:TABLE]",
        is_repeated=True,
    )
    bundles: Path | None = option(
        None,
        GROUP_LEVEL,
        "folder of a mask or probability image per fibre bundle in the template's space, whose "
        "weighted means are tabulated too",
    )
