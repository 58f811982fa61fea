"""Boutiques descriptor of the app, from its parser; `make docs` writes it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dmri_fm import __version__
from dmri_fm_workflows.cli import build_parser

__all__ = ["describe_app"]


def describe_app() -> dict[str, Any]:
    """Return the descriptor, in schema 0.5 of Boutiques."""
    actions = [a for a in build_parser()._actions if a.dest not in ("help", "version")]
    inputs = [_describe_input(action) for action in actions]
    keys = [entry["value-key"] for entry in inputs]
    return {
        "name": "drope-bidsapp",
        "tool-version": __version__,
        "schema-version": "0.5",
        "description": "BIDS App for diffusion MRI: corrected images, tensor maps, network "
        "features, reports and group tables.",
        "command-line": " ".join(["drope-bidsapp", *keys]),
        "container-image": {"type": "docker", "image": f"drope-bidsapp:{__version__}"},
        "inputs": inputs,
        "output-files": [
            {
                "id": "output",
                "name": "Derivatives dataset",
                "description": "BIDS derivatives, reports, group tables.",
                "path-template": "[OUTPUT_DIR]",
                "optional": False,
            }
        ],
        "error-codes": [
            {
                "code": 1,
                "description": "At least one scan failed, or an output could not be written.",
            },
            {"code": 2, "description": "Wrong usage or input: nothing was started."},
            {
                "code": 130,
                "description": "Interrupted; the same command goes on where this run stopped.",
            },
        ],
        "tags": {
            "domain": ["neuroinformatics", "diffusion mri"],
            "bids-app": ["participant", "group"],
        },
    }


def _describe_input(action: argparse.Action) -> dict[str, Any]:
    flag = next((o for o in action.option_strings if o.startswith("--")), None)
    name = (flag or action.dest).removeprefix("--").replace("-", "_")
    found: dict[str, Any] = {
        "id": name,
        "name": name.replace("_", " ").capitalize(),
        "description": (action.help or "").replace("%%", "%"),
        "value-key": f"[{name.upper()}]",
        "type": _type_of(action),
    }
    if action.type is int:
        found["integer"] = True
    found["optional"] = flag is not None
    if flag:
        found["command-line-flag"] = flag
    if action.nargs == "+":
        found |= {"list": True, "min-list-entries": 1}
    if action.choices:
        found["value-choices"] = list(action.choices)
    return found


def _type_of(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "Flag"
    if action.type in (int, float):
        return "Number"
    # What must be there beforehand; folders that the app makes are strings.
    return "File" if action.metavar == "FILE" or action.dest == "bids_dir" else "String"


if __name__ == "__main__":
    print(json.dumps(describe_app(), indent=2, ensure_ascii=False))
