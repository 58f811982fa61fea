"""Interfaces of the normalise stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    InputMultiObject,
    OutputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from dmri_fm.gradient_files import write_mrtrix_gradients
from dmri_fm.normalise.bias import remove_bias
from dmri_fm.normalise.coregistration import coregister, name_coregistration
from dmri_fm.normalise.grid import (
    BRAIN_MARGIN_MM,
    Grid,
    Image3D,
    PointMap,
    brain_grid,
    compose,
    linear_part,
    own_brain_grid,
    resample_image,
)
from dmri_fm.normalise.local_rotation import local_rotations
from dmri_fm.normalise.registration import (
    TemplateRegistration,
    describe_dice,
    name_normalisation,
    place_in_acpc,
    register_template,
    registration_dice,
)
from dmri_fm.normalise.series import mean_rotation, normalise_series
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.preprocess.motion_table import read_motion_tsv
from dmri_fm.registry import feature_grid
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm_workflows.interfaces.gradients import DwiMaskInputSpec
from dmri_fm_workflows.interfaces.transform_files import write_affine_pair, write_transforms
from dmri_fm_workflows.interfaces.volumes_table import read_volumes


def open_image(path: str) -> Image3D:
    """Read a 3-D image."""
    image = load_image(path, ndim=3)
    return Image3D(read_array(image, path=path), np.asarray(image.affine))


def read_lesion(path: Any) -> NDArray[np.bool_] | None:
    """Return the mask of an input for lesions; None if it is not given."""
    return open_image(path).data > 0 if isdefined(path) else None


class AlignInputSpec(BaseInterfaceInputSpec):
    """A head and its brain mask."""

    in_file = File(exists=True, mandatory=True, desc="bias-corrected image of the head")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask")


class AlignOutputSpec(TraitedSpec):
    """The same in ACPC, and the transforms."""

    to_acpc_file = File(exists=True, desc="transform that resamples the image into ACPC")
    from_acpc_file = File(exists=True, desc="its inverse")
    out_file = File(exists=True, desc="image in ACPC")
    mask_file = File(exists=True, desc="brain mask in ACPC")
    brain_file = File(exists=True, desc="brain in ACPC")


class AlignAcpc(SimpleInterface):
    """Align an image of the whole head rigidly to the template's axes."""

    input_spec = AlignInputSpec
    output_spec = AlignOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        head, mask = open_image(self.inputs.in_file), open_image(self.inputs.mask_file)
        placed = place_in_acpc(head, mask, load_template(2))
        folder = Path(runtime.cwd)
        self._results |= write_affine_pair(placed.acpc2image_xfm, folder)
        for name, image, dtype in (
            ("out", placed.head, np.float32),
            ("mask", placed.mask, np.uint8),
            ("brain", placed.brain, np.float32),
        ):
            path = folder / f"acpc_{name}.nii.gz"
            out = save_image(image.data, image.affine, path, dtype=dtype)
            self._results[f"{name}_file"] = str(out)
        return runtime


class TemplateInputSpec(BaseInterfaceInputSpec):
    """A brain in ACPC, and how it reaches the template."""

    brain_file = File(exists=True, mandatory=True, desc="brain in ACPC")
    mask_file = File(exists=True, mandatory=True, desc="its mask")


class _RegisterInputSpec(TemplateInputSpec):
    method = traits.Enum("affine", "syn", mandatory=True, desc="registration")
    sloppy = traits.Bool(False, usedefault=True, desc="few iterations of the warp")
    lesion_file = File(exists=True, desc="lesions on the grid of the brain, left out")


class TemplateOutputSpec(TraitedSpec):
    """Transforms to the template, and the images on its grid."""

    to_mni_file = File(exists=True, desc="transform that resamples ACPC into MNI")
    from_mni_file = File(exists=True, desc="its inverse")
    brain_file = File(exists=True, desc="brain in MNI, 2 mm")
    template_file = File(exists=True, desc="the template on the same grid")
    template_mask_file = File(exists=True, desc="the template's brain on the same grid")
    dice = traits.Float(desc="overlap of the registered brain with the template's")
    record = traits.Dict(desc="method and agreement, for the sidecar")


