"""Figures and pages of the visual report.

:mod:`~dmri_fm_workflows.report.figures` draws, :mod:`~dmri_fm_workflows.report.participant` reads
the content of a page from the output folder, :mod:`~dmri_fm_workflows.report.page` renders it
as HTML, and :mod:`~dmri_fm_workflows.report.writing` writes it.
"""

from dmri_fm_workflows.report.content import (
    AnatomySection,
    Entry,
    Figure,
    ReportData,
    ReportWarning,
    RunError,
    RunSummary,
    SeriesSection,
)
from dmri_fm_workflows.report.page import page_environment, render_report
from dmri_fm_workflows.report.participant import describe_series, standard_figure
from dmri_fm_workflows.report.quality import quality_rows
from dmri_fm_workflows.report.writing import summarise_run, write_participant_pages

__all__ = [
    "AnatomySection",
    "Entry",
    "Figure",
    "ReportData",
    "ReportWarning",
    "RunError",
    "RunSummary",
    "SeriesSection",
    "describe_series",
    "page_environment",
    "quality_rows",
    "render_report",
    "standard_figure",
    "summarise_run",
    "write_participant_pages",
]
