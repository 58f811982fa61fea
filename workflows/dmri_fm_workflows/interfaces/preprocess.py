"""Interfaces of the preprocess stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

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
from numpy.typing import NDArray

from dmri_fm.distortion import PhaseEncoding
from dmri_fm.errors import ImageError
from dmri_fm.gradient_arrangements import AS_STORED
from dmri_fm.gradient_files import read_raw_gradients, write_gradients
from dmri_fm.gradient_options import B_SCALINGS, GradientOptions
from dmri_fm.gradients import BvecFrame, GradientTable
from dmri_fm.preprocess.dwiref import b0_reference, correct_bias
from dmri_fm.preprocess.kspace_extent import (
    describe_zero_filling,
    in_plane_extent,
    is_zero_filled,
    measure_kspace_extent,
)
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.preprocess.merge import join_scaled, merge_runs
from dmri_fm.preprocess.raw_series import check_run, check_usable, find_b0_volumes
from dmri_fm.preprocess.susceptibility import (
    PAIR_METHOD,
    B0Image,
    estimate_pair_field,
    mean_b0_image,
)
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm_workflows.interfaces.distortion_field import FieldOutputSpec, save_field
from dmri_fm_workflows.interfaces.gradients import DwiInputSpec, GradientInputSpec
from dmri_fm_workflows.interfaces.records import join_records
from dmri_fm_workflows.interfaces.volumes_table import VolumeOrigin, read_volumes, write_volumes


class _ValidateInputSpec(DwiInputSpec):
    b_scaling = traits.Enum(*B_SCALINGS, usedefault=True, desc="b-vectors of length other than 1")
    bvec_frame = traits.Enum(*get_args(BvecFrame), usedefault=True, desc="of the b-vectors")
    arrangement = traits.Str(
        AS_STORED, usedefault=True, desc="components that b-vectors should have"
    )
    is_raw = traits.Bool(False, usedefault=True, desc="as acquired: k-space can be looked at")
    slice_axis = traits.Enum(2, 0, 1, usedefault=True, desc="axis along which slices lie")
    unfit_if_filled = traits.List(
        traits.Str(), usedefault=True, desc="options that zero-filled images are refused for"
    )


class _ValidateOutputSpec(TraitedSpec):
    dwi_file = File(exists=True, desc="volumes that can be used; the same file if all can")
    bval_file = File(exists=True, desc="their b-values, scaled where that was needed")
    bvec_file = File(exists=True, desc="their b-vectors, unit length")
    kspace_extent = traits.Either(
        None, traits.Float(), desc="share of k-space that is filled in plane, if it is known"
    )
    record = traits.Dict(desc="changes to volumes and gradients, for the sidecar")


class ValidateDwi(SimpleInterface):
    """Read every voxel and gradient of a raw run, and write it without its faults.

    Unusable volumes are dropped; b-values are scaled by the length of b-vectors where the user or
    the data ask for it. Files of a run without faults pass unchanged.
    """

    input_spec = _ValidateInputSpec
    output_spec = _ValidateOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        source = Path(self.inputs.dwi_file)
        image = load_image(source, ndim=4)
        data = read_array(image, path=source)
        gradients = read_raw_gradients(
            self.inputs.bval_file,
            self.inputs.bvec_file,
            affine=image.affine,
            n_volumes=data.shape[3],
            options=GradientOptions(self.inputs.b_scaling, self.inputs.threshold()),
            frame=self.inputs.bvec_frame,
            arrangement=self.inputs.arrangement,
        )
        run = check_run(data, gradients, name=source.name)
        for name in ("dwi_file", "bval_file", "bvec_file"):
            self._results[name] = getattr(self.inputs, name)
        folder, stem = Path(runtime.cwd), source.name.removesuffix(".gz").removesuffix(".nii")
        if run.left_out:
            # Volumes keep the name of their file: the confounds table tells where they are from.
            data = data[..., list(run.kept)]
            out = save_image(data, image.affine, folder / source.name)
            self._results["dwi_file"] = str(out)
        if run.left_out or not gradients.is_as_stored:
            bval, bvec = folder / f"{stem}.bval", folder / f"{stem}.bvec"
            write_gradients(run.gtab, bval, bvec, affine=image.affine)
            self._results |= {"bval_file": str(bval), "bvec_file": str(bvec)}
        extent, record = self._look_at_kspace(data, run.gtab, source)
        self._results["kspace_extent"] = extent
        self._results["record"] = join_records([run.record, record])
        return runtime

    def _look_at_kspace(
        self, data: NDArray[Any], gtab: GradientTable, source: Path
    ) -> tuple[float | None, dict[str, Any]]:
        """Return the extent of k-space in plane, and the entries of the record about it.

        Raises
        ------
        ImageError
            If the images are zero-filled, and the user asked for what does not fit them.
        """
        extents = measure_kspace_extent(data, gtab) if self.inputs.is_raw else None
        if extents is None:
            return None, {}
        slice_axis = self.inputs.slice_axis
        extent = round(in_plane_extent(extents, slice_axis=slice_axis), 3)
        record: dict[str, Any] = {"KSpaceExtent": {source.name: [round(e, 3) for e in extents]}}
        if not is_zero_filled(extent):
            return extent, record
        empty = describe_zero_filling(extents, slice_axis=slice_axis)
        found = f"the images are zero-filled in plane: {empty}"
        if self.inputs.unfit_if_filled:
            options = " and ".join(self.inputs.unfit_if_filled)
            raise ImageError(
                f"{found}; {options} does not fit such images",
                path=source,
                expected="images on the matrix that was measured",
                advice="leave --denoise to auto, which does not denoise such runs by MP-PCA, or "
                "name patch2self or none; leave --unring away; to process other scans with "
                "these options, tell them apart by --bids-filter-file",
            )
        why = "MP-PCA and removal of Gibbs ringing do not fit such images, and are left out"
        return extent, record | {"Warnings": [f"{source.name}: {found}. {why}."]}


class _MergeInputSpec(GradientInputSpec):
    dwi_files = InputMultiObject(File(exists=True), mandatory=True, desc="denoised runs")
    raw_files = InputMultiObject(File(exists=True), mandatory=True, desc="the runs as acquired")
    bval_files = InputMultiObject(File(exists=True), mandatory=True, desc="b-values per run")
    bvec_files = InputMultiObject(File(exists=True), mandatory=True, desc="b-vectors per run")
    phase_encodings = traits.List(
        traits.Either(None, traits.Str()), mandatory=True, desc="phase encoding per run"
    )
    readouts_s = traits.List(traits.Float(), mandatory=True, desc="readout time per run, s")
    assumed_readouts_s = traits.Dict(
        usedefault=True, desc="readout times that no sidecar states, s, by name of the image"
    )
    needs_tensor = traits.Bool(
        False, usedefault=True, desc="the raw gradient files determine a tensor"
    )


class _MergeOutputSpec(TraitedSpec):
    dwi_file = File(exists=True, desc="all volumes, on one intensity scale")
    raw_file = File(exists=True, desc="all volumes as acquired, on the same scale")
    bval_file = File(exists=True, desc="b-values")
    bvec_file = File(exists=True, desc="b-vectors, FSL convention")
    volumes_file = File(exists=True, desc="run and phase encoding of each volume")
    run_scales = traits.List(traits.Float(), desc="intensity factor per run")
    record = traits.Dict(desc="the same, for the sidecar")


class MergeRuns(SimpleInterface):
    """Concatenate the runs of a series and note where each volume came from."""

    input_spec = _MergeInputSpec
    output_spec = _MergeOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        gradients = list(zip(self.inputs.bval_files, self.inputs.bvec_files, strict=True))
        folder = Path(runtime.cwd)
        raw = merge_runs(
            [
                self.inputs.open_dwi(f, bval, bvec)
                for f, (bval, bvec) in zip(self.inputs.raw_files, gradients, strict=True)
            ]
        )
        check_usable(
            raw.dwi.gtab,
            files=[Path(f).name for f in self.inputs.raw_files],
            needs_tensor=self.inputs.needs_tensor,
        )
        denoised = [read_array(load_image(f, ndim=4)) for f in self.inputs.dwi_files]
        data = join_scaled(denoised, raw.scales)
        affine = raw.dwi.affine
        self._results["dwi_file"] = str(save_image(data, affine, folder / "merged.nii"))
        self._results["raw_file"] = str(save_image(raw.dwi.data, affine, folder / "raw.nii"))
        bval, bvec = folder / "merged.bval", folder / "merged.bvec"
        write_gradients(raw.dwi.gtab, bval, bvec, affine=affine)
        origins = [
            VolumeOrigin(
                run=int(i),
                phase_encoding=self.inputs.phase_encodings[i],
                readout_s=self.inputs.readouts_s[i],
                original_file=Path(self.inputs.raw_files[i]).name,
            )
            for i in raw.run_index
        ]
        self._results["volumes_file"] = str(write_volumes(origins, folder / "volumes.tsv"))
        self._results |= {"bval_file": str(bval), "bvec_file": str(bvec)}
        self._results["run_scales"] = list(raw.scales)
        record: dict[str, Any] = {"RunIntensityScales": [round(s, 6) for s in raw.scales]}
        if self.inputs.assumed_readouts_s:
            record["TotalReadoutTimeAssumed"] = dict(self.inputs.assumed_readouts_s)
        self._results["record"] = record
        return runtime


class _ReferenceOutputSpec(TraitedSpec):
    dwiref_file = File(exists=True, desc="3-D b=0 reference")


class _ReferenceInputSpec(DwiInputSpec):
    is_aligned = traits.Bool(False, usedefault=True, desc="the volumes lie on one another")


class MakeReference(SimpleInterface):
    """Average the b=0 volumes, after aligning them if need be."""

    input_spec = _ReferenceInputSpec
    output_spec = _ReferenceOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        reference = dwi.mean_b0().clip(0) if self.inputs.is_aligned else b0_reference(dwi)
        out = save_image(reference, dwi.affine, Path(runtime.cwd) / "dwiref.nii.gz")
        self._results["dwiref_file"] = str(out)
        return runtime


class ReverseInputSpec(DwiInputSpec):
    """A merged series, and the image outside it that opposes its phase encoding, if any."""

    volumes_file = File(exists=True, mandatory=True, desc="run and phase encoding of each volume")
    epi_file = File(exists=True, desc="image of the other phase encoding")
    epi_bval_file = File(exists=True, desc="its b-values, if it has any")
    epi_bvec_file = File(exists=True, desc="its b-vectors, if it has any")
    epi_b0_threshold = traits.Float(desc="b-values below it count as b=0 there, s/mm^2")
    epi_phase_encoding = traits.Str(desc="its phase encoding")
    epi_readout_s = traits.Float(desc="its readout time, s")

    def load_epi_b0s(self) -> Dwi:
        """Open the b=0 volumes of that image; without b-values all volumes are b=0.

        Raises
        ------
        ImageError
            If none of them holds signal.
        """
        image = load_image(self.epi_file)
        data = read_array(image, path=self.epi_file)
        data = data.reshape(*data.shape[:3], -1)
        gradients = None
        if isdefined(self.epi_bval_file):
            threshold = self.epi_b0_threshold
            gradients = read_raw_gradients(
                self.epi_bval_file,
                self.epi_bvec_file,
                affine=image.affine,
                n_volumes=data.shape[3],
                # Lengths were asked about when the image was linked; b=0 has none.
                options=GradientOptions("none", threshold if isdefined(threshold) else None),
            )
        usable = find_b0_volumes(data, gradients)
        if not usable:
            raise ImageError(
                "no b=0 volume holds signal",
                path=self.epi_file,
                expected="a b=0 image of the opposite phase encoding",
                advice="copy or convert it again, or leave it out by a filter",
            )
        n = len(usable)
        gtab = GradientTable(np.zeros(n), np.zeros((n, 3)))
        return Dwi.from_arrays(data[..., usable], image.affine, gtab)


class _PairInputSpec(ReverseInputSpec):
    up_encoding = traits.Str(mandatory=True, desc="phase encoding of the first half of the pair")
    down_encoding = traits.Str(mandatory=True, desc="and of the other half")


class EstimatePairField(SimpleInterface):
    """Estimate the distortion field from two b=0 images of opposite phase encoding."""

    input_spec = _PairInputSpec
    output_spec = FieldOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        encodings = [o.encoding for o in read_volumes(self.inputs.volumes_file)]
        up = mean_b0_image(dwi, encodings, self.inputs.up_encoding)
        if isdefined(self.inputs.epi_file):
            b0s = self.inputs.load_epi_b0s()
            down_encoding = PhaseEncoding(self.inputs.down_encoding, self.inputs.epi_readout_s)
            down = B0Image(b0_reference(b0s), b0s.affine, down_encoding)
        else:
            down = mean_b0_image(dwi, encodings, self.inputs.down_encoding)
        pair = estimate_pair_field(up, down)
        self._results |= save_field(
            pair.field, Path(runtime.cwd), corrected=pair.corrected, uncorrected=up.data
        )
        self._results["record"] = {
            "SDCMethod": PAIR_METHOD,
            "SDCSimilarityBefore": round(float(pair.similarity_before), 4),
            "SDCSimilarityAfter": round(float(pair.similarity_after), 4),
        }
        return runtime


class _BiasInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="3-D image")


class _BiasOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="image with an even bias field")


class CorrectBias(SimpleInterface):
    """Even out the coil bias of a 3-D image (N4)."""

    input_spec = _BiasInputSpec
    output_spec = _BiasOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image = load_image(self.inputs.in_file, ndim=3)
        data = correct_bias(read_array(image), image.affine)
        out = save_image(data, image.affine, Path(runtime.cwd) / "unbiased.nii.gz")
        self._results["out_file"] = str(out)
        return runtime


class _MaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="3-D image")
    contrast = traits.Enum("b0", "t1w", mandatory=True, desc="contrast of the image")
    anatomy_file = File(exists=True, desc="brain mask of the T1w image on the same grid")
    is_draft = traits.Bool(False, usedefault=True, desc="no one sees the mask: no warnings logged")


class MaskOutputSpec(TraitedSpec):
    """A brain mask and the brain."""

    mask_file = File(exists=True, desc="brain mask")
    brain_file = File(exists=True, desc="the image inside the mask, zero outside")
    agreement_dice = traits.Float(desc="lowest Dice of the mask with a method that counted")
    record = traits.Dict(desc="what ran, for the sidecar")


def save_mask(
    mask: NDArray[np.bool_], data: NDArray[np.float32], affine: NDArray[np.float64], folder: Path
) -> dict[str, str]:
    """Save mask and brain of :class:`MaskOutputSpec`; return their paths by field."""
    inside = save_image(mask, affine, folder / "mask.nii.gz", dtype=np.uint8)
    brain = save_image(data * mask, affine, folder / "brain.nii.gz")
    return {"mask_file": str(inside), "brain_file": str(brain)}


class MaskBrain(SimpleInterface):
    """Mask the brain."""

    input_spec = _MaskInputSpec
    output_spec = MaskOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image = load_image(self.inputs.in_file, ndim=3)
        data = read_array(image)
        anatomy = None
        if isdefined(self.inputs.anatomy_file):
            anatomy = read_array(load_image(self.inputs.anatomy_file, ndim=3)) > 0
        result = brain_mask(
            data,
            image.affine,
            contrast=self.inputs.contrast,
            anatomy=anatomy,
            is_draft=self.inputs.is_draft,
        )
        self._results |= save_mask(result.mask, data, image.affine, Path(runtime.cwd))
        self._results["agreement_dice"] = round(float(result.agreement_dice), 4)
        self._results["record"] = {
            "MaskMethod": result.method,
            "MaskAgreementDice": {k: round(float(v), 4) for k, v in result.agreement.items()},
            "Warnings": list(result.warnings),
        }
        return runtime
