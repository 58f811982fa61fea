"""Which field of a workflow becomes which file of the output folder, as tables.

Names, fixed entities and units come from the catalogue of :mod:`dmri_fm_workflows.outputs`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from dmri_fm.identity import UNLABELLED, label_of
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.templates import OWN_SPACES, is_template

ACPC, MNI = OWN_SPACES


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
    resolution
        Label of `res` of a template of TemplateFlow.
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
    resolution: str | None = None

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
            words.append({MNI: "mni", ACPC: "acpc"}.get(self.space, self.space))
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
        source, target = self.ends or (None, None)
        to_template = any(e == MNI or is_template(e) for e in self.ends or ())
        return output_path(
            scan,
            self.type,
            model=self.model,
            space=self.space,
            resolution=self.resolution,
            from_space=source,
            to_space=target,
            extension=".h5" if to_template and normalisation == "syn" else None,
        )


def transform(
    of: str, field_name: str, source: str, target: str, *, record: str | None = None
) -> Output:
    """Return the output of a transform that resamples an image of `source` into `target`."""
    return Output(of, (field_name,), record=record, entities={"from": source, "to": target})


def anat_outputs(contrast: str = "T1w") -> tuple[Output, ...]:
    """Return the outputs of the anatomy stage, by the contrast of the image: `T1w` or `T2w`."""
    return (
        Output(contrast.lower(), ("t1w_file",), ACPC, "record"),
        Output("t1w_mask", ("t1w_mask_file",), ACPC, "record"),
        transform("anat_xfm", "to_t1w_acpc_file", contrast, ACPC),
        # The same under the name that qsiprep has for it, and qsirecon looks for.
        transform("anat_xfm", "to_t1w_acpc_file", "orig", ACPC),
        transform("anat_xfm", "from_t1w_acpc_file", ACPC, contrast),
        transform("anat_xfm", "to_mni_file", ACPC, MNI),
        transform("anat_xfm", "from_mni_file", MNI, ACPC),
        Output("lesion_mask", ("lesion_file",), ACPC, "record"),
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
    transform("dwi_xfm", "to_acpc_file", "dwiref", ACPC),
    transform("dwi_xfm", "from_acpc_file", ACPC, "dwiref"),
    transform("dwi_xfm", "to_mni_file", ACPC, MNI),
    transform("dwi_xfm", "from_mni_file", MNI, ACPC),
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
