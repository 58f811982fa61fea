"""Interfaces of the normalise stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine
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

from dmri_fm.gradient_files import write_gradients, write_mrtrix_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import (
    Grid,
    PointMap,
    affine_map,
    compose,
    linear_part,
    resample_dwi,
    resample_image,
)
from dmri_fm.normalise.registration import (
    Image3D,
    acpc_alignment,
    register_rigid,
    register_template,
    registration_dice,
)
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.transforms import read_point_map, write_affine, write_warp
from dmri_fm.preprocess.motion import read_motion_tsv, rotate_bvecs
from dmri_fm.preprocess.susceptibility import phase_encoding_vector
from dmri_fm.registry import feature_grid
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.engines import COREGISTRATION, name_normalisation
from dmri_fm_workflows.interfaces.gradients import GradientInputSpec
from dmri_fm_workflows.volumes_table import VolumeOrigin, read_volumes

#: Margin around the brain in ACPC images, mm.
BRAIN_MARGIN_MM = 8.0

#: A head in ACPC may differ from the template's size; it is not cut at the template's box.
HEAD_MARGIN_MM = 24.0


def open_image(path: str) -> Image3D:
    """Read a 3-D image."""
    image = load_image(path, ndim=3)
    return Image3D(read_array(image, path=path), np.asarray(image.affine))


class _AlignInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="bias-corrected image of the head")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask")


class _AlignOutputSpec(TraitedSpec):
    to_acpc_file = File(exists=True, desc="transform that resamples the image into ACPC")
    from_acpc_file = File(exists=True, desc="its inverse")
    out_file = File(exists=True, desc="image in ACPC")
    mask_file = File(exists=True, desc="brain mask in ACPC")
    brain_file = File(exists=True, desc="brain in ACPC")


class AlignAcpc(SimpleInterface):
    """Turn a head rigidly to the template's axes."""

    input_spec = _AlignInputSpec
    output_spec = _AlignOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        head, mask = open_image(self.inputs.in_file), open_image(self.inputs.mask_file)
        brain = Image3D(head.data * (mask.data > 0), head.affine)
        matrix = acpc_alignment(brain, mask, load_template(2))
        folder = Path(runtime.cwd)
        self._results |= _write_affine_pair(matrix, folder)
        to_head = affine_map(matrix)
        size_mm = float(np.linalg.norm(head.affine[:3, :3], axis=0).min())
        grid = _brain_grid(mask, np.linalg.inv(matrix), size_mm, margin_mm=HEAD_MARGIN_MM)
        in_acpc = {
            "out_file": resample_image(
                head.data, head.affine, grid, target2source=to_head, order=3
            ).clip(0),
            "mask_file": resample_image(mask.data, mask.affine, grid, target2source=to_head) > 0.5,
        }
        in_acpc["brain_file"] = in_acpc["out_file"] * in_acpc["mask_file"]
        for name, data in in_acpc.items():
            dtype = np.uint8 if name == "mask_file" else np.float32
            out = save_image(data, grid.affine, folder / f"acpc_{name[:-5]}.nii.gz", dtype=dtype)
            self._results[name] = str(out)
        return runtime


def _write_affine_pair(matrix: np.ndarray, folder: Path) -> dict[str, str]:
    return {
        "to_acpc_file": str(write_affine(matrix, folder / "to_acpc.txt")),
        "from_acpc_file": str(write_affine(np.linalg.inv(matrix), folder / "from_acpc.txt")),
    }


def _brain_grid(
    mask: Image3D, image2target: np.ndarray, voxel_size_mm: float, *, margin_mm: float
) -> Grid:
    """Return an isotropic RAS+ grid in the target space around the brain of a mask."""
    points = apply_affine(image2target @ mask.affine, np.argwhere(mask.data > 0))
    return Grid.isotropic(
        voxel_size_mm, low=points.min(axis=0) - margin_mm, high=points.max(axis=0) + margin_mm
    )


class _TemplateInputSpec(BaseInterfaceInputSpec):
    brain_file = File(exists=True, mandatory=True, desc="brain in ACPC")
    mask_file = File(exists=True, mandatory=True, desc="its mask")
    method = traits.Enum("affine", "syn", mandatory=True, desc="registration")
    sloppy = traits.Bool(False, usedefault=True, desc="few iterations of the warp")


class _TemplateOutputSpec(TraitedSpec):
    to_mni_file = File(exists=True, desc="transform that resamples ACPC into MNI")
    from_mni_file = File(exists=True, desc="its inverse")
    brain_file = File(exists=True, desc="brain in MNI, 2 mm")
    template_file = File(exists=True, desc="the template on the same grid")
    template_mask_file = File(exists=True, desc="the template's brain on the same grid")
    dice = traits.Float(desc="overlap of the registered brain with the template's")
    facts = traits.Dict(desc="what ran, for the sidecar")


