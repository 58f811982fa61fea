"""nipype's process pool, told about workers that die."""

from __future__ import annotations

import gc
import multiprocessing
import traceback
from collections.abc import Mapping
from concurrent.futures import Future
from socket import gethostname

from nipype.pipeline.plugins.multiproc import MultiProcPlugin

__all__ = ["ProcessPoolPlugin"]


#: What every worker needs: imported once, by the server that workers are forked from.
_PRELOAD = ["dmri_fm_workflows.participant", "ants"]


class ProcessPoolPlugin(MultiProcPlugin):
    """Run nodes in a pool of processes.

    nipype collects garbage several times a second while it waits. The modules that have been
    imported are taken out of its sight: with them, it keeps a third of a processor busy.

    nipype 1.11 waits for ever for a worker that was killed, by the kernel for lack of memory for
    example: the future raises in a callback that nobody hears. Here the node has failed, with a
    crash file, and the run goes on or ends.
    """

    def __init__(self, plugin_args: Mapping[str, object] | None = None) -> None:
        multiprocessing.set_forkserver_preload(_PRELOAD)
        gc.collect()
        gc.freeze()
        super().__init__(plugin_args=plugin_args)

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
