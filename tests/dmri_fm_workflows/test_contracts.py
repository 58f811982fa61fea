"""Every builder: documented fields are the fields there are, and every field is wired.

nipype accepts an edge into a field that an `IdentityInterface` does not declare without a word,
and an output that nothing feeds; both are found here.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine.utils import generate_expanded_graph

from dmri_fm.bids import DwiRun, DwiSeries, EpiImage, Participant, Session
from dmri_fm.gradient_files import read_raw_gradients
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.volumes import save_image
from dmri_fm_workflows import models, normalise, participant, preprocess, report
from dmri_fm_workflows.engines import Engines, choose_sdc

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])


def make_run(folder: Path, direction: str, *, n_directions: int = 8) -> DwiRun:
    """Write a tiny run and return its record."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"sub-01_dir-{direction}_dwi"
    n = n_directions + 1
    save_image(np.ones((4, 4, 3, n)), AFFINE, f"{stem}.nii.gz")
    z = 1 - (np.arange(n_directions) + 0.5) / n_directions
    turn = np.pi * (1 + np.sqrt(5)) * np.arange(n_directions)
    bvecs = np.zeros((3, n))
    bvecs[:, 1:] = np.cos(turn), np.sin(turn), z
    bvecs[:2, 1:] *= np.sqrt(1 - z**2)
    np.savetxt(f"{stem}.bvec", bvecs)
    np.savetxt(f"{stem}.bval", [[0] + [1000] * n_directions], fmt="%d")
    return DwiRun(
        path=Path(f"{stem}.nii.gz"),
        entities={"subject": "01", "direction": direction},
        metadata={},
        shape=(4, 4, 3, n),
        affine=AFFINE,
        phase_encoding="j" if direction == "PA" else "j-",
        readout_time_s=0.05,
        bval=Path(f"{stem}.bval"),
        bvec=Path(f"{stem}.bvec"),
    )


@pytest.fixture
def series(tmp_path: Path) -> DwiSeries:
    """Two runs of opposite phase encoding."""
    runs = (make_run(tmp_path / "raw", "PA"), make_run(tmp_path / "raw", "AP"))
    return DwiSeries(runs=runs, entities={"subject": "01"})


