"""Interface of the distortion field that is estimated from the T1w image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nipype.interfaces.base import Bunch, File, SimpleInterface

from dmri_fm.normalise.coregistration import coregister
from dmri_fm.normalise.grid import Image3D
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.preprocess.anatomical_field import ANATOMICAL_METHOD, estimate_anatomical_field
from dmri_fm.preprocess.dwiref import correct_bias
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm_workflows.interfaces.distortion_field import B0InputSpec, FieldOutputSpec, save_field
from dmri_fm_workflows.interfaces.normalise import open_image


class _AnatomicalInputSpec(B0InputSpec):
    t1w_brain_file = File(exists=True, mandatory=True, desc="T1w brain in ACPC")
    to_t1w_acpc_file = File(exists=True, mandatory=True, desc="T1w image into ACPC")


class EstimateAnatomicalField(SimpleInterface):
    """Estimate the distortion field by registering the b=0 image to the T1w image."""

    input_spec = _AnatomicalInputSpec
    output_spec = FieldOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        b0 = self.inputs.load_b0()
        even = replace(b0, data=correct_bias(b0.data, b0.affine))
        brain = brain_mask(even.data, even.affine, contrast="b0").mask
        anatomy = open_image(self.inputs.t1w_brain_file)
        reference = Image3D(even.data * brain, even.affine)
        acpc2t1w = read_point_map(self.inputs.to_t1w_acpc_file)
        xfm = coregister(reference, anatomy, acpc2t1w=acpc2t1w).xfm
        found = estimate_anatomical_field(
            even, brain, anatomy.data, t1w_affine=anatomy.affine, xfm=xfm
        )
        self._results |= save_field(
            found.field, Path(runtime.cwd), corrected=found.corrected, uncorrected=b0.data
        )
        self._results["record"] = {
            "SDCMethod": ANATOMICAL_METHOD,
            "SDCMutualInformationBefore": round(found.similarity_before, 4),
            "SDCMutualInformationAfter": round(found.similarity_after, 4),
            "SDCLargestDisplacementMm": round(found.largest_mm, 2),
            "SDCSmallestJacobian": round(found.smallest_jacobian, 3),
            "Warnings": list(found.warnings),
        }
        return runtime
