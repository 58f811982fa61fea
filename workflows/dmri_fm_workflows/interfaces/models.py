"""Interfaces of the models stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from dmri_fm import extract_features, predict_tensor
from dmri_fm.errors import WeightsError
from dmri_fm.preprocess.free_water import (
    B_SCALING_CHECK_KEY,
    describe_free_water,
    measure_free_water,
)
from dmri_fm.preprocess.gradient_check import check_gradients
from dmri_fm.preprocess.motion import read_motion_tsv
from dmri_fm.preprocess.quality import describe_quality, image_quality
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm.tensor import TensorMaps, fit_tensor
from dmri_fm_workflows.interfaces.gradients import GradientInputSpec
from dmri_fm_workflows.outputs.sidecars import describe_columns
from dmri_fm_workflows.outputs.tsv import format_table, scan_columns

#: Maps a tensor model writes, in the order of the output tree.
TENSOR_PARAMS = ("diffusivity", "fa", "md", "ad", "rd")


class _DwiMaskInputSpec(GradientInputSpec):
    dwi_file = File(exists=True, mandatory=True, desc="corrected series")
    bval_file = File(exists=True, mandatory=True, desc="b-values, s/mm^2")
    bvec_file = File(exists=True, mandatory=True, desc="b-vectors, FSL convention")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")

    def load(self) -> Dwi:
        """Open the series with its mask."""
        return self.open_dwi(self.dwi_file, self.bval_file, self.bvec_file, self.mask_file)


class _TensorOutputSpec(TraitedSpec):
    diffusivity_file = File(exists=True, desc="tensor, 4-D, mm^2/s")
    s0_file = File(exists=True, desc="signal without diffusion weighting")
    fa_file = File(exists=True, desc="fractional anisotropy")
    md_file = File(exists=True, desc="mean diffusivity, mm^2/s")
    ad_file = File(exists=True, desc="axial diffusivity, mm^2/s")
    rd_file = File(exists=True, desc="radial diffusivity, mm^2/s")
    v1_file = File(exists=True, desc="main eigenvector, RAS+, 4-D")
    facts = traits.Dict(desc="what ran, for the sidecars of the maps")


def _save_tensor(maps: TensorMaps, folder: Path) -> dict[str, str]:
    arrays = {name: getattr(maps, name) for name in (*TENSOR_PARAMS, "v1")}
    if maps.s0 is not None:
        arrays["s0"] = maps.s0
    return {
        f"{name}_file": str(save_image(data, maps.affine, folder / f"{name}.nii.gz"))
        for name, data in arrays.items()
    }


class _FitInputSpec(_DwiMaskInputSpec):
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class FitTensor(SimpleInterface):
    """Fit the diffusion tensor by weighted least squares."""

    input_spec = _FitInputSpec
    output_spec = _TensorOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        maps = fit_tensor(self.inputs.load(), n_threads=self.inputs.n_threads)
        self._results |= _save_tensor(maps, Path(runtime.cwd))
        self._results["facts"] = dict(maps.metadata)
        return runtime


class _PredictInputSpec(_DwiMaskInputSpec):
    model = traits.Str("tensor-refiner", usedefault=True, desc="registered model")
    weights = File(exists=True, desc="checkpoint; the packaged one if not given")
    device = traits.Str("cpu", usedefault=True, desc="torch device")
    seed = traits.Int(0, usedefault=True, desc="random seed")


class _PredictOutputSpec(_TensorOutputSpec):
    fa_std_file = File(exists=True, desc="standard deviation of fractional anisotropy")
    md_std_file = File(exists=True, desc="standard deviation of mean diffusivity, mm^2/s")
    unfamiliarity_file = File(exists=True, desc="percentile among training data")


class PredictTensor(SimpleInterface):
    """Estimate the diffusion tensor from six directions with a network."""

    input_spec = _PredictInputSpec
    output_spec = _PredictOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        maps = predict_tensor(
            self.inputs.load(),
            model=self.inputs.model,
            weights=self.inputs.weights if isdefined(self.inputs.weights) else None,
            device=self.inputs.device,
            seed=self.inputs.seed,
        )
        if maps.std is None or maps.ood_percentile is None:
            raise WeightsError(
                "weights without statistics of their training data",
                path=self.inputs.weights if isdefined(self.inputs.weights) else None,
                expected="weights that `dmri-fm train` has written",
            )
        folder = Path(runtime.cwd)
        self._results |= _save_tensor(maps, folder)
        more = {
            "fa_std": maps.std["fa"],
            "md_std": maps.std["md"],
            "unfamiliarity": maps.ood_percentile,
        }
        for name, data in more.items():
            path = save_image(data, maps.affine, folder / f"{name}.nii.gz")
            self._results[f"{name}_file"] = str(path)
        self._results["facts"] = dict(maps.metadata)
        return runtime


class _FeaturesInputSpec(_PredictInputSpec):
    entities = traits.Dict(mandatory=True, desc="entities of the scan, they lead the row")


class _FeaturesOutputSpec(TraitedSpec):
    scan_file = File(exists=True, desc="one row: the scan's features")
    patch_file = File(exists=True, desc="features per patch, npz")
    ood = traits.Dict(desc="score and percentile of the distance to the training features")
    facts = traits.Dict(desc="what ran, for the sidecars")


class ExtractFeatures(SimpleInterface):
    """Compute scan and patch features with a D-RoPE encoder."""

    input_spec = _FeaturesInputSpec
    output_spec = _FeaturesOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        features = extract_features(
            self.inputs.load(),
            model=self.inputs.model,
            weights=self.inputs.weights if isdefined(self.inputs.weights) else None,
            device=self.inputs.device,
            seed=self.inputs.seed,
        )
        folder = Path(runtime.cwd)
        row = scan_columns(self.inputs.entities) | features.row()
        table = folder / "scan_features.tsv"
        table.write_text(format_table([row], list(row), digits=9), encoding="utf-8")
        self._results |= {
            "scan_file": str(table),
            "patch_file": str(features.save_patches(folder / "patch_features.npz")),
            "ood": {
                "ood_score": float(features.ood_score),
                "ood_percentile": float(features.ood_percentile),
            },
            "facts": dict(features.metadata),
        }
        return runtime


class _CheckOutputSpec(TraitedSpec):
    facts = traits.Dict(desc="the answer, for the sidecar")


class CheckGradients(SimpleInterface):
    """Ask whether the b-vectors continue the fibres better than any mirrored or swapped ones."""

    input_spec = _DwiMaskInputSpec
    output_spec = _CheckOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        check = check_gradients(dwi.data, dwi.gtab, dwi.affine, dwi.mask)
        self._results["facts"] = check.as_facts()
        return runtime


class _FreeWaterInputSpec(_DwiMaskInputSpec):
    method = traits.Enum(
        "length", "none", mandatory=True, desc="how lengths of b-vectors are read"
    )
    common_length = traits.Float(desc="length that the b-vectors share, if they share one")


class CheckFreeWater(SimpleInterface):
    """Compare MD of the ventricles with that of free water, where b-values are in doubt."""

    input_spec = _FreeWaterInputSpec
    output_spec = _CheckOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        found = measure_free_water(dwi.data, dwi.gtab, mask=dwi.mask, affine=dwi.affine)
        length = self.inputs.common_length
        check = describe_free_water(
            found,
            method=self.inputs.method,
            common_length=length if isdefined(length) else None,
        )
        self._results["facts"] = {B_SCALING_CHECK_KEY: dict(check)}
        return runtime


class _QualityInputSpec(_DwiMaskInputSpec):
    raw_file = File(exists=True, mandatory=True, desc="merged series as acquired")
    raw_bval_file = File(exists=True, mandatory=True, desc="its b-values")
    raw_bvec_file = File(exists=True, mandatory=True, desc="its b-vectors")
    raw_mask_file = File(exists=True, mandatory=True, desc="brain mask on its grid")
    motion_file = File(exists=True, mandatory=True, desc="transforms of the volumes")
    outliers_file = File(exists=True, mandatory=True, desc="outlier slices, npy")
    diffusivity_file = File(exists=True, desc="fitted tensor")
    network_diffusivity_file = File(exists=True, desc="tensor of the network")
    unfamiliarity_file = File(exists=True, desc="percentile among the network's training data")
    registration_dice = traits.Float(desc="overlap with the template's brain")
    ood = traits.Dict(desc="score and percentile of the features")
    entities = traits.Dict(mandatory=True, desc="entities of the scan, they lead the row")


class _QualityOutputSpec(TraitedSpec):
    qc_file = File(exists=True, desc="one row of quality measures")
    facts = traits.Dict(desc="column descriptions, for the sidecar")


def _read_optional(path, *, ndim):
    return read_array(load_image(path, ndim=ndim)) if isdefined(path) else None


class AssessQuality(SimpleInterface):
    """Measure the quality of a series, raw and preprocessed."""

    input_spec = _QualityInputSpec
    output_spec = _QualityOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        raw = self.inputs.open_dwi(
            self.inputs.raw_file,
            self.inputs.raw_bval_file,
            self.inputs.raw_bvec_file,
            self.inputs.raw_mask_file,
        )
        dice = self.inputs.registration_dice
        ood = dict(self.inputs.ood) if isdefined(self.inputs.ood) else {}
        quality = image_quality(
            dwi.data,
            dwi.gtab,
            mask=dwi.mask,
            affine=dwi.affine,
            raw=raw.data,
            raw_gtab=raw.gtab,
            raw_mask=raw.mask,
            fd_mm=read_motion_tsv(self.inputs.motion_file).fd_mm,
            is_outlier=np.load(self.inputs.outliers_file),
            diffusivity=_read_optional(self.inputs.diffusivity_file, ndim=4),
            network_diffusivity=_read_optional(self.inputs.network_diffusivity_file, ndim=4),
            unfamiliarity=_read_optional(self.inputs.unfamiliarity_file, ndim=3),
            registration_dice=dice if isdefined(dice) else None,
            ood_score=ood.get("ood_score"),
            ood_percentile=ood.get("ood_percentile"),
        )
        row = scan_columns(self.inputs.entities) | quality
        out = Path(runtime.cwd) / "image_qc.tsv"
        out.write_text(format_table([row], list(row)), encoding="utf-8")
        self._results["qc_file"] = str(out)
        self._results["facts"] = describe_columns(list(row)) | describe_quality(list(quality))
        return runtime
