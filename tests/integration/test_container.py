"""The image, where a container engine and the built image (`make image`) are at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

IMAGE = os.environ.get("DROPE_TEST_IMAGE", "drope-bidsapp")

#: Nothing but the two folders and /tmp can be written; there is no network; anyone may run it.
RUN = ("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "-u", "4321:4321")

pytestmark = pytest.mark.container


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def _image() -> None:
    if shutil.which("docker") is None or docker("version").returncode:
        pytest.skip("no container engine here")
    if docker("image", "inspect", IMAGE).returncode:
        pytest.skip(f"no image {IMAGE} here; make image, or set DROPE_TEST_IMAGE")


def test_version() -> None:
    done = docker(*RUN, IMAGE, "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("drope-bidsapp ")


def test_missing_dataset_is_named() -> None:
    done = docker(*RUN, IMAGE, "/bids", "/tmp/out", "participant")
    assert done.returncode == 2
    assert "/bids: the dataset is missing" in done.stderr


@pytest.mark.slow
@pytest.mark.realdata
def test_one_participant(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    bound = ("-v", f"{data_dir / 'ds-vendors'}:/bids:ro", "-v", f"{out}:/out")
    options = ("--participant-label", "umr", "--sloppy")
    done = docker(*RUN, *bound, IMAGE, "/bids", "/out", "participant", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "sub-umr.html").is_file()
    assert list(out.rglob("*_param-fa_dwimap.nii.gz"))
    done = docker(*RUN, *bound, IMAGE, "/bids", "/out", "group")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "group" / "report.html").is_file()
