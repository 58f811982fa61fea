"""Ends of a run that come from outside: Ctrl-C, a scheduler's time limit, `docker stop`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

#: Signals that ask a run to end.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether this process has been asked to end.

    The first signal raises `KeyboardInterrupt` wherever the main thread is. Those that follow
    (`timeout`, `scancel` and impatient users send several) are ignored, so that none of them
    interrupts the ending of the workers. Python drops an exception that is raised inside a
    destructor or a callback of the garbage collector; long loops therefore call :meth:`check`.
    """

    def __init__(self) -> None:
        self.is_requested = False

    @contextmanager
    def heard(self, *, is_last: bool = False) -> Iterator[None]:
        """Listen to the signals, and give them back to whom they belonged afterwards.

        Parameters
        ----------
        is_last
            The process ends after this: once asked, it goes on ignoring signals until then.
        """
        self.is_requested = False
        with ExitStack() as before:
            for number in SIGNALS:
                with suppress(ValueError):  # not in the main thread, which alone gets signals
                    before.callback(signal.signal, number, signal.signal(number, self._hear))
            try:
                yield
            finally:
                if is_last and self.is_requested:
                    # Ignored by the system: Python takes its own handlers down before it ends.
                    before.pop_all()
                    for number in SIGNALS:
                        signal.signal(number, signal.SIG_IGN)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self.is_requested:
            self.is_requested = True
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal has come."""
        if self.is_requested:
            raise KeyboardInterrupt


#: The request of this process: signals go to a process, not to an object.
STOP = StopRequest()
