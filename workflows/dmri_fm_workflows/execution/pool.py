"""nipype's process pool, which notices the death of workers, and ends them with the run."""

from __future__ import annotations

import fcntl
import gc
import multiprocessing
import multiprocessing.util
import os
import select
import signal
import tempfile
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from socket import gethostname

import nipype.pipeline.engine as pe
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer

from dmri_fm.errors import OutputError
from dmri_fm_workflows.execution.stopping import STOP
from dmri_fm_workflows.execution.usage import ITERATION_OF, USAGE_KEY, Usage, run_measured

#: Modules that every worker needs, imported once by the server that forks the workers.
_PRELOAD = ["dmri_fm_workflows.stages.participant", "ants"]

#: Longest temporary folder, bytes: the path of a socket has 107 at most, of which multiprocessing
#: adds `/pymp-xxxxxxxx/listener-xxxxxxxx`.
_LONGEST_TEMPORARY = 75

#: Folder of the sockets where the temporary folder's path is longer.
_SHORT_TEMPORARY = "/tmp"

#: A scheduler sends SIGTERM to every process of a job, in any order: a worker that has died waits
#: this long, s, for the main process to be told as well before it counts as a failure.
SIGNAL_GRACE_S = 1.0

#: Longest wait for a node before the main process looks around again, s.
_LOOK_S = 1.0


class ProcessPoolPlugin(MultiProcPlugin):
    """Run nodes in a pool of processes, also where it has one process only.

    The main process computes nothing: it can answer a signal at any time, in the middle of a
    registration too. Then, and after any other early end, the workers are killed together with
    the programs that they started.

    nipype 1.11 looks for results at fixed times; here the end of a node is waited for.

    nipype collects garbage each time it looks. The modules that have been imported are taken
    out of its sight: with them, it keeps a third of a processor busy.

    nipype 1.11 waits for ever for a worker that was killed, by the kernel for lack of memory for
    example: the future raises in a callback that nobody hears. Here the node has failed, with a
    crash file, and the run goes on or ends.
    """

    def __init__(self, plugin_args: Mapping[str, object] | None = None) -> None:
        _place_sockets()
        multiprocessing.set_forkserver_preload(_PRELOAD)
        gc.collect()
        gc.freeze()
        super().__init__(plugin_args=plugin_args)
        # nipype's own pool, which has not started anything, offers no choice of initializer.
        self.pool: ProcessPoolExecutor
        self.pool.shutdown()
        self.pool = ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=_start_worker,
            initargs=(self._cwd,),
            mp_context=multiprocessing.get_context("forkserver"),
        )
        self._is_ending = False
        #: What each node took that ran here, without those taken up from an earlier run.
        self.usages: list[Usage] = []

    def run(self, graph: object, config: object, updatehash: bool = False) -> None:
        """Run the graph; whichever way that ends, no worker is left."""
        try:
            super().run(graph, config, updatehash=updatehash)
        except BrokenProcessPool:
            if self._is_stopped():
                raise KeyboardInterrupt from None
            raise
        finally:
            self._end_workers()

    def _end_workers(self) -> None:
        self._is_ending = True
        for pid in list(self.pool._processes or ()):
            # A worker that is still starting has no group of its own yet.
            for kill in (os.killpg, os.kill):
                with suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
        self.pool.shutdown(cancel_futures=True)

    def _send_procs_to_workers(self, updatehash: bool = False, graph: object = None) -> None:
        STOP.check()
        before = (len(self.proc_done), int(self.proc_done.sum()))
        super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        # Whoever has been started or found done may have made others ready.
        is_stuck = before == (len(self.proc_done), int(self.proc_done.sum()))
        if is_stuck and self.pending_tasks:
            running = [self._task_obj[taskid] for taskid, _ in self.pending_tasks]
            wait(running, timeout=_LOOK_S, return_when=FIRST_COMPLETED)

    def _submit_mapnode(self, jobid: int) -> bool | None:
        n_before = len(self.procs)
        is_expanded: bool | None = super()._submit_mapnode(jobid)
        for iteration in self.procs[n_before:]:
            setattr(iteration, ITERATION_OF, self.procs[jobid].fullname)
        return is_expanded

    def _submit_job(self, node: pe.Node, updatehash: bool = False) -> int:
        # As nipype's own, but for the function that the worker calls.
        self._taskid += 1
        future = self.pool.submit(run_measured, node, updatehash, self._taskid)
        future.add_done_callback(self._async_callback)
        self._task_obj[self._taskid] = future
        return int(self._taskid)

    def _async_callback(self, args: Future) -> None:
        try:
            self.usages.append(args.result()[USAGE_KEY])
            super()._async_callback(args)
        except Exception as error:
            if isinstance(error, BrokenProcessPool) and self._is_stopped():
                return
            taskid = next(t for t, future in self._task_obj.items() if future is args)
            self._taskresult[taskid] = {
                "result": None,
                "traceback": traceback.format_exc().splitlines(keepends=True),
                "hostname": gethostname(),
                "taskid": taskid,
            }

    def _is_stopped(self) -> bool:
        """Say whether the run is ending anyway, after a moment for the signal to arrive."""
        latest = time.monotonic() + SIGNAL_GRACE_S
        while not (self._is_ending or STOP.is_requested) and time.monotonic() < latest:
            time.sleep(0.02)
        return self._is_ending or STOP.is_requested


def _place_sockets() -> None:
    """Have multiprocessing put its sockets into /tmp where TMPDIR is too long for them.

    As Python does by itself from 3.14 on; TMPDIR stays the folder of all other files.

    Raises
    ------
    OutputError
        If /tmp cannot be written either.
    """
    given = tempfile.gettempdir()
    if len(os.fsencode(given)) <= _LONGEST_TEMPORARY:
        return
    tempfile.tempdir = _SHORT_TEMPORARY
    try:
        multiprocessing.util.get_temp_dir()
    except OSError as error:
        raise OutputError(
            f"sockets of worker processes cannot be made here ({error.strerror}), and the path "
            f"of TMPDIR, {given}, is too long for them",
            path=Path(_SHORT_TEMPORARY),
            expected=f"a TMPDIR of {_LONGEST_TEMPORARY} bytes at most, or a writable /tmp",
        ) from None
    finally:
        tempfile.tempdir = given


def _start_worker(cwd: str) -> None:
    """Prepare a worker: a process group of its own, which ends when the main process does."""
    process_initializer(cwd)
    # Ctrl-C goes to the terminal's group: the main process decides what becomes of the workers.
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    assert parent is not None
    # A pipe whose other end the main process holds. When that goes, however the main process
    # ended, the kernel sends SIGIO, which ends worker and programs; no thread of ours could, as
    # ANTs holds the interpreter's lock for minutes.
    pipe = parent.sentinel
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # it had gone before
        os._exit(1)
