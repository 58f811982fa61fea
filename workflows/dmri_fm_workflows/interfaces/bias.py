"""Interface that estimates the receive-field bias of a series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from dmri_fm.preprocess.dwiref import estimate_bias
from dmri_fm.series import load_image, read_array, save_image


class _BiasFieldInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="b=0 reference")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")


class _BiasFieldOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="factor of the signal by the coils, about 1 in the brain")
    record = traits.Dict(desc="its range, for the sidecar")


class EstimateBias(SimpleInterface):
    """Estimate the intensity bias of the b=0 reference in the brain (N4)."""

    input_spec = _BiasFieldInputSpec
    output_spec = _BiasFieldOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image = load_image(self.inputs.in_file, ndim=3)
        mask = read_array(load_image(self.inputs.mask_file, ndim=3)) > 0
        field = estimate_bias(read_array(image), image.affine, mask=mask)
        out = save_image(field, image.affine, Path(runtime.cwd) / "bias.nii.gz")
        low, high = np.percentile(field[mask], [1, 99])
        self._results["out_file"] = str(out)
        self._results["record"] = {"B1FieldRange": [round(float(low), 4), round(float(high), 4)]}
        return runtime
