"""Figures and pages of the visual report.

:mod:`dmri_fm_workflows.report.figures` draws, :mod:`dmri_fm_workflows.report.content` holds what
a page shows, and
:func:`render_report` turns it into HTML.
"""

from dmri_fm_workflows.report.content import (
    AnatomySection,
    Fact,
    Figure,
    ReportData,
    ReportWarning,
    RunError,
    SeriesSection,
    describe_series,
    standard_figure,
)
from dmri_fm_workflows.report.page import page_environment, render_report
from dmri_fm_workflows.report.quality import QualityRow, quality_rows

__all__ = [
    "AnatomySection",
    "Fact",
    "Figure",
    "QualityRow",
    "ReportData",
    "ReportWarning",
    "RunError",
    "SeriesSection",
    "describe_series",
    "page_environment",
    "quality_rows",
    "render_report",
    "standard_figure",
]
