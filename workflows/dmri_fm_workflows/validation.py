"""BIDS validator: its errors as warnings, where that program is installed."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

LOGGER = logging.getLogger(__name__)

PROGRAM = "bids-validator-deno"

#: Time limit: enough for thousands of participants.
TIMEOUT_S = 600.0


def validate(root: Path) -> dict[str, list[str]] | None:
    """Return the validator's errors: the files concerned, by code.

    Parameters
    ----------
    root
        The dataset.

    Returns
    -------
    dict or None
        Empty if the dataset is valid; None if the validator is missing or did not finish.
    """
    beside_python = Path(sys.executable).parent / PROGRAM
    program = shutil.which(PROGRAM) or (str(beside_python) if beside_python.exists() else None)
    if program is None:
        LOGGER.debug("%s is not installed: the dataset is not validated", PROGRAM)
        return None
    try:
        done = subprocess.run(
            [program, "--json", str(root)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        issues = json.loads(done.stdout)["issues"]["issues"]
    except (subprocess.TimeoutExpired, OSError, ValueError, KeyError) as error:
        LOGGER.warning("%s gave no answer: %s", PROGRAM, error)
        return None
    errors: dict[str, list[str]] = {}
    for issue in issues:
        if issue.get("severity") == "error":
            code = ": ".join(issue[key] for key in ("code", "subCode") if issue.get(key))
            errors.setdefault(code, []).append(issue.get("location", ""))
    return errors


def report_validation(root: Path) -> None:
    """Warn of every error code that the validator reports; reading goes on regardless.

    Reading names the scans that cannot be used.
    """
    for code, locations in (validate(root) or {}).items():
        LOGGER.warning(
            "The BIDS validator reports %s in %d files, the first is %s",
            code,
            len(locations),
            locations[0] or root,
        )
