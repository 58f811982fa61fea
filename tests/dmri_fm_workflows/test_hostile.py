"""Hostile names and texts: nothing happens outside OUT, and pages escape them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.series import save_image
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.interfaces.denoise import DwiDenoise
from dmri_fm_workflows.outputs import output_path
from dmri_fm_workflows.report import RunError, summarise_run, write_participant_pages
from dmri_fm_workflows.run import run_participants
from tests.dmri_fm_workflows.hostile_texts import NASTY, assert_harmless

#: What a file may be called: no slash, no NUL.
NASTY_NAME = "$(touch pwned);`touch pwned`<img src=x onerror=alert(1)>\n'\"&.."


def snapshot(folder: Path, *, but: Path) -> dict[str, str]:
    """Return names and content of all files of a folder but those below another one."""
    found = {}
    for where, subfolders, names in os.walk(os.fsencode(folder)):
        subfolders[:] = [s for s in subfolders if Path(os.fsdecode(os.path.join(where, s))) != but]
        for name in [*names, *subfolders]:
            path = os.path.join(where, name)
            content = b"" if os.path.isdir(path) else Path(os.fsdecode(path)).read_bytes()
            found[os.fsdecode(path)] = hashlib.sha256(content).hexdigest()
    return found


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A dataset in which everything that can be chosen was chosen to do harm."""
    root = tmp_path / "raw"
    texts = {
        "text": json.dumps({"EchoTime": NASTY, "PhaseEncodingDirection": NASTY}),
        "path": json.dumps({"IntendedFor": ["../../../../../../etc/passwd", NASTY]}),
        "keys": json.dumps({NASTY: {NASTY: [NASTY]}, "TotalReadoutTime": NASTY}),
        "deep": '{"a": ' + nested(20_000) + "}",
        "long": json.dumps({"SeriesDescription": "<b>" * 2_000_000}),
        "huge": json.dumps({"a": "x" * (17 * 2**20)}),
    }
    for label, text in texts.items():
        stem = root / f"sub-{label}" / "dwi" / f"sub-{label}_dwi"
        stem.parent.mkdir(parents=True)
        stem.with_suffix(".json").write_text(text)
        stem.with_suffix(".bval").write_text(NASTY)
        stem.with_suffix(".bvec").write_text(NASTY)
        save_image(np.ones((4, 4, 3, 7)), np.eye(4), f"{stem}.nii.gz")
        (stem.parent / f"sub-{label}_acq-{NASTY_NAME}_dwi.nii.gz").write_bytes(b"x")
    for name in (f"sub-{NASTY_NAME}", "sub-..", "sub-$(touch pwned)", "sub-a\n"):
        (root / name / "dwi").mkdir(parents=True)
        (root / name / "dwi" / f"{name}_dwi.nii.gz").write_bytes(b"x")
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": NASTY, "BIDSVersion": "1.10.0", "License": NASTY, "DatasetDOI": NASTY})
    )
    (root / "participants.tsv").write_text(f"participant_id\tage\n{NASTY}\t{NASTY}\n")
    return root


def test_hostile_dataset_changes_nothing_outside_and_its_pages_are_harmless(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path, but=out)
    config = RunConfig(raw, out, models=(), nprocs=1, skip_bids_validation=True)
    assert run_participants(config) == 1
    assert snapshot(tmp_path, but=out) == before
    assert not list(tmp_path.rglob("pwned"))
    labels = {"text", "path", "keys", "deep", "long", "huge"}
    assert {p.stem for p in out.glob("sub-*.html")} == {f"sub-{label}" for label in labels}
    for page in out.glob("sub-*.html"):
        assert_harmless(page.read_text(encoding="utf-8"))
    names = {p.relative_to(out).as_posix() for p in out.rglob("*")}
    assert not [n for n in names if set(n) & set("$;`<>\n'\"&")]
    for path in out.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    said = capsys.readouterr().out
    assert "6 of 6 participants have errors" in said
    assert len(said) < 200_000, "megabytes of a sidecar do not flood the terminal"


def test_reading_alone_names_all_of_it(raw: Path) -> None:
    problems = read_dataset(raw).problems
    assert {p.participant for p in problems} >= {"text", "path", "keys", "deep", "long", "huge"}
    assert all(len(str(p.error)) < 5000 for p in problems)


def test_texts_in_outputs_are_escaped_on_the_page(tmp_path: Path) -> None:
    stem = output_path({"subject": "01"}, "preproc_dwi", space="ACPC", extension=".json")
    content = {
        "Warnings": [NASTY], "SDCMethod": NASTY, "Denoising": NASTY, "HMCMethod": NASTY,
        "MaskMethod": NASTY, "SDCImagesNotUsed": [{"File": NASTY, "Reason": NASTY}],
        "VolumesLeftOut": {NASTY: {NASTY: NASTY}}, "Sources": [NASTY], NASTY: NASTY,
    }  # fmt: skip
    (tmp_path / stem).parent.mkdir(parents=True)
    (tmp_path / stem).write_text(json.dumps(content))
    (tmp_path / output_path({"subject": "01"}, "image_qc")).write_text(
        f"mean_fd\t{NASTY.split(chr(10))[0]}\n0.2\t{NASTY.split(chr(10))[0]}\n"
    )
    (tmp_path / output_path({"subject": "01"}, "image_qc", extension=".json")).write_text(
        json.dumps({NASTY: {"Description": NASTY, "Units": NASTY}})
    )
    error = RunError(NASTY, NASTY, scan=NASTY)
    (page,) = write_participant_pages(
        tmp_path, "01", dataset=NASTY, run=summarise_run(NASTY, [error])
    )
    text = page.read_text(encoding="utf-8")
    assert_harmless(text)
    assert text.count("&lt;script&gt;alert(1)") >= 5


def test_paths_of_work_folders_are_no_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nipype starts MRtrix3 through a shell; a program in its place writes its arguments down."""
    programs, work = tmp_path / "bin", tmp_path / "a $(touch pwned);`touch pwned` 'b"
    programs.mkdir()
    work.mkdir()
    program = programs / "dwidenoise"
    program.write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        "open('arguments', 'w').write('\\n'.join(sys.argv[1:]))\n"
        "shutil.copy(sys.argv[-2], sys.argv[-1])\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    source = work / "series $(touch pwned).nii"
    save_image(np.ones((4, 4, 3, 12)), np.eye(4), source)
    node = DwiDenoise(in_file=str(source), out_file="denoised.nii", nthreads=1)
    node.run(cwd=str(work))
    assert (work / "arguments").read_text().splitlines()[-2] == str(source)
    assert (work / "denoised.nii").exists()
    assert not list(tmp_path.rglob("pwned"))
