"""What is around the code says the same as the code: descriptor, versions, packages, wheel."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import dmri_fm
from dmri_fm_lab.__main__ import build_parser as build_lab_parser
from dmri_fm_lab.usage import usage_page
from dmri_fm_workflows.cli import build_parser, parse_args
from dmri_fm_workflows.descriptor import write_descriptor

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "dmri_fm": ROOT / "dmri_fm",
    "dmri_fm_workflows": ROOT / "workflows/dmri_fm_workflows",
    "dmri_fm_lab": ROOT / "lab/dmri_fm_lab",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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


def test_descriptor_is_what_make_docs_writes(tmp_path: Path) -> None:
    write_descriptor(tmp_path / "descriptor.json")
    written = (tmp_path / "descriptor.json").read_text(encoding="utf-8")
    assert written == read("descriptor.json"), "run `make docs`"
    assert "-m dmri_fm_workflows.descriptor descriptor.json" in read("Makefile")


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


@pytest.mark.parametrize("name", ["Dockerfile", "singularity.def"])
def test_fsl_is_installed_only_where_it_is_asked_for(name: str) -> None:
    text = read(name)
    assert re.search(r"^\s*(ARG )?WITH_FSL=0$", text, re.MULTILINE)
    assert re.search(r'if \[ "(\$WITH_FSL|\{\{ WITH_FSL \}\})" = 1 \]; then', text)
    # Python and libraries of the app come first on the PATH.
    assert "PATH=/opt/drope/bin:$PATH:/opt/fsl/share/fsl/bin" in text
    assert "licence" in text


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


def test_weights_that_ship_stay_small() -> None:
    files = sorted((PACKAGES["dmri_fm"] / "data" / "weights").iterdir())
    assert sum(file.stat().st_size for file in files) < 60e6
    assert {file.suffix for file in files} == {".safetensors", ".json"}


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


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_of_pages_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_scripts_use_options_that_exist() -> None:
    known = {o for a in build_parser()._actions for o in a.option_strings}
    script = read("docs/hpc/array.sh")
    command = script.partition("APP_OPTIONS=(")[2].partition(")")[0]
    used = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", command))
    assert used
    assert used <= known


def commands(page: Path) -> list[list[str]]:
    """Return the calls of the two programs in the code blocks of a page, split into words."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [
        part.strip().removeprefix("$ ")
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        for part in line.split(" && ")
    ]
    words = [
        shlex.split(line, comments=True)
        for line in lines
        if line.startswith(("drope-bidsapp ", "dmri-fm "))
    ]
    return [w for w in words if "..." not in w]


def test_parsers_understand_the_commands_of_every_page() -> None:
    parsers = {"drope-bidsapp": build_parser(), "dmri-fm": build_lab_parser()}
    found = [(page.name, words) for page in PAGES for words in commands(page)]
    assert {"README.md", "tutorial.md", "hpc.md"} <= {page for page, _ in found}
    for page, (program, *words) in found:
        try:
            parsers[program].parse_args(words)
        except SystemExit as stop:
            if stop.code:
                pytest.fail(f"{page}: {program} {shlex.join(words)}")


def test_page_of_options_is_what_make_docs_writes() -> None:
    assert usage_page() == read("docs/usage.md"), "run `make docs`"
    assert "-m dmri_fm_lab.usage docs/usage.md" in read("Makefile")


def test_site_lists_every_page_once() -> None:
    def pages(entries: list) -> list[str]:
        found = []
        for entry in entries:
            below = entry if isinstance(entry, str) else next(iter(entry.values()))
            found += [below] if isinstance(below, str) else pages(below)
        return found

    site = yaml.safe_load(read("mkdocs.yml"))
    listed = pages(site["nav"])
    there = [p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(there)


@pytest.mark.slow
def test_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "api.html").read_text()
    assert "fit_tensor" in reference
    assert not re.search(r":(?:func|class|attr):", reference)