class RegisterTemplate(SimpleInterface):
    """Register a brain in ACPC to the template."""

    input_spec = _TemplateInputSpec
    output_spec = _TemplateOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        template = load_template(2)
        brain, mask = open_image(self.inputs.brain_file), open_image(self.inputs.mask_file)
        found = register_template(
            brain, template, method=self.inputs.method, is_coarse=self.inputs.sloppy
        )
        folder = Path(runtime.cwd)
        if found.displacement_mm is None:
            to_mni = write_affine(found.matrix, folder / "to_mni.txt")
            from_mni = write_affine(np.linalg.inv(found.matrix), folder / "from_mni.txt")
        else:
            forward, backward = found.displacement_mm
            to_mni = write_warp(forward, template.grid, folder / "to_mni.h5")
            from_mni = write_warp(backward, brain.grid, folder / "from_mni.h5")
        in_mni = resample_image(
            brain.data, brain.affine, template.grid, target2source=found.template2image
        )
        dice = registration_dice(mask, template, template2image=found.template2image)
        for name, data in (
            ("brain_file", in_mni),
            ("template_file", template.t1),
            ("template_mask_file", template.brain_mask.astype(np.float32)),
        ):
            out = save_image(data, template.grid.affine, folder / f"mni_{name[:-5]}.nii.gz")
            self._results[name] = str(out)
        self._results |= {
            "to_mni_file": str(to_mni),
            "from_mni_file": str(from_mni),
            "dice": dice,
            "facts": {
                "NormalisationMethod": name_normalisation(self.inputs.method),
                "NormalisationDice": round(dice, 4),
                "Warnings": _dice_warning(dice),
            },
        }
        return runtime


#: Below this overlap with the template's brain the registration is doubted.
DOUBTFUL_DICE = 0.85


def _dice_warning(dice: float) -> list[str]:
    if dice >= DOUBTFUL_DICE:
        return []
    return [
        f"The registered brain overlaps the template's by {dice:.2f} only (Dice): "
        "check the registration in the report."
    ]


class _CoregisterInputSpec(BaseInterfaceInputSpec):
    dwi_brain_file = File(exists=True, mandatory=True, desc="brain of the b=0 reference")
    t1w_brain_file = File(exists=True, mandatory=True, desc="T1w brain in ACPC")
    to_t1w_acpc_file = File(exists=True, mandatory=True, desc="T1w image into ACPC")


class _CoregisterOutputSpec(TraitedSpec):
    to_acpc_file = File(exists=True, desc="transform that resamples the reference into ACPC")
    from_acpc_file = File(exists=True, desc="its inverse")
    facts = traits.Dict(desc="what ran, for the sidecar")


class CoregisterReference(SimpleInterface):
    """Register the b=0 reference rigidly to the T1w image.

    Both start where the scanner says they are: a session's images share its frame.
    """

    input_spec = _CoregisterInputSpec
    output_spec = _CoregisterOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        reference = open_image(self.inputs.dwi_brain_file)
        anatomy = open_image(self.inputs.t1w_brain_file)
        start = linear_part(read_point_map(self.inputs.to_t1w_acpc_file), _CORNERS)
        # The reference is the fixed image: a slab then asks for what it holds, and no more.
        found = register_rigid(reference, anatomy, initial=np.linalg.inv(start))
        self._results |= _write_affine_pair(np.linalg.inv(found.xfm), Path(runtime.cwd))
        self._results["facts"] = {
            "CoregistrationMethod": COREGISTRATION,
            "CoregistrationSimilarity": round(float(found.similarity), 4),
        }
        return runtime


_CORNERS = np.array([[0, 0, 0], [80, 0, 0], [0, 80, 0], [0, 0, 80], [60, 60, 60]], dtype=float)


class _ResampleInputSpec(GradientInputSpec):
    dwi_file = File(exists=True, mandatory=True, desc="merged series")
    bval_file = File(exists=True, mandatory=True, desc="b-values")
    bvec_file = File(exists=True, mandatory=True, desc="b-vectors, FSL convention")
    volumes_file = File(exists=True, mandatory=True, desc="where each volume came from")
    motion_file = File(exists=True, mandatory=True, desc="transforms of the volumes")
    field_file = File(exists=True, desc="off-resonance, Hz")
    mask_file = File(exists=True, mandatory=True, desc="brain mask of the reference")
    xfm_files = InputMultiObject(
        File(exists=True),
        mandatory=True,
        desc="transforms from the reference to the target, in the order they are applied",
    )
    grid = traits.Enum("acpc", "mni", "features", mandatory=True, desc="target grid")
    voxel_size_mm = traits.Float(desc="voxel size of an ACPC grid; the series' own if not given")
    model = traits.Str(desc="model whose grid `features` means")
    order = traits.Enum(3, 1, usedefault=True, desc="order of the spline: cubic or linear")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _ResampleOutputSpec(TraitedSpec):
    dwi_file = File(exists=True, desc="series on the target grid")
    bval_file = File(exists=True, desc="b-values")
    bvec_file = File(exists=True, desc="rotated b-vectors, FSL convention")
    b_file = File(exists=True, desc="rotated b-vectors and b-values, MRtrix3's convention")
    mask_file = File(exists=True, desc="brain mask on the target grid")
    dwiref_file = File(exists=True, desc="mean b=0 on the target grid")
    facts = traits.Dict(desc="level of b=0, for the sidecar")


