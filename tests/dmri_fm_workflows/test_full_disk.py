"""The command on a disk that is full, or becomes so: a file system of 64 kB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Mounts a small disk where nobody else sees it, fills it or not, and runs the command.
SCRIPT = """
mount -t tmpfs -o size=64k tmpfs "$1" || exit 77
if [ "$2" = full ]; then dd if=/dev/zero of="$1/fill" bs=1k count=64 2>/dev/null; fi
shift 2
"$@"
code=$?
ls -A1R "$PWD"
exit $code
"""


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """A dataset whose only series cannot be read, so that the run is short."""
    stem = tmp_path / "bids" / "sub-01" / "dwi" / "sub-01_dwi"
    stem.parent.mkdir(parents=True)
    for ending in (".nii.gz", ".json", ".bval", ".bvec"):
        stem.with_suffix(ending).touch()
    description = tmp_path / "bids" / "dataset_description.json"
    description.write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    return tmp_path / "bids"


@pytest.mark.slow
@pytest.mark.parametrize("state", ["full", "nearly full"])
def test_full_disk_is_said_without_a_traceback(bids: Path, tmp_path: Path, state: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [
        *("unshare", "--mount", "sh", "-c", SCRIPT, "sh", str(out), state),
        *(sys.executable, "-m", "dmri_fm_workflows", str(bids), str(out), "participant"),
        *("--models", "none", "--skip-bids-validation", "--nprocs", "1"),
        *("--work-dir", str(tmp_path / "work")),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'workflows'}:{ROOT / 'lab'}"}
    done = subprocess.run(
        command, cwd=out, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode in (1, 77) and ("unshare" in done.stderr or done.returncode == 77):
        pytest.skip("this user may not mount")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "cannot be written (No space left on device)" in " ".join(said.split())
    assert "what to do: check permissions, quota and free space" in " ".join(said.split())
    assert "Traceback" not in said
    assert said.count("the log ends here") == (state == "full")
