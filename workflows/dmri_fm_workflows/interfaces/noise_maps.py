"""Interface that brings the noise map and the map of what denoising removed into ACPC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from dmri_fm.distortion import field_shifts
from dmri_fm.normalise.bias import bring_bias
from dmri_fm.normalise.noise_maps import bring_run_maps, residual_by_run
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.normalise import open_image
from dmri_fm_workflows.interfaces.volumes_table import read_volumes


class _NoiseMapsInputSpec(BaseInterfaceInputSpec):
    noise_files = InputMultiObject(File(exists=True), mandatory=True, desc="noise by run")
    run_scales = traits.List(traits.Float(), mandatory=True, desc="intensity factor by run")
    raw_file = File(exists=True, desc="merged series as acquired")
    denoised_file = File(exists=True, desc="the same, denoised")
    volumes_file = File(exists=True, mandatory=True, desc="run and phase encoding of each volume")
    field_file = File(exists=True, desc="distortion field on the reference's grid, Hz")
    bias_file = File(exists=True, desc="receive-field bias that the series is divided by")
    xfm_file = File(exists=True, mandatory=True, desc="transform of the reference into ACPC")
    mask_file = File(exists=True, mandatory=True, desc="brain in ACPC, gives the grid")


class _NoiseMapsOutputSpec(TraitedSpec):
    noise_file = File(exists=True, desc="noise of one volume as acquired, in ACPC")
    residual_files = traits.List(
        File(exists=True), desc="root mean square of what was removed, in ACPC; or nothing"
    )


class BringNoiseMaps(SimpleInterface):
    """Bring the noise of the runs, and what denoising removed from them, into ACPC."""

    input_spec = _NoiseMapsInputSpec
    output_spec = _NoiseMapsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        mask = open_image(self.inputs.mask_file)
        origins = read_volumes(self.inputs.volumes_file)
        runs = np.array([origin.run for origin in origins])
        to_dwiref = read_point_map(self.inputs.xfm_file)
        first_of = np.unique(runs, return_index=True)[1]
        given: dict[str, Any] = {
            "target2dwiref": to_dwiref,
            "shifts": field_shifts([origins[n].encoding for n in first_of]),
        }
        if isdefined(self.inputs.field_file):
            given["field_hz"] = read_array(load_image(self.inputs.field_file, ndim=3))
        opened = [open_image(path) for path in self.inputs.noise_files]
        sigma = [i.data * s for i, s in zip(opened, self.inputs.run_scales, strict=True)]
        level = (mask.data > 0).astype(np.float32)
        if isdefined(self.inputs.bias_file):
            bias = open_image(self.inputs.bias_file)
            level /= bring_bias(bias, mask.grid, target2dwiref=to_dwiref)
        n_volumes = np.bincount(runs)
        # Runs are merged by voxel, on the affine of the first.
        affine, folder = opened[0].affine, Path(runtime.cwd)

        def bring(values: NDArray[np.float32], name: str, n: NDArray[np.int_]) -> str:
            data = bring_run_maps(values, affine, mask.grid, n_volumes=n, **given) * level
            return str(save_image(data, mask.affine, folder / f"{name}.nii.gz"))

        self._results["noise_file"] = bring(np.stack(sigma, axis=3), "noise", n_volumes)
        self._results["residual_files"] = []
        if isdefined(self.inputs.denoised_file):
            removed = residual_by_run(
                read_array(load_image(self.inputs.raw_file, ndim=4)),
                read_array(load_image(self.inputs.denoised_file, ndim=4)),
                runs,
            )
            if removed.any():
                # Runs that were too short to be denoised would make it look less.
                counted = n_volumes * removed.any(axis=(0, 1, 2))
                self._results["residual_files"] = [bring(removed, "residual", counted)]
        return runtime
