"""Every builder: documented fields are the fields there are, and every field is wired.

nipype accepts an edge into a field that an `IdentityInterface` does not declare without a word,
and an output that nothing feeds; both are found here.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import Workflow
from nipype.pipeline.engine.utils import generate_expanded_graph

import dmri_fm_workflows
from dmri_fm.errors import DmriError
from dmri_fm.gradient_files import read_raw_gradients
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.identity import identity
from dmri_fm.series import save_image
from dmri_fm_workflows import participant
from dmri_fm_workflows.bids import DwiRun, DwiSeries, EpiImage, Participant, Session
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.engines import Engines
from dmri_fm_workflows.options import GROUPS
from dmri_fm_workflows.outputs.maps import SCAN_FEATURES, load_catalogue
from dmri_fm_workflows.plan import ParticipantPlan, SeriesPlan, plan_participant
from dmri_fm_workflows.stages import base, denoise, hmc, sdc, table
from dmri_fm_workflows.stages import outputs as derivatives
from dmri_fm_workflows.stages.sdc.choice import choose_sdc

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
        gradients=read_raw_gradients(f"{stem}.bval", f"{stem}.bvec", affine=AFFINE),
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
    return {name.strip() for line in names for name in line.split(",") if name.strip()}


def fill_in(documented_names: set[str], declared: frozenset[str]) -> set[str]:
    """Replace names with a `<label>` or `<type>` by the declared names that they stand for."""
    found = set()
    for name in documented_names:
        pattern = "\\w+".join(map(re.escape, re.split("<label>|<type>", name)))
        meant = {d for d in declared if re.fullmatch(pattern, d)}
        found |= (meant or {name}) if "<" in name else {name}
    return found


@dataclass(frozen=True)
class Contract:
    """Documented, declared and wired fields of the workflows that a builder makes."""

    declared: frozenset[str]
    wired: frozenset[str]


def find_fields(workflow: Workflow, node_name: str) -> Contract:
    """Return the fields of a workflow's inputnode or outputnode; none if it has no such node."""
    node = workflow.get_node(node_name)
    if node is None:
        return Contract(frozenset(), frozenset())
    declared = set(node.inputs.copyable_trait_names())
    is_input = node_name == "inputnode"
    graph = workflow._graph
    edges = graph.out_edges(node, data=True) if is_input else graph.in_edges(node, data=True)
    wired = set()
    for *_, data in edges:
        for source, target in data["connect"]:
            field = source if is_input else target
            wired.add((field[0] if isinstance(field, tuple) else field).split(".")[0])
    if not is_input:
        wired |= {f for f in declared if isdefined(getattr(node.inputs, f))}
    return Contract(frozenset(declared), frozenset(wired))


#: Fields of a builder that no docstring can list: they are an argument of it.
SOME_OUTPUTS = (*derivatives.ANAT_OUTPUTS, *derivatives.figure_outputs(["t1wmask"]))
ARGUMENT_FIELDS = {
    ("init_derivatives_wf", "Inputs"): {
        "record",
        *(f for output in SOME_OUTPUTS for f in output.all_fields),
    },
}


def list_plans(series: DwiSeries, root: Path) -> list[SeriesPlan]:
    """Return plans that between them ask for everything that a builder can do."""
    found = []
    for engines, t1w in itertools.product(ENGINES, (True, False)):
        for unring in (True, False):
            found += plan_for(series, root=root, engines=engines, t1w=t1w, unring=unring).series
    scaled = replace(series, runs=tuple(map(scale_vectors, series.runs)))
    return [*found, *plan_for(scaled, root=root).series]


def scale_vectors(run: DwiRun) -> DwiRun:
    """Make all b-vectors of a run shorter than 1."""
    np.savetxt(run.bvec, 0.93 * np.loadtxt(run.bvec))
    gradients = read_raw_gradients(
        run.bval, run.bvec, affine=AFFINE, options=GradientOptions("none")
    )
    return replace(run, gradients=gradients)


def list_variants(
    name: str, plans: list[SeriesPlan], participant_plan: ParticipantPlan, root: Path
) -> list[dict[str, object]]:
    """Return arguments of a builder, several sets where no single one wires all fields."""
    resources = make_resources(root)
    if name == "init_derivatives_wf":
        origin = derivatives.Origin(
            entities={"subject": "01"}, sources=["bids:raw:x"], normalisation="affine"
        )
        return [{"outputs": SOME_OUTPUTS, "output_dir": root / "out", "origin": origin}]
    if name == "init_participant_wf":
        return [{"plan": participant_plan, "resources": resources}]
    if name in ("init_anat_wf", "init_anat_figures_wf"):
        return [{"plan": participant_plan.sessions[0], "resources": resources}]
    needs = NEEDS.get(name, lambda plan: True)
    return [{"plan": plan, "resources": resources} for plan in plans if needs(plan)]


