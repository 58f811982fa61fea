"""Execution of a participant's graph: locks, processes, progress, errors and provenance."""
