"""Code that only tests call is not the code that ships."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: What nothing in the packages or benchmarks refers to, and why it is there all the same.
FOR_OTHERS = {
    "convert_authors_checkpoint": "users convert a checkpoint of the authors' by it",
    "missing_metadata": "checks an output folder",
    "pybids_config": "users give it to pybids (docs/interoperability.md)",
}


def parse(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def public_definitions(tree: ast.Module) -> Iterator[str]:
    """Yield functions, classes and methods that carry no underscore."""
    kinds = ast.FunctionDef | ast.ClassDef
    for node in tree.body:
        if isinstance(node, kinds):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (member.name for member in node.body if isinstance(member, kinds))


def references(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def test_what_is_public_is_used_by_more_than_tests() -> None:
    used = {name for _, tree in parse("dmri_fm", "workflows", "lab", "benchmarks")
            for name in references(tree)}  # fmt: skip
    unused = {
        name: path.relative_to(ROOT).as_posix()
        for path, tree in parse("dmri_fm", "workflows", "lab")
        for name in public_definitions(tree)
        if not name.startswith("_") and name not in used and name not in FOR_OTHERS
    }
    assert not unused, "use it in the app, or delete it with its tests"
    assert not FOR_OTHERS.keys() & used, "used after all: it needs no excuse"
