"""Plan of a run: every decision about a participant that needs no voxels.

A plan follows from names, headers, sidecars and gradient files alone. `--dry-run` prints it, and
the builders of the graph take every decision from it, so that the two cannot differ. Whatever only
voxels can tell (volumes without signal, a doubtful mask, b-vectors that do not follow the fibres)
becomes a warning while the graph runs.
"""

from dmri_fm_workflows.plan.records import SLOPPY_WARNING, SeriesPlan
from dmri_fm_workflows.plan.visits import ParticipantPlan, SessionPlan

__all__ = ["SLOPPY_WARNING", "ParticipantPlan", "SeriesPlan", "SessionPlan"]
