"""Interface that measures the quality of a series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    Bunch,
    DynamicTraitedSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    Undefined,
    isdefined,
    traits,
)
from numpy.typing import ArrayLike, NDArray

from dmri_fm.gradients import Shell
from dmri_fm.identity import UNLABELLED, identity, label_of
from dmri_fm.normalise.grid import Grid, number_slices
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.preprocess.motion_table import read_motion_tsv
from dmri_fm.preprocess.quality import map_cnr, mask_volume_ml, series_quality, tensor_quality
from dmri_fm.series import Dwi, save_image
from dmri_fm.tensor_networks.quality import network_quality
from dmri_fm_workflows.interfaces.eddy_quality import read_eddy_quality
from dmri_fm_workflows.interfaces.gradients import DwiMaskInputSpec
from dmri_fm_workflows.interfaces.models import read_optional
from dmri_fm_workflows.outputs.sidecars import describe_columns
from dmri_fm_workflows.outputs.tsv import NOT_MEASURED_KEY, SDC_METHOD, format_table, scan_columns

#: The entry of the sidecar of the CNR maps.
CNR_METHOD = (
    "standard deviation over directions of a model of six terms of second order, less what noise "
    "adds to it, over the standard deviation of the residual"
)


class _QualityInputSpec(DynamicTraitedSpec, DwiMaskInputSpec):
    raw_file = File(exists=True, desc="merged series as acquired, if there is one")
    raw_bval_file = File(exists=True, desc="its b-values")
    raw_bvec_file = File(exists=True, desc="its b-vectors")
    raw_mask_file = File(exists=True, desc="brain mask on its grid")
    to_acpc_file = File(exists=True, desc="transform that resamples it into ACPC")
    run_sizes = traits.List(traits.Int(), usedefault=True, desc="volumes of each of its runs")
    motion_file = File(exists=True, desc="transforms of the volumes")
    outliers_file = File(exists=True, desc="outlier slices, npy")
    kspace_extents = traits.List(
        traits.Either(None, traits.Float()), usedefault=True, desc="k-space filled, by run"
    )
    eddy_qc_file = File(exists=True, desc="measures of eddy_quad, JSON")
    not_measured = traits.Dict(usedefault=True, desc="reason by measure that cannot be known")
    sdc_method = traits.Str(usedefault=True, desc="of susceptibility; empty: not known")
    tensor_diffusivity_file = File(exists=True, desc="fitted tensor")
    registration_dice = traits.Float(desc="overlap with the template's brain")
    mask_agreement_dice = traits.Float(desc="lowest Dice of the mask with a method in it")
    entities = traits.Dict(mandatory=True, desc="entities of the scan, they lead the row")


class _QualityOutputSpec(TraitedSpec):
    qc_file = File(exists=True, desc="one row of quality measures")
    record = traits.Dict(desc="column descriptions, for the sidecar")
    cnr_files = traits.List(File(exists=True), desc="CNR, a volume for each shell; or nothing")
    cnr_record = traits.Dict(desc="its shells, for the sidecar")


class AssessQuality(SimpleInterface):
    """Measure the quality of a series, raw and preprocessed, and of the networks' tensors.

    The CNR of every shell is also mapped.

    Parameters
    ----------
    networks
        Tensor networks that run, by name; each adds the inputs `<label>_diffusivity_file` and
        `<label>_ood_file`.
    encoders
        Encoders that run, by name; each adds the input `<label>_ood`.
    **inputs
        Inputs by name.
    """

    input_spec = _QualityInputSpec
    output_spec = _QualityOutputSpec

    def __init__(
        self, networks: Sequence[str] = (), encoders: Sequence[str] = (), **inputs: Any
    ) -> None:
        super().__init__(**inputs)
        self._networks = tuple(label_of(name) for name in networks)
        self._encoders = tuple(label_of(name) for name in encoders)
        for label in self._networks:
            for end in ("diffusivity_file", "ood_file"):
                _add_input(self.inputs, f"{label}_{end}", File(exists=True))
        for label in self._encoders:
            _add_input(self.inputs, f"{label}_ood", traits.Dict())

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        fitted = read_optional(self.inputs.tensor_diffusivity_file, ndim=4)
        cnr = {shell: map_cnr(dwi, shell) for shell in dwi.gtab.shells}
        self._save_cnr(cnr, dwi.affine, Path(runtime.cwd))
        quality = self._series_columns(dwi, cnr)
        row: dict[str, Any] = (
            scan_columns(self.inputs.entities)
            | quality
            | read_eddy_quality(self.inputs.eddy_qc_file)
            | tensor_quality(fitted, dwi.brain)
            | self._network_columns(dwi, fitted)
            | {
                "raw_kspace_extent": self._kspace_extent(),
                "mask_volume_ml": mask_volume_ml(dwi),
                "mask_agreement_dice": _number(self.inputs.mask_agreement_dice),
                "registration_dice": _number(self.inputs.registration_dice),
                SDC_METHOD: self.inputs.sdc_method or None,
                "ood_score": None,
                "ood_percentile": None,
            }
            | self._scan_columns()
        )
        out = Path(runtime.cwd) / "image_qc.tsv"
        out.write_text(format_table([row], list(row)), encoding="utf-8")
        self._results["qc_file"] = str(out)
        unknown = dict(self.inputs.not_measured)
        described = describe_columns(list(row))
        self._results["record"] = described | ({NOT_MEASURED_KEY: unknown} if unknown else {})
        return runtime

    def _kspace_extent(self) -> float | None:
        """Return the smallest extent of k-space of the runs; None if none is known."""
        return min((e for e in self.inputs.kspace_extents if e is not None), default=None)

    def _save_cnr(
        self, cnr: Mapping[Shell, NDArray[np.float64] | None], affine: ArrayLike, folder: Path
    ) -> None:
        """Write the CNR of the shells that have it."""
        known = {shell: volume for shell, volume in cnr.items() if volume is not None}
        self._results["cnr_files"] = []
        self._results["cnr_record"] = {
            "Shells": [round(float(shell.bval), 1) for shell in known],
            "CNRMethod": CNR_METHOD,
        }
        if known:
            volumes = np.nan_to_num(np.stack(list(known.values()), axis=3)).astype(np.float32)
            self._results["cnr_files"] = [str(save_image(volumes, affine, folder / "cnr.nii.gz"))]

    def _series_columns(
        self, dwi: Dwi, cnr: Mapping[Shell, NDArray[np.float64] | None]
    ) -> dict[str, float | int | None]:
        """Return measures of the series, raw and preprocessed."""
        inputs = self.inputs
        if not isdefined(inputs.raw_file):
            return series_quality(dwi, cnr=cnr)
        raw = inputs.open_dwi(
            inputs.raw_file, inputs.raw_bval_file, inputs.raw_bvec_file, inputs.raw_mask_file
        )
        return series_quality(
            dwi,
            raw,
            fd_mm=read_motion_tsv(inputs.motion_file).fd_mm,
            is_outlier=np.load(inputs.outliers_file),
            run_sizes=inputs.run_sizes,
            slice_numbers=number_slices(
                Grid(dwi.shape[:3], dwi.affine),
                Grid(raw.shape[:3], raw.affine),
                read_point_map(inputs.to_acpc_file),
            ),
            cnr=cnr,
        )

    def _network_columns(
        self, dwi: Dwi, fitted: NDArray[np.float32] | None
    ) -> dict[str, float | None]:
        """Return measures of each network's tensor, `<label>_<measure>`."""
        found: dict[str, float | None] = {}
        for label in self._networks:
            network = read_optional(getattr(self.inputs, f"{label}_diffusivity_file"), ndim=4)
            if network is None:
                continue
            ood = read_optional(getattr(self.inputs, f"{label}_ood_file"), ndim=3)
            measures = network_quality(network, fitted, dwi=dwi, ood=ood)
            found |= {f"{label}_{name}": value for name, value in measures.items()}
        return found

    def _scan_columns(self) -> dict[str, float]:
        """Return each encoder's out-of-distribution score, `<label>_ood_score`.

        Names of some lack the label, see :data:`~dmri_fm.identity.UNLABELLED`.
        """
        found: dict[str, float] = {}
        for label in self._encoders:
            scores = getattr(self.inputs, f"{label}_ood")
            start = "" if identity(label).name in UNLABELLED else f"{label}_"
            found |= {f"{start}{k}": v for k, v in scores.items()} if isdefined(scores) else {}
        return found


def _add_input(inputs: DynamicTraitedSpec, name: str, trait: Any) -> None:
    inputs.add_trait(name, trait)
    inputs.trait_set(trait_change_notify=False, **{name: Undefined})


def _number(value: Any) -> float | None:
    return float(value) if isdefined(value) else None
