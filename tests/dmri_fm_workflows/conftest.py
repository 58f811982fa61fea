"""Fixtures of the app's tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import rich

from tests.browser import Browser, open_browser


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Give an empty dataset's folder."""
    folder = tmp_path / "bids"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def console_on_stdout() -> Iterator[None]:
    """Undo what a command's start does to the console of the whole process: write to stderr."""
    yield
    rich.reconfigure()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Give a running Chromium; skip without one (Debian's package `chromium`)."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Chromium is not installed")
    with open_browser(program, tmp_path_factory.mktemp("chromium")) as running:
        yield running
