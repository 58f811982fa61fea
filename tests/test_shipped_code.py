"""Code that only tests call is not the code that ships."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Folder of each package.
FOLDERS = {"dmri_fm": ".", "dmri_fm_workflows": "workflows", "dmri_fm_lab": "lab"}

#: What nothing in the packages or benchmarks refers to, and why it is there all the same.
FOR_OTHERS = {
    "handleError": "logging calls it where a message cannot be written",
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


def defined_names(module: str) -> set[str] | None:
    """Return the names that a module of the project has, submodules included; None: no module."""
    stem = ROOT / FOLDERS[module.split(".")[0]] / module.replace(".", "/")
    path = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
    if not path.is_file():
        return None
    names = {p.stem for p in stem.iterdir()} if stem.is_dir() else set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_imports_of_benchmarks_are_there() -> None:
    wrong, n_imports = [], 0
    for path, tree in parse("benchmarks"):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in FOLDERS:
                n_imports += 1
                known = defined_names(str(node.module))
                lacking = {alias.name for alias in node.names} - (known or set())
                wrong += [f"{path.name}: {node.module}.{name}" for name in sorted(lacking)]
    assert n_imports > 100
    assert not wrong
