"""Graph of a participant: it expands with every engine, and decisions reach its nodes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine.utils import generate_expanded_graph

from dmri_fm.gradient_files import read_raw_gradients
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.series import save_image
from dmri_fm_workflows.bids import DwiSeries, EpiImage
from dmri_fm_workflows.plan.engines import Engines
from tests.dmri_fm_workflows.tiny_series import (
    AFFINE,
    ENGINES,
    build,
    make_run,
    plan_for,
    scale_vectors,
)


def assert_every_mandatory_input_is_fed(graph: object) -> None:
    """Look for mandatory inputs that have neither a value nor an edge."""
    expanded = generate_expanded_graph(graph)
    for node in expanded.nodes():
        fed = {
            (field[0] if isinstance(field, tuple) else field)
            for *_, data in expanded.in_edges(node, data=True)
            for _, field in data["connect"]
        }
        for name, trait in node.inputs.traits(mandatory=True).items():
            if trait.xor and any(
                x in fed or isdefined(getattr(node.inputs, x)) for x in trait.xor
            ):
                continue
            is_set = isdefined(getattr(node.inputs, name)) or name in fed
            assert is_set, f"{node.fullname} has no {name}"


@pytest.mark.parametrize("engines", ENGINES, ids=lambda e: f"{e.denoise}-{e.sdc[0]}-{e.hmc}")
@pytest.mark.parametrize("t1w", [True, False])
def test_graph_expands_with_every_engine(
    series: DwiSeries, tmp_path: Path, engines: Engines, t1w: bool
) -> None:
    workflow = build(series, root=tmp_path, engines=engines, t1w=t1w)
    graph = workflow._create_flat_graph()
    assert_every_mandatory_input_is_fed(graph)
    names = {node.name for node in graph.nodes()}
    assert {"ds_tensor_fa_acpc", "ds_drope_features_scan", "ds_preproc_dwi_mni"} <= names
    assert ("eddy" in names) == (engines.hmc == "eddy")
    assert ("ds_t1w" in names) == t1w


@pytest.mark.parametrize("engines", [ENGINES[0], ENGINES[3]])
@pytest.mark.parametrize("unring", [True, False])
def test_only_steps_that_use_several_threads_ask_for_them(
    series: DwiSeries, tmp_path: Path, engines: Engines, unring: bool
) -> None:
    """A library has one thread; others of the node's share would stand idle."""
    workflow = build(series, root=tmp_path, engines=engines, unring=unring, omp_nthreads=4)
    nodes = workflow._create_flat_graph().nodes()
    assert {n.n_procs for n in nodes} == {1, 4}
    for node in nodes:
        names = {"n_threads", "nthreads", "num_threads"} & set(node.inputs.copyable_trait_names())
        used = {getattr(node.inputs, name) for name in names}
        assert node.n_procs == (used.pop() if used else 1) or node.name == "topup", node.fullname


@pytest.mark.parametrize(
    ("models_asked", "normalisation"),
    list(itertools.product([(), ("drope",)], ["affine", "syn"])),
)
def test_graph_without_networks(
    series: DwiSeries, tmp_path: Path, models_asked: tuple[str, ...], normalisation: str
) -> None:
    workflow = build(
        series,
        root=tmp_path,
        engines=ENGINES[0],
        models=models_asked,
        normalisation=normalisation,
        output_resolution=2.0,
    )
    names = {node.name for node in workflow._create_flat_graph().nodes()}
    assert "predict_tensor" not in names
    assert ("extract_features" in names) == ("drope" in models_asked)


def test_few_directions_skip_the_tensor(tmp_path: Path) -> None:
    run = make_run(tmp_path / "raw", "PA", n_directions=4)
    few = DwiSeries(runs=(run,), entities={"subject": "01", "direction": "PA"})
    workflow = build(few, root=tmp_path, engines=ENGINES[0])
    names = {node.name for node in workflow._create_flat_graph().nodes()}
    assert "fit_tensor" not in names
    assert "extract_features" in names
    base = workflow.get_node("dwi_dir_PA_wf.merge_records").inputs.base
    assert any("NOT corrected" in text for text in base["Warnings"])


@pytest.mark.parametrize(
    ("engines", "node_name"), [(ENGINES[0], "estimate_field"), (ENGINES[2], "write_fsl_files")]
)
def test_reverse_image_of_fmap_reaches_the_estimate(
    tmp_path: Path, engines: Engines, node_name: str
) -> None:
    run = make_run(tmp_path / "raw", "PA")
    path = save_image(np.ones((4, 4, 3)), AFFINE, tmp_path / "raw" / "sub-01_dir-AP_epi.nii.gz")
    epi = EpiImage(
        path=path,
        entities={"subject": "01"},
        metadata={},
        shape=(4, 4, 3),
        affine=AFFINE,
        phase_encoding="j-",
        readout_time_s=0.05,
    )
    one = DwiSeries(runs=(run,), entities={"subject": "01", "direction": "PA"}, reverse=(epi,))
    workflow = build(one, root=tmp_path, engines=engines)
    node = workflow.get_node(f"dwi_dir_PA_wf.sdc_wf.{node_name}")
    assert node.inputs.epi_file == str(path)
    assert node.inputs.epi_phase_encoding == "j-"


