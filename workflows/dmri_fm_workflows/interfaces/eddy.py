"""FSL's eddy and eddy_quad: their command lines, and the use of their output."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from fsl import wrappers
from fsl.data.image import Nifti
from nibabel.spatialimages import SpatialImage
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from dmri_fm.gradient_files import read_gradients, write_gradients
from dmri_fm.gradients import rotation_part
from dmri_fm.preprocess.motion import resampled_motion
from dmri_fm.series import load_image
from dmri_fm_workflows.eddy_config import eddy_arguments
from dmri_fm_workflows.interfaces.fsl import (
    FslProgram,
    build_arguments,
    restore_storage,
    store_for_fsl,
    takes_threads,
)
from dmri_fm_workflows.interfaces.gradients import GradientInputSpec
from dmri_fm_workflows.interfaces.motion import MotionOutputSpec, save_motion
from dmri_fm_workflows.interfaces.programs import (
    EDDY,
    EDDY_QUAD,
    find_program,
    list_cuda_eddies,
)
from dmri_fm_workflows.interfaces.volumes_table import read_volumes


class _StoreInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="image")


class _StoreOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="the same image, with a negative determinant")


class StoreForFsl(SimpleInterface):
    """Store an image as FSL holds it in memory."""

    input_spec = _StoreInputSpec
    output_spec = _StoreOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        out = store_for_fsl(self.inputs.in_file, Path(runtime.cwd) / "stored.nii.gz")
        self._results["out_file"] = str(out)
        return runtime


class _EddyInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="series")
    in_bval = File(exists=True, mandatory=True, desc="b-values")
    in_bvec = File(exists=True, mandatory=True, desc="b-vectors, FSL convention")
    in_mask = File(exists=True, mandatory=True, desc="brain mask")
    in_acqp = File(exists=True, mandatory=True, desc="one row per phase encoding and readout")
    in_index = File(exists=True, mandatory=True, desc="row of each volume, from 1")
    in_topup_fieldcoef = File(exists=True, requires=["in_topup_movpar"], desc="topup's field")
    in_topup_movpar = File(exists=True, requires=["in_topup_fieldcoef"], desc="topup's positions")
    field_file = File(
        exists=True, xor=["in_topup_fieldcoef"], desc="off-resonance on the series' grid, Hz"
    )
    slspec_file = File(exists=True, desc="slices of each excitation, in order")
    options = traits.Dict(usedefault=True, desc="options, by their key in --eddy-config")
    uses_cuda = traits.Bool(False, usedefault=True, desc="take the build for GPUs")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _EddyOutputSpec(TraitedSpec):
    out_corrected = File(exists=True, desc="corrected series")
    out_rotated_bvecs = File(exists=True, desc="rotated b-vectors, FSL convention")
    out_parameter = File(exists=True, desc="motion and eddy currents of each volume")
    out_outlier_map = File(exists=True, desc="outlier slices")
    out_base = traits.Str(desc="path of all that eddy wrote, without its endings")


class RunEddy(FslProgram):
    """Correct motion, eddy currents and, where a field is given, distortion by FSL's eddy."""

    input_spec = _EddyInputSpec
    output_spec = _EddyOutputSpec
    programs = EDDY
    files: ClassVar[Mapping[str, str]] = {
        "out_corrected": "eddy_corrected.nii.gz",
        "out_rotated_bvecs": "eddy_corrected.eddy_rotated_bvecs",
        "out_parameter": "eddy_corrected.eddy_parameters",
        "out_outlier_map": "eddy_corrected.eddy_outlier_map",
    }

    def find(self) -> str:
        """Return the path of the build that was asked for."""
        return find_program(*(list_cuda_eddies() if self.inputs.uses_cuda else EDDY))

    def arguments(self, program: str) -> list[str]:
        """Return the command line without the program."""
        inputs, more = self.inputs, {}
        if isdefined(inputs.in_topup_fieldcoef):
            more["topup"] = inputs.in_topup_fieldcoef.removesuffix("_fieldcoef.nii.gz")
        elif isdefined(inputs.field_file):
            # eddy adds the extension by itself.
            more["field"] = inputs.field_file.removesuffix(".gz").removesuffix(".nii")
        if isdefined(inputs.slspec_file):
            more["slspec"] = inputs.slspec_file
        # Builds for GPUs take one thread, and `eddy` may call one.
        is_for_cpus = not inputs.uses_cuda and Path(program).name != "eddy"
        if is_for_cpus and takes_threads(program):
            more["nthr"] = str(inputs.n_threads)
        return build_arguments(
            wrappers.eddy,
            inputs.in_file,
            inputs.in_mask,
            inputs.in_index,
            inputs.in_acqp,
            inputs.in_bvec,
            inputs.in_bval,
            "eddy_corrected",
            **eddy_arguments(inputs.options),
            **more,
        )

    def _run_interface(self, runtime: Bunch) -> Bunch:
        runtime = super()._run_interface(runtime)
        self._results["out_base"] = str(Path(runtime.cwd) / "eddy_corrected")
        return runtime


