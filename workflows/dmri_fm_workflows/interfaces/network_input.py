"""Interfaces of the input of tensor networks: noise of runs, and the volumes as acquired."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    Bunch,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from dmri_fm.distortion import field_shifts
from dmri_fm.gradient_files import read_gradients
from dmri_fm.normalise.series import resample_dwi, resample_noise
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.preprocess.denoise import unring
from dmri_fm.preprocess.kspace_extent import is_zero_filled
from dmri_fm.preprocess.motion_table import read_motion_tsv
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm.tensor_networks.noise_map import noise_map
from dmri_fm.tensor_networks.volumes import choose_volumes, split_outliers
from dmri_fm_workflows.interfaces.gradients import DwiInputSpec
from dmri_fm_workflows.interfaces.normalise import open_image
from dmri_fm_workflows.interfaces.volumes_table import read_volumes

#: Entry of the record about noise maps of zero-filled images.
NOISE_DOUBT = "NoiseMapDoubt"


class _NoiseInputSpec(DwiInputSpec):
    kspace_extent = traits.Either(
        None, traits.Float(), usedefault=True, desc="share of k-space filled in plane"
    )


class _NoiseOutputSpec(TraitedSpec):
    noise_file = File(exists=True, desc="standard deviation of one volume's noise, scanner units")
    record = traits.Dict(desc="method, for the sidecar")


class MapNoise(SimpleInterface):
    """Estimate the noise of one run as acquired."""

    input_spec = _NoiseInputSpec
    output_spec = _NoiseOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        found = noise_map(dwi)
        out = save_image(found.sigma, dwi.affine, Path(runtime.cwd) / "noise.nii")
        record = {"NoiseMap": found.method}
        if is_zero_filled(self.inputs.kspace_extent):
            record[NOISE_DOUBT] = (
                "images were zero-filled in plane: voxels share their noise, and too little of "
                "it is found"
            )
        self._results |= {"noise_file": str(out), "record": record}
        return runtime


class _ChosenInputSpec(DwiInputSpec):
    volumes_file = File(exists=True, desc="run and phase encoding of each volume")
    motion_file = File(exists=True, desc="transforms of the volumes; not if they are aligned")
    outliers_file = File(exists=True, desc="outlier slices, npy, if they were looked for")
    field_file = File(exists=True, desc="off-resonance, Hz")
    xfm_file = File(exists=True, mandatory=True, desc="transform of the reference into ACPC")
    acpc_bval_file = File(exists=True, mandatory=True, desc="b-values of the series in ACPC")
    acpc_bvec_file = File(exists=True, mandatory=True, desc="its b-vectors, FSL convention")
    acpc_mask_file = File(exists=True, mandatory=True, desc="its brain mask, gives the grid")
    noise_files = InputMultiObject(File(exists=True), desc="noise of each run as acquired")
    run_scales = traits.List(traits.Float(), desc="intensity factor per run of the merging")
    unring = traits.Bool(False, usedefault=True, desc="also remove Gibbs ringing")
    order = traits.Enum(3, 1, usedefault=True, desc="order of the spline: cubic or linear")
    seed = traits.Int(0, usedefault=True, desc="random seed of the choice")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _ChosenOutputSpec(TraitedSpec):
    dwi_file = File(exists=True, desc="chosen volumes in ACPC, b=0 first")
    noise_file = File(exists=True, desc="noise of one weighted volume of them, if known")
    choice_file = File(exists=True, desc="which volumes of the series they are, JSON")


class ResampleChosen(SimpleInterface):
    """Resample the volumes that tensor networks read, once, with the noise that they have then.

    They are chosen from the gradient table in ACPC, without those that have outlier slices, where
    the series can tell these from anisotropy.
    """

    input_spec = _ChosenInputSpec
    output_spec = _ChosenOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        mask = open_image(self.inputs.acpc_mask_file)
        series = self.inputs.load()
        gtab = read_gradients(
            self.inputs.acpc_bval_file,
            self.inputs.acpc_bvec_file,
            affine=mask.affine,
            n_volumes=len(series.gtab),
            b0_threshold=self.inputs.threshold(),
        )
        outliers = self.inputs.outliers_file
        is_outlier = np.load(outliers) if isdefined(outliers) else np.zeros((len(gtab), 1), bool)
        excluded, doubtful = split_outliers(is_outlier, gtab)
        chosen = choose_volumes(gtab, exclude=excluded, doubtful=doubtful, seed=self.inputs.seed)
        part = series.select(chosen.index)
        if self.inputs.unring:
            data = unring(part.data, n_jobs=self.inputs.n_threads)
            part = Dwi.from_arrays(data, part.affine, part.gtab)
        moved = resample_dwi(
            part, mask.grid, **self._chain(chosen.index), n_threads=self.inputs.n_threads
        )
        folder = Path(runtime.cwd)
        placed = Dwi.from_arrays(np.nan_to_num(moved), mask.affine, gtab.select(chosen.index))
        self._results["dwi_file"] = str(placed.save(folder / "chosen")[0])
        choice = folder / "choice.json"
        choice.write_text(json.dumps(chosen.as_json()), encoding="utf-8")
        self._results["choice_file"] = str(choice)
        if isdefined(self.inputs.noise_files):
            six = part.select(range(len(chosen.b0), len(chosen.index)))
            noise = resample_noise(
                self._noise_of(chosen.six.index), six, mask.grid, **self._chain(chosen.six.index)
            )
            out = save_image(noise, mask.affine, folder / "noise.nii.gz")
            self._results["noise_file"] = str(out)
        return runtime

    def _chain(self, index: Sequence[int]) -> dict[str, Any]:
        """Return the arguments of the resampling of some volumes."""
        field_file = self.inputs.field_file
        fixed = {"target2dwiref": read_point_map(self.inputs.xfm_file), "order": self.inputs.order}
        if not isdefined(self.inputs.motion_file):
            return fixed
        encodings = [o.encoding for o in read_volumes(self.inputs.volumes_file)]
        return fixed | {
            "xfms": read_motion_tsv(self.inputs.motion_file).xfms[list(index)],
            "field_hz": read_array(load_image(field_file)) if isdefined(field_file) else None,
            "shifts": field_shifts([encodings[i] for i in index]),
        }

    def _noise_of(self, index: Sequence[int]) -> NDArray[np.float32]:
        """Return the noise of some volumes as acquired, on the intensity scale of the series."""
        runs = [
            read_array(load_image(path, ndim=3)) * scale
            for path, scale in zip(self.inputs.noise_files, self.inputs.run_scales, strict=True)
        ]
        origins = read_volumes(self.inputs.volumes_file)
        return np.stack([runs[origins[i].run] for i in index], axis=3)
