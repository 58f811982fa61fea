"""The part of the brain that encoders read: request, dry run and node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.identity import identity, label_of
from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.outputs.methods import describe_methods, find_processed
from dmri_fm_workflows.stages.base import Resources
from dmri_fm_workflows.stages.lines import describe_encoder
from dmri_fm_workflows.stages.table import list_stages
from tests.dmri_fm_workflows.tiny_series import make_run, plan_for

ENCODERS = ("drope", "drope-paper")
WHOLE, CROP = ("whole", "the whole brain"), ("published", "slices 64 to 119 at 1 mm")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("auto", (WHOLE, CROP)), ("published", (CROP, CROP)), ("whole", (WHOLE, WHOLE))],
)
def test_a_region_is_an_option(tmp_path: Path, asked: str, expected) -> None:
    weights = tmp_path / "own.safetensors"
    weights.touch()
    (plan,) = plan_for(
        DwiSeries(runs=(make_run(tmp_path / "raw", "AP"),), entities={"subject": "01"}),
        root=tmp_path,
        models=ENCODERS,
        weights={"drope-paper": weights},
        region=asked,
    ).series
    resources = Resources(bids_root=tmp_path, output_dir=tmp_path / "out", omp_nthreads=1)
    for encoder, (region, words) in zip(ENCODERS, expected, strict=True):
        ((_, line),) = describe_encoder(plan, encoder)
        assert f", {words}, on the model's MNI grid" in line
        (stage,) = (s for s in list_stages(plan) if s.name == label_of(encoder))
        node = stage.builder(plan, resources).get_node("extract_features")
        assert node.inputs.region == region


def test_the_methods_text_names_the_region_of_each_encoder(tmp_path: Path) -> None:
    paths = []
    for encoder, region in zip(ENCODERS, ("whole", "published"), strict=True):
        paths.append(tmp_path / f"sub-01_model-{label_of(encoder)}_desc-scan_features.json")
        sidecar = {"Model": {"Name": identity(encoder).title}, "Region": region}
        paths[-1].write_text(json.dumps(sidecar), encoding="utf-8")
    text = describe_methods(find_processed(paths))
    assert "Features by the D-RoPE encoder are those of the whole brain." in text
    assert "by the D-RoPE encoder as published are those of slices 64 to 119 at 1 mm." in text


def test_unknown_regions_are_refused(tmp_path: Path) -> None:
    series = DwiSeries(runs=(make_run(tmp_path / "raw", "AP"),), entities={"subject": "01"})
    with pytest.raises(ConfigError, match="region is 'half'"):
        plan_for(series, root=tmp_path, region="half")
