"""Checksums of a participant's files: what is named, what counts as the app's, what is refused."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dmri_fm.errors import InputError, LayoutError
from dmri_fm_lab.__main__ import main
from dmri_fm_workflows.execution.provenance import (
    Provenance,
    find_complete,
    measure_outputs,
    write_provenance,
)
from dmri_fm_workflows.outputs import manifest
from dmri_fm_workflows.outputs.manifest import MANIFEST, Finding, verify_outputs
from dmri_fm_workflows.outputs.publish import publish_text

RECORD = Provenance(
    participant="01", status="complete", run_uuid="20260101-000000_a", version="0",
    command="drope-bidsapp", started="", finished="", fingerprint="abc",
)  # fmt: skip


def write(out: Path, *names: str, record: Provenance = RECORD) -> Provenance:
    """Write files, the page and the record of a run."""
    files = [out / f"sub-{record.participant}" / name for name in names]
    for path in files:
        publish_text(f"content of {path.name}", path)
    publish_text("page", out / f"sub-{record.participant}.html")
    record = replace(record, outputs=measure_outputs(out, files))
    write_provenance(out, record)
    return record


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two participants with two files each, a page and a record."""
    folder = tmp_path / "out"
    for label in ("01", "02"):
        write(folder, "dwi/a.nii.gz", "dwi/a.json", record=replace(RECORD, participant=label))
    return folder


def test_untouched_outputs_have_no_findings_and_coreutils_agrees(out: Path) -> None:
    assert verify_outputs(out) == (8, [])
    command = ["sha256sum", "--check", "--strict", f"sub-01/{MANIFEST}"]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=True)
    assert done.stdout.count(": OK") == 4


def test_each_change_is_named(out: Path) -> None:
    dwi = out / "sub-01" / "dwi"
    (dwi / "a.nii.gz").write_text("content of b.nii.gz")  # of the same size
    (dwi / "a.json").unlink()
    (dwi / "notes.txt").write_text("mine")
    (dwi / "elsewhere").symlink_to(out.parent)
    (out / "sub-01.html").write_text("another page")
    (out / "sub-01" / "log" / RECORD.run_uuid / "crash-1.txt").write_text("of a log, not checked")
    forged = out / "sub-01" / "log" / "forged" / "provenance.json"
    forged.parent.mkdir()
    forged.write_text("{}")
    _, findings = verify_outputs(out)
    assert {(f.state, f.path) for f in findings} == {
        ("changed", "sub-01/dwi/a.nii.gz"),
        ("missing", "sub-01/dwi/a.json"),
        ("additional", "sub-01/dwi/notes.txt"),
        ("additional", "sub-01/dwi/elsewhere"),
        ("changed", "sub-01.html"),
        ("additional", "sub-01/log/forged/provenance.json"),
    }
    assert verify_outputs(out, ["sub-02"]) == (4, [])


def test_participant_without_a_manifest_is_not_verified(out: Path) -> None:
    (out / "sub-01" / MANIFEST).unlink()
    shutil.rmtree(out / "sub-02")  # its page is left
    assert verify_outputs(out) == (
        0, [Finding("sub-01", "no manifest"), Finding("sub-02", "no manifest")]
    )  # fmt: skip


def test_partial_run_keeps_the_checksums_of_what_earlier_runs_wrote(out: Path) -> None:
    (out / "sub-01" / "dwi" / "notes.txt").write_text("mine")
    later = replace(RECORD, run_uuid="20260102-000000_b", is_partial=True)
    write(out, "dwi/b.json", record=later)
    (out / "sub-01" / "dwi" / "a.json").unlink()
    _, findings = verify_outputs(out, ["01"])
    # What a user put there never becomes the app's.
    assert {(f.state, Path(f.path).name) for f in findings} == {
        ("missing", "a.json"), ("additional", "notes.txt")
    }  # fmt: skip


def test_run_killed_between_manifest_and_record_is_not_complete(out: Path, monkeypatch) -> None:
    from dmri_fm_workflows.execution import provenance

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    later = replace(RECORD, run_uuid="20260102-000000_b", fingerprint="later")
    monkeypatch.setattr(provenance, "publish_text", killed)
    with pytest.raises(KeyboardInterrupt):
        write(out, "dwi/a.json", record=later)
    monkeypatch.undo()
    assert find_complete(out, "01", "later") is None
    missing = f"sub-01/log/{later.run_uuid}/provenance.json"
    assert verify_outputs(out, ["01"])[1] == [Finding(missing, "missing")]
    write(out, "dwi/a.json", record=later)
    assert verify_outputs(out, ["01"])[1] == []


@pytest.mark.parametrize(
    "line",
    [
        "sub-01/dwi/a.json",
        f"{'0' * 64}  ../secret",
        f"{'0' * 64}  sub-01/../../secret",
        f"{'0' * 64}  /etc/passwd",
        f"{'0' * 64}  sub-02/dwi/a.json",
        f"{'0' * 63}g  sub-01/dwi/a.json",
    ],
)
def test_manifest_that_the_app_did_not_write_is_refused(out: Path, line: str) -> None:
    path = out / "sub-01" / MANIFEST
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match="line 5"):
        verify_outputs(out)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        verify_outputs(out)


def test_record_of_files_elsewhere_adds_no_checksum(out: Path) -> None:
    (out.parent / "secret").write_text("x")
    names = ["../secret", str(out.parent / "secret"), "sub-02/dwi/a.json", f"sub-01/{MANIFEST}"]
    manifest.write_manifest(out, "sub-01", names)
    assert (out / "sub-01" / MANIFEST).read_text() == ""


def test_command(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(out)]) == 0
    assert capsys.readouterr().out == "8 files with a checksum: all as written\n"
    (out / "sub-02" / "dwi" / "a.json").unlink()
    assert main(["verify", str(out), "--participant-label", "02"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "missing\tsub-02/dwi/a.json",
        "4 files with a checksum: 1 missing",
    ]
    assert main(["verify", str(out), "--participant-label", "99"]) == 1
    assert "no outputs of sub-99" in capsys.readouterr().err
    with pytest.raises(LayoutError, match="any participant"):
        verify_outputs(out / "sub-01")
