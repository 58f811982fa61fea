"""The plan that --dry-run prints, and what of it reaches the sidecars."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich import get_console

from dmri_fm.bids import read_dataset
from dmri_fm.volumes import save_image
from dmri_fm_workflows.base import run_participants
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.engines import Engines
from dmri_fm_workflows.participant import init_participant_wf

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


def test_plan_names_the_pair_and_every_image_that_is_not_used(raw: Path, tmp_path: Path) -> None:
    config = RunConfig(raw, tmp_path / "out", dry_run=True, models=(), sdc="pepolar")
    with get_console().capture() as captured:
        assert run_participants(config) == 0
    lines = [line.strip() for line in captured.get().splitlines()]
    assert (
        "distortion: pepolar, sub-01_dir-AP_dwi.nii.gz (j-) and "
        "sub-01_dir-PA_run-1_epi.nii.gz (j): linked by IntendedFor"
    ) in lines
    assert any(
        line.startswith(f"not used: sub-01_dir-PA_run-2_epi.nii.gz: {DEAD_LINK}") for line in lines
    )
    assert any(line.startswith("warning: sub-01_dir-AP_dwi.nii.gz: 2 diff") for line in lines)


@pytest.mark.parametrize("pair_sdc", ["pepolar", "none"])
def test_facts_of_the_sidecar_name_them_by_uri(raw: Path, tmp_path: Path, pair_sdc: str) -> None:
    workflow = init_participant_wf(
        participant=read_dataset(raw).participants[0],
        bids_root=raw,
        output_dir=tmp_path / "out",
        engines=Engines("none", pair_sdc, "none"),
        b_scaling="auto",
        unring=False,
        normalisation="affine",
        output_resolution_mm=None,
        output_spaces=("ACPC",),
        models=(),
        weights={},
        device="cpu",
        random_seed=0,
        sloppy=True,
        omp_nthreads=1,
    )
    facts = workflow.get_node("dwi_dir_AP_wf.merge_facts").inputs.base
    used, unused = (f"bids:raw:sub-01/fmap/sub-01_dir-PA_run-{n}_epi.nii.gz" for n in "12")
    listed = {entry["File"]: entry["Reason"] for entry in facts["SDCImagesNotUsed"]}
    assert listed[unused].startswith(DEAD_LINK)
    if pair_sdc == "none":
        assert listed[used] == "switched off on the command line"
        assert "SDCPair" not in facts
    else:
        assert used not in listed
        assert facts["SDCPair"] == ["bids:raw:sub-01/dwi/sub-01_dir-AP_dwi.nii.gz", used]
        assert facts["SDCPairReason"].endswith("linked by IntendedFor")
