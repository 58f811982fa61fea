"""Derivatives stage: the only writer of the output folder.

What it writes stands in the tables of :mod:`dmri_fm_workflows.stages.outputs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm_workflows.interfaces.records import MergeRecords
from dmri_fm_workflows.interfaces.sink import DerivativesDataSink
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.sidecars import carry_over, image_sidecar
from dmri_fm_workflows.outputs.sources import derivative_uri, direct_sources
from dmri_fm_workflows.stages.outputs import ACPC, Output, anat_outputs


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Origin of a scan's outputs, for their sidecars.

    Attributes
    ----------
    entities
        Entities of the scan, long names.
    sources
        BIDS URIs of the raw files.
    normalisation
        `affine` or `syn`: transforms to the template are affines or warps.
    raw_metadata
        Sidecars of the raw runs, for the preprocessed series.
    anat_entities
        Entities of the T1w image that defines ACPC; None if the b=0 reference of the scan does.
    is_t1w_brain
        Whether nothing but the brain is in that image.
    contrast
        Its contrast, `T1w` or `T2w`.
    anat_transforms
        Transforms of that image to templates of TemplateFlow.
    """

    entities: Mapping[str, str]
    sources: Sequence[str]
    normalisation: str
    raw_metadata: Sequence[Mapping[str, Any]] = ()
    anat_entities: Mapping[str, str] | None = None
    is_t1w_brain: bool = False
    contrast: str = "T1w"
    anat_transforms: Sequence[Output] = ()

    def path(self, output: Output) -> PurePosixPath:
        """Return where an output of the scan is written, relative to the output folder."""
        return output.path(self.entities, normalisation=self.normalisation)

    def anat_path(self, output: Output) -> PurePosixPath:
        """Return where an output of its T1w image is written."""
        assert self.anat_entities is not None
        return output.path(self.anat_entities, normalisation=self.normalisation)

    @property
    def reference(self) -> PurePosixPath:
        """Image that defines ACPC."""
        if self.anat_entities is None:
            return self.path(Output("dwiref", (), ACPC))
        return self.anat_path(Output(self.contrast.lower(), (), ACPC))


def init_derivatives_wf(
    *,
    outputs: Sequence[Output],
    output_dir: Path,
    origin: Origin,
    name: str = "derivatives_wf",
) -> pe.Workflow:
    """Write files into the output folder, each with its sidecar.

    Parameters
    ----------
    outputs
        What to write.
    output_dir
        Root of the output dataset.
    origin
        The scan that they are made from.
    name
        Name of the workflow.

    Inputs
    ------
    One field per entry of `outputs` and per record that they name; the warnings of `record`, that
    of the scan, go into every sidecar, and so do the methods whose works a type cites.

    Outputs
    -------
    out_files
        Paths that were written.
    """
    workflow = pe.Workflow(name=name)
    fields = dict.fromkeys(f for output in outputs for f in output.all_fields)
    inputnode = pe.Node(niu.IdentityInterface(list(fields | {"record": None})), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(["out_files"]), name="outputnode")
    collect = pe.Node(niu.Merge(len(outputs)), name="collect_outputs", run_without_submitting=True)
    written = [origin.path(o) for o in outputs]
    if origin.anat_entities is not None:
        written += [
            origin.anat_path(o) for o in (*anat_outputs(origin.contrast), *origin.anat_transforms)
        ]
    for number, output in enumerate(outputs, start=1):
        keys = ("space", "model", "resolution")
        named = {k: v for k in keys if (v := getattr(output, k)) is not None}
        sink = pe.Node(
            DerivativesDataSink(
                output_type=output.type,
                base_directory=str(output_dir),
                source_entities=dict(origin.entities),
                is_optional=output.is_optional,
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
        if load_catalogue().output_type(output.type).has_sidecar:
            _add_sidecar(workflow, output, sink, _fixed_entries(output, origin, written))
    workflow.connect(collect, "out", outputnode, "out_files")
    return workflow


def _fixed_entries(
    output: Output, origin: Origin, written: Sequence[PurePosixPath]
) -> dict[str, Any]:
    """Return the entries of a sidecar that are known before anything runs."""
    entries = image_sidecar(
        output.type,
        model=output.model,
        sources=direct_sources(origin.path(output), raw=origin.sources, written=written),
        space=output.space,
        ends=output.ends,
        spatial_reference=derivative_uri(origin.reference)
        if ACPC in (output.space, *(output.ends or ()))
        else None,
        extra=output.metadata,
    )
    if output.type in ("t1w", "t2w"):
        entries["SkullStripped"] = origin.is_t1w_brain
    if output.type == "preproc_dwi":
        return carry_over(origin.raw_metadata) | entries
    return entries


def _add_sidecar(
    workflow: pe.Workflow, output: Output, sink: pe.Node, entries: Mapping[str, Any]
) -> None:
    """Connect the sidecar of an output to its sink."""
    inputnode, of = workflow.get_node("inputnode"), load_catalogue().output_type(output.type)
    meta = pe.Node(
        MergeRecords(base=dict(entries)),
        name=f"meta_{output.node_name}",
        run_without_submitting=True,
    )
    if output.record != "record":
        workflow.connect(inputnode, "record", meta, "warnings_of")
        meta.inputs.taken_keys = list(of.cited_steps)
    if output.record is not None:
        field_name = "model_record" if of.is_map else "in_records"
        if of.is_map:
            meta.inputs.param = of.entities["param"]
        workflow.connect(inputnode, output.record, meta, field_name)
    workflow.connect(meta, "record", sink, "meta_dict")
