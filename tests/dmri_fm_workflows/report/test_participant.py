"""The page of a participant, from the output folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.free_water import FreeWater, describe_free_water
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import save_image
from dmri_fm_workflows.outputs import output_path, publish_text
from dmri_fm_workflows.outputs.sidecars import image_sidecar
from dmri_fm_workflows.report import summarise_run, write_participant_pages
from dmri_fm_workflows.run import MethodsText


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ((), ()),
        ((("features_scan", "drope"),), ("rotary embedding",)),
        ((("fa", "tensor-refiner"),), ("tensor refiner",)),
        (
            (("fa", "tensor-refiner"), ("features_scan", "drope")),
            ("tensor refiner", "rotary embedding"),
        ),
        (
            (("fa", "qcg-dti-paper"), ("features_scan", "drope-paper")),
            ("QCG-DTI", "rotary embedding"),
        ),
    ],
)
def test_methods_name_the_networks_that_wrote_something(
    tmp_path: Path, written: tuple[tuple[str, str], ...], words: tuple[str, ...]
) -> None:
    for of, model in written:
        space = "MNI152NLin2009aSym"
        publish_text("", tmp_path / output_path({"subject": "01"}, of, model=model, space=space))
    (page,) = write_participant_pages(tmp_path, "01", dataset="x", run=summarise_run("", []))
    text = page.read_text(encoding="utf-8")
    for word in ("tensor refiner", "QCG-DTI", "rotary embedding"):
        assert (word in text) == (word in words)


def test_no_lost_slices_are_said_to_be_none(tmp_path: Path) -> None:
    _state(tmp_path, "01", {"SlicesReplaced": {}, "SlicesLostNotReplaced": {"3": [7, 8]}})
    (page,) = write_participant_pages(tmp_path, "01", dataset="x", run=summarise_run("", []))
    text = page.read_text(encoding="utf-8")
    assert ">none<" in text[text.index("Slices replaced") : text.index("Lost slices")]
    assert "3: 7, 8" in text[text.index("Lost slices") :]


def _state(out: Path, label: str, facts: dict[str, Any]) -> Path:
    path = out / output_path({"subject": label}, "preproc_dwi", space="ACPC", extension=".json")
    publish_text(json.dumps(facts), path)
    return path


def test_page_and_citations_say_what_ran(tmp_path: Path) -> None:
    stated = {"Denoising": "MP-PCA (DIPY 1.12.1, patches of 5^3 voxels)", "HMCMethod": "none"}
    _state(tmp_path, "01", stated)
    (page,) = write_participant_pages(tmp_path, "01", dataset="x", run=summarise_run("", []))
    methods = MethodsText(tmp_path)
    methods.add("01", ())
    shown = " ".join(page.read_text(encoding="utf-8").split())
    cited = (tmp_path / "logs" / "CITATION.md").read_text(encoding="utf-8")
    for text in (shown, cited):
        assert "Noise was removed by MP-PCA (DIPY 1.12.1, patches of 5^3 voxels)" in text
        assert "Veraart" in text
        assert "Head motion and eddy currents were not corrected" in text
        for word in ("Fisch", "Andersson", "Kellner", "Tournier", "Fadnavis", "refiner"):
            assert word not in text
    assert "1 participant (sub-01)" in cited
    assert "The group level writes it for all participants." in cited


def test_citations_gather_the_participants_of_a_run(tmp_path: Path) -> None:
    methods = MethodsText(tmp_path)
    old = _state(tmp_path, "01", {"HMCMethod": "FSL eddy (6.0.7) with outlier replacement"})
    _state(tmp_path, "02", {"HMCMethod": "none"})
    space = "MNI152NLin2009aSym"
    publish_text(
        "", tmp_path / output_path({"subject": "02"}, "fa", model="tensorrefiner", space=space)
    )
    methods.add("01", {old})
    methods.add("02", ())
    cited = (tmp_path / "logs" / "CITATION.md").read_text(encoding="utf-8")
    assert "Andersson" not in cited
    assert "were not corrected" in cited
    assert "tensor refiner" in cited
    assert "2 participants (sub-01, sub-02)" in cited


def test_page_lists_images_that_were_not_used(tmp_path: Path) -> None:
    facts = {
        "SDCMethod": "none",
        "SDCImagesNotUsed": [
            {
                "File": "bids:raw:sub-01/fmap/sub-01_dir-PA_epi.nii.gz",
                "Reason": "IntendedFor names 'dwi/<old>.nii.gz', which does not exist",
            }
        ],
    }
    path = tmp_path / output_path({"subject": "01"}, "preproc_dwi", space="ACPC")
    sidecar = image_sidecar("preproc_dwi", space="ACPC", extra=facts)
    publish_text(json.dumps(sidecar), path.with_name(path.name.replace(".nii.gz", ".json")))
    (page,) = write_participant_pages(tmp_path, "01", dataset="x", run=summarise_run("", []))
    text = page.read_text(encoding="utf-8")
    assert "Images not used to correct distortion" in text
    assert '<th scope="row">sub-01/fmap/sub-01_dir-PA_epi.nii.gz</th>' in text
    assert "IntendedFor names &#39;dwi/&lt;old&gt;.nii.gz&#39;, which does not exist" in text


def test_the_page_states_what_was_done_about_the_gradients(tmp_path: Path) -> None:
    stem = tmp_path / "sub-01" / "dwi" / "sub-01_space-ACPC_desc-preproc_dwi"
    save_image(np.ones((3, 3, 3, 8)), np.eye(4), f"{stem}.nii.gz")
    axes = np.vstack([np.zeros(3), [1, 0, 0], SKARE_DIRECTIONS])
    gtab = GradientTable([0, 120] + [1000] * 6, axes)
    write_gradients(gtab, f"{stem}.bval", f"{stem}.bvec", affine=np.eye(4))
    sidecar = {
        "B0Threshold": 200.0,
        "BScaling": {"a.nii.gz": {"Method": "none", "VectorLengths": [0.93, 0.93]}},
        "BScalingCheck": dict(
            describe_free_water(FreeWater(3.0e-3, 99), method="none", common_length=0.93)
        ),
        "VolumesLeftOut": {"a.nii.gz": {"7": "no signal in any voxel"}},
        "Warnings": ["a.nii.gz: volume 7 (counted from 0) left out"],
    }
    publish_text(json.dumps(sidecar), Path(f"{stem}.json"))
    (page,) = write_participant_pages(tmp_path, "01", dataset="x", run=summarise_run("", []))
    text = " ".join(page.read_text(encoding="utf-8").split())
    for words in (
        "2 of b=0",
        "volume 7 (counted from 0) left out",
        "MD 3.00e-3 mm^2/s with --b-scaling none, 3.47e-3 with length",
        "a.nii.gz: 7: no signal in any voxel",
    ):
        assert words in text
