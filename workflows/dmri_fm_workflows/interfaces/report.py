"""Interfaces that draw the report's figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from dmri_fm.encoders.features import feature_columns
from dmri_fm.gradient_files import read_gradients
from dmri_fm.identity import identity
from dmri_fm.normalise.template import load_template
from dmri_fm.preprocess.motion_table import read_motion_tsv
from dmri_fm.series import load_image, read_array
from dmri_fm_workflows.interfaces.gradients import GradientInputSpec
from dmri_fm_workflows.outputs.tsv import MISSING, read_table
from dmri_fm_workflows.report import figures


def _open(path: str) -> tuple[np.ndarray, np.ndarray]:
    image = load_image(path)
    return read_array(image, path=path), np.asarray(image.affine)


class _FigureOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="the figure, SVG")


class _MaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="3-D image")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask")
    title = traits.Str("Brain mask", usedefault=True, desc="title")


class PlotMask(SimpleInterface):
    """Draw the contour of a brain mask on its image."""

    input_spec = _MaskInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image, affine = _open(self.inputs.in_file)
        mask, _ = _open(self.inputs.mask_file)
        out = figures.plot_mask(
            image, mask > 0, affine, Path(runtime.cwd) / "mask.svg", title=self.inputs.title
        )
        self._results["out_file"] = str(out)
        return runtime


class _SchemeInputSpec(GradientInputSpec):
    dwi_file = File(exists=True, mandatory=True, desc="series")
    bval_file = File(exists=True, mandatory=True, desc="b-values")
    bvec_file = File(exists=True, mandatory=True, desc="b-vectors, FSL convention")


class PlotScheme(SimpleInterface):
    """Draw the gradient directions of every shell."""

    input_spec = _SchemeInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image = load_image(self.inputs.dwi_file, ndim=4)
        gtab = read_gradients(
            self.inputs.bval_file,
            self.inputs.bvec_file,
            affine=image.affine,
            n_volumes=image.shape[3],
            b0_threshold=self.inputs.threshold(),
        )
        out = figures.plot_sampling_scheme(gtab, Path(runtime.cwd) / "scheme.svg")
        self._results["out_file"] = str(out)
        return runtime


class _BeforeAfterInputSpec(BaseInterfaceInputSpec):
    before_file = File(exists=True, mandatory=True, desc="3-D image before")
    after_file = File(exists=True, mandatory=True, desc="3-D image after, same grid")
    mask_file = File(exists=True, desc="brain mask")
    title = traits.Str("Before and after", usedefault=True, desc="title")


class PlotBeforeAfter(SimpleInterface):
    """Draw two states of an image that flicker under the pointer."""

    input_spec = _BeforeAfterInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        before, affine = _open(self.inputs.before_file)
        after, _ = _open(self.inputs.after_file)
        mask = _open(self.inputs.mask_file)[0] > 0 if isdefined(self.inputs.mask_file) else None
        out = figures.plot_before_after(
            before,
            after,
            affine,
            Path(runtime.cwd) / "before_after.svg",
            mask=mask,
            contours={} if mask is None else {"brain mask of the corrected image": mask},
            title=self.inputs.title,
        )
        self._results["out_file"] = str(out)
        return runtime


class _DenoisingInputSpec(BaseInterfaceInputSpec):
    raw_file = File(exists=True, mandatory=True, desc="merged series as acquired")
    dwi_file = File(exists=True, mandatory=True, desc="the same, denoised")
    bval_file = File(exists=True, mandatory=True, desc="b-values")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")


class PlotDenoising(SimpleInterface):
    """Draw the volume of highest b before and after denoising, and what was removed."""

    input_spec = _DenoisingInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        volume = int(np.argmax(np.loadtxt(self.inputs.bval_file)))
        before = load_image(self.inputs.raw_file, ndim=4)
        after = load_image(self.inputs.dwi_file, ndim=4)
        mask, _ = _open(self.inputs.mask_file)
        out = figures.plot_denoising(
            np.asarray(before.dataobj[..., volume], dtype=np.float32),
            np.asarray(after.dataobj[..., volume], dtype=np.float32),
            np.asarray(before.affine),
            Path(runtime.cwd) / "denoising.svg",
            mask=mask > 0,
            volume_name=f"volume {volume + 1}",
        )
        self._results["out_file"] = str(out)
        return runtime


class _CarpetInputSpec(BaseInterfaceInputSpec):
    dwi_file = File(exists=True, mandatory=True, desc="merged series, not resampled")
    bval_file = File(exists=True, mandatory=True, desc="b-values")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")
    motion_file = File(exists=True, mandatory=True, desc="transforms of the volumes")
    outliers_file = File(exists=True, mandatory=True, desc="outlier slices, npy")


class PlotCarpet(SimpleInterface):
    """Draw head motion over the slices of every volume."""

    input_spec = _CarpetInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        data, _ = _open(self.inputs.dwi_file)
        mask, _ = _open(self.inputs.mask_file)
        motion = read_motion_tsv(self.inputs.motion_file)
        out = figures.plot_carpet(
            data,
            mask > 0,
            motion.fd_mm,
            motion.parameters[:, :6],
            np.load(self.inputs.outliers_file),
            Path(runtime.cwd) / "carpet.svg",
            bvals=np.loadtxt(self.inputs.bval_file),
        )
        self._results["out_file"] = str(out)
        return runtime


class _RegistrationInputSpec(BaseInterfaceInputSpec):
    moving_file = File(exists=True, mandatory=True, desc="image resampled to the fixed one")
    fixed_file = File(exists=True, mandatory=True, desc="image registered to")
    mask_file = File(exists=True, desc="brain mask on the fixed grid")
    moving_label = traits.Str("moving", usedefault=True, desc="name of the moving image")
    fixed_label = traits.Str("fixed", usedefault=True, desc="name of the fixed image")
    title = traits.Str("Registration", usedefault=True, desc="title")


class PlotRegistration(SimpleInterface):
    """Draw two registered images that flicker under the pointer, with contours."""

    input_spec = _RegistrationInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        moving, _ = _open(self.inputs.moving_file)
        fixed, affine = _open(self.inputs.fixed_file)
        mask = _open(self.inputs.mask_file)[0] > 0 if isdefined(self.inputs.mask_file) else None
        out = figures.plot_registration(
            moving,
            fixed,
            affine,
            Path(runtime.cwd) / "registration.svg",
            mask=mask,
            labels=(self.inputs.moving_label, self.inputs.fixed_label),
            title=self.inputs.title,
        )
        self._results["out_file"] = str(out)
        return runtime


class _ColourFaInputSpec(BaseInterfaceInputSpec):
    fa_file = File(exists=True, mandatory=True, desc="fractional anisotropy")
    v1_file = File(exists=True, mandatory=True, desc="main eigenvector, RAS+")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")


class PlotColourFa(SimpleInterface):
    """Draw FA coloured by the main direction."""

    input_spec = _ColourFaInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        fa, affine = _open(self.inputs.fa_file)
        v1, _ = _open(self.inputs.v1_file)
        mask, _ = _open(self.inputs.mask_file)
        out = figures.plot_colour_fa(fa, v1, affine, Path(runtime.cwd) / "fa.svg", mask=mask > 0)
        self._results["out_file"] = str(out)
        return runtime


class _CompareInputSpec(BaseInterfaceInputSpec):
    tensor_file = File(exists=True, mandatory=True, desc="FA of the tensor fit")
    network_file = File(exists=True, mandatory=True, desc="FA of the network")
    std_file = File(exists=True, desc="its standard deviation, if the network estimates it")
    ood_file = File(exists=True, desc="out-of-distribution percentile, if there is one")
    model = traits.Str(mandatory=True, desc="name of the network")
    record = traits.Dict(mandatory=True, desc="how the network's map was made")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")


class PlotComparison(SimpleInterface):
    """Draw FA of the tensor fit beside FA of the network."""

    input_spec = _CompareInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        tensor, affine = _open(self.inputs.tensor_file)
        network, _ = _open(self.inputs.network_file)
        mask, _ = _open(self.inputs.mask_file)
        status = self.inputs.record["Status"]
        name = identity(self.inputs.model).title
        more = {}
        if isdefined(self.inputs.std_file):
            deviation = _open(self.inputs.std_file)[0], (0.0, 0.1)
            more[f"standard deviation of FA, {name}"] = deviation
        if isdefined(self.inputs.ood_file):
            percentile = _open(self.inputs.ood_file)[0], (50.0, 100.0)
            more[f"out of distribution for the {name}: percentile of its training data"] = (
                percentile
            )
        out = figures.plot_scalar_comparison(
            tensor,
            network,
            mask > 0,
            affine,
            Path(runtime.cwd) / "compare.svg",
            labels=("tensor fit", f"{name} ({status})"),
            title=f"Tensor fit and {name}",
            more=more,
        )
        self._results["out_file"] = str(out)
        return runtime


class _FeaturesInputSpec(BaseInterfaceInputSpec):
    scan_file = File(exists=True, mandatory=True, desc="scan features, one row")
    patch_file = File(exists=True, mandatory=True, desc="patch features, npz")


class PlotFeatures(SimpleInterface):
    """Draw the scan's features and the patches' principal components."""

    input_spec = _FeaturesInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        (row,) = read_table(self.inputs.scan_file)
        vector = [float(row[c]) for c in feature_columns(row)]
        with np.load(self.inputs.patch_file) as patches:
            x, y, z = patches["grid_shape"]
            out = figures.plot_features(
                vector,
                patches["tokens"],
                patches["ijk"],
                (int(x), int(y), int(z)),
                Path(runtime.cwd) / "features.svg",
                xyz_mm=patches["xyz_mm"],
                valid=patches["valid"],
                error=patches["error"],
                ood_percentile=_number(row["ood_percentile"]),
                ood_score=_number(row["ood_score"]),
            )
        self._results["out_file"] = str(out)
        return runtime


def _number(cell: str) -> float | None:
    """Read a cell of a table; None where there is nothing."""
    return None if cell == MISSING else float(cell)


class _TemplateContourInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="map on the template's 2 mm grid")
    mask_file = File(exists=True, mandatory=True, desc="brain of the series, same grid")
    title = traits.Str(mandatory=True, desc="title")


class PlotInTemplate(SimpleInterface):
    """Draw the template's white matter and the brain of the series on a map of 0 to 1."""

    input_spec = _TemplateContourInputSpec
    output_spec = _FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image, affine = _open(self.inputs.in_file)
        mask, _ = _open(self.inputs.mask_file)
        out = figures.plot_contours(
            image,
            {
                "white matter of the template": load_template(2).wm > 0.5,
                "brain of the series": mask > 0,
            },
            affine,
            Path(runtime.cwd) / "template.svg",
            window=(0.0, 1.0),
            title=self.inputs.title,
        )
        self._results["out_file"] = str(out)
        return runtime
