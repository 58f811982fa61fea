"""Repairs of b-vectors by scanner and protocol."""

from __future__ import annotations

import logging
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import ras_to_fsl
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.bids.gradient_fixes import (
    describe_run,
    make_fixes,
    read_fix_file,
    suggest_fix,
)
from dmri_fm_workflows.bids.records import Dataset
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.run import _warn_of_unused
from dmri_fm_workflows.stages.merge import init_read_wf
from tests.dmri_fm_workflows.tiny_series import ENGINES, make_resources, plan_for

CANON = {"ManufacturersModelName": "Galan", "ProtocolName": "DTI_AP"}
ORIENTATION = "LAS"
FIX = {"components": "y,-x,z", "Orientation": ORIENTATION, **CANON}
#: A file's table of a repair, but for single lines.
LINES = {
    "components": '"-x,y,z"', "Orientation": '"LAS"', "StationName": '"MR1"',
    "ProtocolName": '"DTI"',
}  # fmt: skip


def read(maker, content: dict[str, dict[str, str]]) -> Dataset:
    return read_dataset(maker.root, gradient_fixes=make_fixes(content))


def test_runs_of_the_scanner_and_protocol_are_repaired_and_no_others(maker) -> None:
    maker.dwi("sub-01_acq-a_dwi", metadata=maker.AP | CANON)
    maker.dwi("sub-01_acq-b_dwi", metadata=maker.AP | CANON | {"ProtocolName": "DTI_PA"})
    maker.dwi("sub-02_dwi", metadata=maker.AP | CANON)
    dataset = read(maker, {"canon": FIX})
    assert not dataset.problems
    runs = {
        r.path.name: r
        for p in dataset.participants for s in p.sessions for x in s.series for r in x.runs
    }  # fmt: skip
    for name, run in runs.items():
        stored = np.loadtxt(run.bvec).T
        is_fixed = name != "sub-01_acq-b_dwi.nii.gz"
        wanted = stored @ [[0, -1, 0], [1, 0, 0], [0, 0, 1]] if is_fixed else stored
        np.testing.assert_allclose(ras_to_fsl(run.gtab.bvecs_ras, run.affine), wanted, atol=1e-9)
        assert (run.gradient_fix is not None) == is_fixed
        told = [w for w in run.warnings if "(y,-x,z), by the repair canon of --fix-" in w]
        assert len(told) == is_fixed


def test_an_acquisition_label_tells_a_protocol(maker) -> None:
    for label in "ab":
        maker.dwi(f"sub-01_acq-{label}_dwi", metadata=maker.AP | CANON)
    known = {"Orientation": ORIENTATION, "ManufacturersModelName": "Galan"}
    dataset = read(maker, {"a": {"components": "-x,y,z", "acquisition": "a", **known}})
    fixes = [x.runs[0].gradient_fix for x in dataset.participants[0].sessions[0].series]
    assert [f and f.name for f in fixes] == ["a", None]


def test_what_the_plan_reads_is_what_the_run_writes(maker, tmp_path: Path) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP | CANON)
    dataset = read(maker, {"canon": FIX})
    (series,) = dataset.participants[0].sessions[0].series
    (plan,) = plan_for(series, root=tmp_path, engines=ENGINES[1], t1w=False).sessions[0].series
    workflow = init_read_wf(plan, make_resources(tmp_path))
    workflow.base_dir = str(tmp_path)
    results = {node.name: node.result.outputs for node in workflow.run().nodes()}
    (bvec,) = results["validate"].bvec_file
    run = series.runs[0]
    np.testing.assert_allclose(
        np.loadtxt(bvec).T, ras_to_fsl(run.gtab.bvecs_ras, run.affine), atol=1e-6
    )
    fixed = results["collect_records"].record["GradientsFixed"]
    conditions = {k: v for k, v in FIX.items() if k != "components"}
    assert fixed == {
        "sub-01_dwi.nii.gz": {"Components": "y,-x,z", "Repair": "canon", **conditions}
    }


def test_two_repairs_of_one_run_are_a_problem(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP | CANON)
    maker.dwi("sub-02_dwi", metadata=maker.AP)
    other = FIX | {"components": "-x,y,z"}
    dataset = read(maker, {"canon": FIX, "other": other})
    (problem,) = dataset.problems
    assert "canon (y,-x,z) and other (-x,y,z)" in str(problem.error)
    assert [p.label for p in dataset.participants] == ["02"]
    assert not read(maker, {"canon": FIX, "other": other | {"components": "y,-x,z"}}).problems


def test_a_repair_that_fits_no_run_is_told_of(maker, caplog: pytest.LogCaptureFixture) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP | CANON)
    fixes = {"canon": FIX, "typo": FIX | {"Manufacturer": "Cannon"}}
    config = RunConfig(maker.root, maker.root.parent / "out", gradient_fixes=fixes)
    with caplog.at_level(logging.WARNING):
        _warn_of_unused(config, read(maker, fixes))
    assert [r.getMessage().split(" of ")[0] for r in caplog.records] == ["The repair typo"]


