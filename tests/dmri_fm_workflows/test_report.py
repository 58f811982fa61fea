"""The page of a participant, from the output folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmri_fm.derivatives import output_path, publish_text
from dmri_fm.derivatives.sidecars import image_sidecar
from dmri_fm_workflows.report import write_participant_page


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ((), ()),
        (("cls_features",), ("rotary embedding",)),
        (("qcgdti_fa",), ("QCG-DTI network",)),
        (("qcgdti_fa", "cls_features"), ("QCG-DTI network", "rotary embedding")),
    ],
)
def test_methods_name_the_networks_that_wrote_something(
    tmp_path: Path, kinds: tuple[str, ...], words: tuple[str, ...]
) -> None:
    for kind in kinds:
        space = "MNI152NLin2009aSym"
        publish_text("", tmp_path / output_path({"subject": "01"}, kind, space=space))
    page = write_participant_page(tmp_path, "01", dataset="x", errors=[], config="")
    text = page.read_text(encoding="utf-8")
    for word in ("QCG-DTI network", "rotary embedding"):
        assert (word in text) == (word in words)


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
    page = write_participant_page(tmp_path, "01", dataset="x", errors=[], config="")
    text = page.read_text(encoding="utf-8")
    assert "Images not used to correct distortion" in text
    assert '<th scope="row">sub-01/fmap/sub-01_dir-PA_epi.nii.gz</th>' in text
    assert "IntendedFor names &#39;dwi/&lt;old&gt;.nii.gz&#39;, which does not exist" in text
