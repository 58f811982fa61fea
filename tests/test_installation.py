"""What each layer imports, what an installation brings, and what is said where it lacks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dmri_fm.project import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "dmri_fm": ROOT / "dmri_fm",
    "dmri_fm_workflows": ROOT / "workflows/dmri_fm_workflows",
    "dmri_fm_lab": ROOT / "lab/dmri_fm_lab",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: Extras that each package needs beside the base.
EXTRAS = {"dmri_fm": (), "dmri_fm_workflows": ("app",), "dmri_fm_lab": ("app", "lab")}


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
    files = sorted(PACKAGES["dmri_fm"].rglob("*.py"))
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files
    ]
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
    assert line.endswith(
        f"install them, in a clone of drope-bidsapp, with: pip install '.[{extra}]'"
    )
    assert "nipype" in line
    assert ("trxscan" in line) == (extra == "lab")
    assert not (tmp_path / "out").exists()


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
