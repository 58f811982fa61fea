"""Interfaces of the models stage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from dmri_fm import extract_features
from dmri_fm.errors import WeightsError
from dmri_fm.gradient_deviation import as_matrices
from dmri_fm.identity import REGIONS
from dmri_fm.json_files import read_object
from dmri_fm.preprocess.free_water import (
    B_SCALING_CHECK_KEY,
    describe_free_water,
    measure_free_water,
)
from dmri_fm.preprocess.quality import mask_volume_ml
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm.tensor_networks.predict import predict_chosen
from dmri_fm.tensor_networks.volumes import ChosenVolumes
from dmri_fm_workflows.interfaces.gradients import DwiMaskInputSpec
from dmri_fm_workflows.interfaces.network_input import NOISE_DOUBT
from dmri_fm_workflows.outputs.maps import OutputType, load_catalogue
from dmri_fm_workflows.outputs.tsv import format_table, scan_columns


def read_optional(path: Any, *, ndim: int) -> NDArray[np.float32] | None:
    """Return the voxels of an image, or None where an input was not given."""
    return read_array(load_image(path, ndim=ndim)) if isdefined(path) else None


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
        deviation = read_optional(self.inputs.deviation_file, ndim=4)
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
            noise=read_optional(self.inputs.noise_file, ndim=3),
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
        rotations = read_optional(self.inputs.rotations_file, ndim=4)
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
