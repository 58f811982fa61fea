"""Images that were zero-filled in plane, by the spectrum of their noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import fft, ndimage

from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.kspace_extent import (
    describe_zero_filling,
    in_plane_extent,
    is_zero_filled,
    measure_kspace_extent,
)
from dmri_fm.series import Dwi

TABLE = GradientTable([0, 1000, 1000, 1000], [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def head(shape: tuple[int, int, int]) -> np.ndarray:
    """An ellipsoid with texture, 200 inside and 0 outside."""
    rng = np.random.default_rng(3)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = ndimage.gaussian_filter((sum(a**2 for a in axes) < 0.5).astype(float), 0.7)
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    return 200 * inside * (1 + texture / texture.std() / 5)


def scan(
    matrix: tuple[int, int, int],
    *,
    filled: tuple[int, int, int] | None = None,
    sigma: float = 20.0,
    partial_fourier: float = 1.0,
) -> np.ndarray:
    """Measure four volumes on a matrix, with noise in k-space, and fill it with zeros."""
    rng = np.random.default_rng(0)
    wanted = filled or matrix
    x, y = (np.linspace(-1, 1, n) for n in matrix[:2])
    volumes = []
    for weight in (1.0, 0.6, 0.5, 0.4):
        phase = np.exp(1j * (rng.normal() * x[:, None] + rng.normal() * y + 0.5 * x[:, None] * y))
        noise = rng.normal(size=matrix) + 1j * rng.normal(size=matrix)
        voxels = weight * head(matrix) * phase[..., None] + sigma * noise
        k = fft.fftshift(fft.fftn(voxels))
        k[:, : round(matrix[1] * (1 - partial_fourier))] = 0
        lacking = [w - n for w, n in zip(wanted, matrix, strict=True)]
        k = np.pad(k, [(n // 2, n - n // 2) for n in lacking])
        volumes.append(np.abs(fft.ifftn(fft.ifftshift(k))) * k.size / np.prod(matrix))
    return np.stack(volumes, axis=3).astype(np.float32)


@pytest.mark.parametrize("sigma", [5.0, 40.0])
@pytest.mark.parametrize(
    ("matrix", "filled", "extent"),
    [
        ((32, 32, 16), (64, 64, 16), 0.5),
        ((48, 48, 16), (64, 64, 16), 0.75),
        ((32, 40, 16), (64, 64, 16), 0.625),  # the fuller axis counts
        ((16, 32, 32), (16, 64, 64), 0.5),  # a sagittal scan, stored in RAS order
    ],
)
def test_an_image_that_was_filled_is_found(
    matrix: tuple[int, int, int], filled: tuple[int, int, int], extent: float, sigma: float
) -> None:
    found = measure_kspace_extent(scan(matrix, filled=filled, sigma=sigma), TABLE)
    assert found is not None
    through = int(np.argmin(filled))
    in_plane = in_plane_extent(found, slice_axis=through)
    # Magnitudes spread the edge of k-space over some 3 of 32 frequencies.
    assert in_plane == pytest.approx(extent, abs=0.1)
    assert is_zero_filled(in_plane)
    assert found[through] == 1.0


@pytest.mark.parametrize("sigma", [5.0, 40.0])
@pytest.mark.parametrize(
    "options",
    [
        {"matrix": (64, 64, 16)},
        {"matrix": (64, 64, 16), "partial_fourier": 0.75},
        {"matrix": (32, 64, 16), "filled": (64, 64, 16)},  # one axis: a filter does that, too
        # a filter of the readout, and interpolated slices
        {"matrix": (32, 64, 16), "filled": (64, 64, 32)},
        {"matrix": (64, 64, 16), "filled": (64, 64, 32), "partial_fourier": 0.75},
        {"matrix": (56, 56, 16), "filled": (64, 64, 16)},  # so little that a filter does it
        {"matrix": (63, 65, 4)},
    ],
)
def test_others_are_not(options: dict, sigma: float) -> None:
    found = measure_kspace_extent(scan(**options, sigma=sigma), TABLE)
    assert found is not None
    assert not is_zero_filled(in_plane_extent(found, slice_axis=2))
    if options.get("filled") == (64, 64, 32):
        # The spectrum shows the interpolation; it is not one of the plane.
        assert found[2] == pytest.approx(0.5, abs=0.1)


def test_nothing_is_said_of_what_cannot_be_judged() -> None:
    data = scan((32, 32, 16), filled=(64, 64, 16))
    two_shells = GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]])
    assert measure_kspace_extent(data[..., :2], two_shells) is None
    assert measure_kspace_extent(np.repeat(data[..., :1], 4, axis=3), TABLE) is None
    assert measure_kspace_extent(np.zeros_like(data), TABLE) is None
    assert measure_kspace_extent(data[:8, :8, :4], TABLE) is None
    assert not is_zero_filled(None)


def test_b0_volumes_do_where_nothing_is_weighted() -> None:
    data = scan((32, 32, 16), filled=(64, 64, 16))
    found = measure_kspace_extent(data, GradientTable(np.zeros(4), np.zeros((4, 3))))
    assert found is not None
    assert is_zero_filled(in_plane_extent(found, slice_axis=2))


def test_axes_are_named() -> None:
    text = describe_zero_filling((1.0, 0.5, 0.62), slice_axis=0)
    assert text == "k-space is empty beyond 50% along j and beyond 62% along k"


@pytest.mark.realdata
@pytest.mark.parametrize(
    "scan_name",
    [
        "ds-vendors/sub-umr/dwi/sub-umr_dir-AP",
        "ds-vendors/sub-prisma/dwi/sub-prisma_dir-PA",  # partial Fourier
        "ds-more/sub-galan6/dwi/sub-galan6_acq-sagittal_dir-PA",  # the readout is filtered
        "ds-more/sub-ds114/dwi/sub-ds114",
    ],
)
def test_real_scans_are_found_once_they_are_filled(data_dir: Path, scan_name: str) -> None:
    stem = data_dir / scan_name
    files = (stem.with_name(f"{stem.name}_dwi.{e}") for e in ("nii.gz", "bval", "bvec"))
    dwi = Dwi.from_files(*files)
    first = int(np.flatnonzero(~dwi.gtab.is_b0)[0])
    part = dwi.select(range(first, first + 4))
    found = measure_kspace_extent(part.data, part.gtab)
    assert found is not None
    assert in_plane_extent(found, slice_axis=2) >= 0.9
    k = fft.fftshift(fft.fftn(part.data, axes=(0, 1)), axes=(0, 1))
    pads = [(n // 2, n - n // 2) for n in part.data.shape[:2]]
    filled = np.abs(
        fft.ifftn(fft.ifftshift(np.pad(k, [*pads, (0, 0), (0, 0)]), axes=(0, 1)), axes=(0, 1))
    )
    found = measure_kspace_extent(filled.astype(np.float32), part.gtab)
    assert found is not None
    assert in_plane_extent(found, slice_axis=2) == pytest.approx(0.5, abs=0.1)
    assert is_zero_filled(in_plane_extent(found, slice_axis=2))
