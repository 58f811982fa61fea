"""Interfaces that take what a preprocessed dataset has: masks, positions, coil deviations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from dmri_fm.errors import ImageError
from dmri_fm.gradient_deviation import (
    as_matrices,
    as_volumes,
    read_gradient_deviation,
    turn_deviation,
)
from dmri_fm.normalise.coregistration import NO_COREGISTRATION, describe_overlap
from dmri_fm.normalise.grid import resample_image
from dmri_fm.normalise.series import mean_rotation
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.preprocess.mask import name_given_mask
from dmri_fm.preprocess.mask_shape import load_given_mask, overlap_dice
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.normalise import (
    AlignInputSpec,
    AlignOutputSpec,
    CoregisterOutputSpec,
    open_image,
)
from dmri_fm_workflows.interfaces.preprocess import MaskOutputSpec, save_mask
from dmri_fm_workflows.interfaces.transform_files import write_affine_pair


class _TakeMaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="3-D image")
    mask_file = File(exists=True, mandatory=True, desc="above zero in the brain")
    source = traits.Str("the input", usedefault=True, desc="whose mask it is, for the sidecar")


class TakeMask(SimpleInterface):
    """Mask the brain by an image that is there already."""

    input_spec = _TakeMaskInputSpec
    output_spec = MaskOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image = load_image(self.inputs.in_file, ndim=3)
        given = load_given_mask(
            self.inputs.mask_file, self.inputs.in_file, shape=image.shape, affine=image.affine
        )
        mask = read_array(given, path=self.inputs.mask_file) > 0
        if not mask.any():
            raise ImageError(
                "no voxel is above zero",
                path=self.inputs.mask_file,
                expected="a brain mask",
                advice="move it away: the brain is masked anew then",
            )
        self._results |= save_mask(mask, read_array(image), image.affine, Path(runtime.cwd))
        self._results["record"] = {
            "MaskMethod": name_given_mask(Path(self.inputs.mask_file), self.inputs.source)
        }
        return runtime


class KeepAcpc(SimpleInterface):
    """Keep the voxels of an image that lies on the template's axes."""

    input_spec = AlignInputSpec
    output_spec = AlignOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        head, mask = open_image(self.inputs.in_file), open_image(self.inputs.mask_file)
        folder = Path(runtime.cwd)
        self._results |= write_affine_pair(np.eye(4), folder)
        inside = mask.data > 0
        for name, data, dtype in (
            ("out", head.data, np.float32),
            ("mask", inside, np.uint8),
            ("brain", head.data * inside, np.float32),
        ):
            out = save_image(data, head.affine, folder / f"acpc_{name}.nii.gz", dtype=dtype)
            self._results[f"{name}_file"] = str(out)
        return runtime


class _TakeInputSpec(BaseInterfaceInputSpec):
    dwi_mask_file = File(exists=True, mandatory=True, desc="brain mask of the series")
    t1w_brain_file = File(exists=True, mandatory=True, desc="T1w brain in ACPC")
    to_t1w_acpc_file = File(exists=True, mandatory=True, desc="T1w image into ACPC")
    from_t1w_acpc_file = File(exists=True, mandatory=True, desc="its inverse")


class TakeT1wAlignment(SimpleInterface):
    """Take the transform of the T1w image for a series in its space; compare the two brains."""

    input_spec = _TakeInputSpec
    output_spec = CoregisterOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        mask, anatomy = (
            open_image(self.inputs.dwi_mask_file),
            open_image(self.inputs.t1w_brain_file),
        )
        to_acpc = read_point_map(self.inputs.from_t1w_acpc_file)
        inside = (anatomy.data > 0).astype(np.float32)
        shown = resample_image(inside, anatomy.affine, mask.grid, target2source=to_acpc)
        overlap = overlap_dice(mask.data > 0, shown > 0.5)
        self._results |= {
            "to_acpc_file": self.inputs.to_t1w_acpc_file,
            "from_acpc_file": self.inputs.from_t1w_acpc_file,
            "record": {
                "CoregistrationMethod": NO_COREGISTRATION,
                "CoregistrationDice": round(overlap, 4),
                "Warnings": describe_overlap(overlap),
            },
        }
        return runtime


class _DeviationInputSpec(BaseInterfaceInputSpec):
    deviation_file = File(exists=True, mandatory=True, desc="on the series' grid, FSL's format")
    xfm_file = File(exists=True, mandatory=True, desc="transform of the series into ACPC")
    mask_file = File(exists=True, mandatory=True, desc="brain mask in ACPC, gives the grid")


class _DeviationOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="matrices row by row, RAS+, nine volumes")


class ResampleDeviation(SimpleInterface):
    """Bring the deviation of the gradient coils into ACPC, and turn it with the series."""

    input_spec = _DeviationInputSpec
    output_spec = _DeviationOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        mask = open_image(self.inputs.mask_file)
        image = load_image(self.inputs.deviation_file, ndim=4)
        affine = np.asarray(image.affine)
        deviation = read_gradient_deviation(
            self.inputs.deviation_file, shape=image.shape, affine=affine
        )
        to_series = read_point_map(self.inputs.xfm_file)
        volumes = as_volumes(deviation)
        moved = resample_image(volumes, affine, mask.grid, target2source=to_series)
        turned = turn_deviation(
            as_matrices(moved), mean_rotation(to_series, mask.grid, mask.data > 0)
        )
        out = save_image(
            as_volumes(turned), mask.affine, Path(runtime.cwd) / "gradient_deviation.nii.gz"
        )
        self._results["out_file"] = str(out)
        return runtime
