"""Derivatives stage: the only writer of the output folder.

Which field of a workflow becomes which file is a table; names, fixed entities and units come
from the catalogue of :mod:`dmri_fm_workflows.outputs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.identity import DEFAULT_MODELS, label_of
from dmri_fm_workflows.interfaces.facts import MergeFacts
from dmri_fm_workflows.interfaces.sink import DerivativesDataSink
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.sidecars import carry_over, image_sidecar
from dmri_fm_workflows.outputs.sources import derivative_uri, direct_sources

__all__ = [
    "ANAT_OUTPUTS",
    "SERIES_OUTPUTS",
    "SERIES_TEMPLATE_OUTPUTS",
    "Output",
    "feature_outputs",
    "figure_outputs",
    "init_derivatives_wf",
    "map_outputs",
]

ACPC = "ACPC"
MNI = "MNI152NLin2009aSym"


@dataclass(frozen=True)
class Output:
    """One file of the output tree and the fields it is made from.

    Attributes
    ----------
    type
        Key in `maps.yaml`.
    fields
        Fields of the stage that computed it; several are files that share one name.
    space
        Space, where the type has several or none is implied.
    model
        Label of the model that made it, or None.
    facts
        Field whose dictionary goes into the sidecar, or None.
    entities
        Further entities, `from` and `to` of a transform.
    metadata
        Further sidecar entries.
    """

    type: str
    fields: tuple[str, ...]
    space: str | None = None
    facts: str | None = None
    model: str | None = None
    entities: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node_name(self) -> str:
        """Name of its sink."""
        words = [self.model] if self.model else []
        words += [self.type, *(str(v) for v in self.entities.values())]
        if self.space and len(load_catalogue().output_type(self.type).spaces) > 1:
            words.append("mni" if self.space == MNI else "acpc")
        return "ds_" + "_".join(words)

    @property
    def ends(self) -> tuple[str, str] | None:
        """What a transform resamples from, and into; None if the type says so itself."""
        return (self.entities["from"], self.entities["to"]) if "from" in self.entities else None

    def path(self, scan: Mapping[str, str], *, normalisation: str) -> PurePosixPath:
        """Return where it is written, relative to the output folder; of several files the first.

        Parameters
        ----------
        scan
            Entities of the scan, long names.
        normalisation
            `affine` or `syn`: transforms to the template are affines or warps.
        """
        is_warp = self.ends is not None and MNI in self.ends and normalisation == "syn"
        source, target = self.ends or (None, None)
        return output_path(
            scan,
            self.type,
            model=self.model,
            space=self.space,
            from_space=source,
            to_space=target,
            extension=".h5" if is_warp else None,
        )


def _transform(of: str, field_name: str, source: str, target: str) -> Output:
    return Output(of, (field_name,), entities={"from": source, "to": target})


ANAT_OUTPUTS = (
    Output("t1w", ("t1w_file",), ACPC, "facts", metadata={"SkullStripped": False}),
    Output("t1w_mask", ("mask_file",), ACPC, "facts"),
    _transform("anat_xfm", "to_acpc_file", "T1w", ACPC),
    # The same under the name that qsiprep has for it, and qsirecon looks for.
    _transform("anat_xfm", "to_acpc_file", "orig", ACPC),
    _transform("anat_xfm", "from_acpc_file", ACPC, "T1w"),
    _transform("anat_xfm", "to_mni_file", ACPC, MNI),
    _transform("anat_xfm", "from_mni_file", MNI, ACPC),
)

SERIES_OUTPUTS = (
    *(
        output
        for grid, space in (("acpc", ACPC), ("mni", MNI))
        for output in (
            Output(
                "preproc_dwi",
                tuple(f"{grid}_{f}_file" for f in ("dwi", "bval", "bvec", "b")),
                space,
                "facts",
                metadata={"SkullStripped": False},
            ),
            Output("dwi_mask", (f"{grid}_mask_file",), space, "facts"),
            Output("dwiref", (f"{grid}_dwiref_file",), space, metadata={"SkullStripped": False}),
        )
    ),
    _transform("dwi_xfm", "to_acpc_file", "dwiref", ACPC),
    _transform("dwi_xfm", "from_acpc_file", ACPC, "dwiref"),
    Output("hmc_xfm", ("motion_file",), facts="motion_facts"),
    Output("confounds", ("confounds_file",), facts="confounds_facts"),
    Output("image_qc", ("qc_file",), facts="qc_facts"),
)

#: Without a T1w image the series itself is registered to the template.
SERIES_TEMPLATE_OUTPUTS = (
    _transform("dwi_xfm", "to_mni_file", ACPC, MNI),
    _transform("dwi_xfm", "from_mni_file", MNI, ACPC),
)


def map_outputs(model: str) -> tuple[Output, ...]:
    """Return the maps that a tensor model gives, in ACPC and those of one number in MNI.

    Their fields are `<label>_<type>_file` and `<label>_<type>_mni_file`, their facts
    `<label>_record`. A tensor network adds its figure, `<label>_figure`.
    """
    label, catalogue = label_of(model), load_catalogue()
    in_acpc = (
        Output(t.name, (f"{label}_{t.name}_file",), ACPC, f"{label}_record", label)
        for t in catalogue.maps_of(model)
    )
    in_mni = (
        Output(t.name, (f"{label}_{t.name}_mni_file",), MNI, f"{label}_record", label)
        for t in catalogue.maps_of(model, space=MNI)
    )
    return (*in_acpc, *in_mni, *_figure_of(model, "figure_tensorvsnetwork"))


def feature_outputs(encoder: str, features: str) -> tuple[Output, ...]:
    """Return the features that an encoder gives, and their figure.

    Parameters
    ----------
    encoder
        Name of the encoder.
    features
        `pooled` or `cls`: what its weights give for the scan.
    """
    label = label_of(encoder)
    return (
        Output(f"features_{features}", (f"{label}_scan_file",), MNI, f"{label}_record", label),
        Output("features_patch", (f"{label}_patch_file",), MNI, f"{label}_record", label),
        *_figure_of(encoder, "figure_features"),
    )


def _figure_of(model: str, figure: str) -> tuple[Output, ...]:
    """Return a model's figure; those of the models that run by default have no label."""
    if not load_catalogue().output_type(figure).is_of(model):
        return ()
    label = label_of(model)
    is_default = model in DEFAULT_MODELS
    return (Output(figure, (f"{label}_figure",), model=None if is_default else label),)


