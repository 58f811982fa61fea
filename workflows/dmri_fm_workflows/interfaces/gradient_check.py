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

from dmri_fm.gradient_arrangements import AS_STORED, arrangement_matrix, join_arrangements
from dmri_fm.gradient_text import read_table
from dmri_fm.gradients import rotation_part, to_ras
from dmri_fm.normalise.transforms import read_affine
from dmri_fm.preprocess.gradient_check import check_gradients
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
        File(exists=True), desc="their b-vectors, of which a corrected table can be offered"
    )
    arrangements = traits.List(
        traits.Str(), usedefault=True, desc="components that were read of each"
    )
    scanner = traits.Dict(usedefault=True, desc="what tells scanner and protocol of the runs")


class _GradientCheckOutputSpec(TraitedSpec):
    fixed_bvec_files = traits.List(
        File(exists=True), desc="corrected table of the runs; none if theirs are right"
    )
    record = traits.Dict(desc="the answer, for the sidecar")


class CheckGradients(SimpleInterface):
    """Ask whether the b-vectors continue the fibres better than any mirrored or swapped ones.

    The arrangements are those of the rows of the input's bvec files. Where another one is
    decisively better, a table with rows so arranged is written; nothing uses it.
    """

    input_spec = _GradientCheckInputSpec
    output_spec = _GradientCheckOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        found = check_gradients(self.inputs.load(), file_axes=self._file_axes())
        record = found.as_record()
        self._results |= {"record": record, "fixed_bvec_files": []}
        if found.is_consistent or not self.inputs.source_bvec_files:
            return runtime
        read_as = list(self.inputs.arrangements) or [AS_STORED] * len(
            self.inputs.source_bvec_files
        )
        labels = [join_arrangements(label, found.best) for label in read_as]
        out = Path(runtime.cwd) / "fixed.bvec"
        _write_rows(self._read_tables(), labels, out)
        self._results["fixed_bvec_files"] = [str(out)]
        record["Warnings"] = [f"{found.summary} {_OFFER}"]
        if len(set(labels)) == 1:
            fix = suggest_fix(labels[0], self.inputs.scanner)
            record["GradientCheck"]["SuggestedFix"] = fix
        return runtime

    def _file_axes(self) -> np.ndarray:
        """Return the axes, in ACPC, of the components of the input's b-vectors."""
        affine = np.array(self.inputs.source_affine)
        axes = to_ras(np.eye(3), affine, self.inputs.source_frame).T
        # The file takes points of ACPC to points of the reference.
        return np.asarray(rotation_part(read_affine(self.inputs.xfm_file)).T @ axes)

    def _read_tables(self) -> list[np.ndarray]:
        """Return the b-vectors of the raw runs, as stored: shape (N, 3) each."""
        files = zip(self.inputs.source_bval_files, self.inputs.source_bvec_files, strict=True)
        return [read_table(Path(bval), Path(bvec), None)[1] for bval, bvec in files]


_OFFER = (
    "A table with its rows so arranged lies beside the outputs (desc-fibrecheck), of all raw "
    "volumes in the order of the runs; nothing uses it. If the check says the same of other scans "
    "of this scanner and protocol, confirm it for all of them by --fix-gradients, with the entry "
    "SuggestedFix of the sidecar."
)


def _write_rows(tables: list[np.ndarray], labels: list[str], out: Path) -> None:
    """Write tables of b-vectors, each rearranged, one behind the other: 3 rows of components."""
    arranged: list[Any] = [
        table @ arrangement_matrix(label).T for table, label in zip(tables, labels, strict=True)
    ]
    np.savetxt(out, np.vstack(arranged).T + 0.0, fmt="%.8g")
