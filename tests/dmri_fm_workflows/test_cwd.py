"""Work from an empty folder: what is changed meanwhile, and that all of it comes back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.cwd import absolute, current_folder, empty_folder, import_paths

LIBRARY = os.path.dirname(os.__file__)


def test_folder_is_empty_and_everything_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "matplotlibrc").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"tools:{os.pathsep}/opt/x")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "cache")
    before = dict(os.environ), list(sys.path), list(sys.argv)
    with empty_folder() as start:
        here = Path.cwd()
        assert start == current_folder() == tmp_path
        assert list(here.iterdir()) == []
        assert "" not in sys.path
        assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ["PYTHONPATH"] == f"{tmp_path / 'tools'}:/opt/x"
        assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "cache")
        code = (
            "import sys; from dmri_fm_workflows.cwd import current_folder; print(current_folder())"
        )
        child = [sys.executable, "-c", code]
        path = os.pathsep.join(p for p in sys.path if p)
        environment = os.environ | {"PYTHONPATH": path}
        told = subprocess.run(child, env=environment, capture_output=True, text=True, check=True)
        assert told.stdout.strip() == str(tmp_path)  # its own command line is relative to it
    assert Path.cwd() == tmp_path
    assert not here.exists()
    assert (dict(os.environ), sys.path, sys.argv) == before


def test_folder_that_has_been_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with empty_folder() as start:
        assert start == Path("/")
        assert Path.cwd().is_dir()
    monkeypatch.chdir(tmp_path)


def test_nowhere_to_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="temporary files"), empty_folder():
        pass


@pytest.mark.parametrize(
    ("paths", "pythonpath", "expected"),
    [
        (["/bin", "/data", LIBRARY], "/x:", ["/bin", LIBRARY]),
        (["/data", LIBRARY], ".", ["/data", LIBRARY]),  # asked for
        (["/bin", LIBRARY, "/data"], ":", ["/bin", LIBRARY, "/data"]),  # an editable installation
        (["", "/data"], "", ["/data"]),
    ],
)
def test_where_modules_come_from(paths: list[str], pythonpath: str, expected: list[str]) -> None:
    assert import_paths(paths, folder=Path("/data"), pythonpath=pythonpath) == expected


def test_absolute(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    assert absolute("link/x", tmp_path) == tmp_path / "real" / "x"
    assert absolute("/x", tmp_path) == Path("/x")
    assert absolute("~", tmp_path) == Path.home().resolve()
