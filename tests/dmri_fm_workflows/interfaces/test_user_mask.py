"""The interface that takes a brain mask of the user, and the plan that asks for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.bids.records import UserMask
from dmri_fm_workflows.execution.plan_text import describe_plan
from dmri_fm_workflows.interfaces.user_mask import TakeUserMask
from dmri_fm_workflows.outputs.steps import describe_steps
from dmri_fm_workflows.plan.boilerplate import foresee_outputs
from dmri_fm_workflows.stages.anat import init_anat_wf
from dmri_fm_workflows.stages.lines import describe_anat
from dmri_fm_workflows.stages.merge import init_mask_wf
from tests.dmri_fm_workflows.tiny_series import AFFINE, make_resources, make_run, plan_for

SHAPE = (40, 50, 40)


def test_mask_of_the_distorted_image_becomes_that_of_the_corrected_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    brain = np.zeros(SHAPE)
    brain[8:32, 8:40, 8:32] = 1
    reference = save_image(100 * brain, AFFINE, tmp_path / "dwiref.nii.gz")
    field = save_image(np.full(SHAPE, 40.0), AFFINE, tmp_path / "field.nii.gz")
    drawn = save_image(np.roll(brain, -2, axis=1), AFFINE, tmp_path / "drawn_mask.nii.gz")
    given = {"in_file": str(reference), "mask_file": str(drawn), "image_name": "x_dwi.nii.gz"}
    encoding = {"phase_encoding": "j-", "readout_s": 0.05}
    taken = TakeUserMask(**given, **encoding, field_file=str(field)).run().outputs
    np.testing.assert_array_equal(read_array(load_image(taken.mask_file)), brain)
    np.testing.assert_array_equal(read_array(load_image(taken.brain_file)), 100 * brain)
    assert taken.record["MaskMethod"] == "given by the user"
    assert taken.record["MaskFile"] == "drawn_mask.nii.gz"
    assert "498 ml" in taken.record["Warnings"][0]
    as_drawn = TakeUserMask(**given, **encoding).run().outputs
    assert read_array(load_image(as_drawn.mask_file))[20, 6, 20] == 1


def test_plan_text_and_methods_say_that_the_mask_is_the_users(tmp_path: Path) -> None:
    pair = tuple(make_run(tmp_path / "raw", direction) for direction in ("AP", "PA"))
    mask = UserMask(tmp_path / "sub-01_dir-PA_desc-brain_mask.nii.gz", pair[1])
    mask.path.touch()
    series = DwiSeries(pair, {"subject": "01"}, user_mask=mask)
    participant_plan = plan_for(series, root=tmp_path)
    (plan,) = participant_plan.series
    assert plan.stated_methods["MaskMethod"] == "given by the user"
    assert plan.not_measured == {"mask_agreement_dice": "given by the user"}
    text = " ".join(describe_plan(participant_plan).split())
    named = "sub-01_dir-PA_desc-brain_mask.nii.gz, moved by the distortion field"
    assert f"given by the user: {named}" in text
    foreseen = foresee_outputs(participant_plan)
    sentences = describe_steps(foreseen.series, foreseen.anatomies)
    assert "The brain mask of the b=0 reference was given by the user." in sentences
    take = init_mask_wf(plan, make_resources(tmp_path)).get_node("mask_dwiref").inputs
    assert (take.phase_encoding, take.readout_s) == ("j", 0.05)


def test_mask_of_the_t1w_image_is_an_entry_of_its_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "raw", "AP")
    planned = plan_for(DwiSeries((run,), {"subject": "01"}), root=tmp_path)
    given = tmp_path / "sub-01_desc-brain_mask.nii.gz"
    given.touch()
    session = replace(planned.sessions[0], user_t1w_mask=given)
    take = init_anat_wf(session, make_resources(tmp_path)).get_node("mask_t1w").inputs
    assert (take.mask_file, take.file_key) == (str(given), "T1wMaskFile")
    assert "brain mask given by the user" in dict(describe_anat(session))["T1w image"]
