"""Files that FSL's topup and eddy read: phase encodings, b=0 volumes, slice order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from numpy.typing import NDArray

from dmri_fm.distortion import PhaseEncoding
from dmri_fm.errors import ImageError
from dmri_fm.preprocess.merge import merge_runs
from dmri_fm.series import save_image
from dmri_fm_workflows.interfaces.fsl import flip_first_axis, is_mirrored
from dmri_fm_workflows.interfaces.preprocess import ReverseInputSpec
from dmri_fm_workflows.interfaces.volumes_table import VolumeOrigin, read_volumes

#: A row of FSL's acquisition parameters: unit vector of the phase encoding, and readout time, s.
Row = tuple[float, float, float, float]


def encoding_row(origin: VolumeOrigin, *, mirrored: bool = False) -> Row:
    """Return one row of FSL's acquisition parameters: unit vector and readout time, s.

    Parameters
    ----------
    origin
        Phase encoding, along the axes of the raw image, and readout time.
    mirrored
        The image is stored the other way along its first axis for FSL.

    Raises
    ------
    ImageError
        If the phase encoding is along k: FSL takes i and j alone.

    Examples
    --------
    >>> encoding_row(VolumeOrigin(0, "j-", 0.1, "a"))
    (0, -1, 0, 0.1)
    >>> encoding_row(VolumeOrigin(0, "i", 0.1, "a"), mirrored=True)
    (-1, 0, 0, 0.1)
    """
    # An image of unknown phase encoding needs a row, too; any will do.
    axis, sign = PhaseEncoding(origin.phase_encoding or "j", origin.readout_s).axis_and_sign()
    if axis == 2:
        raise ImageError(
            "the phase encoding is along k",
            path=origin.original_file,
            expected="i or j, which FSL's topup and eddy take",
            advice="use the built-in engines: --sdc pepolar --hmc builtin",
        )
    sign = -sign if mirrored and axis == 0 else sign
    x, y, z = (sign if component == axis else 0 for component in range(3))
    return x, y, z, origin.readout_s


def index_topup_rows(
    origins: Sequence[VolumeOrigin],
    rows: Sequence[Row],
    b0s: Sequence[int],
    topup_rows: NDArray[np.float64],
) -> list[int]:
    """Return the row of topup's acquisition parameters for each volume of a series, from 1.

    eddy starts from the position that topup found for that row: it has to be the row of a b=0
    volume that lies close by, and of the same phase encoding and readout.

    Parameters
    ----------
    origins, rows
        Run of each volume, and its row by :func:`encoding_row`.
    b0s
        Volumes that topup was given, in its order; images outside the series come behind them.
    topup_rows
        Shape (N, 4): all rows that topup was given.

    Returns
    -------
    list of int
        Row of the nearest b=0 volume of the own run; of another run or of an image outside the
        series where the own run has none.

    Raises
    ------
    ImageError
        If topup was given no image of the phase encoding and readout of a volume.

    Examples
    --------
    >>> of = [VolumeOrigin(run, "j", 0.1, "a") for run in (0, 0, 0, 1, 1)]
    >>> row = (0.0, 1.0, 0.0, 0.1)
    >>> index_topup_rows(of, [row] * 5, [0, 2, 3], np.array([row] * 3))
    [1, 1, 2, 3, 3]
    """
    index = []
    for volume, (origin, row) in enumerate(zip(origins, rows, strict=True)):
        # Files hold readouts to six digits.
        same = np.flatnonzero(np.isclose(topup_rows, row, rtol=1e-5, atol=0).all(axis=1))
        if not same.size:
            raise ImageError(
                f"topup was given no b=0 volume of its phase encoding and readout, {row}",
                path=origin.original_file,
                expected="a b=0 volume of each phase encoding in the series",
                advice="use --hmc builtin",
            )
        ranks = [
            (origins[b0s[i]].run != origin.run, abs(b0s[i] - volume))
            if i < len(b0s)
            else (True, len(rows))
            for i in same
        ]
        index.append(int(same[ranks.index(min(ranks))]) + 1)
    return index


class _FilesOutputSpec(TraitedSpec):
    acqp_file = File(exists=True, desc="one row per phase encoding and readout")
    index_file = File(exists=True, desc="row of each volume, from 1")
    b0_file = File(
        exists=True, desc="all b=0 volumes, those of the reverse image last, on one scale"
    )
    b0_acqp_file = File(exists=True, desc="one row per b=0 volume")
    topup_index_file = File(exists=True, desc="row of each volume in topup's file, from 1")
    first_b0_file = File(exists=True, desc="the first b=0 volume, stored as the series")
    slspec_file = File(exists=True, desc="slices of each excitation, if they were given")


class _FilesInputSpec(ReverseInputSpec):
    topup_acqp_file = File(exists=True, desc="topup's own file of phase encodings, if it ran")
    slice_groups = traits.List(
        traits.List(traits.Int()), usedefault=True, desc="slices of each excitation, in order"
    )


class WriteFslFiles(SimpleInterface):
    """Write acqp, index, slice order and b=0 files."""

    input_spec = _FilesInputSpec
    output_spec = _FilesOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        dwi = self.inputs.load()
        origins = read_volumes(self.inputs.volumes_file)
        mirrored = is_mirrored(dwi.affine)
        rows = [encoding_row(o, mirrored=mirrored) for o in origins]
        distinct = sorted(set(rows), key=rows.index)
        index = [distinct.index(row) + 1 for row in rows]
        # Volumes of unknown phase encoding say nothing about the field.
        every_b0 = [int(i) for i in np.flatnonzero(dwi.gtab.is_b0)]
        b0s = [i for i in every_b0 if origins[i].phase_encoding is not None] or every_b0
        part, b0_rows = dwi.select(b0s), [rows[i] for i in b0s]
        if isdefined(self.inputs.epi_file):
            reverse = self.inputs.load_epi_b0s()
            origin = VolumeOrigin(
                run=-1,
                phase_encoding=self.inputs.epi_phase_encoding,
                readout_s=self.inputs.epi_readout_s,
                original_file=Path(self.inputs.epi_file).name,
            )
            part = merge_runs([part, reverse]).dwi
            b0_rows += [encoding_row(origin, mirrored=mirrored)] * reverse.shape[3]
        folder = Path(runtime.cwd)
        np.savetxt(folder / "acqp.txt", distinct, fmt="%g")
        np.savetxt(folder / "index.txt", [index], fmt="%d")
        np.savetxt(folder / "b0_acqp.txt", b0_rows, fmt="%g")
        data, affine = part.data, dwi.affine
        if mirrored:
            data, affine = flip_first_axis(data, affine)
        save_image(data, affine, folder / "b0.nii.gz")
        save_image(part.data[..., 0], dwi.affine, folder / "first_b0.nii.gz")
        self._results |= {
            "acqp_file": str(folder / "acqp.txt"),
            "index_file": str(folder / "index.txt"),
            "b0_file": str(folder / "b0.nii.gz"),
            "b0_acqp_file": str(folder / "b0_acqp.txt"),
            "first_b0_file": str(folder / "first_b0.nii.gz"),
        }
        if isdefined(self.inputs.topup_acqp_file):
            topup_rows = np.loadtxt(self.inputs.topup_acqp_file, ndmin=2)
            found = index_topup_rows(origins, rows, b0s, topup_rows)
            np.savetxt(folder / "topup_index.txt", [found], fmt="%d")
            self._results["topup_index_file"] = str(folder / "topup_index.txt")
        if groups := self.inputs.slice_groups:
            np.savetxt(folder / "slspec.txt", groups, fmt="%d")
            self._results["slspec_file"] = str(folder / "slspec.txt")
        return runtime