def figure_outputs(names: Sequence[str]) -> tuple[Output, ...]:
    """Return the sinks of report figures by their `desc` label."""
    return tuple(Output(f"figure_{name}", (f"{name}_figure",)) for name in names)


def init_derivatives_wf(
    *,
    outputs: Sequence[Output],
    output_dir: Path,
    entities: Mapping[str, str],
    sources: Sequence[str],
    raw_metadata: Sequence[Mapping[str, Any]] = (),
    anat_entities: Mapping[str, str] | None = None,
    normalisation: str = "affine",
    name: str = "derivatives_wf",
) -> pe.Workflow:
    """Write files into the output folder, each with its sidecar.

    Parameters
    ----------
    outputs
        What to write.
    output_dir
        Root of the output dataset.
    entities
        Entities of the scan, long names.
    sources
        BIDS URIs of the raw files.
    raw_metadata
        Sidecars of the raw runs, for the preprocessed series.
    anat_entities
        Entities of the T1w image that defines ACPC; None if the b=0 reference of the scan does.
    normalisation
        `affine` or `syn`: transforms to the template are affines or warps.
    name
        Name of the workflow.

    Inputs
    ------
    One field per entry of `outputs` and per dictionary of facts that they name; the warnings of
    `facts` go into every sidecar, and so do the methods whose works a type cites.

    Outputs
    -------
    out_files
        Paths that were written.
    """
    workflow = pe.Workflow(name=name)
    fields = dict.fromkeys(
        f for output in outputs for f in (*output.fields, *([output.facts] * bool(output.facts)))
    )
    inputnode = pe.Node(niu.IdentityInterface(list(fields | {"facts": None})), name="inputnode")
    workflow.add_nodes([inputnode])
    outputnode = pe.Node(niu.IdentityInterface(["out_files"]), name="outputnode")
    collect = pe.Node(niu.Merge(len(outputs)), name="collect_outputs", run_without_submitting=True)
    catalogue = load_catalogue()
    written = [o.path(entities, normalisation=normalisation) for o in outputs]
    if anat_entities is not None:
        written += [o.path(anat_entities, normalisation=normalisation) for o in ANAT_OUTPUTS]
    reference = (
        Output("dwiref", (), ACPC).path(entities, normalisation=normalisation)
        if anat_entities is None
        else Output("t1w", (), ACPC).path(anat_entities, normalisation=normalisation)
    )
    for number, output in enumerate(outputs, start=1):
        sink = _add_sink(workflow, output, output_dir=output_dir, entities=entities)
        workflow.connect(sink, "out_file", collect, f"in{number}")
        if not catalogue.output_type(output.type).has_sidecar:
            continue
        static = image_sidecar(
            output.type,
            model=output.model,
            sources=direct_sources(written[number - 1], raw=sources, written=written),
            space=output.space,
            ends=output.ends,
            spatial_reference=derivative_uri(reference)
            if ACPC in (output.space, *(output.ends or ()))
            else None,
            extra=output.metadata,
        )
        if output.type == "preproc_dwi":
            static = carry_over(raw_metadata) | static
        _add_sidecar(workflow, output, sink, static)
    workflow.connect(collect, "out", outputnode, "out_files")
    return workflow


def _add_sink(
    workflow: pe.Workflow, output: Output, *, output_dir: Path, entities: Mapping[str, str]
) -> pe.Node:
    """Add the sink of an output, wired to its files."""
    named = {"space": output.space, "model": output.model}
    sink = pe.Node(
        DerivativesDataSink(
            output_type=output.type,
            base_directory=str(output_dir),
            source_entities=dict(entities),
            **{name: value for name, value in named.items() if value},
            **output.entities,
        ),
        name=output.node_name,
        run_without_submitting=True,
    )
    inputnode = workflow.get_node("inputnode")
    if len(output.fields) == 1:
        workflow.connect(inputnode, output.fields[0], sink, "in_file")
        return sink
    files = pe.Node(
        niu.Merge(len(output.fields)),
        name=f"files_{output.node_name}",
        run_without_submitting=True,
    )
    for position, field_name in enumerate(output.fields, start=1):
        workflow.connect(inputnode, field_name, files, f"in{position}")
    workflow.connect(files, "out", sink, "in_file")
    return sink


def _add_sidecar(
    workflow: pe.Workflow, output: Output, sink: pe.Node, static: Mapping[str, Any]
) -> None:
    """Add the node that joins what is known when the graph is built with what its nodes say."""
    of = load_catalogue().output_type(output.type)
    inputnode = workflow.get_node("inputnode")
    meta = pe.Node(
        MergeFacts(base=dict(static)), name=f"meta_{output.node_name}", run_without_submitting=True
    )
    if output.facts != "facts":
        workflow.connect(inputnode, "facts", meta, "warnings_of")
        meta.inputs.taken_keys = list(of.cited_steps)
    if output.facts is not None:
        workflow.connect(inputnode, output.facts, meta, "model_facts" if of.is_map else "in_facts")
    workflow.connect(meta, "facts", sink, "meta_dict")
