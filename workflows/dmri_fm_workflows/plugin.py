"""nipype's process pool, told about workers that die."""

from __future__ import annotations

import traceback
from concurrent.futures import Future
from socket import gethostname

from nipype.pipeline.plugins.multiproc import MultiProcPlugin

__all__ = ["ProcessPoolPlugin"]


class ProcessPoolPlugin(MultiProcPlugin):
    """Run nodes in a pool of processes.

    nipype 1.11 waits for ever for a worker that was killed, by the kernel for lack of memory for
    example: the future raises in a callback that nobody hears. Here the node has failed, with a
    crash file, and the run goes on or ends.
    """

    def _async_callback(self, args: Future) -> None:
        try:
            super()._async_callback(args)
        except Exception:
            taskid = next(t for t, future in self._task_obj.items() if future is args)
            self._taskresult[taskid] = {
                "result": None,
                "traceback": traceback.format_exc().splitlines(keepends=True),
                "hostname": gethostname(),
                "taskid": taskid,
            }
