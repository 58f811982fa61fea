"""The page of all options, from the parsers: `python -m dmri_fm_lab.usage docs/usage.md`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from dmri_fm_lab.__main__ import build_parser as build_commands
from dmri_fm_workflows import cli
from dmri_fm_workflows.outputs.docs import write_page

_INTRODUCTION = """\
# Options
<!-- Written from the parsers by `make docs`: do not edit. -->

`drope-bidsapp` is the BIDS App; `dmri-fm` holds what stands beside it: group statistics,
prediction, simulation, training and evaluation. Both print this with `--help`. Options that other
apps have are [understood under their names there][other apps].

[other apps]: interoperability.md#options-of-fmriprep-and-qsiprep
"""


def usage_page() -> str:
    """Return the page, Markdown."""
    app = cli.build_parser()
    lines = [_INTRODUCTION, "## drope-bidsapp\n", *_describe(app, 3)]
    codes = "; ".join(f"{code}: {meaning}" for code, meaning in cli.EXIT_CODES.items())
    lines += [f"Exit codes: {codes}.\n", "## dmri-fm\n"]
    for name, parser in _commands(build_commands(), "dmri-fm"):
        lines += [f"### {name}\n", *_describe(parser, 0)]
    return "\n".join(lines).rstrip() + "\n"


def _commands(
    parser: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield a parser's commands that have none below them, with their names."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in below:
        for command, child in action.choices.items():
            yield from _commands(child, f"{name} {command}")
    if not below:
        yield name, parser


def _describe(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """Yield the tables of a parser's options, each under a heading of a level; 0: one table."""
    if parser.description:
        yield f"{parser.description}\n"
    formatter = parser._get_formatter()
    groups = [
        (group.title, [a for a in group._group_actions if a.dest != "help"])
        for group in parser._action_groups
    ]
    if not level:
        groups = [(None, [action for _, actions in groups for action in actions])]
    for title, actions in groups:
        if actions:
            if title:
                yield f"{'#' * level} {title[0].upper()}{title[1:]}\n"
            yield "| option | meaning |\n|---|---|"
            for action in actions:
                meaning = formatter._expand_help(action) if action.help else ""
                yield f"| {_name(action)} | {_cell(meaning)} |"
            yield ""


def _name(action: argparse.Action) -> str:
    """Return the names of an option with its value, as code."""
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return f"`{names}`"
    value = action.metavar or (action.dest.upper() if names else action.dest)
    if action.choices is not None and action.metavar is None:
        value = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    text = " ".join([names, str(value) + (" ..." if action.nargs in ("+", "*") else "")]).strip()
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    write_page(usage_page(), "Write the page of all options.")
