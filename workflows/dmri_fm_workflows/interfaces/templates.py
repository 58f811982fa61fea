"""Interface that registers a brain in ACPC to a template of TemplateFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    SimpleInterface,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)

from dmri_fm.normalise.grid import Image3D
from dmri_fm.normalise.registration import (
    describe_dice,
    name_normalisation,
    register_template,
    registration_dice,
)
from dmri_fm.normalise.template import make_template
from dmri_fm_workflows.interfaces.normalise import open_image, read_lesion
from dmri_fm_workflows.interfaces.transform_files import write_transforms


class _RegisterInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="head or brain in ACPC")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask")
    space = Str(mandatory=True, desc="label of the template's space")
    template_file = File(exists=True, mandatory=True, desc="T1w image of the template")
    template_mask_file = File(exists=True, desc="its brain mask; without, it is a brain")
    method = traits.Enum("affine", "syn", mandatory=True, desc="registration")
    sloppy = traits.Bool(False, usedefault=True, desc="few iterations")
    lesion_file = File(exists=True, desc="lesions on the grid of the brain, left out")


class _RegisterOutputSpec(TraitedSpec):
    to_file = File(exists=True, desc="transform that resamples ACPC into the template")
    from_file = File(exists=True, desc="its inverse")
    record = traits.Dict(desc="method and agreement, for the sidecars of the transforms")
    warnings_record = traits.Dict(desc="warnings alone, for all sidecars of the scan")


class RegisterOtherTemplate(SimpleInterface):
    """Register a brain in ACPC to a template other than the packaged one."""

    input_spec = _RegisterInputSpec
    output_spec = _RegisterOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        head, mask = open_image(self.inputs.in_file), open_image(self.inputs.mask_file)
        brain = Image3D(np.where(mask.data > 0, head.data, 0), head.affine)
        has_mask = isdefined(self.inputs.template_mask_file)
        template = make_template(
            self.inputs.space,
            open_image(self.inputs.template_file),
            open_image(self.inputs.template_mask_file) if has_mask else None,
        )
        registered = register_template(
            brain,
            template,
            method=self.inputs.method,
            is_coarse=self.inputs.sloppy,
            starts_at_centre=True,
            lesion=read_lesion(self.inputs.lesion_file),
        )
        to_file, from_file = write_transforms(
            registered, template, brain, Path(runtime.cwd), stem=self.inputs.space
        )
        dice = registration_dice(mask, template, template2image=registered.template2image)
        warnings = [f"{self.inputs.space}: {text}" for text in describe_dice(dice)]
        self._results |= {"to_file": str(to_file), "from_file": str(from_file)}
        self._results["warnings_record"] = {"Warnings": warnings}
        self._results["record"] = {
            "NormalisationMethod": name_normalisation(self.inputs.method, self.inputs.space),
            "NormalisationDice": round(dice, 4),
        }
        return runtime
