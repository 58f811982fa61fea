"""Derivatives stage: the only writer of the output folder.

Which field of a workflow becomes which file is a table; names, fixed entities and units come
from the catalogue of :mod:`dmri_fm_workflows.outputs`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.identity import UNLABELLED, label_of
from dmri_fm_workflows.interfaces.records import MergeRecords
from dmri_fm_workflows.interfaces.sink import DerivativesDataSink
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.sidecars import carry_over, image_sidecar
from dmri_fm_workflows.outputs.sources import derivative_uri, direct_sources

ACPC = "ACPC"
MNI = "MNI152NLin2009aSym"


@dataclass(frozen=True)
class Output:
    """One file of the output tree and its fields.

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
    record
        Field whose dictionary goes into the sidecar, or None.
    entities
        Further entities, `from` and `to` of a transform.
    metadata
        Further sidecar entries.
    in_any_space
        Whether it is written whatever --output-spaces says: it exists on one grid only.
    is_optional
        Whether its stage may find that there is nothing to write.
    """

    type: str
    fields: tuple[str, ...]
    space: str | None = None
    record: str | None = None
    model: str | None = None
    entities: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    in_any_space: bool = False
    is_optional: bool = False

    @property
    def all_fields(self) -> tuple[str, ...]:
        """Every field of it, that of its record last."""
        return (*self.fields, *((self.record,) if self.record else ()))

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
        """Source and target space of a transform; None if its type fixes them."""
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


#: Outputs of the anatomy stage.
ANAT_OUTPUTS = (
    Output("t1w", ("t1w_file",), ACPC, "record"),
    Output("t1w_mask", ("t1w_mask_file",), ACPC, "record"),
    _transform("anat_xfm", "to_t1w_acpc_file", "T1w", ACPC),
    # The same under the name that qsiprep has for it, and qsirecon looks for.
    _transform("anat_xfm", "to_t1w_acpc_file", "orig", ACPC),
    _transform("anat_xfm", "from_t1w_acpc_file", ACPC, "T1w"),
    _transform("anat_xfm", "to_mni_file", ACPC, MNI),
    _transform("anat_xfm", "from_mni_file", MNI, ACPC),
)

#: Outputs of the tissue stage.
TISSUE_OUTPUTS = tuple(
    Output(of, (f"{of}_file",), ACPC, "tissue_record")
    for of in ("dseg", "probseg_gm", "probseg_wm", "probseg_csf")
)

#: Outputs of the stage of the distortion field.
FIELD_OUTPUTS = (Output("fieldmap", ("acpc_field_file",), ACPC, "field_record"),)

#: Outputs of the stage of noise maps.
NOISE_OUTPUTS = (
    Output("noise", ("acpc_noise_file",), ACPC, "noise_record"),
    Output("residual", ("acpc_residual_files",), ACPC, is_optional=True),
)

#: Outputs of the motion stage.
HMC_OUTPUTS = (
    Output("hmc_xfm", ("motion_file",), record="motion_record"),
    Output("confounds", ("confounds_file",), record="confounds_record"),
)

#: Outputs of the normalise stage; the last two without a T1w image, where the series itself is
#: registered to the template.
NORMALISE_OUTPUTS = (
    *(
        output
        for grid, space in (("acpc", ACPC), ("mni", MNI))
        for output in (
            Output(
                "preproc_dwi",
                tuple(f"{grid}_{f}_file" for f in ("dwi", "bval", "bvec", "b")),
                space,
                "record",
                metadata={"SkullStripped": False},
            ),
            Output("dwi_mask", (f"{grid}_mask_file",), space, "record"),
            Output("dwiref", (f"{grid}_dwiref_file",), space, metadata={"SkullStripped": False}),
        )
    ),
    _transform("dwi_xfm", "to_acpc_file", "dwiref", ACPC),
    _transform("dwi_xfm", "from_acpc_file", ACPC, "dwiref"),
    _transform("dwi_xfm", "to_mni_file", ACPC, MNI),
    _transform("dwi_xfm", "from_mni_file", MNI, ACPC),
)

#: Table that the check of the b-vectors offers where the raw one is wrong.
CHECK_OUTPUTS = (
    Output("fixed_bvec", ("fixed_bvec_files",), record="gradient_check_record", is_optional=True),
)

QUALITY_OUTPUTS = (
    Output("image_qc", ("qc_file",), record="qc_record"),
    Output("cnr", ("cnr_files",), ACPC, "cnr_record", is_optional=True),
)

#: Figures of what a run may find not to be there.
_OPTIONAL_FIGURES = ("cnr",)


def map_outputs(model: str, maps: Collection[str] | None = None) -> tuple[Output, ...]:
    """Return the maps that a tensor model gives, in ACPC and those of one number in MNI.

    Their fields are `<label>_<type>_file` and `<label>_<type>_mni_file`, their record
    `<label>_record`. A tensor network adds its figure, `<label>_figure`.

    Parameters
    ----------
    model
        Name of the model.
    maps
        Output types of its maps; all that its record allows if None.
    """
    label = label_of(model)
    types = [t for t in load_catalogue().maps_of(model) if maps is None or t.name in maps]
    in_acpc = (
        Output(t.name, (f"{label}_{t.name}_file",), ACPC, f"{label}_record", label) for t in types
    )
    in_mni = (
        Output(t.name, (f"{label}_{t.name}_mni_file",), MNI, f"{label}_record", label)
        for t in types
        if MNI in t.spaces
    )
    return (*in_acpc, *in_mni, *_figure_of(model, "figure_tensorvsnetwork"))


#: Fields of the files that encoders give, by output type.
FEATURE_FILES = {
    "features_scan": "scan_file",
    "features_patch": "patch_file",
    "sensitivity": "sensitivity_file",
}


def feature_outputs(encoder: str) -> tuple[Output, ...]:
    """Return what an encoder gives, its features of scan and patches among it, and the figure."""
    label = label_of(encoder)
    record = f"{label}_record"
    given = (
        Output(of, (f"{label}_{field}",), MNI, record, label, in_any_space=True)
        for of, field in FEATURE_FILES.items()
        if load_catalogue().output_type(of).is_of(encoder)
    )
    return (*given, *_figure_of(encoder, "figure_features"))


def _figure_of(model: str, figure: str) -> tuple[Output, ...]:
    """Return a model's figure; the name of some lacks the label, see :data:`UNLABELLED`."""
    if not load_catalogue().output_type(figure).is_of(model):
        return ()
    label = label_of(model)
    shown = None if model in UNLABELLED else label
    return (Output(figure, (f"{label}_figure",), model=shown),)


def figure_outputs(names: Sequence[str]) -> tuple[Output, ...]:
    """Return the sinks of report figures by their `desc` label."""
    return tuple(
        Output(f"figure_{name}", (f"{name}_figure",), is_optional=name in _OPTIONAL_FIGURES)
        for name in names
    )


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
        Whether nothing but the brain is in the T1w image.
    """

    entities: Mapping[str, str]
    sources: Sequence[str]
    normalisation: str
    raw_metadata: Sequence[Mapping[str, Any]] = ()
    anat_entities: Mapping[str, str] | None = None
    is_t1w_brain: bool = False

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
        return self.anat_path(Output("t1w", (), ACPC))


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
        written += [origin.anat_path(o) for o in ANAT_OUTPUTS]
    for number, output in enumerate(outputs, start=1):
        named = {k: v for k in ("space", "model") if (v := getattr(output, k)) is not None}
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
    if output.type == "t1w":
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
