"""Interface that takes a brain mask of the user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    SimpleInterface,
    isdefined,
    traits,
)

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.preprocess.user_mask import USER_MASK, doubt_volume, read_user_mask, undistort_mask
from dmri_fm.series import load_image, read_array
from dmri_fm_workflows.interfaces.preprocess import MaskOutputSpec, save_mask


class _UserMaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="3-D image")
    mask_file = File(exists=True, mandatory=True, desc="mask on the voxels of the raw image")
    image_name = traits.Str(mandatory=True, desc="name of the raw image")
    file_key = traits.Enum("MaskFile", "T1wMaskFile", usedefault=True, desc="its entry")
    field_file = File(exists=True, desc="distortion field that corrected the image, Hz")
    phase_encoding = traits.Str(desc="phase encoding of the raw image")
    readout_s = traits.Float(desc="its readout time, s")


class TakeUserMask(SimpleInterface):
    """Mask the brain by the user's mask of the raw image, moved as its distortion is corrected."""

    input_spec = _UserMaskInputSpec
    output_spec = MaskOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image = load_image(self.inputs.in_file, ndim=3)
        affine = np.asarray(image.affine, dtype=np.float64)
        given = load_image(self.inputs.mask_file, ndim=3)
        mask = read_user_mask(
            self.inputs.mask_file,
            self.inputs.image_name,
            shape=image.shape,
            # Runs of a series are merged by voxel, though a later one may lie slightly apart.
            affine=given.affine,
        )
        record = {"MaskMethod": USER_MASK, self.inputs.file_key: Path(self.inputs.mask_file).name}
        if isdefined(self.inputs.field_file) and isdefined(self.inputs.phase_encoding):
            field_image = load_image(self.inputs.field_file, ndim=3)
            field = DistortionField(read_array(field_image), np.asarray(field_image.affine))
            encoding = PhaseEncoding(self.inputs.phase_encoding, self.inputs.readout_s)
            mask = undistort_mask(mask, affine, field=field, encoding=encoding)
        self._results |= save_mask(mask, read_array(image), affine, Path(runtime.cwd))
        self._results["record"] = record | {"Warnings": doubt_volume(mask, affine)}
        return runtime