#: What a plan has to ask for before a builder can be called with it.
NEEDS: dict[str, Callable[[SeriesPlan], bool]] = {
    "init_free_water_wf": lambda plan: plan.length_scaling is not None,
    "init_pepolar_wf": lambda plan: plan.sdc.method == "pepolar",
    "init_topup_wf": lambda plan: plan.sdc.method == "topup",
}


def list_builders() -> dict[str, Callable[..., Workflow]]:
    """Return every function `init_..._wf` of the package, wherever it is."""
    found = {}
    for module in pkgutil.walk_packages(dmri_fm_workflows.__path__, "dmri_fm_workflows."):
        if module.name.endswith("__main__"):
            continue
        for name, function in vars(importlib.import_module(module.name)).items():
            if re.fullmatch(r"init_\w+_wf", name) and inspect.isfunction(function):
                found[name] = function
    return found


BUILDERS = list_builders()


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_documented_fields_are_declared_and_wired(
    name: str, series: DwiSeries, tmp_path: Path
) -> None:
    """Each field that a plan gives a workflow is wired, and all of them are documented."""
    builder = BUILDERS[name]
    plan = plan_for(series, root=tmp_path)
    plans = list_plans(series, tmp_path)
    workflows = [builder(**v) for v in list_variants(name, plans, plan, tmp_path)]
    for section, node_name in (("Inputs", "inputnode"), ("Outputs", "outputnode")):
        expected = ARGUMENT_FIELDS.get((name, section), documented(builder, section))
        contracts = [find_fields(workflow, node_name) for workflow in workflows]
        for contract in contracts:
            assert contract.wired == contract.declared
        declared = frozenset().union(*(c.declared for c in contracts))
        assert declared == fill_in(expected, declared)


def test_every_stage_takes_what_earlier_ones_offer(series: DwiSeries, tmp_path: Path) -> None:
    """Building connects each input, so what is left is that every output of a stage is used."""
    taken, offered, written = set(), set(), set()
    for plan in list_plans(series, tmp_path):
        workflow = participant.init_dwi_wf(plan, make_resources(tmp_path))
        written |= {n for n in workflow.list_node_names() if ".ds_" in n}
        for stage in table.list_stages(plan):
            stage_wf = workflow.get_node(stage.wf_name)
            offered |= {(stage.name, f) for f in base.field_names(stage_wf, "outputnode")}
            for _, _, data in workflow._graph.out_edges(stage_wf, data=True):
                taken |= {(stage.name, s.removeprefix("outputnode.")) for s, _ in data["connect"]}
    assert offered - taken == set()
    declared = {
        f"derivatives_wf.{output.node_name}"
        for stage in table.list_stages(list_plans(series, tmp_path)[0])
        for output in stage.outputs
    }
    assert declared == written


def test_every_option_about_the_processing_names_its_stages(
    series: DwiSeries, tmp_path: Path
) -> None:
    plan = plan_for(series, root=tmp_path).series[0]
    stages = (*table.SESSION_STAGES, *table.list_stages(plan))
    known = {stage.name for stage in stages} | {identity(m).family for m in plan.models}
    of_processing = [f for f in fields(RunConfig) if f.metadata.get("group") in GROUPS[2:]]
    assert len(of_processing) == 13
    for option in of_processing:
        named = set(option.metadata["stages"])
        assert named, option.name
        assert named <= known, option.name


def test_a_stage_that_takes_what_nobody_offers_is_refused(
    series: DwiSeries, tmp_path: Path
) -> None:
    plan = plan_for(series, root=tmp_path).series[0]
    late = table.list_stages(plan)[1:]
    with pytest.raises(DmriError, match="stage denoise takes run_dwi_files, which no earlier"):
        base.connect_stages(Workflow("x"), late, plan, make_resources(tmp_path), {})


def test_two_stages_that_offer_one_field_are_refused(series: DwiSeries, tmp_path: Path) -> None:
    plan = plan_for(series, root=tmp_path).series[0]
    read = table.list_stages(plan)[0]
    stages = (read, replace(read, name="again"))
    with pytest.raises(DmriError, match="stage again offers run_dwi_files"):
        base.connect_stages(Workflow("x"), stages, plan, make_resources(tmp_path), {})


def test_every_type_that_a_scan_writes_is_declared_by_a_stage(
    series: DwiSeries, tmp_path: Path
) -> None:
    """Outputs of the catalogue have a stage that makes them, but for those of the group."""
    plan = plan_for(series, root=tmp_path).series[0]
    stages = (*table.SESSION_STAGES, *table.list_stages(plan))
    declared = {output.type for stage in stages for output in stage.outputs}
    types = load_catalogue().types.values()
    assert declared <= {t.name for t in types}
    # The weights of an encoder give one of the two.
    declared |= set(SCAN_FEATURES) if set(SCAN_FEATURES) & declared else set()
    assert {t.name for t in types if t.datatype in ("anat", "dwi", "figures")} <= declared


