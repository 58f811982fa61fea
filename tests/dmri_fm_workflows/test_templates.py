"""Spaces of `--output-spaces`, and templates in TemplateFlow's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.cli import parse_args
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.run import run_participants
from dmri_fm_workflows.templates import find_cache, find_templates, order_spaces
from tests.dmri_fm_workflows.tiny_series import make_run

NAME = "MNI152NLin2009cAsym"


def fill(cache: Path, *names: str, content: bytes = b"x") -> None:
    """Put files of a template into a cache, by the end of their names."""
    folder = cache / f"tpl-{NAME}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"tpl-{NAME}_{name}.nii.gz").write_bytes(content)


@pytest.mark.parametrize(
    "text",
    ["T1w", "fsaverage", "MNIInfant:cohort-1", f"{NAME}:res-1:res-2", "a b", "x:native",
     "ACPC:res-2", "MNI152NLin2009aSym:res-1", ""],
)  # fmt: skip
def test_what_is_no_volumetric_space_is_refused(text: str, bids: Path) -> None:
    with pytest.raises(ConfigError, match="--output-spaces"):
        RunConfig(bids, bids / "out", output_spaces=(text,))


def test_spaces_of_the_command_line_reach_the_request_in_one_form(bids: Path) -> None:
    given = [str(bids), str(bids.parent / "out"), "participant", "--output-spaces"]
    config = parse_args([*given, f"{NAME}:res-02", "MNI152NLin2009aSym:res-2"])
    assert config.output_spaces == ("ACPC", "MNI152NLin2009aSym", f"{NAME}:res-2")
    assert RunConfig(bids, bids / "out", output_spaces=("ACPC",)).output_spaces == ("ACPC",)
    with pytest.raises(ConfigError, match=f"asks for {NAME} twice"):
        order_spaces([f"{NAME}:res-1", f"{NAME}:res-2"])


def test_head_and_mask_are_found_by_grid(tmp_path: Path) -> None:
    fill(tmp_path, "res-01_T1w", "res-01_desc-brain_mask", "res-02_T1w", "res-02_desc-brain_mask",
         "res-02_desc-brain_T1w", "res-02_desc-LR_T1w")  # fmt: skip
    spaces = ("ACPC", "MNI152NLin2009aSym", NAME)
    (found,) = find_templates(spaces, tmp_path)
    assert [p.name for p in found.files] == [
        f"tpl-{NAME}_res-02_T1w.nii.gz", f"tpl-{NAME}_res-02_desc-brain_mask.nii.gz"
    ]  # fmt: skip
    assert found.resolution == "2"
    (found,) = find_templates((f"{NAME}:res-1",), tmp_path)
    assert found.t1w.name == f"tpl-{NAME}_res-01_T1w.nii.gz"


def test_image_of_the_brain_alone_needs_no_mask(tmp_path: Path) -> None:
    fill(tmp_path, "T1w", "desc-brain_T1w")
    (found,) = find_templates((NAME,), tmp_path)
    assert (found.t1w.name, found.mask) == (f"tpl-{NAME}_desc-brain_T1w.nii.gz", None)
    assert found.resolution == ""


def test_placeholders_of_files_that_were_not_fetched_are_no_files(tmp_path: Path) -> None:
    """TemplateFlow fills a new cache with files of 0 bytes."""
    fill(tmp_path, "res-02_T1w", "res-02_desc-brain_mask", content=b"")
    fill(tmp_path, "res-01_T1w", "res-01_desc-brain_mask")
    with pytest.raises(ConfigError) as caught:
        find_templates((f"{NAME}:res-2",), tmp_path)
    assert f"templateflow get {NAME} --res 2 -s T1w" in str(caught.value)
    assert caught.value.path == tmp_path / f"tpl-{NAME}"
    assert find_templates((NAME,), tmp_path)[0].resolution == "1"


def test_cache_is_where_templateflow_looks() -> None:
    assert find_cache({"TEMPLATEFLOW_HOME": "/t", "HOME": "/h"}) == Path("/t")
    assert find_cache({"HOME": "/h"}) == Path("/h/.cache/templateflow")


def test_run_stops_before_work_without_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "cache"))
    make_run(tmp_path / "raw" / "sub-01" / "dwi", "AP")
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="TemplateFlow's cache holds no T1w image"):
        run_participants(RunConfig(tmp_path / "raw", out, output_spaces=(NAME,)))
    assert not out.exists()
