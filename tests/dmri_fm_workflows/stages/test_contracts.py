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
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import Workflow

import dmri_fm_workflows
from dmri_fm.errors import DmriError
from dmri_fm.identity import identity
from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.bids.records import UserMask
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.options import GROUPS
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.plan import ParticipantPlan, SeriesPlan
from dmri_fm_workflows.stages import base, outputs, participant, table
from dmri_fm_workflows.stages.derivatives import Origin
from dmri_fm_workflows.stages.merge import init_mask_wf
from tests.dmri_fm_workflows.tiny_series import (
    ENGINES,
    make_resources,
    plan_for,
    plan_preprocessed,
    plan_with_anatomy,
    scale_vectors,
    with_template,
)


def documented(builder: Callable[..., object], section: str) -> set[str]:
    """Return the field names of a section of a builder's docstring."""
    text = inspect.getdoc(builder) or ""
    match = re.search(rf"^{section}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text, re.S | re.M)
    if match is None:
        return set()
    names = [line for line in match[1].splitlines() if line and not line.startswith(" ")]
    return {name.strip() for line in names for name in line.split(",") if name.strip()}


def fill_in(documented_names: set[str], declared: frozenset[str]) -> set[str]:
    """Replace names with a `<label>`, `<type>` or `<space>` by the names that they stand for."""
    found = set()
    for name in documented_names:
        pattern = "\\w+".join(map(re.escape, re.split("<label>|<type>|<space>", name)))
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
SOME_OUTPUTS = (*outputs.anat_outputs(), *outputs.figure_outputs(["t1wmask"]))


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
    scaled, run = replace(series, runs=tuple(map(scale_vectors, series.runs))), series.runs[0]
    return [
        *found,
        *plan_for(scaled, root=root).series,
        *(
            plan_preprocessed(run, root, space=space, full=full).series[0]
            for space, full in itertools.product(("ACPC", "T1w", None), (True, False))
        ),
        *(
            plan_preprocessed(run, root, space=space, full=True, has_mask=False).series[0]
            for space in ("T1w", None)
        ),
        *plan_for(masked(series, root), root=root, b1_biascorrect_stage="final").series,
        *plan_warped(series, root).series,
        *(
            plan_for(series, root=root, engines=with_template(root), t1w=t1w).series[0]
            for t1w in (True, False)
        ),
        *plan_for(series, root=root, contrast="T2w").series,
    ]


def masked(series: DwiSeries, root: Path) -> DwiSeries:
    """Return the series with a mask of the user."""
    path = root / "mask.nii.gz"
    path.touch()
    return replace(series, user_mask=UserMask(path, series.runs[0]))


def list_variants(
    name: str, plans: list[SeriesPlan], participant_plan: ParticipantPlan, root: Path
) -> list[dict[str, object]]:
    """Return arguments of a builder, several sets where no single one wires all fields."""
    resources = make_resources(root)
    if name == "init_derivatives_wf":
        origin = Origin(entities={"subject": "01"}, sources=["bids:raw:x"], normalisation="affine")
        return [{"outputs": SOME_OUTPUTS, "output_dir": root / "out", "origin": origin}]
    if name == "init_participant_wf":
        return [{"plan": participant_plan, "resources": resources}]
    if name in ("init_anat_wf", "init_anat_figures_wf", "init_tissue_wf"):
        run = plans[0].series.runs[0]
        prepared = [plan_preprocessed(run, root, space=s, full=True) for s in ("ACPC", None)]
        prepared.append(plan_with_anatomy(plans[0].series, root=root))
        prepared.append(plan_for(plans[0].series, root=root, lesion="sub-01_label-lesion_roi.nii"))
        return [
            {
                "plan": plan.sessions[0],
                "resources": replace(resources, anatomy_root=root / "fmriprep"),
            }
            for plan in (participant_plan, *prepared)
        ]
    if name == "init_templates_wf":
        planned = plan_for(plans[0].series, root=root, engines=with_template(root))
        lesion = replace(planned.sessions[0], lesion_mask=root / "raw" / "lesion.nii")
        listed = (planned.sessions[0], lesion, plans[-2])
        return [{"plan": p, "resources": resources} for p in listed]
    needs, several = NEEDS.get(name, lambda plan: True), MODEL_ARGUMENTS.get(name, [{}])
    if name == "init_template_maps_wf":
        several = [{"template": plans[-2].templates[0]}]
    return [
        {"plan": plan, "resources": resources, **more}
        for plan in plans
        for more in several
        if needs(plan)
    ]


#: Models that a builder is called for.
MODEL_ARGUMENTS: dict[str, list[dict[str, str]]] = {
    "init_features_wf": [{"encoder": "drope"}, {"encoder": "ssdiff"}],
    "init_tensor_network_wf": [{"network": "qcg-dti"}],
}


def plan_warped(series: DwiSeries, root: Path) -> ParticipantPlan:
    """Return a plan whose encoder reads how a warp turns directions."""
    weights = root / "own.safetensors"
    weights.touch()
    own = {"ssdiff": weights}
    return plan_for(series, root=root, models=("ssdiff",), weights=own, normalisation="syn")


#: What a plan has to ask for before a builder can be called with it.
NEEDS: dict[str, Callable[[SeriesPlan], bool]] = {
    "init_tensor_network_wf": lambda plan: "qcg-dti" in plan.models,
    "init_free_water_wf": lambda plan: plan.length_scaling is not None,
    "init_pepolar_wf": lambda plan: plan.sdc.method == "pepolar",
    "init_eddy_wf": lambda plan: plan.eddy is not None,
    "init_topup_wf": lambda plan: plan.sdc.method == "topup",
    "init_bias_wf": lambda plan: plan.unbias,
    "init_fieldmap_wf": lambda plan: plan.series.usable_fieldmap is not None,
    "init_read_preprocessed_wf": lambda plan: plan.is_preprocessed,
    "init_deviation_wf": lambda plan: plan.has_gradient_deviation,
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
    plans = list_plans(series, tmp_path)
    declared = {
        f"derivatives_wf.{output.node_name}"
        for plan in (plans[0], *plans[-4:])
        for stage in table.list_stages(plan)
        for output in stage.outputs
    }
    assert declared == written


def test_every_option_about_the_processing_names_its_stages(
    series: DwiSeries, tmp_path: Path
) -> None:
    plan = plan_for(series, root=tmp_path, b1_biascorrect_stage="final").series[0]
    session = plan_for(series, root=tmp_path, engines=with_template(tmp_path)).sessions[0]
    stages = (*table.list_session_stages(session), *table.list_stages(plan))
    known = {stage.name for stage in stages} | {identity(m).family for m in plan.models}
    of_processing = [f for f in fields(RunConfig) if f.metadata.get("group") in GROUPS[2:5]]
    assert len(of_processing) == 19
    for option in of_processing:
        named = set(option.metadata["stages"])
        assert named, option.name
        assert named <= known, option.name


@pytest.mark.parametrize("space", ["ACPC", None])
def test_stages_of_correction_are_absent_for_preprocessed_input(
    space: str | None, series: DwiSeries, tmp_path: Path
) -> None:
    plan = plan_preprocessed(series.runs[0], tmp_path, space=space, full=True).series[0]
    names = [stage.name for stage in table.list_stages(plan)]
    assert not {"read", "denoise", "noise", "merge", "sdc", "hmc"} & set(names)
    assert {"read_preprocessed", "mask", "normalise", "deviation", "tensor"} <= set(names)


def test_mask_of_the_t1w_image_is_brought_without_registration_where_it_is_in_one_space(
    series: DwiSeries, tmp_path: Path
) -> None:
    nodes = {}
    for space, has_mask in itertools.product(("T1w", None), (True, False)):
        planned = plan_preprocessed(
            series.runs[0], tmp_path, space=space, full=True, has_mask=has_mask
        )
        workflow = init_mask_wf(planned.series[0], make_resources(tmp_path))
        nodes[space, has_mask] = {n.partition("_")[0] for n in workflow.list_node_names()}
    assert all("bring" not in nodes[space, True] for space in ("T1w", None))
    assert {"bring", "draft", "coregister"} <= nodes[None, False]
    assert "bring" in nodes["T1w", False]
    assert not {"draft", "coregister"} & nodes["T1w", False]


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
    plans = (plan_for(series, root=tmp_path), plan_warped(series, tmp_path))
    of_series = (s for plan in plans for s in table.list_stages(plan.series[0]))
    t2w = plan_for(series, root=tmp_path, contrast="T2w", lesion="sub-01_label-lesion_roi.nii")
    of_sessions = (s for p in (plans[0], t2w) for s in table.list_session_stages(p.sessions[0]))
    stages = (*of_sessions, *of_series)
    declared = {output.type for stage in stages for output in stage.outputs}
    types = load_catalogue().types.values()
    assert declared <= {t.name for t in types}
    written = {t.name for t in types if t.datatype in ("anat", "dwi", "figures")}
    assert written - {"viewer"} <= declared  # written with the pages, not in the graph
