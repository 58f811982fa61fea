"""Interfaces that draw the report's figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    isdefined,
    traits,
)

from dmri_fm.encoders.features import feature_columns
from dmri_fm.gradient_files import read_gradients
from dmri_fm.identity import identity
from dmri_fm.model_metadata import metadata_of_map
from dmri_fm.normalise.grid import Image3D
from dmri_fm.normalise.template import load_template
from dmri_fm.series import load_image
from dmri_fm_workflows.interfaces.figure import Figure, open_array, open_mask
from dmri_fm_workflows.interfaces.gradients import GradientInputSpec
from dmri_fm_workflows.outputs.tsv import MISSING, read_table
from dmri_fm_workflows.report import figures
from dmri_fm_workflows.report.features import PatchTokens


class _MaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="3-D image")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask")
    title = traits.Str("Brain mask", usedefault=True, desc="title")


class PlotMask(Figure):
    """Draw the contour of a brain mask on its image."""

    input_spec = _MaskInputSpec

    def _draw(self, out: Path) -> None:
        image, affine = open_array(self.inputs.in_file)
        mask = open_mask(self.inputs.mask_file)
        figures.plot_mask(image, mask, affine, out, title=self.inputs.title)


class _SchemeInputSpec(GradientInputSpec):
    dwi_file = File(exists=True, mandatory=True, desc="series")
    bval_file = File(exists=True, mandatory=True, desc="b-values")
    bvec_file = File(exists=True, mandatory=True, desc="b-vectors, FSL convention")


class PlotScheme(Figure):
    """Draw the gradient directions of every shell."""

    input_spec = _SchemeInputSpec

    def _draw(self, out: Path) -> None:
        image = load_image(self.inputs.dwi_file, ndim=4)
        gtab = read_gradients(
            self.inputs.bval_file,
            self.inputs.bvec_file,
            affine=image.affine,
            n_volumes=image.shape[3],
            b0_threshold=self.inputs.threshold(),
        )
        figures.plot_sampling_scheme(gtab, out)


class _BeforeAfterInputSpec(BaseInterfaceInputSpec):
    before_file = File(exists=True, mandatory=True, desc="3-D image before")
    after_file = File(exists=True, mandatory=True, desc="3-D image after, same grid")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")
    title = traits.Str("Before and after", usedefault=True, desc="title")


class PlotBeforeAfter(Figure):
    """Draw two states of an image with a slider."""

    input_spec = _BeforeAfterInputSpec

    def _draw(self, out: Path) -> None:
        before, affine = open_array(self.inputs.before_file)
        after, _ = open_array(self.inputs.after_file)
        mask = open_mask(self.inputs.mask_file)
        figures.plot_before_after(
            before,
            after,
            affine,
            out,
            mask=mask,
            contours={"brain mask of the corrected image": mask},
            title=self.inputs.title,
        )


class _FieldInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="b=0 reference, corrected")
    field_file = File(exists=True, mandatory=True, desc="distortion field, Hz, same grid")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")


class PlotField(Figure):
    """Draw the distortion field beside the b=0 reference."""

    input_spec = _FieldInputSpec

    def _draw(self, out: Path) -> None:
        image, affine = open_array(self.inputs.in_file)
        hz, _ = open_array(self.inputs.field_file)
        figures.plot_field(image, hz, affine, out, mask=open_mask(self.inputs.mask_file))


class _RemovalInputSpec(BaseInterfaceInputSpec):
    before_files = InputMultiObject(File(exists=True), mandatory=True, desc="runs before")
    after_files = InputMultiObject(File(exists=True), mandatory=True, desc="runs after")
    bval_files = InputMultiObject(File(exists=True), mandatory=True, desc="their b-values")
    mask_file = File(exists=True, mandatory=True, desc="brain mask, on the first run's grid")
    title = traits.Str("Denoising", usedefault=True, desc="title")


class PlotRemoval(Figure):
    """Draw volumes of lowest and highest b before and after a correction, and what it removed."""

    input_spec = _RemovalInputSpec

    def _draw(self, out: Path) -> None:
        bvals_of = [np.atleast_1d(np.loadtxt(path)) for path in self.inputs.bval_files]
        places = [(run, v) for run, bvals in enumerate(bvals_of) for v in range(len(bvals))]
        bvals = np.concatenate(bvals_of)
        before, after = (
            [load_image(path, ndim=4) for path in paths]
            for paths in (self.inputs.before_files, self.inputs.after_files)
        )
        volumes = {}
        for number in dict.fromkeys(map(int, (np.argmin(bvals), np.argmax(bvals)))):
            run, v = places[number]
            volumes[f"volume {number + 1}, b = {bvals[number]:.0f}"] = (
                np.asarray(before[run].dataobj[..., v], dtype=np.float32),
                np.asarray(after[run].dataobj[..., v], dtype=np.float32),
            )
        mask = open_mask(self.inputs.mask_file)
        affine = np.asarray(before[0].affine)
        figures.plot_removal(volumes, affine, out, mask=mask, title=self.inputs.title)


class _BiasInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="b=0 reference with its bias")
    bias_file = File(exists=True, mandatory=True, desc="factor of the signal, same grid")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")


class PlotBias(Figure):
    """Draw the b=0 reference before and after its receive field is divided out."""

    input_spec = _BiasInputSpec

    def _draw(self, out: Path) -> None:
        image, affine = open_array(self.inputs.in_file)
        bias, _ = open_array(self.inputs.bias_file)
        figures.plot_bias(image, bias, affine, out, mask=open_mask(self.inputs.mask_file))


class _RegistrationInputSpec(BaseInterfaceInputSpec):
    moving_file = File(exists=True, mandatory=True, desc="image resampled to the fixed one")
    fixed_file = File(exists=True, mandatory=True, desc="image registered to")
    mask_file = File(exists=True, mandatory=True, desc="brain mask on the fixed grid")
    moving_label = traits.Str("moving", usedefault=True, desc="name of the moving image")
    fixed_label = traits.Str("fixed", usedefault=True, desc="name of the fixed image")
    title = traits.Str("Registration", usedefault=True, desc="title")


class PlotRegistration(Figure):
    """Draw two registered images with a slider, and contours."""

    input_spec = _RegistrationInputSpec

    def _draw(self, out: Path) -> None:
        moving, _ = open_array(self.inputs.moving_file)
        fixed, affine = open_array(self.inputs.fixed_file)
        mask = open_mask(self.inputs.mask_file)
        figures.plot_registration(
            moving,
            fixed,
            affine,
            out,
            mask=mask,
            labels=(self.inputs.moving_label, self.inputs.fixed_label),
            title=self.inputs.title,
        )


class _ColourFaInputSpec(BaseInterfaceInputSpec):
    fa_file = File(exists=True, mandatory=True, desc="fractional anisotropy")
    v1_file = File(exists=True, mandatory=True, desc="main eigenvector, RAS+")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")


class PlotColourFa(Figure):
    """Draw FA coloured by the main direction."""

    input_spec = _ColourFaInputSpec

    def _draw(self, out: Path) -> None:
        fa, affine = open_array(self.inputs.fa_file)
        v1, _ = open_array(self.inputs.v1_file)
        mask = open_mask(self.inputs.mask_file)
        figures.plot_colour_fa(fa, v1, affine, out, mask=mask)


class _CompareInputSpec(BaseInterfaceInputSpec):
    tensor_file = File(exists=True, mandatory=True, desc="FA of the tensor fit")
    network_file = File(exists=True, mandatory=True, desc="FA of the network")
    std_file = File(exists=True, desc="its standard deviation, if the network estimates it")
    ood_file = File(exists=True, desc="out-of-distribution percentile, if there is one")
    model = traits.Str(mandatory=True, desc="name of the network")
    record = traits.Dict(mandatory=True, desc="how the network's map was made")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")


class PlotComparison(Figure):
    """Draw FA of the tensor fit beside FA of the network."""

    input_spec = _CompareInputSpec

    def _draw(self, out: Path) -> None:
        tensor, affine = open_array(self.inputs.tensor_file)
        network, _ = open_array(self.inputs.network_file)
        mask = open_mask(self.inputs.mask_file)
        name = identity(self.inputs.model).title
        status = metadata_of_map(self.inputs.record, "fa")["Status"]
        more = {}
        if isdefined(self.inputs.std_file):
            more[f"standard deviation of FA, {name}"] = (
                open_array(self.inputs.std_file)[0],
                (0.0, 0.1),
            )
        if isdefined(self.inputs.ood_file):
            ood = f"out of distribution for the {name}: percentile of its training data"
            more[ood] = open_array(self.inputs.ood_file)[0], (50.0, 100.0)
        figures.plot_scalar_comparison(
            tensor,
            network,
            mask,
            affine,
            out,
            labels=("tensor fit", f"{name} ({status})"),
            title=f"Tensor fit and {name}",
            more=more,
        )


class _FeaturesInputSpec(BaseInterfaceInputSpec):
    scan_file = File(exists=True, mandatory=True, desc="scan features, one row")
    patch_file = File(exists=True, desc="patch features, npz")
    sensitivity_file = File(exists=True, desc="how far features follow the signal of a place")


class PlotFeatures(Figure):
    """Draw the scan's features, and the patches' principal components or the sensitivity."""

    input_spec = _FeaturesInputSpec

    def _draw(self, out: Path) -> None:
        (row,) = read_table(self.inputs.scan_file)
        vectors: dict[str, list[float]] = {
            of: [np.nan if row[c] == MISSING else float(row[c]) for c in columns]
            for of, columns in feature_columns(row).items()
        }
        ood = {c: float(row[c]) for c in ("ood_percentile", "ood_score") if row[c] != MISSING}
        figures.plot_features(vectors, self._patches(), out, maps=self._maps(), **ood)

    def _patches(self) -> PatchTokens | None:
        if not isdefined(self.inputs.patch_file):
            return None
        with np.load(self.inputs.patch_file) as saved:
            arrays = {f: saved[f] for f in ("tokens", "ijk", "xyz_mm", "valid", "error")}
            x, y, z = map(int, saved["grid_shape"])
        return PatchTokens(grid_shape=(x, y, z), **arrays)

    def _maps(self) -> dict[str, Image3D]:
        """Return what is drawn for each place, by its words."""
        if not isdefined(self.inputs.sensitivity_file):
            return {}
        data, affine = open_array(self.inputs.sensitivity_file)
        return {"Sensitivity of the features to the signal of a place": Image3D(data, affine)}


class _TemplateContourInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="map on the template's 2 mm grid")
    mask_file = File(exists=True, mandatory=True, desc="brain of the series, same grid")
    title = traits.Str(mandatory=True, desc="title")


class PlotInTemplate(Figure):
    """Draw the template's white matter and the brain of the series on a map of 0 to 1."""

    input_spec = _TemplateContourInputSpec

    def _draw(self, out: Path) -> None:
        image, affine = open_array(self.inputs.in_file)
        mask = open_mask(self.inputs.mask_file)
        figures.plot_contours(
            image,
            {
                "white matter of the template": load_template(2).wm > 0.5,
                "brain of the series": mask,
            },
            affine,
            out,
            window=(0.0, 1.0),
            title=self.inputs.title,
        )
