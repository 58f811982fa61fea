"""Interfaces of head motion: built-in estimate, and identity transforms."""

from __future__ import annotations

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

from dmri_fm.distortion import DistortionField
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.confounds import confounds_table
from dmri_fm.preprocess.motion import MotionEstimate, estimate_motion, no_motion
from dmri_fm.preprocess.motion_table import write_motion_tsv
from dmri_fm.preprocess.slice_replacement import REPLACEMENT, replace_slices
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.gradients import DwiInputSpec
from dmri_fm_workflows.interfaces.volumes_table import VolumeOrigin, read_volumes
from dmri_fm_workflows.outputs.sidecars import describe_columns
from dmri_fm_workflows.outputs.tsv import format_table


class _MotionInputSpec(DwiInputSpec):
    volumes_file = File(exists=True, mandatory=True, desc="run and phase encoding of each volume")
    mask_file = File(exists=True, mandatory=True, desc="brain mask on the reference's grid")
    dwiref_file = File(exists=True, mandatory=True, desc="b=0 reference, undistorted")
    field_file = File(exists=True, desc="off-resonance, Hz")
    repol = traits.Bool(False, usedefault=True, desc="replace slices that lost signal")
    sloppy = traits.Bool(False, usedefault=True, desc="one coarse pass")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class MotionOutputSpec(TraitedSpec):
    """Outputs of every interface that corrects head motion."""

    motion_file = File(exists=True, desc="transform of each volume")
    confounds_file = File(exists=True, desc="confounds table")
    confounds_record = traits.Dict(desc="its column descriptions")
    outliers_file = File(exists=True, desc="slices flagged as outliers, (N, Z), npy")
    motion_record = traits.Dict(desc="description of the transforms, for their sidecar")
    record = traits.Dict(desc="method, for the sidecar")


class _EstimateOutputSpec(MotionOutputSpec):
    dwi_file = File(exists=True, desc="the series, lost slices replaced where that was asked for")


class EstimateMotion(SimpleInterface):
    """Estimate head motion and eddy currents of each volume with the built-in engine."""

    input_spec = _MotionInputSpec
    output_spec = _EstimateOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load().with_mask(read_array(load_image(self.inputs.mask_file)) > 0)
        origins = read_volumes(self.inputs.volumes_file)
        encodings = [o.encoding for o in origins]
        field = None
        if isdefined(self.inputs.field_file):
            image = load_image(self.inputs.field_file, ndim=3)
            field = DistortionField(read_array(image), image.affine)
        motion = estimate_motion(
            dwi,
            reference=read_array(load_image(self.inputs.dwiref_file)),
            encodings=encodings,
            field=field,
            runs=[o.run for o in origins],
            sloppy=self.inputs.sloppy,
            n_threads=self.inputs.n_threads,
        )
        folder = Path(runtime.cwd)
        self._results |= save_motion(motion, dwi.gtab, origins, folder)
        self._results["record"] = {"HMCMethod": motion.method} | motion.eddy.as_metadata()
        self._results["dwi_file"] = self.inputs.dwi_file
        if self.inputs.repol:
            found = replace_slices(dwi, motion, encodings=encodings, field=field)
            self._results["record"] |= {"HMCMethod": f"{motion.method}, {REPLACEMENT}"}
            self._results["record"] |= found.as_metadata()
            if found.replaced:
                out = save_image(found.data, dwi.affine, folder / "replaced.nii.gz")
                self._results["dwi_file"] = str(out)
        return runtime


def save_motion(
    motion: MotionEstimate,
    gtab: GradientTable,
    origins: list[VolumeOrigin],
    folder: Path,
    *,
    why_identity: str | None = None,
) -> dict[str, Any]:
    """Write transforms, outliers and confounds; return the outputs of the interface.

    `why_identity` is the reason why the transforms are identities, for their sidecar; None for
    estimated transforms.
    """
    motion_record: dict[str, Any] = {"IdentityTransforms": why_identity is not None}
    if why_identity is not None:
        motion_record["PointMapping"] = f"Every point is taken to itself: {why_identity}."
    write_motion_tsv(motion, folder / "motion.tsv")
    np.save(folder / "outliers.npy", motion.is_outlier)
    rows = confounds_table(motion, gtab, [o.original_file for o in origins])
    columns = list(rows[0])
    table = folder / "confounds.tsv"
    table.write_text(format_table(rows, columns), encoding="utf-8")
    return {
        "motion_file": str(folder / "motion.tsv"),
        "outliers_file": str(folder / "outliers.npy"),
        "confounds_file": str(table),
        "confounds_record": describe_columns(columns) | motion.eddy.as_metadata(),
        "motion_record": motion_record,
    }


class _SkipInputSpec(DwiInputSpec):
    volumes_file = File(exists=True, mandatory=True, desc="run and phase encoding of each volume")


class SkipMotion(SimpleInterface):
    """Write identity transforms."""

    input_spec = _SkipInputSpec
    output_spec = MotionOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        motion = no_motion(len(dwi.gtab), dwi.shape[2])
        origins = read_volumes(self.inputs.volumes_file)
        self._results |= save_motion(
            motion,
            dwi.gtab,
            origins,
            Path(runtime.cwd),
            why_identity="head motion was not estimated",
        )
        self._results["record"] = {"HMCMethod": motion.method}
        return runtime