def test_no_two_outputs_share_a_name(series: DwiSeries, tmp_path: Path) -> None:
    workflow = build(series, root=tmp_path, engines=ENGINES[0])
    sinks = [n for n in workflow._create_flat_graph().nodes() if n.name.startswith("ds_")]
    assert len({n.fullname for n in sinks}) == len(sinks)


def test_any_label_and_any_entity_gives_a_graph(tmp_path: Path) -> None:
    entities = {"subject": "01", "acquisition": "b1000+", "reconstruction": "x"}
    one, two = (
        DwiSeries(
            runs=(make_run(tmp_path / "raw", direction),), entities={**entities, "chunk": chunk}
        )
        for direction, chunk in (("AP", "1"), ("PA", "2"))
    )
    workflow = build(one, two, root=tmp_path, engines=ENGINES[0])
    assert workflow.get_node("dwi_acq_b1000x2b_rec_x_chunk_2_wf.merge_records") is not None


def test_warnings_of_the_session_reach_the_sidecars(tmp_path: Path) -> None:
    run = make_run(tmp_path / "raw", "PA")
    series = DwiSeries(runs=(run,), entities={"subject": "01", "direction": "PA"})
    said = "ses-2 has no T1-weighted image that can be used; ses-1's is used."
    workflow = build(series, root=tmp_path, engines=ENGINES[0], session_warnings=(said,))
    assert said in workflow.get_node("dwi_dir_PA_wf.merge_records").inputs.base["Warnings"]


@pytest.mark.parametrize("engines", [ENGINES[0], ENGINES[-1]], ids=str)
def test_every_reader_of_gradients_is_given_the_threshold_of_the_series(
    tmp_path: Path, engines: Engines
) -> None:
    run = make_run(tmp_path / "raw", "PA")
    np.savetxt(run.bval, [[60] + [1000] * 8], fmt="%d")
    gradients = read_raw_gradients(run.bval, run.bvec, affine=AFFINE)
    one = DwiSeries(
        runs=(replace(run, gradients=gradients),), entities={"subject": "01", "direction": "PA"}
    )
    workflow = build(one, root=tmp_path, engines=engines)
    assert workflow.get_node("dwi_dir_PA_wf.merge_records").inputs.base["B0Threshold"] == 150
    readers = [
        node
        for node in map(workflow.get_node, workflow.list_node_names())
        if any(n.endswith(("bvec_file", "bvec_files")) for n in node.inputs.copyable_trait_names())
        and type(node.interface).__module__.startswith("dmri_fm_workflows")
    ]
    assert len(readers) > 8
    for node in readers:
        assert node.inputs.b0_threshold == 150, node.fullname


def test_the_ventricles_are_looked_at_where_lengths_were_decided(tmp_path: Path) -> None:
    run = scale_vectors(make_run(tmp_path / "raw", "PA"))
    one = DwiSeries(runs=(run,), entities={"subject": "01", "direction": "PA"})
    workflow = build(one, root=tmp_path, engines=ENGINES[0], b_scaling="none")
    check = workflow.get_node("dwi_dir_PA_wf.free_water_wf.check_free_water").inputs
    assert (check.method, round(check.common_length, 3)) == ("none", 0.93)
    validate = workflow.get_node("dwi_dir_PA_wf.read_wf.validate")
    assert validate.inputs.b_scaling == "none"
    plain = build(DwiSeries((make_run(tmp_path / "raw", "AP"),), one.entities), root=tmp_path,
                  engines=ENGINES[0])  # fmt: skip
    assert plain.get_node("dwi_dir_PA_wf.free_water_wf.check_free_water") is None


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((0.93, 0.93), ("length", 0.93)),
        # One factor for the whole series would be wrong for one of its runs.
        ((0.93, 1.0), ("length", None)),
        ((0.93, 0.8), ("length", None)),
        ((1.0, 1.0), None),
    ],
)
def test_an_alternative_md_is_told_only_of_a_length_that_all_runs_share(
    tmp_path: Path, lengths: tuple[float, float], expected: tuple[str, float | None] | None
) -> None:
    runs = []
    for encoding, length in zip(("AP", "PA"), lengths, strict=True):
        run = make_run(tmp_path / "raw", encoding)
        np.savetxt(run.bvec, length * np.loadtxt(run.bvec))
        gradients = read_raw_gradients(
            run.bval, run.bvec, affine=AFFINE, options=GradientOptions("length")
        )
        runs.append(replace(run, gradients=gradients))
    one = DwiSeries(runs=tuple(runs), entities={"subject": "01"})
    (plan,) = plan_for(one, root=tmp_path, b_scaling="length").series
    assert plan.length_scaling == (
        expected and (expected[0], expected[1] and pytest.approx(expected[1]))
    )
