"""Live progress on the terminal: one line per participant, with its stage."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)


def say(console: Console, text: str) -> None:
    """Print a message with rich's markup; lines are not broken, so that paths can be copied."""
    console.print(text, highlight=False, soft_wrap=True)


class ParticipantProgress:
    """Show how many steps of a participant's graph are done and which ones run.

    A terminal's line is redrawn; a file or a batch system's log gets one line for each step that
    starts or fails.

    Parameters
    ----------
    console
        Where to draw.
    label
        Participant, without `sub-`.
    n_steps
        Number of nodes of the graph.
    """

    def __init__(self, console: Console, label: str, *, n_steps: int) -> None:
        self._console = console
        self._label = label
        self._n_steps = n_steps
        self._running: dict[str, float] = {}
        self._n_done = 0
        self._lock = threading.Lock()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]sub-{task.fields[label]}[/]"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("starting", total=n_steps, label=label)

    def __enter__(self) -> ParticipantProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        error_class: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.update(self._task, description="")
        self._bar.stop()

    def update(self, stage: str, status: str) -> None:
        """Take note of a step that starts, ends or fails.

        Parameters
        ----------
        stage
            Text for the user, for example `preprocess: estimate motion (dir-AP)`.
        status
            `start`, `end` or `exception`.
        """
        with self._lock:
            if status == "start":
                self._running[stage] = time.monotonic()
            else:
                self._running.pop(stage, None)
                self._n_done += 1
            if not self._console.is_terminal:
                if status != "end":
                    word = "failed: " if status == "exception" else ""
                    self._console.print(
                        f"sub-{self._label} [{self._n_done}/{self._n_steps}] {word}{stage}",
                        markup=False,
                        highlight=False,
                    )
                return
            if status == "exception":
                self._console.print(f"[red]failed[/] sub-{self._label} {stage}", highlight=False)
            description = ", ".join(self._running) or "waiting"
            self._bar.update(self._task, completed=self._n_done, description=description)
