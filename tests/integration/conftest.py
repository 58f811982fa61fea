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

#: Its folder has a module that Python imports at the start of every process.
WATCH = ROOT / "tests" / "network_watch"


@dataclass(frozen=True)
class AppRun:
    """Outcome of one call of the command line; `network` says who asked the network."""

    code: int
    text: str
    out_dir: Path
    network: Path | None = None


def run_app(
    *arguments: str | Path, timeout_s: float = 3000, network: Path | None = None
) -> tuple[int, str]:
    """Call the BIDS App in a process of its own; return exit code and all it printed."""
    paths = f"{WATCH}:{ROOT}:{ROOT / 'workflows'}:{ROOT / 'lab'}"
    done = subprocess.run(
        [sys.executable, "-m", "dmri_fm_workflows", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, "NETWORK_WATCH": str(network or "")},
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
    network = out.with_name("network")
    words = ("participant", "--participant-label", "umr", "--sloppy")
    code, text = run_app(data_dir / "ds-vendors", out, *words, network=network)
    return AppRun(code, text, out, network)


@pytest.fixture(scope="session")
def vendors(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AppRun:
    """All four scanners, default settings."""
    out = tmp_path_factory.mktemp("vendors") / "out"
    code, text = run_app(data_dir / "ds-vendors", out, "participant")
    return AppRun(code, text, out)