class RegisterTemplate(SimpleInterface):
    """Register a brain in ACPC to the template."""

    input_spec = _RegisterInputSpec
    output_spec = TemplateOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        brain, mask = open_image(self.inputs.brain_file), open_image(self.inputs.mask_file)
        registered = register_template(
            brain,
            load_template(2),
            method=self.inputs.method,
            is_coarse=self.inputs.sloppy,
            lesion=read_lesion(self.inputs.lesion_file),
        )
        name = name_normalisation(self.inputs.method)
        self._results |= write_registration(registered, brain, mask, Path(runtime.cwd), name=name)
        return runtime


def write_registration(
    registered: TemplateRegistration, brain: Image3D, mask: Image3D, folder: Path, *, name: str
) -> dict[str, Any]:
    """Write the outputs of :class:`TemplateOutputSpec`; `name` is the method, for the sidecar."""
    template = load_template(2)
    to_mni, from_mni = write_transforms(registered, template, brain, folder, stem="mni")
    in_mni = resample_image(
        brain.data, brain.affine, template.grid, target2source=registered.template2image
    )
    dice = registration_dice(mask, template, template2image=registered.template2image)
    results: dict[str, Any] = {"to_mni_file": str(to_mni), "from_mni_file": str(from_mni)}
    for field, data in (
        ("brain_file", in_mni),
        ("template_file", template.t1),
        ("template_mask_file", template.brain_mask.astype(np.float32)),
    ):
        out = save_image(data, template.grid.affine, folder / f"mni_{field[:-5]}.nii.gz")
        results[field] = str(out)
    record = {
        "NormalisationMethod": name,
        "NormalisationDice": round(dice, 4),
        "Warnings": describe_dice(dice),
    }
    return results | {"dice": dice, "record": record}


class _CoregisterInputSpec(BaseInterfaceInputSpec):
    dwi_brain_file = File(exists=True, mandatory=True, desc="brain of the b=0 reference")
    t1w_brain_file = File(exists=True, mandatory=True, desc="T1w brain in ACPC")
    to_t1w_acpc_file = File(exists=True, mandatory=True, desc="T1w image into ACPC")
    contrast = traits.Enum("T1w", "T2w", usedefault=True, desc="contrast of that image")


class CoregisterOutputSpec(TraitedSpec):
    """Transforms between the b=0 reference and ACPC."""

    to_acpc_file = File(exists=True, desc="transform that resamples the reference into ACPC")
    from_acpc_file = File(exists=True, desc="its inverse")
    record = traits.Dict(desc="method and agreement, for the sidecar")


class CoregisterReference(SimpleInterface):
    """Register the b=0 reference rigidly to the T1w image."""

    input_spec = _CoregisterInputSpec
    output_spec = CoregisterOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        reference = open_image(self.inputs.dwi_brain_file)
        anatomy = open_image(self.inputs.t1w_brain_file)
        acpc2t1w = read_point_map(self.inputs.to_t1w_acpc_file)
        aligned = coregister(reference, anatomy, acpc2t1w=acpc2t1w)
        self._results |= write_affine_pair(np.linalg.inv(aligned.xfm), Path(runtime.cwd))
        self._results["record"] = {
            "CoregistrationMethod": name_coregistration(self.inputs.contrast),
            "CoregistrationSimilarity": round(float(aligned.similarity), 4),
        }
        return runtime


class _BringInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="mask")
    reference_file = File(exists=True, mandatory=True, desc="image that gives the grid")
    xfm_file = File(exists=True, mandatory=True, desc="transform of the mask to that image")


class _BringOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="mask on the grid of the image")


