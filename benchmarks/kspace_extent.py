"""How far is the k-space of real series filled? `python benchmarks/kspace_extent.py BIDS...`

Printed for every run of the raw datasets: the extent along each axis of the image as stored, the
larger one of the two axes in plane, by which images are found that were zero-filled, and the same
after the image was zero-filled twofold in plane.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from dmri_fm.preprocess.kspace_extent import (
    MOST_VOLUMES,
    in_plane_extent,
    measure_kspace_extent,
)
from dmri_fm.series import Dwi
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_workflows.bids import DwiRun, read_dataset


def zero_fill(data: NDArray[np.float32], *, slice_axis: int) -> NDArray[np.float32]:
    """Put the k-space of volumes (X, Y, Z, N) into a plane of twice the size."""
    plane = [axis for axis in range(3) if axis != slice_axis]
    k = fft.fftshift(fft.fftn(data, axes=plane), axes=plane)
    pads = [(n // 2, n - n // 2) if a in plane else (0, 0) for a, n in enumerate(data.shape)]
    filled = fft.ifftn(fft.ifftshift(np.pad(k, pads), axes=plane), axes=plane)
    return np.abs(filled).astype(np.float32)


def describe(run: DwiRun) -> list[str]:
    """Return the line of a run."""
    dwi = Dwi.from_files(run.path, run.bval, run.bvec)
    shells = [list(shell.index) for shell in dwi.gtab.shells] or [range(len(dwi.gtab))]
    part = dwi.select(max(shells, key=len)[:MOST_VOLUMES])
    stored = measure_kspace_extent(part.data, part.gtab)
    filled = measure_kspace_extent(zero_fill(part.data, slice_axis=run.slice_axis), part.gtab)
    line = [run.path.name.removesuffix("_dwi.nii.gz")]
    line += ["-"] * 3 if stored is None else [f"{x:.2f}" for x in stored]
    for found in (stored, filled):
        extent = None if found is None else in_plane_extent(found, slice_axis=run.slice_axis)
        line.append("-" if extent is None else f"{extent:.2f}")
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids", nargs="+", type=Path)
    runs = [
        run
        for root in parser.parse_args().bids
        for participant in read_dataset(root).participants
        for session in participant.sessions
        for series in session.series
        for run in series.runs
    ]
    titles = ["run", "i", "j", "k", "in plane", "in plane, zero-filled twofold"]
    print(markdown([titles, *map(describe, runs)]))


if __name__ == "__main__":
    main()
