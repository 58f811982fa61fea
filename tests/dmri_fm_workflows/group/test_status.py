"""Status of participants from the records of their runs."""

from __future__ import annotations

import pytest

from dmri_fm_workflows.group.collect import Problem
from dmri_fm_workflows.group.status import read_status
from dmri_fm_workflows.outputs import publish_text


def test_complete(outputs):
    publish_text("12345", outputs.root / "sub-01" / "dwi" / "a.tsv")
    outputs.add_record("sub-01", outputs={"sub-01/dwi/a.tsv": 5})
    found = read_status(outputs.root, "sub-01", n_scans=1)
    assert (found.status, found.reason, found.n_outputs, found.n_missing) == ("complete", "", 1, 0)
    assert found.version == "0.1.0"


def test_missing_and_changed_outputs(outputs):
    publish_text("1234567", outputs.root / "sub-01" / "dwi" / "a.tsv")
    listed = {f"sub-01/dwi/{c}.tsv": 5 for c in "abcdef"}
    outputs.add_record("sub-01", outputs=listed)
    found = read_status(outputs.root, "sub-01")
    assert (found.status, found.n_missing) == ("incomplete", 6)
    assert found.reason.endswith("a.tsv, sub-01/dwi/b.tsv, sub-01/dwi/c.tsv and 3 more")


def test_failed_names_scan_stage_and_message(outputs):
    error = {"scan": "dir-AP", "stage": "preprocess", "message": "disk full\n  what to do: x"}
    outputs.add_record("sub-01", status="failed", errors=[error, "plain"])
    found = read_status(outputs.root, "sub-01")
    assert found.status == "failed"
    assert found.reason == "dir-AP: preprocess: disk full, what to do: x; plain"


def test_latest_run_wins(outputs):
    outputs.add_record("sub-01", "b", status="failed", finished="2026-01-02T00:00:00+00:00")
    outputs.add_record("sub-01", "a", finished="2026-01-03T00:00:00+00:00")
    found = read_status(outputs.root, "sub-01")
    assert (found.run_uuid, found.status) == ("a", "complete")
    outputs.add_record("sub-01", "c", status="failed", finished="2026-01-04T00:00:00+00:00")
    assert read_status(outputs.root, "sub-01").status == "failed"


def test_failed_session_is_not_hidden_by_another_one(outputs):
    def add(run, day, scans, **more):
        outputs.add_record("sub-01", run, finished=f"2026-01-{day}", scans=scans, **more)

    add("a", "01", ["sub-01_ses-1"], is_partial=True, status="failed", errors=["boom"])
    add("b", "02", ["sub-01_ses-2"], is_partial=True)
    found = read_status(outputs.root, "sub-01")
    assert (found.run_uuid, found.status, found.reason) == ("b", "failed", "boom")
    add("c", "03", ["sub-01_ses-1"], is_partial=True)
    assert read_status(outputs.root, "sub-01").status == "complete"
    add("d", "04", ["sub-01_ses-1_dir-AP"], status="failed")
    assert read_status(outputs.root, "sub-01").status == "failed"
    add("e", "05", ["sub-01_ses-1"])
    assert read_status(outputs.root, "sub-01").status == "complete"


def test_warnings_of_the_reports_are_counted(outputs):
    outputs.add_record("sub-01")
    assert read_status(outputs.root, "sub-01").n_warnings == 0
    sidecar = outputs.root / "sub-01" / "dwi" / "sub-01_space-ACPC_desc-preproc_dwi.json"
    publish_text('{"Warnings": ["no field", "few directions"]}', sidecar)
    assert read_status(outputs.root, "sub-01").n_warnings == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"status": ["complete"]},
        {"scans": 3},
        {"errors": "none"},
        {"outputs": ["sub-01/x"]},
        {"outputs": {"sub-01/x": "large"}},
        {"outputs": {"/etc/passwd": 1}},
        {"outputs": {"sub-01/../../x": 1}},
        {"outputs": {"sub-01/\0": 1}},
        {"outputs": {"sub-01/" + "x" * 5000: 1}},
        {"outputs": {"": 1}},
        {"outputs": {"sub-02/dwi/x": 1}},
        {"finished": 10**400},
    ],
)
def test_record_that_no_run_writes_is_a_reason(outputs, changes):
    outputs.add_record("sub-01", run="20260101-000000_a")
    outputs.add_record("sub-01", run="20260102-000000_b", **changes)
    found = read_status(outputs.root, "sub-01")
    assert found.status == "complete"
    assert found.run_uuid == "20260101-000000_a"
    assert "log/20260102-000000_b/provenance.json" in found.reason


def test_broken_records(outputs):
    log = outputs.root / "sub-01" / "log"
    publish_text("{", log / "1" / "provenance.json")
    publish_text("[]", log / "2" / "provenance.json")
    found = read_status(outputs.root, "sub-01")
    assert found.status == "unknown"
    assert "log/1/provenance.json cannot be read" in found.reason
    assert "log/2/provenance.json holds a list" in found.reason
    outputs.add_record("sub-01", "3")
    found = read_status(outputs.root, "sub-01")
    assert found.status == "complete"
    assert "log/1/provenance.json" in found.reason


def test_no_record_and_problems(outputs):
    (outputs.root / "sub-01").mkdir()
    problems = [Problem("sub-01", "x.tsv: empty"), Problem("sub-02", "y.tsv: empty")]
    found = read_status(outputs.root, "sub-01", problems=problems)
    assert found.status == "unknown"
    assert found.reason == "no record of a finished run (log/*/provenance.json); x.tsv: empty"