def documented(builder: Callable[..., object], section: str) -> set[str]:
    """Return the field names of a section of a builder's docstring."""
    text = inspect.getdoc(builder) or ""
    match = re.search(rf"^{section}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text, re.S | re.M)
    if match is None:
        return set()
    names = [line for line in match[1].splitlines() if line and not line.startswith(" ")]
    return {name.strip() for line in names for name in line.split(",")}


def assert_contract(builder: Callable[..., object], **arguments: object) -> None:
    """Compare documentation, declared fields and edges of a builder's workflow."""
    workflow = builder(**arguments)
    for section, node_name in (("Inputs", "inputnode"), ("Outputs", "outputnode")):
        node = workflow.get_node(node_name)
        declared = set(node.inputs.copyable_trait_names())
        assert documented(builder, section) == declared, (builder.__name__, section)
        is_input = section == "Inputs"
        edges = (
            workflow._graph.out_edges(node, data=True)
            if is_input
            else workflow._graph.in_edges(node, data=True)
        )
        wired = set()
        for *_, data in edges:
            for source, target in data["connect"]:
                field = source if is_input else target
                wired.add((field[0] if isinstance(field, tuple) else field).split(".")[0])
        if not is_input:
            wired |= {f for f in declared if str(getattr(node.inputs, f)) != "<undefined>"}
        assert wired == declared, (builder.__name__, section, declared ^ wired)


COMMON = {"omp_nthreads": 1, "mem_gb": 0.1}


def test_denoise() -> None:
    assert_contract(preprocess.init_denoise_wf, method="mppca", unring=False, **COMMON)


def test_preprocess(series: DwiSeries) -> None:
    assert_contract(
        preprocess.init_preprocess_wf,
        series=series,
        b_scaling="auto",
        has_tensor=True,
        denoise="mppca",
        unring=True,
        sdc="pepolar",
        sdc_reason="pair",
        hmc="builtin",
        sloppy=False,
        **COMMON,
    )


def test_anatomy() -> None:
    assert_contract(normalise.init_anat_wf, normalisation="affine", sloppy=False)


def test_models() -> None:
    assert_contract(
        models.init_models_wf,
        networks=("tensor-refiner",),
        weights={},
        device="cpu",
        random_seed=0,
        **COMMON,
    )


def test_features() -> None:
    assert_contract(
        models.init_features_wf,
        model="drope",
        weights={},
        device="cpu",
        random_seed=0,
        entities={"subject": "01"},
    )


def test_anatomy_figures() -> None:
    assert_contract(report.init_anat_figures_wf)


ENGINES = [
    Engines("mppca", "pepolar", "builtin"),
    Engines("none", "none", "none"),
    Engines("patch2self", "topup", "builtin"),
    Engines("mppca", "topup", "eddy"),
    Engines("mppca", "pepolar", "eddy"),
]


def build(
    *series: DwiSeries,
    root: Path,
    engines: Engines,
    t1w: bool = True,
    session_warnings: tuple[str, ...] = (),
    **changes: object,
) -> object:
    """Build a participant's graph."""
    anatomy = ()
    if t1w:
        path = root / "raw" / "sub-01_T1w.nii.gz"
        save_image(np.ones((4, 4, 4)), AFFINE, path)
        anatomy = (path,)
    options: dict[str, object] = {
        "b_scaling": "auto",
        "unring": False,
        "normalisation": "affine",
        "output_resolution_mm": None,
        "output_spaces": ("ACPC", "MNI152NLin2009aSym"),
        "models": ("tensor-refiner", "drope"),
        "weights": {},
        "device": "cpu",
        "random_seed": 0,
        "sloppy": True,
        "omp_nthreads": 1,
    }
    return participant.init_participant_wf(
        participant=Participant("01", (Session(None, anatomy, series, session_warnings),)),
        bids_root=root / "raw",
        output_dir=root / "out",
        engines=engines,
        **(options | changes),
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


@pytest.mark.usefixtures("eddy_on_path")
@pytest.mark.parametrize("engines", ENGINES, ids=lambda e: f"{e.denoise}-{e.pair_sdc}-{e.hmc}")
@pytest.mark.parametrize("t1w", [True, False])
def test_graph_expands_with_every_engine(
    series: DwiSeries, tmp_path: Path, engines: Engines, t1w: bool
) -> None:
    workflow = build(series, root=tmp_path, engines=engines, t1w=t1w)
    graph = workflow._create_flat_graph()
    assert_every_mandatory_input_is_fed(graph)
    names = {node.name for node in graph.nodes()}
    assert {"ds_tensor_fa_acpc", "ds_drope_pooled_features", "ds_preproc_dwi_mni"} <= names
    assert ("eddy" in names) == (engines.hmc == "eddy")
    assert ("ds_t1w" in names) == t1w


@pytest.mark.usefixtures("eddy_on_path")
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
        if node.name == "denoise" and not unring:
            used = {1}
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
        output_resolution_mm=2.0,
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
    base = workflow.get_node("dwi_dir_PA_wf.merge_facts").inputs.base
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
    node = workflow.get_node(f"dwi_dir_PA_wf.preprocess_wf.sdc_wf.{node_name}")
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
    assert workflow.get_node("dwi_acq_b1000x2b_rec_x_chunk_2_wf.merge_facts") is not None


def test_warnings_of_the_session_reach_the_sidecars(tmp_path: Path) -> None:
    run = make_run(tmp_path / "raw", "PA")
    series = DwiSeries(runs=(run,), entities={"subject": "01", "direction": "PA"})
    said = "ses-2 has no T1-weighted image that can be used; ses-1's is used."
    workflow = build(series, root=tmp_path, engines=ENGINES[0], session_warnings=(said,))
    assert said in workflow.get_node("dwi_dir_PA_wf.merge_facts").inputs.base["Warnings"]


def test_topup_takes_a_grid_of_odd_size(series: DwiSeries) -> None:
    def config(*shape: int) -> str:
        runs = tuple(replace(run, shape=(*shape, 3)) for run in series.runs)
        workflow = preprocess.init_sdc_wf(
            method="topup", reason="", series=replace(series, runs=runs), **COMMON
        )
        return str(workflow.get_node("topup").inputs.config)

    assert config(4, 4, 4) == "b02b0.cnf"
    assert config(4, 4, 3) == "b02b0_1.cnf"


def test_uncorrected_runs_of_unlike_phase_encoding_are_warned_of(series: DwiSeries) -> None:
    engines = Engines("none", "none", "none")
    choice = choose_sdc(series, engines)
    assert choice.method == "none"
    assert "j, j-" in (choice.warning or "")
    assert choose_sdc(replace(series, runs=series.runs[:1]), engines).warning is None


@pytest.mark.usefixtures("eddy_on_path")
@pytest.mark.parametrize("engines", [ENGINES[0], ENGINES[-1]], ids=str)
def test_every_reader_of_gradients_is_given_the_threshold_of_the_series(
    tmp_path: Path, engines: Engines
) -> None:
    run = make_run(tmp_path / "raw", "PA")
    np.savetxt(run.bval, [[60] + [1000] * 8], fmt="%d")
    one = DwiSeries(runs=(run,), entities={"subject": "01", "direction": "PA"})
    workflow = build(one, root=tmp_path, engines=engines)
    assert workflow.get_node("dwi_dir_PA_wf.merge_facts").inputs.base["B0Threshold"] == 150
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
    run = make_run(tmp_path / "raw", "PA")
    bvecs = 0.93 * np.loadtxt(run.bvec)
    np.savetxt(run.bvec, bvecs)
    gradients = read_raw_gradients(
        run.bval, run.bvec, affine=AFFINE, options=GradientOptions("none")
    )
    one = DwiSeries(
        runs=(replace(run, gradients=gradients),), entities={"subject": "01", "direction": "PA"}
    )
    workflow = build(one, root=tmp_path, engines=ENGINES[0], b_scaling="none")
    check = workflow.get_node("dwi_dir_PA_wf.check_free_water").inputs
    assert (check.method, round(check.common_length, 3)) == ("none", 0.93)
    validate = workflow.get_node("dwi_dir_PA_wf.preprocess_wf.validate")
    assert validate.inputs.b_scaling == "none"
    plain = build(DwiSeries((make_run(tmp_path / "raw", "AP"),), one.entities), root=tmp_path,
                  engines=ENGINES[0])  # fmt: skip
    assert plain.get_node("dwi_dir_PA_wf.check_free_water") is None
