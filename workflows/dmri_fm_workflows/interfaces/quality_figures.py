"""Interfaces that draw the figures of quality: noise, head motion and contrast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    InputMultiObject,
    TraitedSpec,
    isdefined,
    traits,
)

from dmri_fm.preprocess.motion_table import read_motion_tsv
from dmri_fm_workflows.interfaces.figure import Figure, open_array, open_mask
from dmri_fm_workflows.report import figures


class _NoiseInputSpec(BaseInterfaceInputSpec):
    noise_file = File(exists=True, mandatory=True, desc="noise map")
    residual_files = InputMultiObject(File(exists=True), desc="map of what was removed, or none")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")


class PlotNoise(Figure):
    """Draw the noise map and the map of what denoising removed."""

    input_spec = _NoiseInputSpec

    def _draw(self, out: Path) -> None:
        noise, affine = open_array(self.inputs.noise_file)
        maps = {"noise of one volume": noise}
        if isdefined(self.inputs.residual_files):
            maps["removed, root mean square"] = open_array(self.inputs.residual_files[0])[0]
        mask = open_mask(self.inputs.mask_file)
        figures.plot_maps(maps, affine, out, mask=mask, title="Noise and residual")


class _CarpetInputSpec(BaseInterfaceInputSpec):
    dwi_file = File(exists=True, mandatory=True, desc="merged series, not resampled")
    bval_file = File(exists=True, mandatory=True, desc="b-values")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")
    motion_file = File(exists=True, mandatory=True, desc="transforms of the volumes")
    outliers_file = File(exists=True, mandatory=True, desc="outlier slices, npy")


class PlotCarpet(Figure):
    """Draw head motion over the slices of every volume."""

    input_spec = _CarpetInputSpec

    def _draw(self, out: Path) -> None:
        data, _ = open_array(self.inputs.dwi_file)
        mask = open_mask(self.inputs.mask_file)
        motion = read_motion_tsv(self.inputs.motion_file)
        figures.plot_carpet(
            data,
            mask,
            motion.fd_mm,
            motion.parameters,
            np.load(self.inputs.outliers_file),
            out,
            bvals=np.loadtxt(self.inputs.bval_file),
            eddy_shift_mm=motion.eddy.shift_mm,
        )


class _CnrInputSpec(BaseInterfaceInputSpec):
    cnr_files = InputMultiObject(File(exists=True), desc="CNR, a volume for each shell; or none")
    record = traits.Dict(mandatory=True, desc="its shells, under Shells")
    mask_file = File(exists=True, mandatory=True, desc="brain mask, same grid")


class _CnrOutputSpec(TraitedSpec):
    out_file = traits.List(File(exists=True), desc="the figure, SVG, or nothing")


class PlotCnr(Figure):
    """Draw the contrast-to-noise ratio of every shell, if there is one."""

    input_spec = _CnrInputSpec
    output_spec = _CnrOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        if isdefined(self.inputs.cnr_files):
            runtime = super()._run_interface(runtime)
        self._results["out_file"] = [p] if (p := self._results.get("out_file")) else []
        return runtime

    def _draw(self, out: Path) -> None:
        cnr, affine = open_array(self.inputs.cnr_files[0])
        mask = open_mask(self.inputs.mask_file)
        maps = {}
        for number, bval in enumerate(self.inputs.record["Shells"]):
            volume = cnr[..., number]
            median = float(np.median(volume[mask])) if mask.any() else 0.0
            maps[f"b = {bval:.0f}, median {median:.2f}"] = volume
        figures.plot_maps(
            maps, affine, out, mask=mask, title="Contrast-to-noise ratio", quantity="CNR"
        )
