"""Files that FSL's topup and eddy read, and what becomes of the files they write."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from nipype.interfaces import fsl
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from dmri_fm.errors import MissingToolError
from dmri_fm.gradient_files import read_gradients, write_gradients
from dmri_fm.preprocess.merge import merge_runs
from dmri_fm.preprocess.motion import resampled_motion
from dmri_fm.volumes import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.gradients import GradientInputSpec
from dmri_fm_workflows.interfaces.preprocess import ReverseInputSpec, save_motion
from dmri_fm_workflows.volumes_table import VolumeOrigin, read_volumes

_AXES = {"i": (1, 0, 0), "j": (0, 1, 0), "k": (0, 0, 1)}


def encoding_row(origin: VolumeOrigin) -> tuple[float, float, float, float]:
    """Return one row of FSL's acquisition parameters: unit vector and readout time, s.

    Examples
    --------
    >>> encoding_row(VolumeOrigin(0, "j-", 0.1, "a"))
    (0, -1, 0, 0.1)
    """
    code = origin.phase_encoding or "j"
    sign = -1 if code.endswith("-") else 1
    x, y, z = (sign * component for component in _AXES[code[0]])
    return x, y, z, origin.readout_s


def find_eddy() -> str:
    """Return the eddy program of this FSL.

    Raises
    ------
    MissingToolError
        If no eddy is on the PATH.
    """
    for name in ("eddy_cpu", "eddy_openmp", "eddy"):
        if shutil.which(name):
            return name
    raise MissingToolError(
        "eddy is not on the PATH",
        expected="eddy_cpu, eddy_openmp or eddy of FSL",
        advice="load FSL, or ask for --hmc builtin",
    )


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

    def _run_interface(self, runtime):
        dwi = self.inputs.load()
        origins = read_volumes(self.inputs.volumes_file)
        rows = [encoding_row(o) for o in origins]
        distinct = sorted(set(rows), key=rows.index)
        index = [distinct.index(row) + 1 for row in rows]
        # What has no known phase encoding says nothing about the field.
        is_b0 = dwi.gtab.is_b0
        b0s = [i for i in np.flatnonzero(is_b0) if origins[i].phase_encoding is not None]
        b0s = b0s or list(np.flatnonzero(is_b0))
        part, b0_rows = dwi.select(b0s), [rows[i] for i in b0s]
        if isdefined(self.inputs.epi_file):
            reverse = self.inputs.load_epi_b0s()
            origin = VolumeOrigin(
                run=-1,
                phase_encoding=self.inputs.epi_phase_encoding,
                readout_s=self.inputs.epi_readout_s or origins[b0s[0]].readout_s,
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


class _TopupResultInputSpec(BaseInterfaceInputSpec):
    corrected_file = File(exists=True, mandatory=True, desc="topup's corrected b=0 volumes")
    field_file = File(exists=True, mandatory=True, desc="topup's field, Hz")


class _TopupResultOutputSpec(TraitedSpec):
    dwiref_file = File(exists=True, desc="mean of the corrected b=0 volumes")
    facts = traits.Dict(desc="what ran, for the sidecar")


class CollectTopup(SimpleInterface):
    """Average topup's corrected volumes into the reference."""

    input_spec = _TopupResultInputSpec
    output_spec = _TopupResultOutputSpec

    def _run_interface(self, runtime):
        image = load_image(self.inputs.corrected_file)
        data = read_array(image)
        mean = data.mean(axis=3) if data.ndim == 4 else data
        out = save_image(np.maximum(mean, 0), image.affine, Path(runtime.cwd) / "dwiref.nii.gz")
        self._results["dwiref_file"] = str(out)
        self._results["facts"] = {
            "SDCMethod": f"FSL topup ({fsl.Info.version()})",
            "SDCReason": "reverse phase encoding found",
        }
        return runtime


class _EddyResultInputSpec(GradientInputSpec):
    bval_file = File(exists=True, mandatory=True, desc="b-values")
    volumes_file = File(exists=True, mandatory=True, desc="where each volume came from")
    corrected_file = File(exists=True, mandatory=True, desc="eddy's series")
    rotated_bvec_file = File(exists=True, mandatory=True, desc="eddy's b-vectors")
    parameter_file = File(exists=True, mandatory=True, desc="eddy's parameters")
    outlier_map_file = File(exists=True, desc="eddy's outlier map")


class _EddyResultOutputSpec(TraitedSpec):
    dwi_file = File(exists=True, desc="corrected series")
    bvec_file = File(exists=True, desc="rotated b-vectors, FSL convention")
    motion_file = File(exists=True, desc="identity transforms: eddy has resampled")
    confounds_file = File(exists=True, desc="confounds table")
    confounds_facts = traits.Dict(desc="its column descriptions")
    outliers_file = File(exists=True, desc="slices flagged as outliers, (N, Z), npy")
    facts = traits.Dict(desc="what ran, for the sidecar")


class CollectEddy(SimpleInterface):
    """Turn eddy's files into those of the built-in engine."""

    input_spec = _EddyResultInputSpec
    output_spec = _EddyResultOutputSpec

    def _run_interface(self, runtime):
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
        outliers = np.zeros((n_volumes, n_slices), dtype=bool)
        if isdefined(self.inputs.outlier_map_file):
            outliers = np.loadtxt(self.inputs.outlier_map_file, skiprows=1, ndmin=2) > 0
        origins = read_volumes(self.inputs.volumes_file)
        motion = resampled_motion(parameters[:, :6], outliers, f"FSL eddy ({fsl.Info.version()})")
        self._results |= save_motion(motion, gtab, origins, folder) | {
            "dwi_file": self.inputs.corrected_file,
            "bvec_file": str(folder / "eddy.bvec"),
            "facts": {"HMCMethod": f"{motion.method} with outlier replacement"},
        }
        return runtime