ENGINES = [
    Engines("mppca", "pepolar", "builtin"),
    Engines("none", "none", "none"),
    Engines("patch2self", "topup", "builtin"),
    Engines("mppca", "topup", "eddy"),
    Engines("mppca", "pepolar", "eddy"),
]


def plan_for(
    *series: DwiSeries,
    root: Path,
    engines: Engines = ENGINES[0],
    t1w: bool = True,
    session_warnings: tuple[str, ...] = (),
    **options: object,
) -> ParticipantPlan:
    """Plan a participant with these series and options."""
    anatomy = ()
    if t1w:
        path = root / "raw" / "sub-01_T1w.nii.gz"
        save_image(np.ones((4, 4, 4)), AFFINE, path)
        anatomy = (path,)
    config = RunConfig(root / "raw", root / "out", **({"sloppy": True} | options))
    found = Participant("01", (Session(None, anatomy, series, session_warnings),))
    return plan_participant(config, found, engines)


def make_resources(root: Path, omp_nthreads: int = 1) -> base.Resources:
    """Return folders below a root."""
    return base.Resources(
        bids_root=root / "raw", output_dir=root / "out", omp_nthreads=omp_nthreads
    )


def build(*series: DwiSeries, root: Path, omp_nthreads: int = 1, **options: object) -> Workflow:
    """Build a participant's graph."""
    plan = plan_for(*series, root=root, **options)
    return participant.init_participant_wf(plan, make_resources(root, omp_nthreads))


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


@pytest.mark.parametrize("engines", ENGINES, ids=lambda e: f"{e.denoise}-{e.pair_sdc}-{e.hmc}")
@pytest.mark.parametrize("t1w", [True, False])
def test_graph_expands_with_every_engine(
    series: DwiSeries, tmp_path: Path, engines: Engines, t1w: bool
) -> None:
    workflow = build(series, root=tmp_path, engines=engines, t1w=t1w)
    graph = workflow._create_flat_graph()
    assert_every_mandatory_input_is_fed(graph)
    names = {node.name for node in graph.nodes()}
    assert {"ds_tensor_fa_acpc", "ds_drope_features_pooled", "ds_preproc_dwi_mni"} <= names
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


def test_topup_takes_a_grid_of_odd_size(series: DwiSeries, tmp_path: Path) -> None:
    def config(*shape: int) -> str:
        runs = tuple(replace(run, shape=(*shape, 3)) for run in series.runs)
        (plan,) = plan_for(replace(series, runs=runs), root=tmp_path, engines=ENGINES[3]).series
        workflow = sdc.load("topup").builder(plan, make_resources(tmp_path))
        return str(workflow.get_node("topup").inputs.config)

    assert config(4, 4, 4) == "b02b0.cnf"
    assert config(4, 4, 3) == "b02b0_1.cnf"


def test_uncorrected_runs_of_unlike_phase_encoding_are_warned_of(series: DwiSeries) -> None:
    choice = choose_sdc(series, "none")
    assert choice.method == "none"
    assert "j, j-" in (choice.warning or "")
    assert choose_sdc(replace(series, runs=series.runs[:1]), "none").warning is None


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


def fields_into(workflow: Workflow, target: str) -> set[str]:
    """Return the inputs of a node that are fed from the workflow's inputnode."""
    graph = workflow._graph
    source, node = workflow.get_node("inputnode"), workflow.get_node(target)
    data = graph.get_edge_data(source, node) or {"connect": []}
    return {field for _, field in data["connect"]}


@pytest.mark.parametrize("package", [denoise, sdc, hmc])
def test_every_engine_is_a_module_with_its_record(package: ModuleType) -> None:
    for name in package.NAMES:
        engine = package.load(name)
        assert engine.name == name
        assert engine.methods


@pytest.mark.parametrize("name", [*sdc.NAMES, "another"])
def test_every_method_with_a_field_hands_it_to_what_corrects_motion(
    name: str, series: DwiSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that is added is connected by what it says of itself."""
    another = replace(sdc.load("pepolar"), name="another")
    monkeypatch.setitem(sys.modules, f"{sdc.__name__}.another", SimpleNamespace(ENGINE=another))
    expected = {
        "topup": {"in_topup_fieldcoef", "in_topup_movpar"},
        "field": {"field_file"},
        None: set(),
    }[sdc.load(name).gives]
    resources = make_resources(tmp_path)

    def motion_wf(method: str) -> Workflow:
        engines = Engines("mppca", name, method)
        (plan,) = plan_for(series, root=tmp_path, engines=engines).series
        return hmc.load(method).builder(plan, resources)

    field_inputs = {"in_topup_fieldcoef", "in_topup_movpar", "field_file"}
    assert fields_into(motion_wf("eddy"), "eddy") & field_inputs == expected
    builtin = fields_into(motion_wf("builtin"), "estimate_motion")
    assert ("field_file" in builtin) == bool(expected)
