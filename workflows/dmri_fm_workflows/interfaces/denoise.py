"""Interfaces that remove noise and Gibbs ringing, run by run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces import mrtrix3
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from nipype.interfaces.mrtrix3.preprocess import DWIDenoiseInputSpec

from dmri_fm.preprocess.denoise import NAME_ZERO_FILLED, denoise, unring
from dmri_fm.preprocess.kspace_extent import is_zero_filled
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.gradients import DwiInputSpec
from dmri_fm_workflows.interfaces.programs import name_dwidenoise


class _DenoiseInputSpec(DwiInputSpec):
    method = traits.Enum("mppca", "patch2self", "none", mandatory=True, desc="denoiser")
    kspace_extent = traits.Either(
        None, traits.Float(), usedefault=True, desc="share of k-space filled in plane"
    )


class _DenoiseOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="denoised series")
    record = traits.Dict(desc="what ran, for the sidecar")


class DenoiseDwi(SimpleInterface):
    """Denoise one run by the built-in methods."""

    input_spec = _DenoiseInputSpec
    output_spec = _DenoiseOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        is_filled = is_zero_filled(self.inputs.kspace_extent)
        result = denoise(dwi, method=self.inputs.method, is_zero_filled=is_filled)
        out = save_image(result.data, dwi.affine, Path(runtime.cwd) / "denoised.nii")
        self._results["out_file"] = str(out)
        self._results["record"] = {"Denoising": result.method}
        return runtime


class _UnringInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="series")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _UnringOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="series without Gibbs ringing")


class UnringDwi(SimpleInterface):
    """Remove Gibbs ringing from one run by the built-in method."""

    input_spec = _UnringInputSpec
    output_spec = _UnringOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image = load_image(self.inputs.in_file, ndim=4)
        data = unring(read_array(image), n_jobs=self.inputs.n_threads)
        out = save_image(data, image.affine, Path(runtime.cwd) / "unringed.nii")
        self._results["out_file"] = str(out)
        return runtime


class _DwiDenoiseInputSpec(DWIDenoiseInputSpec):  # type: ignore[misc]
    kspace_extent = traits.Either(
        None, traits.Float(), usedefault=True, desc="share of k-space filled in plane"
    )


class DwiDenoise(mrtrix3.DWIDenoise):
    """MRtrix3's dwidenoise; too few volumes and zero-filled images pass unchanged."""

    input_spec = _DwiDenoiseInputSpec
    output_spec = _DenoiseOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        if not self._method().startswith("none"):
            return super()._run_interface(runtime)
        image = load_image(self.inputs.in_file, ndim=4)
        save_image(read_array(image), image.affine, Path(runtime.cwd) / self.inputs.out_file)
        return runtime

    def _list_outputs(self) -> dict[str, Any]:
        method = self._method()
        out_file = Path(self.inputs.out_file).resolve()
        return {"out_file": str(out_file), "record": {"Denoising": method}}

    def _method(self) -> str:
        """Return the name of what is done, for the sidecar."""
        if is_zero_filled(self.inputs.kspace_extent):
            return NAME_ZERO_FILLED
        return name_dwidenoise(load_image(self.inputs.in_file, ndim=4).shape[3])
