"""The Boutiques descriptor, from the parser: `python -m dmri_fm_workflows.descriptor FILE`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dmri_fm import __version__
from dmri_fm_workflows.cli import EXIT_CODES, build_parser

#: Arguments that name a file or folder which has to be there.
_EXISTING = (
    "bids_dir", "bids_filter_file", "brain_masks", "bundles", "config_file", "eddy_config",
    "fix_gradients", "use_plugin",
)  # fmt: skip

#: Entries that the parser does not hold.
_FIXED = {
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
        {"code": code, "description": f"{meaning[0].upper()}{meaning[1:]}."}
        for code, meaning in EXIT_CODES.items()
        if code
    ],
    "tags": {
        "domain": ["neuroinformatics", "diffusion mri"],
        "bids-app": ["participant", "group"],
    },
}


def describe_command() -> dict[str, Any]:
    """Return the descriptor of the command line."""
    actions = [a for a in build_parser()._actions if a.dest not in ("help", "version")]
    inputs = [_describe(action) for action in actions]
    return {
        "name": "drope-bidsapp",
        "tool-version": __version__,
        "schema-version": "0.5",
        "description": "BIDS App for diffusion MRI: corrected images, tensor maps, network "
        "features, reports and group tables.",
        "command-line": " ".join(["drope-bidsapp", *(i["value-key"] for i in inputs)]),
        "container-image": {"type": "docker", "image": f"drope-bidsapp:{__version__}"},
        "inputs": inputs,
        **_FIXED,
    }


def _describe(action: argparse.Action) -> dict[str, Any]:
    """Return the entry of an argument."""
    flag = next((o for o in action.option_strings if o.startswith("--")), None)
    name = flag.removeprefix("--").replace("-", "_") if flag else action.dest
    entry: dict[str, Any] = {
        "id": name,
        "name": name.replace("_", " ").capitalize(),
        "description": (action.help or "").replace("%%", "%"),
        "value-key": f"[{name.upper()}]",
        "type": _value_type(action, name),
    }
    if action.type is int:
        entry["integer"] = True
    entry["optional"] = flag is not None
    if flag is not None:
        entry["command-line-flag"] = flag
    if action.nargs == "+":
        entry |= {"list": True, "min-list-entries": 1}
    if action.choices:
        entry["value-choices"] = list(action.choices)
    return entry


def _value_type(action: argparse.Action, name: str) -> str:
    """Return the descriptor's type of an argument."""
    if action.nargs == 0:
        return "Flag"
    if action.type in (int, float):
        return "Number"
    return "File" if name in _EXISTING else "String"


def write_descriptor(path: Path) -> None:
    """Write the descriptor as JSON."""
    text = json.dumps(describe_command(), indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_descriptor(Path(sys.argv[1]))
