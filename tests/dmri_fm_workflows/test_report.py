"""The page of a participant, from the output folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm.derivatives import output_path, publish_text
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