class ResampleDwi(SimpleInterface):
    """Resample every volume once: motion, eddy currents, distortion, space."""

    input_spec = _ResampleInputSpec
    output_spec = _ResampleOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.open_dwi(
            self.inputs.dwi_file, self.inputs.bval_file, self.inputs.bvec_file
        )
        mask = open_image(self.inputs.mask_file)
        motion = read_motion_tsv(self.inputs.motion_file)
        # The last transform is the first to see a point of the target.
        to_dwiref = compose(*(read_point_map(f) for f in reversed(self.inputs.xfm_files)))
        grid = self._target_grid(mask, to_dwiref, float(dwi.voxel_size_mm.min()))
        field = (
            read_array(load_image(self.inputs.field_file, ndim=3))
            if isdefined(self.inputs.field_file)
            else None
        )
        data = resample_dwi(
            dwi.data,
            dwi.affine,
            grid,
            target2dwiref=to_dwiref,
            xfms=motion.xfms,
            field_hz=field,
            shifts=voxels_per_hz(read_volumes(self.inputs.volumes_file), dwi.affine),
            order=self.inputs.order,
            n_threads=self.inputs.n_threads,
        )
        # Where the head has moved out of the field of view in any volume, nothing can be fitted.
        is_seen = np.isfinite(data).all(axis=3)
        data = np.nan_to_num(data, copy=False)
        brain = resample_image(mask.data, mask.affine, grid, target2source=to_dwiref) > 0.5
        brain &= is_seen
        gtab = rotate_bvecs(dwi.gtab, motion).rotated(_turn(to_dwiref, grid, brain))
        self._save(data, brain, gtab, grid, Path(runtime.cwd))
        return runtime

    def _target_grid(self, mask: Image3D, to_dwiref: PointMap, own_mm: float) -> Grid:
        if self.inputs.grid == "mni":
            return load_template(2).grid
        if self.inputs.grid == "features":
            return feature_grid(self.inputs.model)
        size_mm = self.inputs.voxel_size_mm if isdefined(self.inputs.voxel_size_mm) else own_mm
        to_acpc = np.linalg.inv(linear_part(to_dwiref, _CORNERS))
        return _brain_grid(mask, to_acpc, size_mm, margin_mm=BRAIN_MARGIN_MM)

    def _save(
        self, data: np.ndarray, brain: np.ndarray, gtab: GradientTable, grid: Grid, folder: Path
    ) -> None:
        bval, bvec, table = (folder / f"dwi.{ending}" for ending in ("bval", "bvec", "b"))
        write_gradients(gtab, bval, bvec, affine=grid.affine)
        write_mrtrix_gradients(gtab, table)
        reference = data[..., gtab.is_b0].mean(axis=3)
        self._results |= {
            "dwi_file": str(save_image(data, grid.affine, folder / "dwi.nii.gz")),
            "bval_file": str(bval),
            "bvec_file": str(bvec),
            "b_file": str(table),
            "mask_file": str(
                save_image(brain, grid.affine, folder / "mask.nii.gz", dtype=np.uint8)
            ),
            "dwiref_file": str(save_image(reference, grid.affine, folder / "dwiref.nii.gz")),
            "facts": {"B0NormalizationScale": round(float(np.median(reference[brain])), 4)}
            if brain.any()
            else {},
        }


def voxels_per_hz(origins: list[VolumeOrigin], affine: np.ndarray) -> list[tuple[int, float]]:
    """Return voxel axis and signed voxels per Hz of each volume's phase encoding."""
    found = []
    for origin in origins:
        if origin.phase_encoding is None:
            found.append((1, 0.0))
            continue
        axis, sign = phase_encoding_vector(origin.phase_encoding, affine)
        found.append((axis, sign * origin.readout_s))
    return found


def _turn(to_dwiref: PointMap, grid: Grid, brain: np.ndarray) -> np.ndarray:
    """Return the rotation of directions from the reference into the target."""
    inside = np.argwhere(brain)
    points = apply_affine(grid.affine, inside[:: max(1, len(inside) // 2000)])
    linear = linear_part(to_dwiref, points)[:3, :3]
    u, _, vt = np.linalg.svd(np.linalg.inv(linear))
    return u @ vt


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
    order = traits.Enum(1, 0, 3, usedefault=True, desc="order of the interpolation")


class _ResampleToOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="image on the reference's grid")


class ResampleTo(SimpleInterface):
    """Bring an image to the grid of another one in the same space."""

    input_spec = _ResampleToInputSpec
    output_spec = _ResampleToOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image, reference = open_image(self.inputs.in_file), open_image(self.inputs.reference_file)
        data = resample_image(image.data, image.affine, reference.grid, order=self.inputs.order)
        out = save_image(data, reference.affine, Path(runtime.cwd) / "resampled.nii.gz")
        self._results["out_file"] = str(out)
        return runtime
