"""Environment variables and messages of a run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmri_fm_workflows import cli, environment
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.environment import LogFile


def parse(bids: Path, *options: str) -> RunConfig:
    return cli.parse_args([str(bids), str(bids.parent / "out"), "participant", *options])


def test_environment_is_set_for_the_libraries(bids: Path, tmp_path: Path) -> None:
    environ = {"HOME": "/proc/nobody", "MPLCONFIGDIR": str(tmp_path / "mpl")}
    environment.prepare_environment(parse(bids, "--nprocs", "3"), environ)
    assert environ["NO_ET"] == "1"
    assert {environ[n] for n in environment.THREAD_VARIABLES} == {"1"}
    assert environ["MPLCONFIGDIR"] == str(tmp_path / "mpl")
    home = Path(environ["HOME"])
    (home / "file").write_text("writable")
    assert "NUMBA_CACHE_DIR" not in environ


def test_templates_may_be_read_only(bids: Path) -> None:
    # /proc cannot be written even by root. What is there is kept, what is missing is replaced.
    filled = {"HOME": str(bids), "TEMPLATEFLOW_HOME": "/proc/self"}
    environment.prepare_environment(parse(bids), filled)
    assert filled["TEMPLATEFLOW_HOME"] == "/proc/self"
    missing = {"HOME": str(bids), "TEMPLATEFLOW_HOME": "/proc/templates"}
    environment.prepare_environment(parse(bids), missing)
    assert Path(missing["TEMPLATEFLOW_HOME"]).is_dir()
    assert missing["HOME"] == str(bids)


def test_log_file_has_warnings_of_libraries(bids: Path) -> None:
    code = (
        "import logging, sys, warnings; from dmri_fm_workflows import cli, environment; "
        "config = cli.parse_args(sys.argv[1:]); environment.configure_logging(config); "
        "logging.getLogger('dmri_fm.x').info('own words'); "
        "logging.getLogger('nipype.workflow').info('node words'); warnings.warn('odd value'); "
        "print(config.run_uuid)"
    )
    out = bids.parent / "out"
    done = subprocess.run(
        [sys.executable, "-c", code, str(bids), str(out), "participant"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "default"},
    )
    log = out / "logs" / done.stdout.strip() / "drope-bidsapp.log"
    text = log.read_text()
    for words in ("own words", "node words", "odd value"):
        assert words in text
    assert "own words" in done.stderr
    assert "node words" not in done.stderr
    assert "odd value" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_full_disk_ends_the_log_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    handler, logger = LogFile("/dev/full", encoding="utf-8"), logging.Logger("of the test")
    logger.addHandler(handler)
    for _ in range(3):
        logger.warning("a message")
    handler.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("/dev/full: the log ends here ([Errno 28] No space left on device)")
