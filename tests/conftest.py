"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

#: Real scans live outside the repository; this folder, or the one DMRI_TEST_DATA names.
DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real test scans; skips the test where it is missing."""
    folder = Path(os.environ.get("DMRI_TEST_DATA", DEFAULT_DATA))
    if not (folder / "ds-vendors").is_dir():
        pytest.skip(f"no real scans at {folder}; set DMRI_TEST_DATA to the folder that holds them")
    return folder


#: What libraries read from the current folder when they are imported; none of it can be parsed.
SETTINGS = ("nipype.cfg", "matplotlibrc", ".numba_config.yaml", "bids_config.json")

#: Packages that the commands import, beside all of Python's own library.
PACKAGES = (
    "ants", "bids", "dipy", "matplotlib", "nibabel", "nipype", "niworkflows", "numba", "numpy",
    "pandas", "rich", "scipy", "sitecustomize", "torch", "usercustomize", "yaml",
)  # fmt: skip


@dataclass(frozen=True)
class Traps:
    """A folder that nobody should work in: what is imported from it or read leaves a trace.

    It has a module of every name that is imported, and the settings of libraries.
    """

    folder: Path

    @classmethod
    def set(cls, folder: Path) -> Traps:
        """Fill a folder."""
        folder.mkdir()
        # What `python -m` imports before it finds the module is out of anybody's hands.
        code = "import sys, runpy; print(*sys.modules)"
        first = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        traps = cls(folder)
        line = f"open({str(traps.sprung_file)!r}, 'a').write(__name__ + chr(10))\n"
        for name in {*sys.stdlib_module_names, *PACKAGES} - {*first}:
            (folder / f"{name}.py").write_text(line)
        for name in SETTINGS:
            (folder / name).write_text("{[\n")
            os.utime(folder / name, (1, 2))  # read before it was written: the next read is noted
        return traps

    @property
    def sprung_file(self) -> Path:
        """Names of the modules that were imported."""
        return self.folder.with_name("sprung.txt")

    def sprung(self) -> list[str]:
        """Return what was imported or, where the file system keeps times of access, read."""
        imported = self.sprung_file.read_text().split() if self.sprung_file.exists() else []
        return imported + [n for n in SETTINGS if (self.folder / n).stat().st_atime > 1]


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Traps:
    """Give a folder full of traps."""
    return Traps.set(tmp_path_factory.mktemp("traps") / "here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders whose fixtures take longest first, so that no process waits for them."""
    first = ("integration", "simulate", "evaluate")
    items.sort(key=lambda item: next(
        (i for i, folder in enumerate(first) if folder in item.path.parts), len(first)
    ))  # fmt: skip
