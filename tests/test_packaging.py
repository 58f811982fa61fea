"""What is around the code says the same as the code: descriptor, versions, packages, wheel."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import dmri_fm
from dmri_fm_workflows.cli import build_parser, parse_args
from dmri_fm_workflows.descriptor import describe_command

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "dmri_fm": ROOT / "dmri_fm",
    "dmri_fm_workflows": ROOT / "workflows/dmri_fm_workflows",
    "dmri_fm_lab": ROOT / "lab/dmri_fm_lab",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: Imports that only the extras `train`, `simulate` and `stats` bring.
OPTIONAL = {"lightning", "sklearn", "torchmetrics", "trxscan"}


def modules() -> list[str]:
    """Return the names of all modules, but for those that run when imported."""
    return sorted(
        ".".join((name, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*.py")
        if path.stem != "__main__"
    )


# --- descriptor -----------------------------------------------------------------------------


def descriptor() -> dict[str, Any]:
    return json.loads((ROOT / "descriptor.json").read_text())


def options() -> dict[str, argparse.Action]:
    """Return the parser's arguments by flag, or by name for positional ones."""
    return {
        next((o for o in a.option_strings if o.startswith("--")), a.dest): a
        for a in build_parser()._actions
        if a.dest not in ("help", "version")
    }


def test_descriptor_is_as_generated() -> None:
    """After a change of the parser: `python -m dmri_fm_workflows.descriptor descriptor.json`."""
    assert descriptor() == describe_command()


def test_descriptor_has_the_parsers_options_and_no_others() -> None:
    described = {i.get("command-line-flag", i["id"]): i for i in descriptor()["inputs"]}
    assert set(described) == set(options())
    for name, action in options().items():
        entry = described[name]
        assert entry.get("value-choices") == (list(action.choices) if action.choices else None)
        assert entry.get("list", False) == (action.nargs == "+"), name
        assert (entry["type"] == "Flag") == (action.nargs == 0), name
        assert (entry["type"] == "Number") == (action.type in (int, float)), name
        assert entry.get("integer", False) == (action.type is int), name
        assert entry["optional"] == bool(action.option_strings), name
        assert entry["description"] == (action.help or "").replace("%%", "%"), name


def run_bosh(*arguments: str) -> str:
    code = "import sys; from boutiques.bosh import bosh; print(bosh(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_boutiques_accepts_the_descriptor() -> None:
    run_bosh("validate", str(ROOT / "descriptor.json"))


def test_the_parser_understands_what_boutiques_writes(tmp_path: Path) -> None:
    (tmp_path / "bids").mkdir()
    invocation = {
        "bids_dir": str(tmp_path / "bids"),
        "output_dir": str(tmp_path / "out"),
        "analysis_level": "participant",
        "participant_label": ["01", "02"],
        "unring": True,
        "nprocs": 2,
        "mem": "16G",
        "output_resolution": 1.5,
        "models": ["tensor-refiner"],
        "sdc": "none",
    }
    path = tmp_path / "invocation.json"
    path.write_text(json.dumps(invocation))
    said = run_bosh("exec", "simulate", "-i", str(path), str(ROOT / "descriptor.json"))
    command = next(line for line in said.splitlines() if line.startswith("drope-bidsapp "))
    config = parse_args(command.split()[1:])
    assert config.participant_label == ("01", "02")
    assert (config.unring, config.nprocs, config.mem_gb) == (True, 2, 16.0)
    assert (config.output_resolution, config.models, config.sdc) == (
        1.5,
        ("tensor-refiner",),
        "none",
    )


# --- one version, one set of packages -------------------------------------------------------


def test_one_version_everywhere() -> None:
    version = dmri_fm.__version__
    assert PROJECT["dynamic"] == ["version"]
    assert descriptor()["tool-version"] == version
    assert descriptor()["container-image"]["image"] == f"drope-bidsapp:{version}"
    assert re.search(rf"^version: {re.escape(version)}$", read("CITATION.cff"), re.MULTILINE)
    assert re.search(rf"^## \[{re.escape(version)}\]", read("CHANGELOG.md"), re.MULTILINE)
    assert f"DROPE_CONTAINER=docker:drope-bidsapp:{version} " in read("Dockerfile")
    assert f"DROPE_CONTAINER=singularity:drope-bidsapp:{version}\n" in read("singularity.def")


def read(name: str) -> str:
    return (ROOT / name).read_text()


def pins() -> dict[str, str]:
    lines = (line for line in read("requirements.lock").splitlines() if not line.startswith("#"))
    return {canonicalize_name(name): v for name, v in (line.split("==") for line in lines)}


