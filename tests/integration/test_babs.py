"""A job of BABS, from `babs init` with the settings of the documentation to the merged zip.

The job's script runs in a shell, not under Slurm, and a stand-in for Singularity starts the
installed app. Skipped without BABS, DataLad and git-annex.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dmri_fm_lab.simulate import simulate_dataset
from dmri_fm_workflows.outputs.manifest import verify_outputs

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("babs", "datalad", "git-annex", "7z")
NAME = "drope-bidsapp-0-1-0"

#: Starts the app for `singularity run FLAGS IMAGE ARGUMENTS`; unknown flags fail.
SINGULARITY = f"""#!/usr/bin/env bash
set -euo pipefail
[ "$1" = run ]; shift
while [ "${{1:0:1}}" = - ]; do
  case $1 in
    -B) shift 2 ;;
    --containall) shift ;;
    --env) export "$2"; shift 2 ;;
    *) echo "unknown flag $1" >&2; exit 2 ;;
  esac
done
[ -e "$1" ] || {{ echo "no image $1" >&2; exit 2; }}
shift
export PYTHONPATH={ROOT}:{ROOT / "workflows"}:{ROOT / "lab"}
exec {sys.executable} -m dmri_fm_workflows "$@" --models tensor --sloppy
"""


@pytest.mark.slow
def test_a_job_of_babs_leaves_a_zip_that_can_be_verified(tmp_path: Path) -> None:
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    (tmp_path / "bin").mkdir()
    # Nothing is submitted here, and no job is waiting.
    slurm = {"sbatch": "#!/bin/sh\nexit 1\n", "squeue": "#!/bin/sh\n"}
    for name, text in {"singularity": SINGULARITY, **slurm}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "scratch").mkdir()
    (tmp_path / ".gitconfig").write_text("[user]\nname = A\nemail = a@example.org\n")
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    for name in ("PYTHONPATH", "TEMPLATEFLOW_HOME"):
        environment.pop(name, None)

    def call(*words: str | Path, folder: Path = tmp_path, **variables: str) -> str:
        done = subprocess.run(
            list(map(str, words)), cwd=folder, env=environment | variables, capture_output=True,
            text=True, check=False, timeout=1500,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    bids, containers = tmp_path / "bids", tmp_path / "containers"
    simulate_dataset(bids, n_participants=2, seed=0, n_directions=6, voxel_size_mm=4.0)
    shutil.rmtree(bids / "derivatives")
    call("datalad", "create", "--force", bids)
    call("datalad", "save", "-m", "raw data", folder=bids)
    call("datalad", "create", containers)
    (tmp_path / "image.sif").write_text("stands for the image\n")
    call("datalad", "containers-add", NAME, "--url", tmp_path / "image.sif", folder=containers)

    settings = yaml.safe_load((ROOT / "docs" / "hpc" / "babs.yaml").read_text())
    settings["input_datasets"]["BIDS"]["origin_url"] = str(bids)
    settings["script_preamble"] = "true"
    settings["job_compute_space"] = str(tmp_path / "scratch")
    (tmp_path / "babs.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    project = tmp_path / "project"
    call("babs", "init", "--container_ds", containers, "--container_name", NAME,
         "--container_config", tmp_path / "babs.yaml", "--processing_level", "subject",
         "--queue", "slurm", project)  # fmt: skip

    code = project / "analysis" / "code"
    template = yaml.safe_load((code / "submit_job_template.yaml").read_text())["cmd_template"]
    script, source, target, table = shlex.split(template)[-4:]
    Path(table).write_text("sub_id,job_id,task_id\nsub-01,9,1\nsub-02,9,2\n")
    lock = project / "analysis" / ".lock"
    said = call("bash", script, source, target, table, folder=tmp_path / "scratch",
                SLURM_ARRAY_JOB_ID="9", SLURM_ARRAY_TASK_ID="2", DSLOCKFILE=str(lock))  # fmt: skip
    assert said.splitlines()[-1] == "SUCCESS"
    assert not list((tmp_path / "scratch").iterdir()), "the job leaves its node as it was"

    call("babs", "merge", project)
    results = tmp_path / "results"
    call("datalad", "clone", f"ria+file://{project / 'output_ria'}#~data", results)
    (zipped,) = results.glob("*.zip")
    assert zipped.name == f"sub-02_{NAME}.zip"
    call("datalad", "get", zipped, folder=results)
    call("7z", "x", zipped, f"-o{tmp_path / 'unpacked'}")
    out = tmp_path / "unpacked" / "drope-bidsapp"
    assert (out / "sub-02.html").is_file()
    assert not (out / "sub-01").exists()
    n_files, findings = verify_outputs(out)
    assert (n_files > 50, findings) == (True, []), "as it was written, in another place"
