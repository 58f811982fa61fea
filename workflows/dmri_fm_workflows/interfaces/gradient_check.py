"""The check of b-vectors against the fibres, and the corrected table that its verdict offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    Bunch,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from dmri_fm.errors import GradientError
from dmri_fm.gradient_arrangements import AS_STORED, arrangement_matrix
from dmri_fm.gradient_text import read_table
from dmri_fm.gradients import rotation_part, to_ras
from dmri_fm.normalise.transforms import read_affine
from dmri_fm.preprocess.gradient_check import GradientCheck, check_gradients
from dmri_fm_workflows.bids.gradient_fixes import suggest_fix
from dmri_fm_workflows.interfaces.gradients import DwiMaskInputSpec


class _GradientCheckInputSpec(DwiMaskInputSpec):
    xfm_file = File(exists=True, mandatory=True, desc="transform of the reference into ACPC")
    source_affine = traits.List(
        traits.List(traits.Float()), mandatory=True, desc="voxel to RAS+ mm, of the input's runs"
    )
    source_frame = traits.Str("fsl", usedefault=True, desc="frame of their b-vectors")
    source_bval_files = InputMultiObject(File(exists=True), desc="b-values of the raw runs")
    source_bvec_files = InputMultiObject(
        File(exists=True), desc="their b-vectors; of a single run a corrected table can be offered"
    )
    arrangements = traits.List(
        traits.Str(), usedefault=True, desc="components that were read of each"
    )
    conditions = traits.Dict(
        usedefault=True, desc="conditions of --fix-gradients that a single run meets"
    )


class _GradientCheckOutputSpec(TraitedSpec):
    fixed_bvec_files = traits.List(
        File(exists=True), desc="corrected table of the raw run; none if there is none to offer"
    )
    record = traits.Dict(desc="the answer, for the sidecar")


class CheckGradients(SimpleInterface):
    """Ask whether the b-vectors continue the fibres better than any mirrored or swapped ones.

    The arrangements are those of the rows of the input's bvec files. Where another one is
    decisively better and the series has one run, a table with rows so arranged is written;
    nothing uses it. Of several runs any may be wrong, so nothing is offered for them. Repaired
    b-vectors that are found wrong are an error.
    """

    input_spec = _GradientCheckInputSpec
    output_spec = _GradientCheckOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        found = check_gradients(self.inputs.load(), file_axes=self._file_axes())
        sources = [Path(f) for f in self.inputs.source_bvec_files or ()]
        arrangements = list(self.inputs.arrangements) or [AS_STORED] * max(1, len(sources))
        record = found.as_record(arrangements)
        self._results |= {"record": record, "fixed_bvec_files": []}
        if found.is_consistent or not sources:
            return runtime
        for source, arrangement in zip(sources, arrangements, strict=True):
            if arrangement != AS_STORED:
                raise _refute(arrangement, source, record["GradientCheck"]["Summary"])
        if len(sources) > 1:
            record["Warnings"] = [f"{found.summary} {_MERGED.format(n=len(sources))}"]
            return runtime
        self._offer(found, record, Path(runtime.cwd) / "fixed.bvec")
        return runtime

    def _file_axes(self) -> np.ndarray:
        """Return the axes, in ACPC, of the components of the input's b-vectors."""
        affine = np.array(self.inputs.source_affine)
        axes = to_ras(np.eye(3), affine, self.inputs.source_frame).T
        # The file takes points of ACPC to points of the reference.
        return np.asarray(rotation_part(read_affine(self.inputs.xfm_file)).T @ axes)

    def _offer(self, found: GradientCheck, record: dict[str, Any], out: Path) -> None:
        """Write the corrected table of the one run, 3 rows of components, and tell of it."""
        (bval,), (bvec,) = self.inputs.source_bval_files, self.inputs.source_bvec_files
        _, table = read_table(Path(bval), Path(bvec), None)
        np.savetxt(out, (table @ arrangement_matrix(found.best).T).T + 0.0, fmt="%.8g")
        self._results["fixed_bvec_files"] = [str(out)]
        record["Warnings"] = [f"{found.summary} {_OFFER}"]
        record["GradientCheck"] |= {
            "FixedTable": f"desc-fibrecheck, for {Path(bvec).name}: {_FRAME}",
            "SuggestedFix": suggest_fix(found.best, self.inputs.conditions),
        }


_FRAME = (
    "components along the voxel axes of the raw image, in FSL's convention; it fits no image in "
    "space-ACPC"
)

_OFFER = (
    "The raw table with its rows so arranged lies beside the outputs (desc-fibrecheck); nothing "
    "uses it. If the check says the same of other scans of this scanner and protocol, confirm it "
    "for all of them by --fix-gradients, with the entry SuggestedFix of the sidecar."
)

_MERGED = (
    "Of the {n} runs of the series any may be the wrong one, so no repair is offered: process "
    "them one by one (--bids-filter-file) to learn which."
)


def _refute(arrangement: str, source: Path, verdict: str) -> GradientError:
    return GradientError(
        f"--fix-gradients reads the b-vectors as ({arrangement}), and the fibres contradict: "
        f"{verdict}",
        path=source,
        expected="repaired b-vectors that continue the fibres",
        advice="take the repair out, or give it conditions that this run does not meet",
    )