@pytest.mark.parametrize("text", PROJECT["dependencies"])
def test_lock_pins_every_dependency_within_its_range(text: str) -> None:
    requirement = Requirement(text)
    pinned = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned), f"{text}: {pinned}; run `make lock`"


def test_both_containers_start_from_the_same() -> None:
    base = re.findall(r"^FROM (\S+)", read("Dockerfile"), re.MULTILINE)
    assert set(base) == set(re.findall(r"^From: (\S+)", read("singularity.def"), re.MULTILINE))
    for name in ("Dockerfile", "singularity.def"):
        assert "-r /opt/drope/requirements.lock" in read(name)
        assert "mrtrix3" in read(name)


def third_party_imports() -> dict[str, set[str]]:
    """Return the files that import each package from outside, by its name in Python."""
    found: dict[str, set[str]] = {}
    for folder in PACKAGES.values():
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                else:
                    continue
                for name in names:
                    top = name.partition(".")[0]
                    if top not in sys.stdlib_module_names and top not in PACKAGES:
                        found.setdefault(top, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_import_is_a_declared_dependency() -> None:
    declared = {canonicalize_name(Requirement(d).name) for d in PROJECT["dependencies"]}
    homes = packages_distributions()
    missing = {
        name: sorted(where)
        for name, where in third_party_imports().items()
        if name not in OPTIONAL and not declared & {canonicalize_name(h) for h in homes[name]}
    }
    assert missing == {}


def test_every_dependency_is_imported() -> None:
    imported = {
        canonicalize_name(home)
        for name in third_party_imports()
        for home in packages_distributions().get(name, ())
    }
    declared = {canonicalize_name(Requirement(d).name) for d in PROJECT["dependencies"]}
    assert declared - imported == set()


@pytest.mark.parametrize("name", ["numpy", "scipy"])
def test_upper_limit_is_that_of_the_package_that_asks_for_it(name: str) -> None:
    """When antspyx lets go of it, so do we."""

    def limit(requirements: list[str]) -> Version:
        found = next(r for r in map(Requirement, requirements) if r.name == name)
        (upper,) = (s.version for s in found.specifier if s.operator == "<")
        return Version(upper)

    assert limit(PROJECT["dependencies"]) == limit(requires("antspyx") or [])
    line = next(x for x in read("pyproject.toml").splitlines() if x.startswith(f'  "{name}>='))
    assert "# antspyx" in line


# --- names and files ------------------------------------------------------------------------


def test_public_names_of_the_library() -> None:
    assert dmri_fm.__all__ == [
        "Dwi",
        "GradientTable",
        "__version__",
        "extract_features",
        "feature_grid",
        "fit_tensor",
        "predict_tensor",
        "resample_series",
    ]


@pytest.mark.parametrize("name", modules())
def test_all_lists_names_that_exist_once_and_sorted(name: str) -> None:
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    assert len(set(public)) == len(public)
    assert [n for n in public if getattr(module, n, None) is None] == []


def test_importing_the_library_is_quick() -> None:
    code = (
        "import sys, dmri_fm; heavy = {'torch', 'ants', 'dipy', 'numba', 'nilearn', 'numpy'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    wanted = {
        path.relative_to(folder.parent).as_posix()
        for folder in PACKAGES.values()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= packed
    data = ("maps.yaml", "pybids_config.json")
    assert {
        "dmri_fm/py.typed",
        *(f"workflows/dmri_fm_workflows/outputs/{name}" for name in data),
    } <= packed
    others = {name.partition("/")[0] for name in packed}
    assert {n for n in others if not n.endswith(".dist-info")} == set(PACKAGES)


def test_scripts_and_pages_use_options_that_exist() -> None:
    known = {o for a in build_parser()._actions for o in a.option_strings}
    for path in (ROOT / "docs/hpc/array.sbatch",):
        command = path.read_text().partition("APP_OPTIONS=(")[2].partition(")")[0]
        used = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", command))
        assert used
        assert used <= known


def test_no_test_is_skipped_for_a_package_that_make_installs() -> None:
    """What is in an extra is there where `make test` runs; its lack is a failure, not a skip."""
    listed = [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    wanted = {canonicalize_name(Requirement(r).name) for r in [*listed, *PROJECT["dependencies"]]}
    modules = {m: {*map(canonicalize_name, ds)} for m, ds in packages_distributions().items()}
    commands = re.compile(r"""(?:importorskip|which|find_spec)\(\s*["']([\w.-]+)["']""")
    skipped = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / "tests").rglob("*.py")
        for name in commands.findall(path.read_text(encoding="utf-8"))
        if wanted & {canonicalize_name(name), *modules.get(name.split(".")[0], ())}
    }
    assert skipped == set()
