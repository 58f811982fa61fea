"""`--reports-only`: pages again from the outputs, at every place and in every form."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode
from importlib.metadata import version
from pathlib import Path

import pytest

from dmri_fm_workflows import cli
from dmri_fm_workflows.execution.circumstances import Circumstances
from dmri_fm_workflows.execution.provenance import (
    Provenance,
    ScanError,
    measure_outputs,
    write_provenance,
)
from dmri_fm_workflows.options import REPORT_LEVELS
from dmri_fm_workflows.outputs import output_path, publish_text
from dmri_fm_workflows.outputs.manifest import verify_outputs
from dmri_fm_workflows.outputs.root import write_root_files
from dmri_fm_workflows.report import RunError, summarise_run, write_participant_pages
from dmri_fm_workflows.report.writing import PACKAGES

FIGURE = '<svg xmlns="http://www.w3.org/2000/svg"><title>{}</title></svg>'

PLACES = {
    "root": ["sub-01.html"],
    "subject": ["sub-01/sub-01.html"],
    "session": ["sub-01/ses-a/sub-01_ses-a.html", "sub-01/ses-b/sub-01_ses-b.html"],
}


def write_outputs(out: Path, label: str, sessions: tuple[str, ...]) -> None:
    """Write what a run with an error leaves of a participant, its page by the run itself."""
    written = []
    for session in sessions:
        scan = {"subject": label, "session": session}
        sidecar = out / output_path(scan, "preproc_dwi", space="ACPC", extension=".json")
        publish_text(json.dumps({"HMCMethod": "none", "Warnings": [f"odd {session}"]}), sidecar)
        figures = [out / output_path(scan, f"figure_{of}") for of in ("sdc", "fa")]
        for figure in figures:
            publish_text(FIGURE.format(figure.name), figure)
        written += [sidecar, *figures]
    run = "20260101-000000_a"
    publish_text("a = 1\n", out / f"sub-{label}" / "log" / run / "drope.toml")
    error = ScanError(f"sub-{label}_ses-c", "motion", "it <failed>")
    shown = [RunError(error.stage, error.message, scan=error.scan)]
    summary = summarise_run("a = 1\n", shown)
    write_participant_pages(out, label, dataset="A study", run=summary)
    record = Provenance(
        participant=label,
        status="failed",
        run_uuid=run,
        version=summary.version,
        command=" ".join(sys.argv),
        started="",
        finished="",
        fingerprint="x",
        scans=tuple(f"sub-{label}_ses-{session}" for session in sessions),
        outputs=measure_outputs(out, written),
        errors=(error,),
        circumstances=Circumstances(versions={p: version(p) for p in PACKAGES}),
    )
    write_provenance(out, record)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["/bin/drope-bidsapp", "raw", "out", "--hmc", "none"])
    folder = tmp_path / "out"
    write_outputs(folder, "01", ("a", "b"))
    write_root_files(folder, source=tmp_path / "raw", source_name="A study")
    return folder


def render(out: Path, *options: str, level: str = "participant") -> int:
    """Run the command; the dataset need not be there."""
    return cli.main([str(out.parent / "no_dataset"), str(out), level, "--reports-only", *options])


def pages_of(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("sub-*.html"))


def links(page: Path) -> list[str]:
    """Return the files that a page refers to."""
    targets = re.findall(r'(?:src|data|href)="([^"#]+)"', page.read_text(encoding="utf-8"))
    return [t for t in targets if not t.startswith(("data:", "https:"))]


def test_a_page_that_is_written_again_is_the_same(out: Path) -> None:
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert b"it &lt;failed&gt;" in before[out / "sub-01.html"]
    assert render(out) == 0
    changed = {
        p.relative_to(out).parts[0]
        for p in out.rglob("*")
        if p.is_file() and before.get(p) != p.read_bytes()
    }
    assert changed == {"logs"}
    assert verify_outputs(out)[1] == []


@pytest.mark.parametrize("level", REPORT_LEVELS)
def test_pages_of_every_level_find_their_figures_and_replace_the_others(
    out: Path, level: str
) -> None:
    assert render(out, "--report-output-level", level) == 0
    assert pages_of(out) == PLACES[level]
    assert verify_outputs(out)[1] == []
    for name in PLACES[level]:
        page = out / name
        shown = [(page.parent / link).resolve() for link in links(page)]
        assert all(path.is_file() for path in shown)
        text = page.read_text(encoding="utf-8")
        assert "it &lt;failed&gt;" in text
        for session in "ab":
            is_shown = level != "session" or f"ses-{session}.html" in name
            assert (f"odd {session}" in text) == is_shown
            assert (f"sub-01_ses-{session}_desc-fa_dwi.svg" in {p.name for p in shown}) == is_shown
    assert render(out) == 0
    assert pages_of(out) == PLACES["root"]


def test_a_self_contained_page_refers_to_no_file(out: Path) -> None:
    assert render(out, "--self-contained-reports") == 0
    page = out / "sub-01.html"
    assert links(page) == []
    found = re.findall(r'"data:image/svg\+xml;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    files = sorted((out / "sub-01" / "figures").iterdir())
    assert sorted(map(b64decode, found)) == sorted(p.read_bytes() for p in files)


def test_viewers_can_be_added_to_finished_outputs_and_removed(out: Path) -> None:
    viewers = [f"sub-01/figures/sub-01_ses-{s}_desc-viewer_dwi.html" for s in "ab"]
    assert render(out, "--report-viewer") == 0
    assert [v for v in pages_of(out) if "viewer" in v] == viewers
    page = out / "sub-01.html"
    assert {link for link in links(page) if "viewer" in link} == set(viewers)
    assert verify_outputs(out)[1] == []
    assert render(out) == 0
    assert pages_of(out) == PLACES["root"]
    assert verify_outputs(out)[1] == []


def test_what_is_missing_is_named(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "sub-01" / "figures" / "sub-01_ses-a_desc-fa_dwi.svg").unlink()
    (out / "sub-02" / "dwi").mkdir(parents=True)
    assert render(out) == 1
    page = (out / "sub-01.html").read_text(encoding="utf-8")
    assert "Missing or changed since the run: 1 output, sub-01/figures/" in page
    assert "sub-01_ses-a_desc-fa_dwi.svg" in page
    said = " ".join(capsys.readouterr().err.split())
    assert "sub-02: the page is not written:" in said
    assert "no record of a finished run" in said
    assert pages_of(out) == ["sub-01.html"]


def test_the_group_level_renders_participants_and_links_to_their_pages(out: Path) -> None:
    (out / "sub-01.html").unlink()
    assert render(out, "--report-output-level", "session", level="group") == 0
    page = out / "group" / "report.html"
    assert "../sub-01/ses-a/sub-01_ses-a.html" in links(page)


def test_nothing_is_written_through_links(out: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.html").write_text("mine")
    (out / "sub-01.html").unlink()
    (out / "sub-01.html").symlink_to(tmp_path / "precious.html")
    assert render(out) == 1
    assert (tmp_path / "precious.html").read_text() == "mine"


def test_dry_run_writes_nothing(out: Path) -> None:
    page = out / "sub-01.html"
    page.unlink()
    assert render(out, "--dry-run") == 0
    assert not page.exists()


def test_one_thing_alone(out: Path) -> None:
    assert render(out, "--boilerplate-only") == 2
