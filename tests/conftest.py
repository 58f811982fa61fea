"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pathspec
import pytest

#: Real scans live outside the repository; this folder, or the one DMRI_TEST_DATA names.
DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real test scans; skips the test where it is missing."""
    folder = Path(os.environ.get("DMRI_TEST_DATA", DEFAULT_DATA))
    if not (folder / "ds-vendors").is_dir():
        pytest.skip(f"no real scans at {folder}; set DMRI_TEST_DATA to the folder that holds them")
    return folder


@dataclass(frozen=True)
class BidsIssue:
    """What the BIDS validator says of a file."""

    severity: str
    code: str
    key: str
    path: str


#: Calls the command of the test extra by its module, so that it is found without a PATH.
VALIDATOR = "from bids_validator_deno import cli; cli()"


@pytest.fixture(scope="session")
def run_validator(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., list[BidsIssue]]:
    """Return a function that validates a dataset, offline.

    It takes the folder and, by keyword, a compiled `schema` in place of the released one.
    """
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    cache = str(tmp_path_factory.mktemp("deno"))
    environment = os.environ | nowhere | {"DENO_DIR": cache, "NO_COLOR": "1"}

    def run(root: Path, *, schema: Path | None = None) -> list[BidsIssue]:
        arguments = [str(root), "--format", "json"]
        arguments += [] if schema is None else ["--schema", schema.resolve().as_uri()]
        done = subprocess.run(
            [sys.executable, "-c", VALIDATOR, *arguments],
            capture_output=True,
            text=True,
            timeout=600,
            env=environment,
            check=False,
        )
        assert done.stdout, done.stderr
        return [
            BidsIssue(i["severity"], i["code"], i.get("subCode", ""), i.get("location", ""))
            for i in json.loads(done.stdout)["issues"]["issues"]
        ]

    return run


@pytest.fixture(scope="session")
def draft_schema(data_dir: Path) -> Path:
    """Compiled schema of the draft BEP016."""
    return data_dir / "bep016_schema.json"


#: What the validator says of an output folder and stays, as docs/outputs.md explains.
KNOWN_ISSUES = {("TOO_FEW_AUTHORS", "")}

#: What it says with the draft's schema, which is older than the standard that we follow.
KNOWN_DRAFT_ISSUES = {*KNOWN_ISSUES, ("UNKNOWN_BIDS_VERSION", "")}

#: Keys that the draft looks for beside OrientationEncoding, while its text and its own schema of
#: OrientationEncoding have them inside it.
NESTED_KEYS = {"EncodingAxis", "Reference", "TensorRank"}


@pytest.fixture(scope="session")
def assert_valid_output(
    run_validator: Callable[..., list[BidsIssue]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., None]:
    """Return a function that validates an output folder, with and without its `.bidsignore`.

    By keyword it takes the compiled `schema` of the draft; the released one is used otherwise.
    """

    def check(out: Path, *, schema: Path | None = None) -> None:
        found = run_validator(out, schema=schema)
        known = KNOWN_ISSUES if schema is None else KNOWN_DRAFT_ISSUES
        assert {(i.code, i.key) for i in found} == known
        ignored = [p for p in (out / ".bidsignore").read_text().splitlines() if p]
        if schema is not None:
            ignored.remove("*_dwimap.*")
        # Hard links: the folder of a whole scan is large.
        bare = tmp_path_factory.mktemp("bare") / "out"
        hidden = shutil.ignore_patterns(".bidsignore")
        shutil.copytree(out, bare, ignore=hidden, copy_function=os.link)
        issues = [i for i in run_validator(bare, schema=schema) if i.severity == "error"]
        shutil.rmtree(bare)
        nested = [i for i in issues if i.code == "SIDECAR_KEY_REQUIRED" and i.key in NESTED_KEYS]
        assert all("_param-diffusivity_" in i.path for i in nested)
        assert bool(nested) == (schema is not None)
        others = [i for i in issues if i not in nested]
        spec = {p: pathspec.PathSpec.from_lines("gitignore", [p]) for p in ignored}
        paths = {i.path.lstrip("/") for i in others}
        for path in paths:
            assert any(s.match_file(path) for s in spec.values()), path
        # `.bidsignore` hides no more than it must.
        present = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
        for pattern, matches in spec.items():
            if any(matches.match_file(p) for p in present):
                assert any(matches.match_file(p) for p in paths), pattern

    return check


#: What libraries read from the current folder when they are imported; none of it can be parsed.
SETTINGS = ("nipype.cfg", "matplotlibrc", ".numba_config.yaml", "bids_config.json")

#: Packages that the commands import, beside all of Python's own library.
PACKAGES = (
    "ants", "bids", "dipy", "matplotlib", "nibabel", "nipype", "niworkflows", "numba", "numpy",
    "pandas", "rich", "scipy", "sitecustomize", "torch", "usercustomize", "yaml",
)  # fmt: skip


@dataclass(frozen=True)
class Traps:
    """A folder that nobody should work in: what is imported from it or read leaves a trace.

    It has a module of every name that is imported, and the settings of libraries.
    """

    folder: Path

    @classmethod
    def set(cls, folder: Path) -> Traps:
        """Fill a folder."""
        folder.mkdir()
        # What `python -m` imports before it finds the module is out of anybody's hands.
        code = "import sys, runpy; print(*sys.modules)"
        first = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        traps = cls(folder)
        line = f"open({str(traps.sprung_file)!r}, 'a').write(__name__ + chr(10))\n"
        for name in {*sys.stdlib_module_names, *PACKAGES} - {*first}:
            (folder / f"{name}.py").write_text(line)
        for name in SETTINGS:
            (folder / name).write_text("{[\n")
            os.utime(folder / name, (1, 2))  # read before it was written: the next read is noted
        return traps

    @property
    def sprung_file(self) -> Path:
        """Names of the modules that were imported."""
        return self.folder.with_name("sprung.txt")

    def sprung(self) -> list[str]:
        """Return what was imported or, where the file system keeps times of access, read."""
        imported = self.sprung_file.read_text().split() if self.sprung_file.exists() else []
        return imported + [n for n in SETTINGS if (self.folder / n).stat().st_atime > 1]


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Traps:
    """Give a folder full of traps."""
    return Traps.set(tmp_path_factory.mktemp("traps") / "here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders whose fixtures take longest first, so that no process waits for them."""
    first = ("integration", "simulate", "evaluate")
    items.sort(key=lambda item: next(
        (i for i, folder in enumerate(first) if folder in item.path.parts), len(first)
    ))  # fmt: skip