def write_table(path: Path, **changes: str | None) -> Path:
    """Write the file of a repair with other lines; None leaves one out."""
    lines = [f"{k} = {v}" for k, v in (LINES | changes).items() if v is not None]
    path.write_text("\n".join(["[a]", *lines]))
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    path = write_table(tmp_path / "fixes.toml", components='"-x,-y,z"', acquisition='""')
    (fix,) = make_fixes(read_fix_file(path))
    # v and -v are one gradient: the label with one minus stands for both.
    assert fix.components == "x,y,-z"
    assert fix.conditions == {
        "Orientation": "LAS", "StationName": "MR1", "ProtocolName": "DTI", "acquisition": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"StationName": None}, "without what names the scanner"),
        ({"StationName": None, "Manufacturer": '"GE"'}, "without what names the scanner"),
        ({"ProtocolName": None}, "without what names the protocol"),
        ({"ProtocolName": None, "acquisition": '""'}, "without what names the protocol"),
        ({"Orientation": None}, "without Orientation"),
        ({"components": None}, "without components"),
        ({"ProtocolName": '" "', "acquisition": '"a"'}, "with an empty ProtocolName"),
        ({"Orientation": '"LPP"'}, "names no three axes"),
        ({"Orientation": '"las"'}, "names no three axes"),
        ({"StationName": "5"}, "no table of text"),
        ({"subject": '"01"'}, "with subject"),
        ({"components": '"x,x,z"'}, "no arrangement"),
        ({"components": '"-x,-y,-z"'}, "changes nothing"),
    ],
)
def test_repairs_that_are_refused(tmp_path: Path, changes: dict, words: str) -> None:
    path = write_table(tmp_path / "fixes.toml", **changes)
    with pytest.raises(ConfigError, match=words) as caught:
        read_fix_file(path)
    assert Path(str(caught.value.path)) == path


@pytest.mark.parametrize("text", ["[a", None])
def test_files_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "fixes.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_fix_file(path)


@pytest.mark.parametrize(
    "other",
    [
        {"Orientation": "RAS"},
        {"ProtocolName": None},
        {"ManufacturersModelName": ""},
        {"ManufacturersModelName": "Galan 3T"},
        {"acquisition": "b"},
    ],
)
def test_only_runs_that_meet_all_conditions_are_repaired(other: dict[str, str | None]) -> None:
    (fix,) = make_fixes({"canon": FIX | {"acquisition": ""}})

    def is_fixed(changes: dict[str, str | None]) -> bool:
        run = FIX | {"acquisition": "", "StationName": "MR1"} | changes
        signs = [-2 if run["Orientation"] == "LAS" else 2, 2, 2, 1]
        known = describe_run({"acquisition": run["acquisition"]}, run, np.diag(signs))
        return fix.fits(known)

    assert is_fixed({})
    assert not is_fixed(other)


AFFINE = np.array([[0, 0, 2.0, 0], [-2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("metadata", "label", "lacking"),
    [
        (CANON | {"StationName": "MR1", "DeviceSerialNumber": 7}, "", []),
        ({"DeviceSerialNumber": 7, "SequenceName": "ep2d"}, "", []),
        (CANON | {"ProtocolName": ""}, "b1000", []),
        (CANON | {"ProtocolName": ""}, "", ["ProtocolName"]),
        ({"Manufacturer": "GE"}, "", ["ManufacturersModelName", "ProtocolName"]),
    ],
)
def test_a_suggestion_fits_its_own_run_or_is_refused(
    metadata: dict[str, Any], label: str, lacking: list[str]
) -> None:
    known = describe_run({"acquisition": label} if label else {}, metadata, AFFINE)
    text = suggest_fix("-x,y,z", known)
    content = tomllib.loads(text)
    assert content["suggested"]["Orientation"] == "PSR"
    assert [line.split()[5].rstrip(":") for line in text.splitlines() if "#" in line] == lacking
    if lacking:
        with pytest.raises(ConfigError, match=f"with an empty {', '.join(lacking)}"):
            make_fixes(content)
        return
    (fix,) = make_fixes(content)
    assert fix.fits(known)
    assert ("DeviceSerialNumber" in fix.conditions) == ("ManufacturersModelName" not in metadata)
    other = describe_run({"acquisition": label}, metadata, AFFINE[[0, 2, 1, 3]])
    assert not fix.fits(other)


def test_repairs_belong_to_raw_data() -> None:
    config = RunConfig(Path("/in"), Path("/out"), gradient_fixes={"canon": FIX})
    with pytest.raises(ConfigError, match="--input-type preprocessed and --fix-gradients"):
        replace(config, input_type="preprocessed")
