"""Runs of the app that several modules look at: each is made once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class AppRun:
    """Outcome of one call of the command line."""

    code: int
    text: str
    out_dir: Path


def run_app(*arguments: str | Path, timeout_s: float = 3000) -> tuple[int, str]:
    """Call the BIDS App in a process of its own; return exit code and all it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "dmri_fm_workflows", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'workflows'}:{ROOT / 'lab'}"},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session", name="run_app")
def give_run_app() -> Callable[..., tuple[int, str]]:
    """Give the function that calls the app."""
    return run_app


@pytest.fixture(scope="session")
def umr(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AppRun:
    """`sub-umr`, coarse settings."""
    out = tmp_path_factory.mktemp("umr") / "out"
    code, text = run_app(
        data_dir / "ds-vendors", out, "participant", "--participant-label", "umr", "--sloppy"
    )
    return AppRun(code, text, out)


@pytest.fixture(scope="session")
def vendors(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AppRun:
    """All four scanners, default settings."""
    out = tmp_path_factory.mktemp("vendors") / "out"
    code, text = run_app(data_dir / "ds-vendors", out, "participant")
    return AppRun(code, text, out)
