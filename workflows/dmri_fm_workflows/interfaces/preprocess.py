"""Interfaces of the preprocess stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces import mrtrix3
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
from dmri_fm.gradient_files import read_raw_gradients, write_gradients
from dmri_fm.gradient_options import B_SCALINGS, GradientOptions
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.confounds import confounds_table
from dmri_fm.preprocess.denoise import FEWEST_VOLUMES, denoise, unring
from dmri_fm.preprocess.dwiref import b0_reference, correct_bias
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.preprocess.merge import merge_runs
from dmri_fm.preprocess.motion import (
    MotionEstimate,
    estimate_motion,
    no_motion,
    write_motion_tsv,
)
from dmri_fm.preprocess.raw_series import check_run, check_usable, find_empty_volumes
from dmri_fm.preprocess.susceptibility import DistortionField, estimate_pair_field
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm_workflows.interfaces.gradients import GradientInputSpec
from dmri_fm_workflows.interfaces.programs import name_dwidenoise, name_gibbs_removal
from dmri_fm_workflows.outputs.sidecars import describe_columns
from dmri_fm_workflows.outputs.tsv import format_table
from dmri_fm_workflows.volumes_table import (
    VolumeOrigin,
    read_volumes,
    write_volumes,
)


class _DwiInputSpec(GradientInputSpec):
    dwi_file = File(exists=True, mandatory=True, desc="4-D series")
    bval_file = File(exists=True, mandatory=True, desc="b-values, s/mm^2")
    bvec_file = File(exists=True, mandatory=True, desc="b-vectors, FSL convention")

    def load(self) -> Dwi:
        """Open the series."""
        return self.open_dwi(self.dwi_file, self.bval_file, self.bvec_file)


class _ValidateInputSpec(_DwiInputSpec):
    b_scaling = traits.Enum(*B_SCALINGS, usedefault=True, desc="b-vectors of another length")


class _ValidateOutputSpec(TraitedSpec):
    dwi_file = File(exists=True, desc="volumes that can be used; the same file if all can")
    bval_file = File(exists=True, desc="their b-values, scaled where that was needed")
    bvec_file = File(exists=True, desc="their b-vectors, unit length")
    facts = traits.Dict(desc="what was done, for the sidecar")


class ValidateDwi(SimpleInterface):
    """Read every voxel and gradient of a raw run, and hand on a clean one.

    Volumes that cannot be used are left out, b-values are scaled where the length of b-vectors
    says so. A run that needs none of this passes as the files it came in.
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
        )
        run = check_run(data, gradients, name=source.name)
        for name in ("dwi_file", "bval_file", "bvec_file"):
            self._results[name] = getattr(self.inputs, name)
        folder, stem = Path(runtime.cwd), source.name.removesuffix(".gz").removesuffix(".nii")
        if run.left_out:
            # Volumes keep the name of their file: the confounds table tells where they are from.
            out = save_image(data[..., list(run.kept)], image.affine, folder / source.name)
            self._results["dwi_file"] = str(out)
        if run.left_out or not gradients.is_as_stored:
            bval, bvec = folder / f"{stem}.bval", folder / f"{stem}.bvec"
            write_gradients(run.gtab, bval, bvec, affine=image.affine)
            self._results |= {"bval_file": str(bval), "bvec_file": str(bvec)}
        self._results["facts"] = run.facts
        return runtime


class _DenoiseInputSpec(_DwiInputSpec):
    method = traits.Enum("mppca", "patch2self", "none", mandatory=True, desc="denoiser")
    unring = traits.Bool(False, usedefault=True, desc="also remove Gibbs ringing")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _DenoiseOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="denoised series")
    noise_file = File(exists=True, desc="noise standard deviation, where the method gives one")
    facts = traits.Dict(desc="what ran, for the sidecar")


