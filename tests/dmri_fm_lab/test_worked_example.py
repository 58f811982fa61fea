"""The worked example of the documentation: its own code blocks are run."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pandas as pd
import pytest

from dmri_fm_lab.__main__ import main as lab
from dmri_fm_workflows.cli import main as app
from tests.dmri_fm_lab.conftest import SimulatedCohort

PAGE = Path(__file__).parents[2] / "docs" / "from_scans_to_statistics.md"

#: Files that the example leaves in its folder.
LEFT = ("statistics", "splits.tsv", "probe.json", "compared", "measures.csv")


def read_commands(section: str) -> Iterator[list[str]]:
    """Yield the commands of a section's blocks, words apart; `cat` has its file's text last."""
    text = PAGE.read_text(encoding="utf-8")
    (part,) = re.findall(rf"^## \d\. {section}\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    for block in re.findall(r"^```bash\n(.*?)^```", part, flags=re.M | re.S):
        lines = iter(block.splitlines())
        for line in lines:
            words = shlex.split(line)
            if words[0] == "cat":
                inside = takewhile(lambda inner: inner != "EOF", lines)
                yield ["cat", words[2], "\n".join(inside) + "\n"]
            else:
                yield words


def run(words: list[str]) -> None:
    """Run a command of the example in the current folder."""
    match words:
        case ["cat", path, text]:
            Path(path).write_text(text, encoding="utf-8")
        case ["cp", source, target]:
            shutil.copy(source, target)
        case ["dmri-fm", *arguments]:
            assert lab(arguments) == 0, shlex.join(words)
        case ["drope-bidsapp", *arguments]:
            assert app(arguments) == 0, shlex.join(words)
        case _:
            raise AssertionError(f"unknown command: {shlex.join(words)}")


def run_statistics() -> None:
    """Run all sections but the first, and look at what they leave."""
    for section in ("Statistics", "Predictions", "Exports"):
        for words in read_commands(section):
            run(words)
    for name in LEFT:
        assert Path(name).exists(), name
    measures = pd.read_csv("measures.csv", comment="#")
    assert measures["participant_id"].nunique() == 12
    assert list(Path("statistics").glob("*.html"))
    assert list(Path().glob("plink*"))


def test_from_derivatives_to_statistics(
    small_cohort: SimulatedCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_cohort.folder, "out")
    run_statistics()


@pytest.mark.slow
@pytest.mark.timeout(5400)  # twelve participants: half an hour on two processors
def test_from_scans_to_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in read_commands("Scans and derivatives"):
        run(words)
    run_statistics()
