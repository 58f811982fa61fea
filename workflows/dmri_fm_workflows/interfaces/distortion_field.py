"""What nodes that estimate a distortion field read and give."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.base import File, TraitedSpec, traits
from numpy.typing import ArrayLike

from dmri_fm.distortion import DistortionField
from dmri_fm.preprocess.susceptibility import B0Image, mean_b0_image
from dmri_fm.series import save_image
from dmri_fm_workflows.interfaces.gradients import DwiInputSpec
from dmri_fm_workflows.interfaces.volumes_table import read_volumes


class B0InputSpec(DwiInputSpec):
    """A merged series, of which the b=0 volumes of one phase encoding are corrected."""

    volumes_file = File(exists=True, mandatory=True, desc="run and phase encoding of each volume")
    encoding = traits.Str(mandatory=True, desc="phase encoding of the b=0 volumes to correct")

    def load_b0(self) -> B0Image:
        """Return the mean of these volumes."""
        encodings = [origin.encoding for origin in read_volumes(self.volumes_file)]
        return mean_b0_image(self.load(), encodings, self.encoding)


class FieldOutputSpec(TraitedSpec):
    """A distortion field, and the b=0 reference that it corrects."""

    field_file = File(exists=True, desc="off-resonance on the reference's grid, Hz")
    dwiref_file = File(exists=True, desc="corrected b=0 reference")
    uncorrected_file = File(exists=True, desc="distorted b=0 image that the reference comes from")
    record = traits.Dict(desc="what ran, for the sidecar")


def save_field(
    field: DistortionField, folder: Path, *, corrected: ArrayLike, uncorrected: ArrayLike
) -> dict[str, str]:
    """Save the images of :class:`FieldOutputSpec`; return their paths by name."""
    return {
        f"{name}_file": str(save_image(data, field.affine, folder / f"{name}.nii.gz"))
        for name, data in (
            ("field", field.hz),
            ("dwiref", corrected),
            ("uncorrected", uncorrected),
        )
    }
