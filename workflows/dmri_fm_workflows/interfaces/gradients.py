"""Inputs of interfaces that read gradient files."""

from __future__ import annotations

from nipype.interfaces.base import BaseInterfaceInputSpec, File, isdefined, traits

from dmri_fm.series import Dwi


class GradientInputSpec(BaseInterfaceInputSpec):
    """Input of every interface that reads gradient files: the b=0 threshold."""

    b0_threshold = traits.Float(
        desc="b-values below it count as b=0, s/mm^2; automatic if not given"
    )

    def threshold(self) -> float | None:
        """Return the threshold, None if it is automatic."""
        return self.b0_threshold if isdefined(self.b0_threshold) else None

    def open_dwi(self, dwi: str, bval: str, bvec: str, mask: str | None = None) -> Dwi:
        """Open a series."""
        return Dwi.from_files(dwi, bval, bvec, mask, b0_threshold=self.threshold())


class DwiInputSpec(GradientInputSpec):
    """A series and its gradient files."""

    dwi_file = File(exists=True, mandatory=True, desc="4-D series")
    bval_file = File(exists=True, mandatory=True, desc="b-values, s/mm^2")
    bvec_file = File(exists=True, mandatory=True, desc="b-vectors, FSL convention")

    def load(self) -> Dwi:
        """Open the series."""
        return self.open_dwi(self.dwi_file, self.bval_file, self.bvec_file)


class DwiMaskInputSpec(DwiInputSpec):
    """A series with its gradient files and its brain mask."""

    mask_file = File(exists=True, mandatory=True, desc="brain mask on the grid of the series")

    def load(self) -> Dwi:
        """Open the series with its mask."""
        return self.open_dwi(self.dwi_file, self.bval_file, self.bvec_file, self.mask_file)
