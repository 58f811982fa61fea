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
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import dmri_fm
from dmri_fm.project import DISTRIBUTION
from dmri_fm_lab.__main__ import build_parser as build_lab_parser
from dmri_fm_workflows.cli import build_parser, parse_args
from dmri_fm_workflows.descriptor import describe_command

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "dmri_fm": ROOT / "dmri_fm",
    "dmri_fm_workflows": ROOT / "workflows/dmri_fm_workflows",
    "dmri_fm_lab": ROOT / "lab/dmri_fm_lab",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: Extras that each package needs beside the base.
EXTRAS = {"dmri_fm": (), "dmri_fm_workflows": ("app",), "dmri_fm_lab": ("app", "lab")}


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


def test_descriptor_is_what_make_docs_writes() -> None:
    command = [sys.executable, "-m", "dmri_fm_workflows.descriptor"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == read("descriptor.json"), "run `make docs`"
    assert "python -m dmri_fm_workflows.descriptor > descriptor.json" in read("Makefile")


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


@pytest.mark.parametrize(
    "text", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["app"]]
)
def test_lock_pins_every_dependency_within_its_range(text: str) -> None:
    requirement = Requirement(text)
    pinned = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned), f"{text}: {pinned}; run `make lock`"


def test_both_containers_start_from_the_same() -> None:
    base = re.findall(r"^FROM (\S+)", read("Dockerfile"), re.MULTILINE)
    assert set(base) == set(re.findall(r"^From: (\S+)", read("singularity.def"), re.MULTILINE))
    for name in ("Dockerfile", "singularity.def"):
        assert "-r /opt/drope/requirements.lock" in read(name)
        assert "[app]" in read(name)
        assert "mrtrix3" in read(name)


def third_party_imports(*folders: Path) -> set[str]:
    """Return the packages from outside that the files of folders import, by name in Python."""
    nodes = [
        node
        for folder in folders
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ]
    names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    ours = {*PACKAGES, *(path.stem for folder in folders for path in folder.glob("*.py"))}
    # `_typeshed` exists for type checkers only.
    known = {*sys.stdlib_module_names, *ours, "_typeshed"}
    return {n.partition(".")[0] for n in names} - known


@cache
def homes() -> dict[str, set[str]]:
    """Return the distributions of every installed module."""
    found = packages_distributions()
    return {module: {canonicalize_name(n) for n in names} for module, names in found.items()}


def distributions(modules: set[str]) -> set[str]:
    """Return the distributions that modules come from."""
    return {home for name in modules for home in homes().get(name, {name})}


def declared(*extras: str) -> set[str]:
    """Return the distributions that the base and extras name."""
    texts = [*PROJECT["dependencies"]]
    texts += [t for extra in extras for t in PROJECT["optional-dependencies"][extra]]
    return {canonicalize_name(Requirement(t).name) for t in texts} - {DISTRIBUTION}


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_imports_what_its_extras_bring(name: str) -> None:
    imported = distributions(third_party_imports(PACKAGES[name]))
    assert imported - declared(*EXTRAS[name]) == set()


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_imports_all_that_is_declared_for_it(name: str) -> None:
    below = declared(*EXTRAS[name][:-1]) if EXTRAS[name] else set()
    # The figures and comparisons of benchmarks/ use the lab's extra.
    folders = [PACKAGES[name], *([ROOT / "benchmarks"] if name == "dmri_fm_lab" else [])]
    imported = distributions(third_party_imports(*folders))
    assert declared(*EXTRAS[name]) - below - imported == set()


def test_the_tests_import_what_the_extras_bring() -> None:
    imported = distributions(third_party_imports(ROOT / "tests") - {"benchmarks", "tests"})
    assert imported - declared("app", "lab", "test") == set()


def test_the_lab_brings_the_app() -> None:
    assert f"{DISTRIBUTION}[app]" in PROJECT["optional-dependencies"]["lab"]


def plain_installation() -> set[str]:
    """Return the distributions that `pip install .` brings, those that they need included."""
    found: set[str] = set()
    waiting = declared()
    while waiting:
        name = waiting.pop()
        found.add(name)
        needed = [r for r in map(Requirement, requires(name) or []) if applies(r)]
        waiting |= {canonicalize_name(r.name) for r in needed} - found
    return found


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


