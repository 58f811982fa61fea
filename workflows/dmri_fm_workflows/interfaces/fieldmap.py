"""Interfaces of gradient-echo field maps, and of distortion fields as outputs."""

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

from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import resample_image
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.preprocess.fieldmap_placement import PlacedField, place_field
from dmri_fm.preprocess.phase_fieldmap import (
    HZ_PER_UNIT,
    WITHOUT,
    MeasuredField,
    find_measured,
    measure_field,
    phase_radians,
    wrap,
)
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.distortion_field import B0InputSpec, FieldOutputSpec, save_field
from dmri_fm_workflows.interfaces.normalise import open_image


class _FieldmapInputSpec(B0InputSpec):
    source_files = InputMultiObject(
        File(exists=True), mandatory=True, desc="phase difference, both phases, or the field"
    )
    magnitude_file = File(exists=True, mandatory=True, desc="magnitude image")
    echo_times_s = traits.Tuple(
        traits.Float(), traits.Float(), desc="of both echoes; not given for a field"
    )
    units = traits.Str("", usedefault=True, desc="units of the sources, as their sidecar says")
    method = traits.Str(mandatory=True, desc="name for the sidecar")


class EstimateFieldmap(SimpleInterface):
    """Bring a gradient-echo field map to the b=0 reference, and correct that."""

    input_spec = _FieldmapInputSpec
    output_spec = FieldOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        b0 = self.inputs.load_b0()
        measured = self._measure()
        placed = place_field(measured, b0)
        self._results |= save_field(
            placed.field, Path(runtime.cwd), corrected=placed.corrected, uncorrected=b0.data
        )
        self._results["record"] = _describe(self.inputs.method, measured, placed)
        return runtime

    def _measure(self) -> MeasuredField:
        """Read the images of the field map."""
        magnitude = load_image(self.inputs.magnitude_file, ndim=3)
        images = [load_image(path, ndim=3) for path in self.inputs.source_files]
        values = [
            read_array(image, path=path)
            for image, path in zip(images, self.inputs.source_files, strict=True)
        ]
        shown = read_array(magnitude, path=self.inputs.magnitude_file)
        if not np.any(shown > 0):
            raise ImageError(
                "the magnitude image of the field map is empty",
                path=self.inputs.magnitude_file,
                expected="an image of the head",
                advice=f"convert it again. {WITHOUT}",
            )
        echo_times_s = None
        if isdefined(self.inputs.echo_times_s):
            echo_times_s = self.inputs.echo_times_s
            names = [Path(path).name for path in self.inputs.source_files]
            phases = [
                phase_radians(v, units=self.inputs.units, name=name)
                for v, name in zip(values, names, strict=True)
            ]
            source = phases[0] if len(phases) == 1 else wrap(phases[1] - phases[0])
        else:
            source = values[0].astype(np.float64) * HZ_PER_UNIT[self.inputs.units]
        is_phase = echo_times_s is not None
        return measure_field(
            source,
            shown,
            magnitude.affine,
            echo_times_s=echo_times_s,
            is_measured=np.all([find_measured(v, is_phase=is_phase) for v in values], axis=0),
        )


def _describe(method: str, measured: MeasuredField, placed: PlacedField) -> dict[str, Any]:
    """Return the entries of the sidecars about a correction by a field map."""
    position = "as the scanner placed it"
    if placed.is_registered:
        shift = float(np.linalg.norm(placed.xfm[:3, 3]))
        position = f"registered rigidly to the b=0 image (ANTs), by {shift:.1f} mm at the origin"
    return {
        "SDCMethod": method,
        "SDCFieldmapPosition": position,
        "SDCFieldmapCoverage": round(placed.coverage, 4),
        "SDCFieldmapOutlierVoxels": measured.n_outliers,
        "SDCMutualInformationBefore": round(placed.similarity_before, 4),
        "SDCMutualInformationAfter": round(placed.similarity_after, 4),
        "SDCMutualInformationOpposite": round(placed.similarity_opposite, 4),
        "Warnings": list(placed.warnings),
    }


class _ResampleFieldInputSpec(BaseInterfaceInputSpec):
    field_file = File(exists=True, mandatory=True, desc="off-resonance, Hz")
    xfm_file = File(exists=True, mandatory=True, desc="transform that resamples it into ACPC")
    reference_file = File(exists=True, mandatory=True, desc="image in ACPC, gives the grid")


class _ResampleFieldOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="off-resonance in ACPC, Hz")


class ResampleField(SimpleInterface):
    """Bring the distortion field into ACPC; a field in Hz keeps its values in every frame."""

    input_spec = _ResampleFieldInputSpec
    output_spec = _ResampleFieldOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        field, reference = (
            open_image(self.inputs.field_file),
            open_image(self.inputs.reference_file),
        )
        to_acpc = read_point_map(self.inputs.xfm_file)
        data = resample_image(field.data, field.affine, reference.grid, target2source=to_acpc)
        out = save_image(data, reference.affine, Path(runtime.cwd) / "field.nii.gz")
        self._results["out_file"] = str(out)
        return runtime
