"""Figures and pages of the visual report.

:mod:`~dmri_fm_workflows.report.figures` draws, :mod:`~dmri_fm_workflows.report.participant` reads
the content of a page from the output folder, and :mod:`~dmri_fm_workflows.report.page` renders it
as HTML.
"""

from dmri_fm_workflows.report.content import (
    AnatomySection,
    Entry,
    Figure,
    ReportData,
    ReportWarning,
    RunError,
    SeriesSection,
)
from dmri_fm_workflows.report.page import page_environment, render_report
from dmri_fm_workflows.report.participant import (
    describe_series,
    standard_figure,
    write_participant_page,
)
from dmri_fm_workflows.report.quality import quality_rows

__all__ = [
    "AnatomySection",
    "Entry",
    "Figure",
    "ReportData",
    "ReportWarning",
    "RunError",
    "SeriesSection",
    "describe_series",
    "page_environment",
    "quality_rows",
    "render_report",
    "standard_figure",
    "write_participant_page",
]
