"""The commands of the pages are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dmri_fm_lab.__main__ import build_parser as build_lab_parser
from dmri_fm_workflows.cli import build_parser

DOCS = Path(__file__).resolve().parents[3] / "docs"
PARSERS = {"dmri-fm": build_lab_parser, "drope-bidsapp": build_parser}


@pytest.mark.parametrize(("name", "n_commands"), [("exports.md", 3), ("group_tables.md", 2)])
def test_parsers_understand_the_commands(name: str, n_commands: int) -> None:
    text = (DOCS / name).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^\$ (dmri-fm|drope-bidsapp) (.*)$", text, re.MULTILINE)
    whole = [(program, words) for program, words in commands if "..." not in words]
    assert len(whole) == n_commands
    for program, words in whole:
        PARSERS[program]().parse_args(shlex.split(words))