class BringMask(SimpleInterface):
    """Resample a mask onto the grid of another image."""

    input_spec = _BringInputSpec
    output_spec = _BringOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        mask, reference = open_image(self.inputs.in_file), open_image(self.inputs.reference_file)
        to_mask = read_point_map(self.inputs.xfm_file)
        inside = resample_image(
            mask.data, mask.affine, reference.grid, target2source=to_mask, order=1
        )
        out = save_image(
            inside > 0.5, reference.affine, Path(runtime.cwd) / "mask.nii.gz", dtype=np.uint8
        )
        self._results["out_file"] = str(out)
        return runtime


class _ResampleInputSpec(DwiMaskInputSpec):
    volumes_file = File(exists=True, desc="run and phase encoding of each volume")
    motion_file = File(exists=True, desc="transforms of the volumes; not if they are aligned")
    field_file = File(exists=True, desc="off-resonance, Hz")
    xfm_files = InputMultiObject(
        File(exists=True),
        mandatory=True,
        desc="transforms from the reference to the target, in the order they are applied",
    )
    bias_file = File(exists=True, desc="receive-field bias on the reference's grid")
    grid = traits.Enum("acpc", "mni", "features", mandatory=True, desc="target grid")
    voxel_size_mm = traits.Float(desc="voxel size of an ACPC grid; the series' own if not given")
    keeps_voxels = traits.Bool(
        False, usedefault=True, desc="the ACPC grid is that of the input, which lies there"
    )
    model = traits.Str(desc="model whose grid `features` means")
    has_rotations = traits.Bool(
        False, usedefault=True, desc="write how directions turn from place to place"
    )
    order = traits.Enum(3, 1, usedefault=True, desc="order of the spline: cubic or linear")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _ResampleOutputSpec(TraitedSpec):
    dwi_file = File(exists=True, desc="series on the target grid")
    bval_file = File(exists=True, desc="b-values")
    bvec_file = File(exists=True, desc="rotated b-vectors, FSL convention")
    b_file = File(exists=True, desc="rotated b-vectors and b-values, MRtrix3's convention")
    mask_file = File(exists=True, desc="brain mask on the target grid")
    dwiref_file = File(exists=True, desc="mean b=0 on the target grid")
    rotations_file = File(exists=True, desc="rotations of directions by a warp, rad, RAS+, 4-D")
    rotations_record = traits.Dict(desc="number of voxels in which the warp folds, for sidecars")
    record = traits.Dict(desc="level of b=0, for the sidecar")


