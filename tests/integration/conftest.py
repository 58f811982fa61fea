"""One real scan through the whole app, shared by the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class AppRun:
    """Outcome of one call of the command line."""

    code: int
    output: str
    out_dir: Path


def run_app(*arguments: str | Path, timeout_s: float = 1500) -> tuple[int, str]:
    """Call the BIDS App in a process of its own; return exit code and all it printed."""
    command = [sys.executable, "-m", "dmri_fm_workflows", *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'workflows'}"},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def umr_run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AppRun:
    """`sub-umr`, coarse settings, participant level."""
    out = tmp_path_factory.mktemp("umr") / "out"
    code, text = run_app(
        data_dir / "ds-vendors",
        out,
        "participant",
        "--participant-label",
        "umr",
        "--sloppy",
        "--nprocs",
        "2",
    )
    return AppRun(code, text, out)
