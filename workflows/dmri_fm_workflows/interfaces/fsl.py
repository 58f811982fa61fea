"""FSL's topup and eddy: their input files, their command lines, and the use of their output.

Command lines come from fslpy, FSL's own Python library.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from fsl import wrappers
from fsl.data.image import Nifti
from fsl.utils.run import run
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

from dmri_fm.distortion import PhaseEncoding
from dmri_fm.errors import DmriError
from dmri_fm.gradient_files import read_gradients, write_gradients
from dmri_fm.gradients import rotation_part
from dmri_fm.preprocess.merge import merge_runs
from dmri_fm.preprocess.motion import resampled_motion
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.gradients import GradientInputSpec
from dmri_fm_workflows.interfaces.motion import MotionOutputSpec, save_motion
from dmri_fm_workflows.interfaces.preprocess import ReverseInputSpec
from dmri_fm_workflows.interfaces.programs import (
    EDDY,
    TOPUP,
    find_program,
    name_eddy,
    name_topup,
)
from dmri_fm_workflows.interfaces.volumes_table import VolumeOrigin, read_volumes


def encoding_row(origin: VolumeOrigin) -> tuple[float, float, float, float]:
    """Return one row of FSL's acquisition parameters: unit vector and readout time, s.

    Examples
    --------
    >>> encoding_row(VolumeOrigin(0, "j-", 0.1, "a"))
    (0, -1, 0, 0.1)
    """
    # An image of unknown phase encoding needs a row, too; any will do.
    axis, sign = PhaseEncoding(origin.phase_encoding or "j", origin.readout_s).axis_and_sign()
    x, y, z = (sign if component == axis else 0 for component in range(3))
    return x, y, z, origin.readout_s


#: Lines of a program's messages that an error repeats.
N_LINES = 5


def run_command(command: list[str], folder: Path, *, n_threads: int = 1) -> None:
    """Run one of FSL's programs in a folder.

    Raises
    ------
    DmriError
        With the last lines of the program's messages, if it fails.
    """
    # topup and eddy share out work among as many threads as OpenMP has.
    env = os.environ | {"OMP_NUM_THREADS": str(n_threads), "FSLOUTPUTTYPE": "NIFTI_GZ"}
    out, err, code = run(
        command, stderr=True, exitcode=True, log={"tee": False}, cwd=folder, env=env
    )
    if code != 0:
        said = " / ".join((err or out).strip().splitlines()[-N_LINES:])
        raise DmriError(
            f"{Path(command[0]).name} ended with exit status {code}: {said or 'no message'}",
            expected="exit status 0",
            advice="try the command by hand, or the built-in engines: --sdc pepolar "
            f"--hmc builtin. It was: {' '.join(command)}",
        )


def build_arguments(
    wrapper: Callable[..., list[str]], *positional: str, **options: str | bool
) -> list[str]:
    """Return the command line of one of fslpy's wrappers, without the program."""
    # Beneath fslpy's machinery for running, a wrapper is a function that makes the command line.
    command: list[str] = inspect.unwrap(wrapper)(*positional, **options)
    return command[1:]


class _FilesOutputSpec(TraitedSpec):
    acqp_file = File(exists=True, desc="one row per phase encoding and readout")
    index_file = File(exists=True, desc="row of each volume, from 1")
    b0_file = File(
        exists=True, desc="all b=0 volumes, those of the reverse image last, on one scale"
    )
    b0_acqp_file = File(exists=True, desc="one row per b=0 volume")
    first_b0_file = File(exists=True, desc="the first b=0 volume")


class WriteFslFiles(SimpleInterface):
    """Write acqp, index and b=0 files."""

    input_spec = ReverseInputSpec
    output_spec = _FilesOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        origins = read_volumes(self.inputs.volumes_file)
        rows = [encoding_row(o) for o in origins]
        distinct = sorted(set(rows), key=rows.index)
        index = [distinct.index(row) + 1 for row in rows]
        # Volumes of unknown phase encoding say nothing about the field.
        is_b0 = dwi.gtab.is_b0
        b0s = [i for i in np.flatnonzero(is_b0) if origins[i].phase_encoding is not None]
        b0s = b0s or list(np.flatnonzero(is_b0))
        part, b0_rows = dwi.select(b0s), [rows[i] for i in b0s]
        if isdefined(self.inputs.epi_file):
            reverse = self.inputs.load_epi_b0s()
            origin = VolumeOrigin(
                run=-1,
                phase_encoding=self.inputs.epi_phase_encoding,
                readout_s=self.inputs.epi_readout_s,
                original_file=Path(self.inputs.epi_file).name,
            )
            part = merge_runs([part, reverse]).dwi
            b0_rows += [encoding_row(origin)] * reverse.shape[3]
        folder = Path(runtime.cwd)
        np.savetxt(folder / "acqp.txt", distinct, fmt="%g")
        np.savetxt(folder / "index.txt", [index], fmt="%d")
        np.savetxt(folder / "b0_acqp.txt", b0_rows, fmt="%g")
        save_image(part.data, dwi.affine, folder / "b0.nii.gz")
        save_image(part.data[..., 0], dwi.affine, folder / "first_b0.nii.gz")
        self._results |= {
            "acqp_file": str(folder / "acqp.txt"),
            "index_file": str(folder / "index.txt"),
            "b0_file": str(folder / "b0.nii.gz"),
            "b0_acqp_file": str(folder / "b0_acqp.txt"),
            "first_b0_file": str(folder / "first_b0.nii.gz"),
        }
        return runtime


