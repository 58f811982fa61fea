"""How long one participant takes, and how much memory, with every default stage on.

Usage: python benchmarks/participant.py BIDS_DIR LABEL [option ...]

Prints wall time, CPU time and the peak of the memory of all processes together (proportional
set size, so that shared pages count once).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil


def family_memory_gib(root: psutil.Process) -> float:
    """Return the proportional set size of a process and all below it, GiB."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total / 2**30


def main() -> int:
    """Run the app on one participant and print what it cost."""
    bids_dir, label, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "dmri_fm_workflows", bids_dir, str(out), "participant",
                   "--participant-label", label, *options]  # fmt: skip
        start = time.monotonic()
        with open(Path(folder) / "log.txt", "w", encoding="utf-8") as log:
            process = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            peak = 0.0
            while process.poll() is None:
                peak = max(peak, family_memory_gib(process))
                time.sleep(1.0)
        wall_min = (time.monotonic() - start) / 60
        if process.returncode:
            print((Path(folder) / "log.txt").read_text(encoding="utf-8")[-3000:])
    print(f"sub-{label}: exit {process.returncode}, {wall_min:.1f} min, peak {peak:.2f} GiB")
    return int(process.returncode)


if __name__ == "__main__":
    sys.exit(main())
