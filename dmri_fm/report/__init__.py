"""Figures and pages of the visual report."""
