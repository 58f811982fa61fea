"""Interfaces of the models stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    Bunch,
    DynamicTraitedSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    Undefined,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from dmri_fm import extract_features
from dmri_fm.errors import WeightsError
from dmri_fm.gradient_deviation import as_matrices
from dmri_fm.identity import REGIONS, UNLABELLED, identity, label_of
from dmri_fm.json_files import read_object
from dmri_fm.normalise.grid import Grid, number_slices
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.preprocess.free_water import (
    B_SCALING_CHECK_KEY,
    describe_free_water,
    measure_free_water,
)
from dmri_fm.preprocess.motion_table import read_motion_tsv
from dmri_fm.preprocess.quality import mask_volume_ml, series_quality, tensor_quality
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm.tensor_networks.predict import predict_chosen
from dmri_fm.tensor_networks.quality import network_quality
from dmri_fm.tensor_networks.volumes import ChosenVolumes
from dmri_fm_workflows.interfaces.eddy_quality import read_eddy_quality
from dmri_fm_workflows.interfaces.gradients import DwiMaskInputSpec
from dmri_fm_workflows.interfaces.network_input import NOISE_DOUBT
from dmri_fm_workflows.outputs.maps import OutputType, load_catalogue
from dmri_fm_workflows.outputs.sidecars import describe_columns
from dmri_fm_workflows.outputs.tsv import NOT_MEASURED_KEY, SDC_METHOD, format_table, scan_columns


class _TensorOutputSpec(TraitedSpec):
    v1_file = File(exists=True, desc="main eigenvector, RAS+, 4-D")
    record = traits.Dict(desc="processing record, for the sidecars of the maps")


def _map_spec(name: str, family: str) -> type[TraitedSpec]:
    """Return the output spec of a family of models: a file for each of its maps.

    nipype pickles results with their spec, which it finds again by module and name.
    """
    types = [t for t in load_catalogue().types.values() if t.is_map and family in t.made_by]
    files = {f"{t.name}_file": File(exists=True, desc=t.title) for t in types}
    return type(name, (_TensorOutputSpec,), {**files, "__module__": __name__})


_FitOutputSpec = _map_spec("_FitOutputSpec", "tensor fit")
_NetworkOutputSpec = _map_spec("_NetworkOutputSpec", "tensor network")


def _save_maps(maps: TensorMaps, types: Iterable[OutputType], folder: Path) -> dict[str, Any]:
    """Write maps by their output types, and the main eigenvector."""
    arrays = {t.name: t.find_in(maps) for t in types}
    if lacking := [name for name, data in arrays.items() if data is None]:
        raise WeightsError(
            f"{maps.model} gives no {', '.join(lacking)}",
            expected="the maps that the plan found in its weights",
            advice="leave weights as they are during a run",
        )
    files = {
        f"{name}_file": str(save_image(data, maps.affine, folder / f"{name}.nii.gz"))
        for name, data in {**arrays, "v1": maps.v1}.items()
    }
    return files | {"record": dict(maps.metadata)}


class _FitInputSpec(DwiMaskInputSpec):
    deviation_file = File(exists=True, desc="deviation of the gradient coils, RAS+, 9 volumes")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")
    base = traits.Dict(usedefault=True, desc="entries of the record that the plan knows")


class FitTensor(SimpleInterface):
    """Fit the diffusion tensor by weighted least squares."""

    input_spec = _FitInputSpec
    output_spec = _FitOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        deviation = _read_optional(self.inputs.deviation_file, ndim=4)
        maps = fit_tensor(
            dwi,
            gradient_deviation=None if deviation is None else as_matrices(deviation),
            n_threads=self.inputs.n_threads,
        )
        self._results |= _save_maps(maps, load_catalogue().maps_of("tensor"), Path(runtime.cwd))
        self._results["record"] |= self.inputs.base
        return runtime


class _NetworkInputSpec(DwiMaskInputSpec):
    model = traits.Str(mandatory=True, desc="name in the registry")
    weights = File(exists=True, desc="weights file; the packaged one if not given")
    device = traits.Str("cpu", usedefault=True, desc="torch device")
    base = traits.Dict(usedefault=True, desc="entries of the record that the plan knows")

    def options(self) -> dict[str, Any]:
        """Return model, weights and device as keyword arguments."""
        weights = self.weights if isdefined(self.weights) else None
        return {"model": self.model, "weights": weights, "device": self.device}


class _PredictInputSpec(_NetworkInputSpec):
    chosen_file = File(exists=True, mandatory=True, desc="chosen volumes on the series' grid")
    noise_file = File(exists=True, desc="noise of one weighted volume of them")
    noise_record = traits.Dict(desc="record of the noise maps of the runs")
    choice_file = File(exists=True, mandatory=True, desc="which volumes they are, JSON")
    smallest_brain_ml = traits.Float(
        desc="volume of the brain mask below which maps are experimental; where no age is known"
    )
    reasons = traits.List(traits.Str(), usedefault=True, desc="why the maps are experimental")
    maps = traits.List(traits.Str(), mandatory=True, desc="output types of the maps to write")


class PredictTensor(SimpleInterface):
    """Estimate the diffusion tensor from six directions with a network."""

    input_spec = _PredictInputSpec
    output_spec = _NetworkOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        series = self.inputs.load()
        chosen = ChosenVolumes.from_json(read_object(Path(self.inputs.choice_file)))
        part = Dwi(load_image(self.inputs.chosen_file), series.gtab.select(chosen.index))
        maps = predict_chosen(
            part.with_mask(series.brain),
            chosen,
            noise=_read_optional(self.inputs.noise_file, ndim=3),
            reasons=[*self.inputs.reasons, *self._scan_reasons(series)],
            **self.inputs.options(),
        )
        types = map(load_catalogue().output_type, self.inputs.maps)
        self._results |= _save_maps(maps, types, Path(runtime.cwd))
        if isdefined(self.inputs.noise_record):
            self._results["record"]["NoiseSource"] = self.inputs.noise_record["NoiseMap"]
        self._results["record"] |= self.inputs.base
        return runtime

    def _scan_reasons(self, series: Dwi) -> list[str]:
        """Return the reasons that noise map and size of the brain give against primary maps."""
        record = self.inputs.noise_record
        reasons = [record[NOISE_DOUBT]] if isdefined(record) and NOISE_DOUBT in record else []
        smallest, volume_ml = self.inputs.smallest_brain_ml, mask_volume_ml(series)
        if isdefined(smallest) and volume_ml < smallest:
            reasons.append(
                f"no age is known, and the brain mask of {volume_ml:.0f} ml is below "
                f"{smallest:.0f} ml, as an infant's is"
            )
        return reasons


class _FeaturesInputSpec(_NetworkInputSpec):
    entities = traits.Dict(mandatory=True, desc="entities of the scan, they lead the row")
    rotations_file = File(exists=True, desc="rotations of directions by a warp, rad, RAS+")
    rotations_record = traits.Dict(usedefault=True, desc="record of these rotations")
    region = traits.Enum(*REGIONS, mandatory=True, desc="part of the grid to read")
    seed = traits.Int(0, usedefault=True, desc="random seed")

    def options(self) -> dict[str, Any]:
        return super().options() | {"region": self.region, "seed": self.seed}


class _FeaturesOutputSpec(TraitedSpec):
    scan_file = File(exists=True, desc="one row: the scan's features")
    patch_file = File(exists=True, desc="features per patch, npz")
    sensitivity_file = File(exists=True, desc="how far features follow the signal of a place")
    ood = traits.Dict(desc="score and percentile of the distance to the training features")
    record = traits.Dict(desc="processing record, for the sidecars")


class ExtractFeatures(SimpleInterface):
    """Compute features of the scan, and of its patches or places, with an encoder."""

    input_spec = _FeaturesInputSpec
    output_spec = _FeaturesOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        rotations = _read_optional(self.inputs.rotations_file, ndim=4)
        features = extract_features(
            self.inputs.load(), rotations=rotations, **self.inputs.options()
        )
        folder = Path(runtime.cwd)
        row = scan_columns(self.inputs.entities) | features.row()
        table = folder / "scan_features.tsv"
        table.write_text(format_table([row], list(row), digits=9), encoding="utf-8")
        self._results |= {
            "scan_file": str(table),
            "ood": {
                "ood_score": float(features.ood_score),
                "ood_percentile": float(features.ood_percentile),
            },
            "record": {**features.metadata, **self.inputs.rotations_record, **self.inputs.base},
        }
        if features.patches is not None:
            path = features.patches.save(folder / "patch_features.npz")
            self._results["patch_file"] = str(path)
        if (image := features.sensitivity) is not None:
            path = save_image(image.data, image.affine, folder / "sensitivity.nii.gz")
            self._results["sensitivity_file"] = str(path)
        return runtime


class _CheckOutputSpec(TraitedSpec):
    record = traits.Dict(desc="the answer, for the sidecar")


class _FreeWaterInputSpec(DwiMaskInputSpec):
    method = traits.Enum(
        "length", "none", mandatory=True, desc="how lengths of b-vectors are read"
    )
    common_length = traits.Float(desc="length that the b-vectors share, if they share one")


class CheckFreeWater(SimpleInterface):
    """Compare MD of the ventricles with that of free water, where b-values are in doubt."""

    input_spec = _FreeWaterInputSpec
    output_spec = _CheckOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        length = self.inputs.common_length
        check = describe_free_water(
            measure_free_water(self.inputs.load()),
            method=self.inputs.method,
            common_length=length if isdefined(length) else None,
        )
        self._results["record"] = {B_SCALING_CHECK_KEY: dict(check)}
        return runtime


class _QualityInputSpec(DynamicTraitedSpec, DwiMaskInputSpec):
    raw_file = File(exists=True, desc="merged series as acquired, if there is one")
    raw_bval_file = File(exists=True, desc="its b-values")
    raw_bvec_file = File(exists=True, desc="its b-vectors")
    raw_mask_file = File(exists=True, desc="brain mask on its grid")
    to_acpc_file = File(exists=True, desc="transform that resamples it into ACPC")
    run_sizes = traits.List(traits.Int(), usedefault=True, desc="volumes of each of its runs")
    motion_file = File(exists=True, desc="transforms of the volumes")
    outliers_file = File(exists=True, desc="outlier slices, npy")
    kspace_extents = traits.List(
        traits.Either(None, traits.Float()), usedefault=True, desc="k-space filled, by run"
    )
    eddy_qc_file = File(exists=True, desc="measures of eddy_quad, JSON")
    not_measured = traits.Dict(usedefault=True, desc="reason by measure that cannot be known")
    sdc_method = traits.Str(usedefault=True, desc="of susceptibility; empty: not known")
    tensor_diffusivity_file = File(exists=True, desc="fitted tensor")
    registration_dice = traits.Float(desc="overlap with the template's brain")
    mask_agreement_dice = traits.Float(desc="lowest Dice of the mask with a method in it")
    entities = traits.Dict(mandatory=True, desc="entities of the scan, they lead the row")


class _QualityOutputSpec(TraitedSpec):
    qc_file = File(exists=True, desc="one row of quality measures")
    record = traits.Dict(desc="column descriptions, for the sidecar")


class AssessQuality(SimpleInterface):
    """Measure the quality of a series, raw and preprocessed, and of the networks' tensors.

    Parameters
    ----------
    networks
        Tensor networks that run, by name; each adds the inputs `<label>_diffusivity_file` and
        `<label>_ood_file`.
    encoders
        Encoders that run, by name; each adds the input `<label>_ood`.
    **inputs
        Inputs by name.
    """

    input_spec = _QualityInputSpec
    output_spec = _QualityOutputSpec

    def __init__(
        self, networks: Sequence[str] = (), encoders: Sequence[str] = (), **inputs: Any
    ) -> None:
        super().__init__(**inputs)
        self._networks = tuple(label_of(name) for name in networks)
        self._encoders = tuple(label_of(name) for name in encoders)
        for label in self._networks:
            for end in ("diffusivity_file", "ood_file"):
                _add_input(self.inputs, f"{label}_{end}", File(exists=True))
        for label in self._encoders:
            _add_input(self.inputs, f"{label}_ood", traits.Dict())

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        fitted = _read_optional(self.inputs.tensor_diffusivity_file, ndim=4)
        quality = self._series_columns(dwi)
        row: dict[str, Any] = (
            scan_columns(self.inputs.entities)
            | quality
            | read_eddy_quality(self.inputs.eddy_qc_file)
            | tensor_quality(fitted, dwi.brain)
            | self._network_columns(dwi, fitted)
            | {
                "raw_kspace_extent": self._kspace_extent(),
                "mask_volume_ml": mask_volume_ml(dwi),
                "mask_agreement_dice": _number(self.inputs.mask_agreement_dice),
                "registration_dice": _number(self.inputs.registration_dice),
                SDC_METHOD: self.inputs.sdc_method or None,
                "ood_score": None,
                "ood_percentile": None,
            }
            | self._scan_columns()
        )
        out = Path(runtime.cwd) / "image_qc.tsv"
        out.write_text(format_table([row], list(row)), encoding="utf-8")
        self._results["qc_file"] = str(out)
        unknown = dict(self.inputs.not_measured)
        described = describe_columns(list(row))
        self._results["record"] = described | ({NOT_MEASURED_KEY: unknown} if unknown else {})
        return runtime

    def _kspace_extent(self) -> float | None:
        """Return the smallest extent of k-space of the runs; None if none is known."""
        return min((e for e in self.inputs.kspace_extents if e is not None), default=None)

    def _series_columns(self, dwi: Dwi) -> dict[str, float | int | None]:
        """Return measures of the series, raw and preprocessed."""
        inputs = self.inputs
        if not isdefined(inputs.raw_file):
            return series_quality(dwi)
        raw = inputs.open_dwi(
            inputs.raw_file, inputs.raw_bval_file, inputs.raw_bvec_file, inputs.raw_mask_file
        )
        return series_quality(
            dwi,
            raw,
            fd_mm=read_motion_tsv(inputs.motion_file).fd_mm,
            is_outlier=np.load(inputs.outliers_file),
            run_sizes=inputs.run_sizes,
            slice_numbers=number_slices(
                Grid(dwi.shape[:3], dwi.affine),
                Grid(raw.shape[:3], raw.affine),
                read_point_map(inputs.to_acpc_file),
            ),
        )

    def _network_columns(
        self, dwi: Dwi, fitted: NDArray[np.float32] | None
    ) -> dict[str, float | None]:
        """Return measures of each network's tensor, `<label>_<measure>`."""
        found: dict[str, float | None] = {}
        for label in self._networks:
            network = _read_optional(getattr(self.inputs, f"{label}_diffusivity_file"), ndim=4)
            if network is None:
                continue
            ood = _read_optional(getattr(self.inputs, f"{label}_ood_file"), ndim=3)
            measures = network_quality(network, fitted, dwi=dwi, ood=ood)
            found |= {f"{label}_{name}": value for name, value in measures.items()}
        return found

    def _scan_columns(self) -> dict[str, float]:
        """Return each encoder's out-of-distribution score, `<label>_ood_score`.

        Names of some lack the label, see :data:`~dmri_fm.identity.UNLABELLED`.
        """
        found: dict[str, float] = {}
        for label in self._encoders:
            scores = getattr(self.inputs, f"{label}_ood")
            start = "" if identity(label).name in UNLABELLED else f"{label}_"
            found |= {f"{start}{k}": v for k, v in scores.items()} if isdefined(scores) else {}
        return found


def _add_input(inputs: DynamicTraitedSpec, name: str, trait: Any) -> None:
    inputs.add_trait(name, trait)
    inputs.trait_set(trait_change_notify=False, **{name: Undefined})


def _read_optional(path: Any, *, ndim: int) -> NDArray[np.float32] | None:
    return read_array(load_image(path, ndim=ndim)) if isdefined(path) else None


def _number(value: Any) -> float | None:
    return float(value) if isdefined(value) else None