class DenoiseDwi(SimpleInterface):
    """Denoise one run by the built-in methods."""

    input_spec = _DenoiseInputSpec
    output_spec = _DenoiseOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        result = denoise(dwi.data, method=self.inputs.method, gtab=dwi.gtab)
        data = result.data
        if self.inputs.unring:
            data = unring(data, n_jobs=self.inputs.n_threads)
        folder = Path(runtime.cwd)
        self._results["out_file"] = str(save_image(data, dwi.affine, folder / "denoised.nii"))
        if result.sigma is not None:
            noise = save_image(result.sigma, dwi.affine, folder / "noise.nii.gz")
            self._results["noise_file"] = str(noise)
        self._results["facts"] = {
            "Denoising": result.method,
            "GibbsCorrection": name_gibbs_removal() if self.inputs.unring else "none",
        }
        return runtime


class _DwiDenoiseOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="denoised series")
    facts = traits.Dict(desc="what ran, for the sidecar")


class DwiDenoise(mrtrix3.DWIDenoise):
    """MRtrix3's dwidenoise; a run of fewer volumes than it can use passes as it is."""

    output_spec = _DwiDenoiseOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        if self._n_volumes() >= FEWEST_VOLUMES:
            return super()._run_interface(runtime)
        image = load_image(self.inputs.in_file, ndim=4)
        save_image(read_array(image), image.affine, Path(runtime.cwd) / self.inputs.out_file)
        return runtime

    def _list_outputs(self):
        method = name_dwidenoise(self._n_volumes())
        out_file = Path(self.inputs.out_file).resolve()
        return {"out_file": str(out_file), "facts": {"Denoising": method}}

    def _n_volumes(self) -> int:
        return load_image(self.inputs.in_file, ndim=4).shape[3]


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
    volumes_file = File(exists=True, desc="where each volume came from")
    facts = traits.Dict(desc="intensity factor per run, for the sidecar")


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
        denoised = [load_image(f, ndim=4) for f in self.inputs.dwi_files]
        data = np.concatenate(
            [
                read_array(image) * np.float32(scale)
                for image, scale in zip(denoised, raw.scales, strict=True)
            ],
            axis=3,
        )
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
        facts: dict[str, Any] = {"RunIntensityScales": [round(s, 6) for s in raw.scales]}
        if self.inputs.assumed_readouts_s:
            facts["TotalReadoutTimeAssumed"] = dict(self.inputs.assumed_readouts_s)
        self._results["facts"] = facts
        return runtime


class _ReferenceOutputSpec(TraitedSpec):
    dwiref_file = File(exists=True, desc="3-D b=0 reference")


class MakeReference(SimpleInterface):
    """Average the b=0 volumes after aligning them."""

    input_spec = _DwiInputSpec
    output_spec = _ReferenceOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        reference = b0_reference(dwi.data, dwi.gtab, dwi.affine)
        out = save_image(reference, dwi.affine, Path(runtime.cwd) / "dwiref.nii.gz")
        self._results["dwiref_file"] = str(out)
        return runtime


class ReverseInputSpec(_DwiInputSpec):
    """A merged series, and the image outside it that opposes its phase encoding, if any."""

    volumes_file = File(exists=True, mandatory=True, desc="where each volume came from")
    epi_file = File(exists=True, desc="image of the other phase encoding")
    epi_bval_file = File(exists=True, desc="its b-values, if it has any")
    epi_bvec_file = File(exists=True, desc="its b-vectors, if it has any")
    epi_b0_threshold = traits.Float(desc="b-values below it count as b=0 there, s/mm^2")
    epi_phase_encoding = traits.Str(desc="its phase encoding")
    epi_readout_s = traits.Either(None, traits.Float(), desc="its readout time, s")

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
        usable = set(range(data.shape[3])) - set(find_empty_volumes(data))
        if isdefined(self.epi_bval_file):
            threshold = self.epi_b0_threshold
            raw = read_raw_gradients(
                self.epi_bval_file,
                self.epi_bvec_file,
                affine=image.affine,
                n_volumes=data.shape[3],
                # Lengths were asked about when the image was linked; b=0 has none.
                options=GradientOptions("none", threshold if isdefined(threshold) else None),
            )
            usable &= {raw.kept[i] for i in np.flatnonzero(raw.gtab.is_b0)}
        if not usable:
            raise ImageError(
                "no b=0 volume holds signal",
                path=self.epi_file,
                expected="a b=0 image of the opposite phase encoding",
                advice="copy or convert it again, or leave it out by a filter",
            )
        b0s = data[..., sorted(usable)]
        n = len(usable)
        return Dwi.from_arrays(b0s, image.affine, GradientTable(np.zeros(n), np.zeros((n, 3))))


