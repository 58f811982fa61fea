"""The plan that --dry-run prints, and what of it reaches the sidecars."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rich import get_console

from dmri_fm.identity import ENCODERS
from dmri_fm.normalise.registration import name_normalisation
from dmri_fm.preprocess import denoise as denoise_module
from dmri_fm.preprocess import motion as motion_module
from dmri_fm.preprocess import susceptibility as susceptibility_module
from dmri_fm.preprocess.mask import name_mask
from dmri_fm.series import save_image
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution import job
from dmri_fm_workflows.execution.plan_text import (
    LABEL_WIDTH,
    WIDTH,
    _item,
)
from dmri_fm_workflows.execution.provenance import (
    Provenance,
    measure_outputs,
    write_provenance,
)
from dmri_fm_workflows.outputs.manifest import verify_outputs
from dmri_fm_workflows.outputs.publish import publish_text
from dmri_fm_workflows.plan import (
    SLOPPY_WARNING,
)
from dmri_fm_workflows.plan.decide import plan_participant
from dmri_fm_workflows.plan.engines import Engines, choose_engines
from dmri_fm_workflows.run import run_participants
from dmri_fm_workflows.stages.base import Resources
from dmri_fm_workflows.stages.participant import init_participant_wf

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])
DEAD_LINK = "IntendedFor names 'dwi/sub-01_dwi.nii.gz', which does not exist"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """One run, a linked image of the opposite direction, and one whose target was renamed."""
    root = tmp_path / "raw"
    folder = root / "sub-01"
    stem = folder / "dwi" / "sub-01_dir-AP_dwi"
    save_image(np.ones((4, 4, 3, 3)), AFFINE, f"{stem}.nii.gz")
    stem.with_suffix(".bval").write_text("0 1000 1000")
    stem.with_suffix(".bvec").write_text("0 1 0\n0 0 1\n0 0 0")
    encoding = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05}
    stem.with_suffix(".json").write_text(json.dumps(encoding))
    for run, target in (("1", "sub-01_dir-AP_dwi"), ("2", "sub-01_dwi")):
        stem = folder / "fmap" / f"sub-01_dir-PA_run-{run}_epi"
        save_image(np.ones((4, 4, 3)), AFFINE, f"{stem}.nii.gz")
        said = {"PhaseEncodingDirection": "j", "IntendedFor": f"dwi/{target}.nii.gz"}
        stem.with_suffix(".json").write_text(json.dumps(said))
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    return root


def dry_run(raw: Path, out: Path, **options: object) -> tuple[int, str]:
    """Return exit code and text of a dry run, in one line so that wrapping does not matter."""
    with get_console().capture() as captured:
        code = run_participants(RunConfig(raw, out, dry_run=True, **options))
    return code, " ".join(captured.get().split())


def test_plan_names_the_pair_and_every_image_that_is_not_used(raw: Path, tmp_path: Path) -> None:
    code, text = dry_run(raw, tmp_path / "out", models=(), sdc="pepolar")
    assert code == 0
    assert (
        "distortion Variational estimate from the reverse-phase pair: sub-01_dir-AP_dwi.nii.gz "
        "(j-) and sub-01_dir-PA_run-1_epi.nii.gz (j): linked by IntendedFor"
    ) in text
    assert f"not used sub-01_dir-PA_run-2_epi.nii.gz: {DEAD_LINK}" in text
    assert "WARNING sub-01_dir-AP_dwi.nii.gz: 2 diff" in text


def test_boilerplate_is_written_by_the_plan_alone(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = RunConfig(raw, out, boilerplate_only=True, models=(), hmc="none", normalisation="syn")
    assert run_participants(config) == 0
    assert [p.relative_to(out).as_posix() for p in sorted(out.rglob("*"))] == [
        "logs", *(f"logs/CITATION.{extension}" for extension in ("bib", "html", "md", "tex"))
    ]  # fmt: skip
    text = (out / "logs" / "CITATION.md").read_text(encoding="utf-8")
    for said in (
        "Noise was not removed where a run has too few volumes.",
        "Head motion and eddy currents were not corrected;",
        f"The b=0 reference was registered to the ICBM 152 template (Fonov et al. 2011): "
        f"{name_normalisation('syn')}",
        name_mask("b0"),
        "This text is of the plan for 1 participant (sub-01): nothing has run.",
    ):
        assert said in text, said
    methods = text.partition("# References")[0]
    assert "T1-weighted" not in methods
    assert "tensor" not in methods
    copy_participant(raw)
    (raw / "sub-02" / "dwi" / "sub-02_dir-AP_dwi.bval").unlink()
    assert run_participants(config) == 1
    assert "1 participant (sub-01)" in (out / "logs" / "CITATION.md").read_text(encoding="utf-8")


def test_plan_says_what_every_stage_does_and_what_is_left_out(raw: Path, tmp_path: Path) -> None:
    code, text = dry_run(
        raw, tmp_path / "out", models=(), sdc="none", hmc="none", denoise="mppca",
        output_spaces=("ACPC",), output_resolution=2.5, normalisation="syn",
    )  # fmt: skip
    assert code == 0
    for said in (
        "sub-01: 1 series,",
        "files sub-01_dir-AP_dwi.nii.gz (3 volumes; phase encoding j-, readout 0.05 s)",
        "volumes 3: 1 b=0 (b < 50 s/mm^2), 2 at b = 1000",
        "denoise none (3 volumes are too few)",
        "Gibbs ringing none",
        "distortion none: switched off on the command line",
        "motion and eddy none",
        f"mask of the b=0 reference: {name_mask('b0')}; one of them alone where the other "
        "finds no brain of a possible volume (the field of view is too",
        "registration b=0 reference rigidly to ACPC; to the template: "
        f"{name_normalisation('syn')} resampling",
        "one interpolation into each space; ACPC at 2.5 mm (--output-resolution) output spaces",
        "output spaces ACPC will NOT be done",
        "will NOT be done Noise is not removed from runs of too few volumes.",
        "Gibbs ringing is not removed: --unring does that.",
        "Susceptibility distortion is not corrected, for the reason above.",
        "Head motion and eddy currents are not corrected: switched off by --hmc none.",
        "There are no anatomical outputs: no T1w or T2w image can be used.",
        "No tensor is fitted, by least squares or a network: the 2 directions do not determine",
        f"There are no features: --models names no encoder ({', '.join(ENCODERS)}).",
        "Series and maps are not written in MNI152NLin2009aSym: --output-spaces",
    ):
        assert said in text, said
    assert not (tmp_path / "out").exists()


def test_no_line_is_wider_than_a_page_unless_a_name_is() -> None:
    lines = _item("not used", "x" * 120 + " " + "because of b = 1000 or 0.05 s " * 8)
    assert [len(line) > WIDTH for line in lines] == [True] + [False] * (len(lines) - 1)
    assert all(line.startswith(" " * (4 + LABEL_WIDTH)) for line in lines[1:])
    assert not any(line.rstrip().endswith(("b", "=", "0.05")) for line in lines)


def test_what_is_complete_is_said_to_be_left_alone(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "out" / "sub-01" / "log" / "some_run" / "provenance.json"
    monkeypatch.setattr(job, "find_complete", lambda *_: record)
    _, text = dry_run(raw, tmp_path / "out", models=())
    assert "sub-01: complete already (some_run); nothing will be done." in text


@pytest.mark.parametrize(
    ("options", "module", "name", "value"),
    [
        ({"unring": True, "denoise": "none"}, denoise_module, "version", lambda _: "9.9"),
        ({"denoise": "mppca"}, denoise_module, "version", lambda _: "9.9"),
        ({"hmc": "builtin"}, motion_module, "name_motion", lambda *_, **__: "another method"),
        ({"sdc": "pepolar"}, susceptibility_module, "PAIR_METHOD", "another method"),
    ],
)
def test_outputs_of_another_version_of_a_program_are_not_complete(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    module: ModuleType,
    name: str,
    value: object,
) -> None:
    """The text of a dry run over a complete participant says how its outputs were made."""
    save_image(np.ones((4, 4, 3, 12)), AFFINE, raw / "sub-01/dwi/sub-01_dir-AP_dwi.nii.gz")
    stem = raw / "sub-01/dwi/sub-01_dir-AP_dwi"
    stem.with_suffix(".bval").write_text(" ".join(["0", *["1000"] * 11]))
    stem.with_suffix(".bvec").write_text("0" + " 1" * 11 + "\n" + ("0 " * 12 + "\n") * 2)
    config = RunConfig(
        raw, tmp_path / "out", models=(),
        **{"denoise": "none", "sdc": "none", "hmc": "none", **options},
    )  # fmt: skip
    engines = choose_engines(
        denoise=config.denoise, sdc=config.sdc, hmc=config.hmc, unring=config.unring
    )
    dataset = read_dataset(raw)

    def hashed() -> str:
        return job.Job(config, dataset, dataset.participants[0], (), engines).fingerprint()

    before = hashed()
    assert hashed() == before
    monkeypatch.setattr(module, name, value)
    assert hashed() != before


def copy_participant(raw: Path) -> None:
    """Make sub-02 of sub-01."""
    shutil.copytree(raw / "sub-01", raw / "sub-02")
    for path in sorted((raw / "sub-02").rglob("sub-01*")):
        path.rename(path.with_name(path.name.replace("sub-01", "sub-02")))


def test_a_participant_that_would_fail_is_told_beside_the_others(
    raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    copy_participant(raw)
    (raw / "sub-02" / "dwi" / "sub-02_dir-AP_dwi.bval").unlink()
    code, text = dry_run(raw, out, models=())
    assert code == 1
    assert "sub-01: 1 series" in text
    assert "sub-02: nothing can be processed not read: sub-02_dir-AP_dwi.bval" in text


def test_a_method_that_cannot_correct_fails_its_participant_alone(
    raw: Path, tmp_path: Path
) -> None:
    """Page, record and console say so, for each; `auto` would go on without a correction."""
    out = tmp_path / "out"
    copy_participant(raw)
    said = "cannot be corrected by --sdc fieldmap: the session has no gradient-echo field map"
    code, text = dry_run(raw, out, models=(), sdc="fieldmap")
    assert code == 1
    assert text.count(said) == 2
    with get_console().capture() as captured:
        assert run_participants(RunConfig(raw, out, models=(), nprocs=1, sdc="fieldmap")) == 1
    console = " ".join(captured.get().split())
    assert "2 of 2 participants have errors: sub-01, sub-02." in console
    for label in ("01", "02"):
        assert f"sub-{label} sub-{label}_dir-AP_dwi.nii.gz, stage plan:" in console
        (record,) = (out / f"sub-{label}" / "log").rglob("provenance.json")
        provenance = json.loads(record.read_text())
        assert provenance["status"] == "failed"
        (error,) = provenance["errors"]
        assert (error["scan"], error["stage"]) == (f"sub-{label}_dir-AP_dwi.nii.gz", "plan")
        assert said in error["message"]
        assert said in " ".join((out / f"sub-{label}.html").read_text().split())
    assert not list(out.rglob("*.nii.gz"))
    assert dry_run(raw, out, models=(), sdc="auto")[0] == 0


def test_a_complete_participant_without_a_page_gets_the_page_alone(
    raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    none = dict.fromkeys(("denoise", "sdc", "hmc"), "none")
    config = RunConfig(raw, out, models=(), report_output_level="subject", **none)
    dataset = read_dataset(raw)
    engines = choose_engines(**none, unring=False)
    done = job.Job(config, dataset, dataset.participants[0], (), engines)
    sidecar = out / "sub-01" / "dwi" / "sub-01_dir-AP_space-ACPC_desc-preproc_dwi.json"
    publish_text('{"HMCMethod": "none"}', sidecar)
    record = Provenance(
        participant="01",
        status="complete",
        run_uuid="20260101-000000_a",
        version="0",
        command="drope-bidsapp",
        started="",
        finished="",
        fingerprint=done.fingerprint(),
        outputs=measure_outputs(out, [sidecar]),
    )
    write_provenance(out, record)
    assert run_participants(config) == 0
    assert [p.relative_to(out).as_posix() for p in out.rglob("sub-*.html")] == [
        "sub-01/sub-01.html"
    ]
    assert len(list(out.glob("sub-01/log/*/provenance.json"))) == 1, "nothing ran again"
    assert verify_outputs(out)[1] == []


def test_a_series_that_a_method_cannot_correct_fails_alone(raw: Path, tmp_path: Path) -> None:
    for path in sorted((raw / "sub-01" / "dwi").glob("sub-01_dir-AP_dwi.*")):
        shutil.copy(path, path.with_name(path.name.replace("dir-AP", "acq-k_dir-AP")))
    sidecar = raw / "sub-01" / "dwi" / "sub-01_acq-k_dir-AP_dwi.json"
    said = json.loads(sidecar.read_text()) if sidecar.exists() else {}
    sidecar.write_text(json.dumps(said | {"PhaseEncodingDirection": "k"}))
    code, text = dry_run(raw, tmp_path / "out", models=(), sdc="pepolar")
    assert code == 1
    assert "sub-01: 1 series" in text
    assert "not planned: " in text
    assert "sub-01_acq-k_dir-AP cannot be corrected by --sdc pepolar" in text
    assert "sub-01_dir-AP " in text.replace("sub-01_acq-k_dir-AP ", "")


@pytest.mark.parametrize("sloppy", [True, False])
def test_every_sidecar_of_a_sloppy_run_says_so(raw: Path, tmp_path: Path, sloppy: bool) -> None:
    """Those of the anatomy as those of the series, beside the warnings of their own."""
    save_image(np.ones((4, 4, 3)), AFFINE, raw / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    config = RunConfig(raw, tmp_path / "out", models=(), sloppy=sloppy)
    engines = Engines("none", ("none",), "none")
    workflow = init_participant_wf(
        plan_participant(config, read_dataset(raw).participants[0], engines),
        Resources(bids_root=raw, output_dir=tmp_path / "out", omp_nthreads=1),
    )
    for name in ("session_anat_wf.anat_wf.merge_records", "dwi_dir_AP_wf.merge_records"):
        node = workflow.get_node(name).interface
        node.inputs.in_records = [{"Warnings": ["its own"]}]
        said = node.run(cwd=tmp_path).outputs.record["Warnings"]
        assert (SLOPPY_WARNING in said) == sloppy
        assert said[-1] == "its own"


@pytest.mark.parametrize("pair_sdc", ["pepolar", "none"])
def test_the_record_names_them_by_uri(raw: Path, tmp_path: Path, pair_sdc: str) -> None:
    engines = Engines("none", (pair_sdc,), "none")
    config = RunConfig(raw, tmp_path / "out", models=(), output_spaces=("ACPC",), sloppy=True)
    workflow = init_participant_wf(
        plan_participant(config, read_dataset(raw).participants[0], engines),
        Resources(bids_root=raw, output_dir=tmp_path / "out", omp_nthreads=1),
    )
    record = workflow.get_node("dwi_dir_AP_wf.merge_records").inputs.base
    used, unused = (f"bids:raw:sub-01/fmap/sub-01_dir-PA_run-{n}_epi.nii.gz" for n in "12")
    listed = {entry["File"]: entry["Reason"] for entry in record["SDCImagesNotUsed"]}
    assert listed[unused].startswith(DEAD_LINK)
    if pair_sdc == "none":
        assert listed[used] == "switched off on the command line"
        assert "SDCPair" not in record
        assert record["SDCReason"] == "switched off on the command line"
    else:
        assert used not in listed
        assert record["SDCPair"] == ["bids:raw:sub-01/dwi/sub-01_dir-AP_dwi.nii.gz", used]
        assert record["SDCReason"].endswith("linked by IntendedFor")
