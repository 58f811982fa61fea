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

from dmri_fm_workflows.interfaces.facts import MergeFacts
from dmri_fm_workflows.interfaces.sink import DerivativesDataSink
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.sidecars import carry_over, image_sidecar
from dmri_fm_workflows.outputs.sources import derivative_uri, direct_sources

__all__ = [
    "ANAT_OUTPUTS",
    "FEATURE_OUTPUTS",
    "REFINER_MAPS",
    "REFINER_OUTPUTS",
    "SERIES_OUTPUTS",
    "SERIES_TEMPLATE_OUTPUTS",
    "TENSOR_OUTPUTS",
    "Output",
    "figure_outputs",
    "init_derivatives_wf",
]

ACPC = "ACPC"
MNI = "MNI152NLin2009aSym"


@dataclass(frozen=True)
class Output:
    """One file of the output tree and the fields it is made from.

    Attributes
    ----------
    kind
        Key in `maps.yaml`.
    fields
        Fields of the stage that computed it; several are files that share one name.
    space
        Space, where the kind has several or none is implied.
    facts
        Field whose dictionary goes into the sidecar, or None.
    entities
        Further entities, `from` and `to` of a transform.
    metadata
        Further sidecar entries.
    """

    kind: str
    fields: tuple[str, ...]
    space: str | None = None
    facts: str | None = None
    entities: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def node_name(self) -> str:
        """Name of its sink."""
        words = [self.kind, *(str(v) for v in self.entities.values())]
        if self.space and len(load_catalogue().kind(self.kind).spaces) > 1:
            words.append("mni" if self.space == MNI else "acpc")
        return "ds_" + "_".join(words)

    @property
    def ends(self) -> tuple[str, str] | None:
        """What a transform resamples from, and into; None if the kind says so itself."""
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
            self.kind,
            space=self.space,
            from_space=source,
            to_space=target,
            extension=".h5" if is_warp else None,
        )


def _transform(kind: str, field_name: str, source: str, target: str) -> Output:
    return Output(kind, (field_name,), entities={"from": source, "to": target})


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


def _map_outputs(model: str, params: Sequence[str], warped: Sequence[str]) -> tuple[Output, ...]:
    in_acpc = (
        Output(f"{model}_{p}", (f"{model}_{p}_file",), ACPC, f"{model}_facts") for p in params
    )
    in_mni = (
        Output(f"{model}_{p}", (f"{model}_{p}_mni_file",), MNI, f"{model}_facts") for p in warped
    )
    return (*in_acpc, *in_mni)


SCALARS = ("fa", "md", "ad", "rd")
TENSOR_OUTPUTS = _map_outputs("tensor", ("diffusivity", "s0", *SCALARS), SCALARS)
REFINER_MAPS = ("diffusivity", *SCALARS, "fa_std", "md_std", "unfamiliarity")
REFINER_OUTPUTS = _map_outputs("tensorrefiner", REFINER_MAPS, SCALARS)
FEATURE_OUTPUTS = (
    Output("drope_pooled_features", ("scan_file",), MNI, "features_facts"),
    Output("drope_patch_features", ("patch_file",), MNI, "features_facts"),
)


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
    `facts` go into every sidecar, and so do the methods whose works a kind cites.

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
        kind = catalogue.kind(output.kind)
        named = {"space": output.space} if output.space else {}
        sink = pe.Node(
            DerivativesDataSink(
                kind=output.kind,
                base_directory=str(output_dir),
                source_entities=dict(entities),
                **named,
                **output.entities,
            ),
            name=output.node_name,
            run_without_submitting=True,
        )
        workflow.connect(sink, "out_file", collect, f"in{number}")
        if len(output.fields) == 1:
            workflow.connect(inputnode, output.fields[0], sink, "in_file")
        else:
            files = pe.Node(
                niu.Merge(len(output.fields)),
                name=f"files_{output.node_name}",
                run_without_submitting=True,
            )
            for position, field_name in enumerate(output.fields, start=1):
                workflow.connect(inputnode, field_name, files, f"in{position}")
            workflow.connect(files, "out", sink, "in_file")
        if not kind.has_sidecar:
            continue
        static = image_sidecar(
            output.kind,
            sources=direct_sources(written[number - 1], raw=sources, written=written),
            space=output.space,
            ends=output.ends,
            spatial_reference=derivative_uri(reference)
            if ACPC in (output.space, *(output.ends or ()))
            else None,
            extra=output.metadata,
        )
        if output.kind == "preproc_dwi":
            static = carry_over(raw_metadata) | static
        meta = pe.Node(
            MergeFacts(base=static), name=f"meta_{output.node_name}", run_without_submitting=True
        )
        if output.facts != "facts":
            workflow.connect(inputnode, "facts", meta, "warnings_of")
            meta.inputs.taken_keys = list(kind.cited_steps)
        if output.facts is not None:
            field_name = "model_facts" if kind.suffix == "dwimap" else "in_facts"
            workflow.connect(inputnode, output.facts, meta, field_name)
        workflow.connect(meta, "facts", sink, "meta_dict")
    workflow.connect(collect, "out", outputnode, "out_files")
    return workflow
