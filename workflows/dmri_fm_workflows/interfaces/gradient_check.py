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
    isdefined,
    traits,
)
from numpy.typing import NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gradient_arrangements import AS_STORED, arrangement_matrix
from dmri_fm.gradient_text import read_table
from dmri_fm.gradients import rotation_part, to_ras
from dmri_fm.normalise.transforms import read_affine
from dmri_fm.preprocess.gradient_check import GradientCheck, check_gradients
from dmri_fm.series import Dwi
from dmri_fm_workflows.bids.gradient_fixes import suggest_fix
from dmri_fm_workflows.interfaces.gradients import DwiMaskInputSpec
from dmri_fm_workflows.interfaces.volumes_table import read_volumes


class _GradientCheckInputSpec(DwiMaskInputSpec):
    xfm_file = File(exists=True, mandatory=True, desc="transform of the reference into ACPC")
    source_affine = traits.List(
        traits.List(traits.Float()), mandatory=True, desc="voxel to RAS+ mm, of the input's runs"
    )
    source_frame = traits.Str("fsl", usedefault=True, desc="frame of their b-vectors")
    source_bval_files = InputMultiObject(File(exists=True), desc="b-values of the raw runs")
    source_bvec_files = InputMultiObject(File(exists=True), desc="their b-vectors")
    volumes_file = File(exists=True, desc="run of each volume; of merged runs alone")
    arrangements = traits.List(
        traits.Str(), usedefault=True, desc="components that were read of each"
    )
    conditions = traits.List(
        traits.Dict(), usedefault=True, desc="conditions of --fix-gradients that each run meets"
    )


class _GradientCheckOutputSpec(TraitedSpec):
    fixed_bvec_files = traits.List(
        File(exists=True), desc="corrected table of the raw runs; none if there is none to offer"
    )
    record = traits.Dict(desc="the answer, for the sidecar")


class CheckGradients(SimpleInterface):
    """Ask whether the b-vectors continue the fibres better than any mirrored or swapped ones.

    The arrangements are those of the rows of the input's bvec files. Where another one is
    decisively better, a table with rows so arranged is written; nothing uses it. Of several runs
    any may be wrong: each is then judged by itself, and those that are found wrong are rearranged
    in a table of all. Repaired b-vectors that are found wrong are an error.
    """

    input_spec = _GradientCheckInputSpec
    output_spec = _GradientCheckOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi, axes = self.inputs.load(), self._file_axes()
        found = check_gradients(dwi, file_axes=axes)
        sources = [Path(f) for f in self.inputs.source_bvec_files or ()]
        arrangements = list(self.inputs.arrangements) or [AS_STORED] * max(1, len(sources))
        record = found.as_record(arrangements)
        self._results |= {"record": record, "fixed_bvec_files": []}
        if found.is_consistent or not sources:
            return runtime
        for source, arrangement in zip(sources, arrangements, strict=True):
            if arrangement != AS_STORED:
                raise _refute(arrangement, source, record["GradientCheck"]["Summary"])
        out = Path(runtime.cwd) / "fixed.bvec"
        if len(sources) > 1:
            self._offer_by_run(self._judge_runs(dwi, axes), found, record, out)
        else:
            self._offer(found, record, out)
        return runtime

    def _judge_runs(self, dwi: Dwi, axes: NDArray[np.float64]) -> list[GradientCheck]:
        """Return the verdict on each run by itself, with the b=0 volumes of all; none if unknown.

        Of a run with too few directions nothing is decided.
        """
        if not isdefined(self.inputs.volumes_file):
            return []
        runs = np.array([origin.run for origin in read_volumes(self.inputs.volumes_file)])
        return [
            check_gradients(
                dwi.select(np.flatnonzero((runs == k) | dwi.gtab.is_b0)), file_axes=axes
            )
            for k in range(len(self.inputs.source_bvec_files))
        ]

    def _offer_by_run(
        self,
        verdicts: list[GradientCheck],
        found: GradientCheck,
        record: dict[str, Any],
        out: Path,
    ) -> None:
        """Write the tables of all runs one after another, those found wrong rearranged."""
        n_runs = len(self.inputs.source_bvec_files)
        if all(verdict.is_consistent for verdict in verdicts):
            record["Warnings"] = [f"{found.summary} {_MERGED.format(n=n_runs)}"]
            return
        tables: list[NDArray[np.float64]] = []
        entries: dict[str, dict[str, Any]] = {}
        files = zip(self.inputs.source_bval_files, self.inputs.source_bvec_files, strict=True)
        for verdict, (bval, bvec), conditions in zip(
            verdicts, files, self.inputs.conditions, strict=True
        ):
            _, table = read_table(Path(bval), Path(bvec), None)
            first = sum(len(t) for t in tables)
            entry = {"Columns": [first, first + len(table) - 1], "IsDecisive": verdict.is_decisive}
            entry["Best"] = verdict.best
            if not verdict.is_consistent:
                table = table @ arrangement_matrix(verdict.best).T
                entry["SuggestedFix"] = suggest_fix(verdict.best, conditions)
            tables.append(table)
            entries[Path(bvec).name] = entry
        np.savetxt(out, np.concatenate(tables).T + 0.0, fmt="%.8g")
        self._results["fixed_bvec_files"] = [str(out)]
        n_wrong = sum(not verdict.is_consistent for verdict in verdicts)
        told = _OFFER_BY_RUN.format(wrong=n_wrong, n=n_runs)
        record["Warnings"] = [f"{found.summary} {told}"]
        record["GradientCheck"] |= {
            "FixedTable": f"desc-fibrecheck, the tables of the runs one after another: {_FRAME}",
            "Runs": entries,
        }

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
            "SuggestedFix": suggest_fix(found.best, *self.inputs.conditions),
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

_OFFER_BY_RUN = (
    "Judged by themselves, {wrong} of the {n} runs are wrong. The raw tables of the runs, one "
    "after another and with the rows of these so arranged, lie beside the outputs "
    "(desc-fibrecheck); nothing uses them. GradientCheck in the sidecar has columns and "
    "SuggestedFix of each run. If the check says the same of other scans of this scanner and "
    "protocol, confirm it for all of them by --fix-gradients."
)

_MERGED = (
    "Of the {n} runs of the series any may be the wrong one, and none is found wrong by itself, "
    "so no repair is offered: process them one by one (--bids-filter-file) to learn which."
)


def _refute(arrangement: str, source: Path, verdict: str) -> GradientError:
    return GradientError(
        f"--fix-gradients reads the b-vectors as ({arrangement}), and the fibres contradict: "
        f"{verdict}",
        path=source,
        expected="repaired b-vectors that continue the fibres",
        advice="take the repair out, or give it conditions that this run does not meet",
    )
