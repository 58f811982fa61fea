"""Files from outside are read by the readers that check them, and by nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Calls that read a file or a text without our checks, and where they may stand.
UNCHECKED = {
    "nib.load": set(),
    "nibabel.load": set(),
    "nib.Nifti1Image.from_filename": set(),
    "json.load": set(),
    # The strict reader itself, the answer of a program that we start, and a record in a Parquet
    # file of our own: where it cannot be read, or is not what it should be, all maps are read.
    "json.loads": {
        "dmri_fm/json_files.py",
        "workflows/dmri_fm_workflows/group/reuse.py",
        "workflows/dmri_fm_workflows/validation.py",
    },
    "pickle.load": set(),
    # Of a training run that the same person started; and tensors alone, whose names and shapes
    # are checked.
    "torch.load": {
        "lab/dmri_fm_lab/evaluate/network_runs.py",
        "lab/dmri_fm_lab/train/comparison.py",
        "lab/dmri_fm_lab/train/runs.py",
        "dmri_fm/encoders/drope/authors_checkpoint.py",
    },
}


@pytest.fixture(scope="module")
def calls() -> dict[str, set[str]]:
    """Names of the functions that each module calls."""
    return {
        path.relative_to(ROOT).as_posix(): {
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        }
        for folder in ("dmri_fm", "workflows", "lab")
        for path in (ROOT / folder).rglob("*.py")
    }


@pytest.mark.parametrize("name", UNCHECKED)
def test_files_pass_the_readers_that_check_them(calls, name) -> None:
    assert {path for path, names in calls.items() if name in names} == UNCHECKED[name]
