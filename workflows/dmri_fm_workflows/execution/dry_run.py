"""`--dry-run`: the plans of all participants, printed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from rich.console import Console

from dmri_fm.errors import DmriError
from dmri_fm_workflows.execution.graph import count_steps
from dmri_fm_workflows.execution.job import Job
from dmri_fm_workflows.execution.plan_text import LATER, WIDTH, describe_plan


def print_plans(console: Console, jobs: Iterable[Job]) -> bool:
    """Print the plan of each participant; return whether all plans can be carried out."""
    is_possible = True
    for job in jobs:
        try:
            text = _describe(job)
            is_possible &= not job.plan_errors
        except DmriError as error:
            text, is_possible = f"sub-{job.label}: {error}", False
        console.print(f"\n{text}", markup=False, highlight=False, soft_wrap=True)
    console.print("", *textwrap.wrap(LATER, WIDTH), sep="\n", highlight=False, soft_wrap=True)
    return is_possible


def _describe(job: Job) -> str:
    """Return the text of a participant's plan, or raise the error that the run would raise."""
    job.check_outputs()
    unread = [f"  not read: {p.path.name if p.path else p.error.found}" for p in job.problems]
    unread += [f"  not planned: {p.error}" for p in job.plan.problems]
    if not job.plan.series:
        return "\n".join([f"sub-{job.label}: nothing can be processed", *unread])
    n_steps = count_steps(job.build())
    title = f"sub-{job.label}: {len(job.plan.series)} series, {n_steps} steps"
    if record := job.find_done():
        title = (
            f"sub-{job.label}: complete already ({record.parent.name}); nothing will be done. "
            "This is how the outputs were made:"
        )
    return "\n".join([title, *unread, describe_plan(job.plan)])
