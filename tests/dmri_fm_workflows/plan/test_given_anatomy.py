"""Plans with the anatomy of derivatives: what is taken, what is made here, and how it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.normalise.registration import name_normalisation
from dmri_fm_workflows import cli
from dmri_fm_workflows.bids import DwiSeries, Participant, Session
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution.plan_text import describe_plan
from dmri_fm_workflows.execution.provenance import fingerprint, input_files
from dmri_fm_workflows.outputs.steps import describe_steps
from dmri_fm_workflows.plan.anatomy import choose_template
from dmri_fm_workflows.plan.boilerplate import foresee_outputs
from dmri_fm_workflows.stages.participant import init_participant_wf
from tests.dmri_fm_workflows.tiny_series import make_resources, make_run, plan_with_anatomy


@pytest.fixture
def series(tmp_path: Path) -> DwiSeries:
    return DwiSeries((make_run(tmp_path / "raw", "AP"),), {"subject": "01"})


def test_plan_names_what_is_taken(series: DwiSeries, tmp_path: Path) -> None:
    plan = plan_with_anatomy(series, root=tmp_path)
    text = " ".join(describe_plan(plan).split())
    taken = "taken from fMRIPrep 23.2.1: sub-01_to_xfm.txt (affine)"
    for said in (
        "sub-01_desc-preproc_T1w.nii.gz of fMRIPrep 23.2.1 (--derivatives): brain mask taken from "
        f"fMRIPrep 23.2.1: sub-01_desc-brain_mask.nii.gz, ACPC; to the template: {taken}",
        "as acquired sub-01_T1w.nii.gz: gives the position in the scanner",
        "tissue grey matter, white matter and fluid: taken from fMRIPrep 23.2.1: "
        "sub-01_dseg.nii.gz",
        f"to the template by that image's: {taken}",
    ):
        assert said in text, said
    assert "N4" not in text.partition("files")[0]


def test_transforms_of_another_sort_are_not_taken_and_that_is_said(
    series: DwiSeries, tmp_path: Path
) -> None:
    plan = plan_with_anatomy(series, root=tmp_path, normalisation="syn")
    text = " ".join(describe_plan(plan).split())
    own = name_normalisation("syn")
    assert (
        f"to the template: {own} (made here: sub-01_to_xfm.txt is an affine, and --normalisation "
        "is syn)"
    ) in text
    (session,) = plan.sessions
    assert session.prepared_t1w is not None
    without = replace(session.prepared_t1w, transforms=None, templates=("MNI152NLin2009cAsym",))
    other = choose_template(without, "affine")
    assert (other.taken, other.name) == (None, name_normalisation("affine"))
    assert other.reason == "the derivatives lead to MNI152NLin2009cAsym only"
    none = choose_template(replace(without, templates=()), "affine")
    assert none.reason == "the derivatives hold no transform that can be taken"


@pytest.mark.parametrize("space", ["ACPC", None])
def test_graph_takes_instead_of_computing(
    space: str | None, series: DwiSeries, tmp_path: Path
) -> None:
    plan = plan_with_anatomy(series, root=tmp_path, space=space, models=())
    resources = replace(make_resources(tmp_path), anatomy_root=tmp_path / "fmriprep")
    workflow = init_participant_wf(plan, resources)
    anat = workflow.get_node("session_anat_wf").get_node("anat_wf")
    classes = {n: type(anat.get_node(n).interface).__name__ for n in anat.list_node_names()}
    assert classes["take_t1w"] == "IdentityInterface"
    assert classes["mask_t1w"] == "TakeMask"
    assert classes["align_acpc"] == ("KeepAcpc" if space == "ACPC" else "AlignAcpc")
    assert classes["locate_head"] == "LocateHead"
    assert classes["register_template"] == "TakeTemplate"
    base = anat.get_node("merge_records").interface.inputs.base
    assert base["AnatomySource"] == "fMRIPrep 23.2.1"
    sidecar = (
        workflow.get_node("session_anat_wf").get_node("derivatives_wf").get_node("meta_ds_t1w")
    )
    sources = sidecar.interface.inputs.base["Sources"]
    stem = "sub-01" if space is None else f"sub-01_space-{space}"
    assert f"bids:anatomy:sub-01/anat/{stem}_desc-preproc_T1w.nii.gz" in sources
    assert "bids:raw:sub-01_T1w.nii.gz" in sources
    tissue = workflow.get_node("session_anat_wf").get_node("tissue_wf").get_node("segment_tissue")
    assert type(tissue.interface).__name__ == "TakeTissue"
    assert tissue.interface.inputs.sources[0] == f"bids:anatomy:sub-01/anat/{stem}_dseg.nii.gz"


def test_methods_text_credits_the_pipeline(series: DwiSeries, tmp_path: Path) -> None:
    processed = foresee_outputs(plan_with_anatomy(series, root=tmp_path))
    text = " ".join(describe_steps(processed.series, processed.anatomies, processed.tissues))
    for said in (
        "was taken from the derivatives of fMRIPrep 23.2.1 [@esteban2019].",
        "The brain mask of the T1-weighted image was taken from fMRIPrep 23.2.1: "
        "sub-01_desc-brain_mask.nii.gz.",
        "The transform of the T1-weighted brain to the ICBM 152 template [@fonov2011] was taken "
        "from fMRIPrep 23.2.1: sub-01_to_xfm.txt (affine).",
        "The tissue of the T1-weighted image was taken from fMRIPrep 23.2.1: sub-01_dseg.nii.gz.",
    ):
        assert said in text, said
    for by, works in (("QSIPrep 1.0.1", " [@cieslak2021]."), ("own", "own.")):
        (found,) = describe_steps([], [{"AnatomySource": by}])
        assert found.endswith(works)


def test_every_file_of_it_counts_for_a_finished_run(series: DwiSeries, tmp_path: Path) -> None:
    plan = plan_with_anatomy(series, root=tmp_path)
    (planned,) = plan.sessions
    prepared = planned.prepared_t1w
    assert prepared is not None
    session = Session(None, (prepared.path,), (series,), prepared_t1w=prepared)
    person = Participant("01", (session,))
    assert prepared.tissue is not None
    assert {*prepared.files, *prepared.tissue.files} <= set(input_files(person))
    assert len(prepared.files) == 5
    before = fingerprint(person, "", version="1")
    newer = replace(session, prepared_t1w=replace(prepared, by="fMRIPrep 24.0.0"))
    assert fingerprint(Participant("01", (newer,)), "", version="1") != before
    prepared.files[3].write_text("another transform", encoding="utf-8")
    assert fingerprint(person, "", version="1") != before


def parse(bids: Path, *options: str) -> RunConfig:
    return cli.parse_args([str(bids), str(bids.parent / "out"), "participant", *options])


def test_derivatives_have_to_be_there_and_apart_from_the_outputs(tmp_path: Path) -> None:
    bids, other = tmp_path / "bids", tmp_path / "fmriprep"
    bids.mkdir()
    with pytest.raises(InputError, match="folder of --derivatives is missing"):
        parse(bids, "--derivatives", str(other))
    other.mkdir()
    assert parse(bids, "--derivatives", str(other)).derivatives == other
    for folder, message in (
        ("out", "are the output folder"),
        ("out/work", "which the run writes"),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        with pytest.raises(ConfigError, match=message):
            parse(bids, "--derivatives", str(tmp_path / folder))
    with pytest.raises(ConfigError, match="--derivatives and --ignore t1w"):
        parse(bids, "--derivatives", str(other), "--ignore", "t1w")
