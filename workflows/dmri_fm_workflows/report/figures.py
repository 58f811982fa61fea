"""Figures of the report: arrays in, one SVG file out.

Each function writes the file `out` and returns its path; the same input gives the same bytes.
Volumes may be stored in any order: they are brought to RAS before drawing. See :data:`CONVENTION`
for the sides.
"""

from __future__ import annotations

from dmri_fm_workflows.report.agreement import plot_scalar_comparison
from dmri_fm_workflows.report.anatomical import plot_contours, plot_field, plot_maps, plot_mask
from dmri_fm_workflows.report.diffusion import plot_colour_fa, plot_sampling_scheme
from dmri_fm_workflows.report.features import plot_features
from dmri_fm_workflows.report.motion import plot_carpet
from dmri_fm_workflows.report.pairs import (
    plot_before_after,
    plot_bias,
    plot_registration,
    plot_removal,
)
from dmri_fm_workflows.report.slices import CONVENTION

__all__ = [
    "CONVENTION",
    "plot_before_after",
    "plot_bias",
    "plot_carpet",
    "plot_colour_fa",
    "plot_contours",
    "plot_features",
    "plot_field",
    "plot_maps",
    "plot_mask",
    "plot_registration",
    "plot_removal",
    "plot_sampling_scheme",
    "plot_scalar_comparison",
]