class _QuadInputSpec(BaseInterfaceInputSpec):
    base = traits.Str(mandatory=True, desc="path of all that eddy wrote, without its endings")
    in_bval = File(exists=True, mandatory=True, desc="b-values")
    in_bvec = File(exists=True, mandatory=True, desc="b-vectors, FSL convention")
    in_mask = File(exists=True, mandatory=True, desc="brain mask")
    in_acqp = File(exists=True, mandatory=True, desc="one row per phase encoding and readout")
    in_index = File(exists=True, mandatory=True, desc="row of each volume, from 1")
    field_file = File(exists=True, desc="off-resonance on the series' grid, Hz")
    slspec_file = File(exists=True, desc="slices of each excitation, in order")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _QuadOutputSpec(TraitedSpec):
    qc_file = File(exists=True, desc="eddy_quad's measures, JSON")


class RunEddyQuad(FslProgram):
    """Measure the quality of what eddy was given and what it did, by FSL's eddy_quad."""

    input_spec = _QuadInputSpec
    output_spec = _QuadOutputSpec
    programs = EDDY_QUAD
    files: ClassVar[Mapping[str, str]] = {"qc_file": "quad/qc.json"}

    def arguments(self, program: str) -> list[str]:
        """Return the command line without the program."""
        inputs = self.inputs
        pairs = {
            "-idx": inputs.in_index,
            "-par": inputs.in_acqp,
            "-m": inputs.in_mask,
            "-b": inputs.in_bval,
            "-g": inputs.in_bvec,
            "-f": inputs.field_file,
            "-s": inputs.slspec_file,
            # Some versions refuse a folder that is there.
            "-o": "quad",
        }
        given = ((flag, value) for flag, value in pairs.items() if isdefined(value))
        return [inputs.base, *(word for pair in given for word in pair)]

    def _run_interface(self, runtime: Bunch) -> Bunch:
        # Of a call that was stopped.
        if (folder := Path(runtime.cwd) / "quad").exists():
            shutil.rmtree(folder)
        return super()._run_interface(runtime)


def motion_in_ras(parameters: np.ndarray, image: SpatialImage) -> np.ndarray:
    """Turn eddy's head motion from FSL's coordinates into those of the scanner.

    Parameters
    ----------
    parameters
        Shape (N, 6): translations, mm, and rotations, rad, along and about the axes of FSL's
        coordinates: voxels times their size, x mirrored in an image with positive determinant.
    image
        The series.

    Returns
    -------
    ndarray
        Shape (N, 6): the same along and about the axes of RAS+.
    """
    axes = rotation_part(Nifti(image.header).getAffine("fsl", "world"))
    # A rotation keeps its sense only if the axes are not mirrored.
    sense = np.linalg.det(axes)
    translations, rotations = parameters[:, :3], parameters[:, 3:6]
    return np.hstack([translations @ axes.T, sense * rotations @ axes.T])


class _EddyResultInputSpec(GradientInputSpec):
    bval_file = File(exists=True, mandatory=True, desc="b-values")
    volumes_file = File(exists=True, mandatory=True, desc="run and phase encoding of each volume")
    reference_file = File(exists=True, mandatory=True, desc="the series in its own storage")
    method = traits.Str(mandatory=True, desc="name of eddy with its options")
    options = traits.Dict(usedefault=True, desc="its options, for the sidecar")
    corrected_file = File(exists=True, mandatory=True, desc="eddy's series")
    rotated_bvec_file = File(exists=True, mandatory=True, desc="eddy's b-vectors")
    parameter_file = File(exists=True, mandatory=True, desc="eddy's parameters")
    outlier_map_file = File(exists=True, desc="eddy's outlier map")


class _EddyResultOutputSpec(MotionOutputSpec):
    dwi_file = File(exists=True, desc="corrected series")
    bvec_file = File(exists=True, desc="rotated b-vectors, FSL convention")


class CollectEddy(SimpleInterface):
    """Turn eddy's files into those of the built-in engine."""

    input_spec = _EddyResultInputSpec
    output_spec = _EddyResultOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        folder = Path(runtime.cwd)
        corrected = restore_storage(
            self.inputs.corrected_file, self.inputs.reference_file, folder / "corrected.nii.gz"
        )
        # FSL's coordinates are the same however the image is stored.
        image = load_image(corrected, ndim=4)
        n_volumes, n_slices = image.shape[3], image.shape[2]
        gtab = read_gradients(
            self.inputs.bval_file,
            self.inputs.rotated_bvec_file,
            affine=image.affine,
            n_volumes=n_volumes,
            b0_threshold=self.inputs.threshold(),
        )
        write_gradients(gtab, folder / "eddy.bval", folder / "eddy.bvec", affine=image.affine)
        parameters = np.loadtxt(self.inputs.parameter_file, ndmin=2)
        moved = motion_in_ras(parameters[:, :6], image)
        outliers = np.zeros((n_volumes, n_slices), dtype=bool)
        if isdefined(self.inputs.outlier_map_file):
            outliers = np.loadtxt(self.inputs.outlier_map_file, skiprows=1, ndmin=2) > 0
        origins = read_volumes(self.inputs.volumes_file)
        motion = resampled_motion(moved, outliers, self.inputs.method)
        why = "FSL's eddy has resampled the volumes onto the grid of dwiref"
        self._results |= save_motion(motion, gtab, origins, folder, why_identity=why) | {
            "dwi_file": str(corrected),
            "bvec_file": str(folder / "eddy.bvec"),
            "record": {"HMCMethod": motion.method, "EddyOptions": dict(self.inputs.options)},
        }
        return runtime