class _TopupInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="b=0 volumes")
    encoding_file = File(exists=True, mandatory=True, desc="phase encoding and readout of each")
    config = traits.Str(mandatory=True, desc="a schedule of FSL's")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _TopupOutputSpec(TraitedSpec):
    out_corrected = File(exists=True, desc="corrected volumes")
    out_field = File(exists=True, desc="off-resonance, Hz")
    out_fieldcoef = File(exists=True, desc="coefficients of the field")
    out_movpar = File(exists=True, desc="position of each volume")


class _FslProgram(SimpleInterface):
    """Call one of FSL's programs in the node's folder, and name the files that it writes.

    Attributes
    ----------
    programs
        Executables, any of which will do: which there is depends on the version of FSL.
    files
        Name of the file behind each output.
    """

    programs: tuple[str, ...]
    files: ClassVar[Mapping[str, str]]

    def arguments(self) -> list[str]:
        """Return the command line without the program."""
        raise NotImplementedError

    def _run_interface(self, runtime: Bunch) -> Bunch:
        folder = Path(runtime.cwd)
        command = [find_program(*self.programs), *self.arguments()]
        run_command(command, folder, n_threads=self.inputs.n_threads)
        self._results |= {field: str(folder / name) for field, name in self.files.items()}
        return runtime


class RunTopup(_FslProgram):
    """Estimate the distortion field by FSL's topup."""

    input_spec = _TopupInputSpec
    output_spec = _TopupOutputSpec
    programs = TOPUP
    files: ClassVar[Mapping[str, str]] = {
        "out_corrected": "corrected.nii.gz",
        "out_field": "field.nii.gz",
        "out_fieldcoef": "topup_fieldcoef.nii.gz",
        "out_movpar": "topup_movpar.txt",
    }

    def arguments(self) -> list[str]:
        """Return the command line without the program."""
        return build_arguments(
            wrappers.topup,
            self.inputs.in_file,
            self.inputs.encoding_file,
            config=self.inputs.config,
            out="topup",
            fout="field.nii.gz",
            iout="corrected.nii.gz",
        )


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
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _EddyOutputSpec(TraitedSpec):
    out_corrected = File(exists=True, desc="corrected series")
    out_rotated_bvecs = File(exists=True, desc="rotated b-vectors, FSL convention")
    out_parameter = File(exists=True, desc="motion and eddy currents of each volume")
    out_outlier_map = File(exists=True, desc="outlier slices")


class RunEddy(_FslProgram):
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

    def arguments(self) -> list[str]:
        """Return the command line without the program."""
        inputs, field = self.inputs, {}
        if isdefined(inputs.in_topup_fieldcoef):
            field["topup"] = inputs.in_topup_fieldcoef.removesuffix("_fieldcoef.nii.gz")
        elif isdefined(inputs.field_file):
            # eddy adds the extension by itself.
            field["field"] = inputs.field_file.removesuffix(".gz").removesuffix(".nii")
        return build_arguments(
            wrappers.eddy,
            inputs.in_file,
            inputs.in_mask,
            inputs.in_index,
            inputs.in_acqp,
            inputs.in_bvec,
            inputs.in_bval,
            "eddy_corrected",
            repol=True,
            data_is_shelled=True,
            **field,
        )


class _TopupResultInputSpec(BaseInterfaceInputSpec):
    corrected_file = File(exists=True, mandatory=True, desc="topup's corrected b=0 volumes")
    field_file = File(exists=True, mandatory=True, desc="topup's field, Hz")


class _TopupResultOutputSpec(TraitedSpec):
    dwiref_file = File(exists=True, desc="mean of the corrected b=0 volumes")
    record = traits.Dict(desc="method, for the sidecar")


class CollectTopup(SimpleInterface):
    """Average topup's corrected volumes into the reference."""

    input_spec = _TopupResultInputSpec
    output_spec = _TopupResultOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image = load_image(self.inputs.corrected_file)
        data = read_array(image)
        mean = data.mean(axis=3) if data.ndim == 4 else data
        out = save_image(np.maximum(mean, 0), image.affine, Path(runtime.cwd) / "dwiref.nii.gz")
        self._results["dwiref_file"] = str(out)
        self._results["record"] = {"SDCMethod": name_topup()}
        return runtime


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
        image = load_image(self.inputs.corrected_file, ndim=4)
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
        motion = resampled_motion(moved, outliers, name_eddy())
        why = "FSL's eddy has resampled the volumes onto the grid of dwiref"
        self._results |= save_motion(motion, gtab, origins, folder, why_identity=why) | {
            "dwi_file": self.inputs.corrected_file,
            "bvec_file": str(folder / "eddy.bvec"),
            "record": {"HMCMethod": motion.method},
        }
        return runtime
