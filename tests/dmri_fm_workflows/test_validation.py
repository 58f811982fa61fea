"""Errors of the BIDS validator."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest


def test_validator_errors_are_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmri_fm_workflows import validation

    answer = {
        "issues": {
            "issues": [
                {"code": "EMPTY_FILE", "severity": "error", "location": "/sub-01/a.nii.gz"},
                {"code": "EMPTY_FILE", "severity": "error", "location": "/sub-02/a.nii.gz"},
                {"code": "README_FILE_MISSING", "severity": "warning"},
            ]
        }
    }
    program = tmp_path / validation.PROGRAM
    program.write_text(f"#!/bin/sh\ncat <<'EOF'\n{json.dumps(answer)}\nEOF\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert validation.validate(tmp_path) == {
        "EMPTY_FILE": ["/sub-01/a.nii.gz", "/sub-02/a.nii.gz"]
    }
    with caplog.at_level(logging.WARNING):
        validation.report_validation(tmp_path)
    assert "EMPTY_FILE in 2 files" in caplog.text
    program.write_text("#!/bin/sh\necho oops\n")
    assert validation.validate(tmp_path) is None
