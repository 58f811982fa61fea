"""Fixtures of the app's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def eddy_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `eddy_cpu` to be found: building does not run it."""
    program = tmp_path / "bin" / "eddy_cpu"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
