"""Repairs of b-vectors by scanner and protocol."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import ras_to_fsl
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.bids.gradient_fixes import GradientFix, make_fixes, read_fix_file
from dmri_fm_workflows.bids.records import Dataset
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.run import _warn_of_unused
from dmri_fm_workflows.stages.merge import init_read_wf
from tests.dmri_fm_workflows.tiny_series import ENGINES, make_resources, plan_for

CANON = {"Manufacturer": "Canon", "ProtocolName": "DTI_AP"}
FIX = {"components": "y,-x,z", **CANON}


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
    maker.dwi("sub-01_acq-a_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-b_dwi", metadata=maker.AP)
    dataset = read(maker, {"a": {"components": "-x,y,z", "acquisition": "a"}})
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
    assert fixed == {"sub-01_dwi.nii.gz": {"Components": "y,-x,z", "Repair": "canon", **CANON}}


def test_two_repairs_of_one_run_are_a_problem(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP | CANON)
    maker.dwi("sub-02_dwi", metadata=maker.AP)
    other = {"components": "-x,y,z", "Manufacturer": "Canon"}
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


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "fixes.toml"
    path.write_text('[a]\ncomponents = "-x,-y,z"\nManufacturer = "GE"\n')
    # v and -v are one gradient: the label with one minus stands for both.
    assert make_fixes(read_fix_file(path)) == (GradientFix("a", "x,y,-z", {"Manufacturer": "GE"}),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[a]\ncomponents = "-x,y,z"\n', "of another form"),
        ('[a]\nManufacturer = "GE"\n', "of another form"),
        ('a = "-x,y,z"\n', "of another form"),
        ('[a]\ncomponents = "-x,y,z"\nsubject = "01"\n', "with subject"),
        ('[a]\ncomponents = "x,x,z"\nManufacturer = "GE"\n', "no arrangement"),
        ('[a]\ncomponents = "-x,-y,-z"\nManufacturer = "GE"\n', "changes nothing"),
        ("[a", "cannot be read"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "fixes.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_fix_file(path)
    assert Path(str(caught.value.path)) == path
    with pytest.raises(ConfigError, match="cannot be read"):
        read_fix_file(tmp_path / "none.toml")


def test_repairs_belong_to_raw_data() -> None:
    config = RunConfig(Path("/in"), Path("/out"), gradient_fixes={"canon": FIX})
    with pytest.raises(ConfigError, match="--input-type preprocessed and --fix-gradients"):
        replace(config, input_type="preprocessed")