class ResampleDwi(SimpleInterface):
    """Resample every volume once: motion, eddy currents, distortion, space."""

    input_spec = _ResampleInputSpec
    output_spec = _ResampleOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        field_file, volumes = self.inputs.field_file, self.inputs.volumes_file
        motion_file = self.inputs.motion_file
        # The last transform is the first to see a point of the target.
        to_dwiref = compose(*(read_point_map(f) for f in reversed(self.inputs.xfm_files)))
        placed = normalise_series(
            dwi,
            self._target_grid(dwi, to_dwiref),
            target2dwiref=to_dwiref,
            motion=read_motion_tsv(motion_file) if isdefined(motion_file) else None,
            encodings=[o.encoding for o in read_volumes(volumes)] if isdefined(volumes) else (),
            field_hz=read_array(load_image(field_file, ndim=3)) if isdefined(field_file) else None,
            # Between voxels that lie on one another a linear spline is exact.
            order=1 if self.inputs.keeps_voxels else self.inputs.order,
            n_threads=self.inputs.n_threads,
        )
        if isdefined(self.inputs.bias_file):
            bias = open_image(self.inputs.bias_file)
            placed = remove_bias(placed, bias, target2dwiref=to_dwiref)
        self._save(placed, Path(runtime.cwd))
        if self.inputs.has_rotations:
            grid = Grid(placed.shape[:3], placed.affine)
            mean = mean_rotation(to_dwiref, grid, placed.brain)
            turns = local_rotations(to_dwiref, grid, placed.brain, mean)
            out = save_image(turns.vectors, placed.affine, Path(runtime.cwd) / "rotations.nii.gz")
            self._results["rotations_file"] = str(out)
            self._results["rotations_record"] = {"WarpFoldedVoxels": turns.n_folded}
        return runtime

    def _target_grid(self, dwi: Dwi, to_dwiref: PointMap) -> Grid:
        if self.inputs.grid == "mni":
            return load_template(2).grid
        if self.inputs.grid == "features":
            return feature_grid(self.inputs.model)
        brain = Image3D(dwi.brain, dwi.affine)
        if self.inputs.keeps_voxels:
            return own_brain_grid(brain, margin_mm=BRAIN_MARGIN_MM)
        size_mm = self.inputs.voxel_size_mm
        return brain_grid(
            brain,
            np.linalg.inv(linear_part(to_dwiref)),
            size_mm if isdefined(size_mm) else float(dwi.voxel_size_mm.min()),
            margin_mm=BRAIN_MARGIN_MM,
        )

    def _save(self, dwi: Dwi, folder: Path) -> None:
        reference = dwi.mean_b0()
        write_mrtrix_gradients(dwi.gtab, folder / "dwi.b")
        files = dwi.save(folder / "dwi")
        mask = save_image(dwi.brain, dwi.affine, folder / "mask.nii.gz", dtype=np.uint8)
        dwiref = save_image(reference, dwi.affine, folder / "dwiref.nii.gz")
        names = ("dwi_file", "bval_file", "bvec_file", "b_file", "mask_file", "dwiref_file")
        paths = (*files, folder / "dwi.b", mask, dwiref)
        self._results |= {name: str(path) for name, path in zip(names, paths, strict=True)}
        self._results["record"] = (
            {"B0NormalizationScale": round(float(np.median(reference[dwi.brain])), 4)}
            if dwi.brain.any()
            else {}
        )


class _ResampleMapsInputSpec(BaseInterfaceInputSpec):
    in_files = InputMultiObject(File(exists=True), mandatory=True, desc="3-D maps in ACPC")
    xfm_file = File(exists=True, mandatory=True, desc="transform that resamples ACPC into MNI")
    mask_file = File(exists=True, mandatory=True, desc="brain mask in MNI, gives the grid")


class _ResampleMapsOutputSpec(TraitedSpec):
    out_files = OutputMultiObject(File(exists=True), desc="maps in MNI, in order")


class ResampleMaps(SimpleInterface):
    """Resample scalar maps into MNI, linearly, zero outside the brain."""

    input_spec = _ResampleMapsInputSpec
    output_spec = _ResampleMapsOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        to_acpc = read_point_map(self.inputs.xfm_file)
        mask = open_image(self.inputs.mask_file)
        self._results["out_files"] = []
        for path in self.inputs.in_files:
            image = open_image(path)
            warped = resample_image(image.data, image.affine, mask.grid, target2source=to_acpc)
            out = save_image(
                warped * (mask.data > 0), mask.affine, Path(runtime.cwd) / f"mni_{Path(path).name}"
            )
            self._results["out_files"].append(str(out))
        return runtime


class _ResampleToInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="3-D image")
    reference_file = File(exists=True, mandatory=True, desc="image whose grid is filled")


class _ResampleToOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="image on the reference's grid")


class ResampleTo(SimpleInterface):
    """Bring an image to the grid of another one in the same space."""

    input_spec = _ResampleToInputSpec
    output_spec = _ResampleToOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image, reference = open_image(self.inputs.in_file), open_image(self.inputs.reference_file)
        data = resample_image(image.data, image.affine, reference.grid)
        out = save_image(data, reference.affine, Path(runtime.cwd) / "resampled.nii.gz")
        self._results["out_file"] = str(out)
        return runtime