#: What a process with a plain installation runs before its command: all other packages are gone.
WITHOUT_EXTRAS = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent)
"""


def run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    plain = plain_installation()
    absent = {
        name for name, found in homes().items() if not plain & found and name not in PACKAGES
    }
    assert {"nipype", "niworkflows", "bids", "fsl", "lightning", "trxscan"} <= absent
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS.format(absent=absent) + code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ":".join(str(p.parent) for p in PACKAGES.values())},
    )


def test_the_core_runs_without_extras(tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    names = [n for n in modules() if n.partition(".")[0] == "dmri_fm"]
    done = run_without_extras(
        f"""
import importlib
import numpy as np
from dmri_fm import Dwi, GradientTable
from dmri_fm_lab.__main__ import main
for name in {names}:
    importlib.import_module(name)
bvecs = np.random.default_rng(0).normal(size=(10, 3))
bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
gtab = GradientTable(np.r_[0, np.full(9, 1000.0)], np.r_[np.zeros((1, 3)), bvecs[1:]])
Dwi.from_arrays(np.full((3, 3, 3, 10), 9.0), np.eye(4), gtab).save({str(tmp_path / "scan")!r})
sys.exit(main(["tensor", {str(scan)!r}, {str(tmp_path / "maps")!r}]))
"""
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "maps_model-tensor_param-fa_dwimap.nii.gz").is_file()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack our wheel into a folder."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("site")
    (wheel,) = WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"]
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("dmri_fm_workflows.cli", ["bids", "out", "participant"], "app"),
        ("dmri_fm_workflows.cli", ["bids", "out", "group"], "app"),
        ("dmri_fm_lab.__main__", ["simulate", "out"], "lab"),
        ("dmri_fm_lab.__main__", ["train", "tensor-refiner", "run"], "lab"),
        ("dmri_fm_lab.__main__", ["pretrain", "drope", "run"], "lab"),
        ("dmri_fm_lab.__main__", ["evaluate", "tensor", "bids"], "lab"),
    ],
)
def test_commands_say_which_extra_they_lack(
    module: str, arguments: list[str], extra: str, installed: Path, tmp_path: Path
) -> None:
    """Our wheel in a Python that has no other package."""
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); from {module} import main; "
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{code}sys.exit(main({arguments}))"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"install them with: pip install 'drope-bidsapp[{extra}]'")
    assert "nipype" in line
    assert ("trxscan" in line) == (extra == "lab")
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import dmri_fm", {"torch", "ants", "dipy", "numba", "nilearn", "scipy", "numpy"}),
        ("from dmri_fm import Dwi, fit_tensor", {"torch", "ants", "nilearn", "h5py"}),
    ],
)
def test_importing_the_library_is_quick(statement: str, absent: set[str]) -> None:
    code = f"import sys; {statement}; sys.exit(' '.join({absent} & set(sys.modules)) or None)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_wheel_holds_every_file_of_the_packages(installed: Path) -> None:
    packed = {p.relative_to(installed).as_posix() for p in installed.rglob("*") if p.is_file()}
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
        *(f"dmri_fm_workflows/outputs/{name}" for name in data),
    } <= packed
    others = {name.partition("/")[0] for name in packed}
    assert {n for n in others if not n.endswith(".dist-info")} == set(PACKAGES)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_of_pages_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_scripts_use_options_that_exist() -> None:
    known = {o for a in build_parser()._actions for o in a.option_strings}
    script = read("docs/hpc/array.sbatch")
    command = script.partition("APP_OPTIONS=(")[2].partition(")")[0]
    used = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", command))
    assert used
    assert used <= known


@pytest.mark.parametrize(
    ("command", "parser"),
    [("drope-bidsapp", build_parser()), ("dmri-fm", build_lab_parser())],
)
def test_parsers_understand_the_commands_of_the_readme(
    command: str, parser: argparse.ArgumentParser
) -> None:
    lines = [
        line
        for text in read("README.md").splitlines()
        for line in text.partition(" #")[0].split(" && ")
        if line.startswith(f"{command} ")
    ]
    assert len(lines) > 2
    for line in lines:
        assert parser.parse_args(line.split()[1:])


def test_no_test_is_skipped_for_a_package_that_make_installs() -> None:
    """What is in an extra is there where `make test` runs; its lack is a failure, not a skip."""
    listed = [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    wanted = {canonicalize_name(Requirement(r).name) for r in [*listed, *PROJECT["dependencies"]]}
    commands = re.compile(r"""(?:importorskip|which|find_spec)\(\s*["']([\w.-]+)["']""")
    skipped = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / "tests").rglob("*.py")
        for name in commands.findall(path.read_text(encoding="utf-8"))
        if wanted & {canonicalize_name(name), *homes().get(name.split(".")[0], ())}
    }
    assert skipped == set()