class _PairInputSpec(ReverseInputSpec):
    up_encoding = traits.Str(mandatory=True, desc="phase encoding of the first half of the pair")
    down_encoding = traits.Str(mandatory=True, desc="and of the other half")


class _PairOutputSpec(TraitedSpec):
    field_file = File(exists=True, desc="off-resonance on the reference's grid, Hz")
    dwiref_file = File(exists=True, desc="corrected b=0 reference")
    uncorrected_file = File(exists=True, desc="b=0 image of the first phase encoding, as it was")
    facts = traits.Dict(desc="what ran, for the sidecar")


class EstimatePairField(SimpleInterface):
    """Estimate the distortion field from two b=0 images of opposite phase encoding."""

    input_spec = _PairInputSpec
    output_spec = _PairOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        origins = read_volumes(self.inputs.volumes_file)
        pe_up, pe_down = self.inputs.up_encoding, self.inputs.down_encoding
        up, readout_up = _mean_b0(dwi, origins, pe_up)
        if isdefined(self.inputs.epi_file):
            b0s = self.inputs.load_epi_b0s()
            down, down_affine = b0_reference(b0s.data, b0s.gtab, b0s.affine), b0s.affine
            readout_down = self.inputs.epi_readout_s or readout_up
        else:
            down, readout_down = _mean_b0(dwi, origins, pe_down)
            down_affine = dwi.affine
        pair = estimate_pair_field(
            up,
            down,
            dwi.affine,
            pe_up=pe_up,
            pe_down=pe_down,
            readout_up_s=readout_up,
            readout_down_s=readout_down,
            down_affine=down_affine,
        )
        folder = Path(runtime.cwd)
        for name, data in (
            ("field_file", pair.field.hz),
            ("dwiref_file", pair.corrected),
            ("uncorrected_file", up),
        ):
            out = save_image(data, dwi.affine, folder / f"{name.removesuffix('_file')}.nii.gz")
            self._results[name] = str(out)
        self._results["facts"] = {
            "SDCMethod": pair.field.method,
            "SDCSimilarityBefore": round(float(pair.similarity_before), 4),
            "SDCSimilarityAfter": round(float(pair.similarity_after), 4),
        }
        return runtime


def _mean_b0(
    dwi: Dwi, origins: list[VolumeOrigin], phase_encoding: str
) -> tuple[np.ndarray, float]:
    """Return the mean b=0 of one phase encoding, and its readout time, s.

    Another readout is another distortion: only volumes with that of the first one are used.
    """
    index = [
        i for i in np.flatnonzero(dwi.gtab.is_b0) if origins[i].phase_encoding == phase_encoding
    ]
    readout_s = origins[index[0]].readout_s
    part = dwi.select([i for i in index if origins[i].readout_s == readout_s])
    return b0_reference(part.data, part.gtab, part.affine), readout_s


class _BiasInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="3-D image")
    mask_file = File(exists=True, desc="brain mask")


class _BiasOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="image with an even bias field")


class CorrectBias(SimpleInterface):
    """Even out the coil bias of a 3-D image (N4)."""

    input_spec = _BiasInputSpec
    output_spec = _BiasOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image = load_image(self.inputs.in_file, ndim=3)
        mask = (
            read_array(load_image(self.inputs.mask_file)) > 0
            if isdefined(self.inputs.mask_file)
            else None
        )
        data = correct_bias(read_array(image), image.affine, mask=mask)
        out = save_image(data, image.affine, Path(runtime.cwd) / "unbiased.nii.gz")
        self._results["out_file"] = str(out)
        return runtime


class _MaskInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="3-D image")
    contrast = traits.Enum("b0", "t1w", mandatory=True, desc="what the image shows")


class _MaskOutputSpec(TraitedSpec):
    mask_file = File(exists=True, desc="brain mask")
    brain_file = File(exists=True, desc="the image inside the mask, zero outside")
    facts = traits.Dict(desc="what ran, for the sidecar")


class MaskBrain(SimpleInterface):
    """Find the brain."""

    input_spec = _MaskInputSpec
    output_spec = _MaskOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        image = load_image(self.inputs.in_file, ndim=3)
        data = read_array(image)
        result = brain_mask(data, image.affine, contrast=self.inputs.contrast)
        folder = Path(runtime.cwd)
        mask = save_image(result.mask, image.affine, folder / "mask.nii.gz", dtype=np.uint8)
        brain = save_image(data * result.mask, image.affine, folder / "brain.nii.gz")
        self._results["mask_file"], self._results["brain_file"] = str(mask), str(brain)
        self._results["facts"] = {
            "MaskMethod": result.method,
            "MaskAgreementDice": round(float(result.agreement_dice), 4),
            "Warnings": list(result.warnings),
        }
        return runtime


class _MotionInputSpec(_DwiInputSpec):
    volumes_file = File(exists=True, mandatory=True, desc="where each volume came from")
    mask_file = File(exists=True, mandatory=True, desc="brain mask on the reference's grid")
    dwiref_file = File(exists=True, mandatory=True, desc="b=0 reference, undistorted")
    field_file = File(exists=True, desc="off-resonance, Hz")
    sloppy = traits.Bool(False, usedefault=True, desc="one coarse pass")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _MotionOutputSpec(TraitedSpec):
    motion_file = File(exists=True, desc="transform of each volume")
    confounds_file = File(exists=True, desc="confounds table")
    confounds_facts = traits.Dict(desc="its column descriptions")
    outliers_file = File(exists=True, desc="slices flagged as outliers, (N, Z), npy")
    motion_facts = traits.Dict(desc="what the transforms are, for their sidecar")
    facts = traits.Dict(desc="what ran, for the sidecar")


class EstimateMotion(SimpleInterface):
    """Estimate head motion and eddy currents of each volume with the built-in engine."""

    input_spec = _MotionInputSpec
    output_spec = _MotionOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        origins = read_volumes(self.inputs.volumes_file)
        field = None
        if isdefined(self.inputs.field_file):
            image = load_image(self.inputs.field_file, ndim=3)
            field = DistortionField(read_array(image), image.affine, "estimated before")
        motion = estimate_motion(
            dwi.data,
            dwi.gtab,
            dwi.affine,
            mask=read_array(load_image(self.inputs.mask_file)) > 0,
            reference=read_array(load_image(self.inputs.dwiref_file)),
            field=field,
            phase_encodings=[o.phase_encoding for o in origins],
            readouts_s=[o.readout_s for o in origins],
            sloppy=self.inputs.sloppy,
            n_threads=self.inputs.n_threads,
        )
        self._results |= save_motion(motion, dwi.gtab, origins, Path(runtime.cwd))
        self._results["facts"] = {"HMCMethod": motion.method}
        return runtime


def save_motion(
    motion: MotionEstimate,
    gtab: GradientTable,
    origins: list[VolumeOrigin],
    folder: Path,
    *,
    why_identity: str | None = None,
) -> dict[str, Any]:
    """Write transforms, outliers and confounds; return what the interface puts out.

    `why_identity` says why the transforms are identities, for their sidecar; None: they are
    estimates.
    """
    motion_facts: dict[str, Any] = {"IdentityTransforms": why_identity is not None}
    if why_identity is not None:
        motion_facts["PointMapping"] = f"Every point is taken to itself: {why_identity}."
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
        "confounds_facts": describe_columns(columns),
        "motion_facts": motion_facts,
    }


class _SkipInputSpec(_DwiInputSpec):
    volumes_file = File(exists=True, mandatory=True, desc="where each volume came from")


class SkipMotion(SimpleInterface):
    """Write identity transforms."""

    input_spec = _SkipInputSpec
    output_spec = _MotionOutputSpec

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
        self._results["facts"] = {"HMCMethod": motion.method}
        return runtime
