"""The diffusion series as a value object, and reading images with errors that help."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

from dmri_fm.content import describe_absence, require_content
from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradient_files import (
    RawGradients,
    read_gradients,
    read_raw_gradients,
    write_gradients,
)
from dmri_fm.gradient_options import BScaling, GradientOptions
from dmri_fm.gradients import GradientTable
from dmri_fm.image_files import open_nifti
from dmri_fm.voxel_file import VoxelFile

logger = logging.getLogger(__name__)

#: qform and sform may place a corner of the image this far apart, mm, before they disagree.
FORM_TOLERANCE_MM = 1.0


def load_image(path: str | Path, *, ndim: int | None = None) -> SpatialImage:
    """Open a NIfTI image without reading its voxels.

    With `ndim`, trailing dimensions of length one are dropped, and another rank is refused.

    Raises
    ------
    ImageError
        If the file is missing, not fetched, empty, not a NIfTI image or of another rank, if its
        header describes no possible scan or promises more than the file holds, or if its qform
        and sform disagree.
    """
    path = Path(path)
    require_content(path, ImageError)
    if not path.is_file():
        raise ImageError(
            describe_absence(path), path=path, expected="a NIfTI image", advice="check the path"
        )
    if path.stat().st_size == 0:
        raise ImageError(
            "file has zero bytes",
            path=path,
            expected="a NIfTI image",
            advice="fetch it again (datalad get, or a new copy): the content is not here",
        )
    image = open_nifti(path)
    shape = image.shape
    while ndim is not None and len(shape) > ndim and shape[-1] == 1:
        shape = shape[:-1]
    if ndim is not None and len(shape) != ndim:
        raise ImageError(
            f"image has {len(shape)} dimensions, {tuple(image.shape)}",
            path=path,
            expected=f"{ndim} dimensions",
            advice="a diffusion series is 4-D: x, y, z, volumes; merge or split the file"
            if ndim == 4
            else "take one volume of it",
        )
    _check_forms(image, path)
    if shape != image.shape:
        voxels: Any = image.dataobj
        image = type(image)(
            voxels.reshape(shape), image.affine, image.header, file_map=image.file_map
        )
    return image


def _check_forms(image: SpatialImage, path: Path) -> None:
    header: Any = image.header
    if header["sform_code"] > 0 and header["qform_code"] > 0:
        ends = [(0, n - 1) for n in image.shape[:3]]
        corners = np.array([(*corner, 1.0) for corner in product(*ends)])
        apart = float(np.abs(corners @ (header.get_sform() - header.get_qform()).T).max())
        if apart > FORM_TOLERANCE_MM:
            raise ImageError(
                f"qform and sform disagree by {apart:.1f} mm",
                path=path,
                expected="one position in space",
                advice="decide which is right and copy it to the other: "
                "fslorient -copysform2qform or -copyqform2sform",
            )


def require_grid(
    image: SpatialImage,
    *,
    shape: tuple[int, ...],
    affine: ArrayLike,
    path: str | Path,
    noun: str,
    expected: str,
    advice: str,
) -> None:
    """Raise ImageError if an image has another shape, or another affine by more than 1e-3 mm."""
    if image.shape != shape or not np.allclose(image.affine, affine, atol=1e-3):
        where = "" if image.shape != shape else ", at another position"
        raise ImageError(
            f"{noun} of shape {tuple(image.shape)}{where}",
            path=path,
            expected=expected,
            advice=advice,
        )


def read_array(
    image: SpatialImage, *, path: str | Path | None = None, is_finite: bool = True
) -> NDArray[np.float32]:
    """Read the voxels of an image as float32, and its file to the end, checksum included.

    Parameters
    ----------
    image
        From :func:`load_image`, or made of an array.
    path
        For messages; the image's own file by default.
    is_finite
        Refuse voxels that are NaN or infinite. Maps of ours may hold NaN.

    Raises
    ------
    ImageError
        If the file ends too early or fails its checksum, its voxels are no real numbers, or
        some are NaN or infinite.
    """
    path = path or image.get_filename()
    if image.get_data_dtype().kind not in "biuf":
        raise ImageError(
            f"voxels of type {image.get_data_dtype()}",
            path=path,
            expected="one real number per voxel",
            advice="take the magnitude image; colour maps and complex images are no signal",
        )
    voxels: Any = image.dataobj
    if isinstance(voxels, VoxelFile):
        data = voxels.read(np.float32)
    else:
        data = np.asanyarray(voxels).astype(np.float32, copy=False)
    bad = _count_not_finite(data) if is_finite else 0
    if bad:
        raise ImageError(
            f"{bad} voxels are NaN or infinite",
            path=path,
            expected="finite numbers",
            advice="export the raw series again, or set those voxels to zero on purpose",
        )
    return data


def _count_not_finite(data: NDArray[np.float32]) -> int:
    """Count NaN and infinite voxels, one piece of the last axis at a time to save memory."""
    return sum(int(np.count_nonzero(~np.isfinite(part))) for part in np.moveaxis(data, -1, 0))


def save_image(
    data: ArrayLike,
    affine: ArrayLike,
    path: str | Path,
    *,
    dtype: Any = np.float32,
    repetition_s: float | None = None,
) -> Path:
    """Save an array as NIfTI with equal qform and sform, in scanner space, mm and s."""
    array = np.asarray(data).astype(dtype, copy=False)
    image = nib.Nifti1Image(array, np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm", "sec")
    if repetition_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], repetition_s))
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1, strip_shears=True)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return Path(path)


@dataclass(frozen=True, eq=False)
class Dwi:
    """A diffusion-weighted series.

    Build one with :meth:`from_files` or :meth:`from_arrays`.

    Attributes
    ----------
    image
        4-D image; its voxels are read at the first use of :attr:`data`.
    gtab
        Gradient table of its volumes, b-vectors in RAS+.
    mask
        Shape (X, Y, Z), bool, or None.
    """

    image: SpatialImage
    gtab: GradientTable
    mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if len(self.image.shape) != 4:
            raise ImageError(f"image of shape {self.image.shape}", expected="4 dimensions")
        if self.image.shape[3] != len(self.gtab):
            raise GradientError(
                f"{len(self.gtab)} gradients for {self.image.shape[3]} volumes",
                expected="one gradient per volume",
            )
        if self.mask is not None and self.mask.shape != self.image.shape[:3]:
            raise ImageError(
                f"mask of shape {self.mask.shape} for an image of shape {self.image.shape[:3]}",
                expected="the same grid",
            )

    @classmethod
    def from_files(
        cls,
        dwi: str | Path,
        bval: str | Path,
        bvec: str | Path,
        mask: str | Path | None = None,
        *,
        b_scaling: BScaling | None = None,
        b0_threshold: float | None = None,
    ) -> Dwi:
        """Open a series and its FSL gradient files.

        Parameters
        ----------
        dwi
            4-D NIfTI image.
        bval, bvec
            FSL gradient files.
        mask
            3-D NIfTI image on the same grid; voxels above zero belong to the brain.
        b_scaling, b0_threshold
            See :class:`dmri_fm.gradient_options.GradientOptions`. With `b_scaling` the files
            are read as those of a raw scan, volumes without a direction are dropped, and what
            was done is logged; without it, files that are not in order are refused.

        Raises
        ------
        ImageError, GradientError
            If a file is missing, damaged, or does not fit the others.
        """
        image = load_image(dwi, ndim=4)
        n_volumes = int(image.shape[3])
        if b_scaling is None:
            gtab = read_gradients(
                bval, bvec, affine=image.affine, n_volumes=n_volumes, b0_threshold=b0_threshold
            )
            opened = cls(image, gtab)
        else:
            options = GradientOptions(b_scaling, b0_threshold)
            raw = read_raw_gradients(
                bval, bvec, affine=image.affine, n_volumes=n_volumes, options=options
            )
            for warning in raw.warnings:
                logger.warning("%s", warning)
            opened = cls.from_raw(image, raw)
        if mask is None:
            return opened
        mask_image = load_image(mask, ndim=3)
        inside = read_array(mask_image, path=mask) > 0
        if mask_image.shape != image.shape[:3] or not np.allclose(
            mask_image.affine, image.affine, atol=1e-3
        ):
            raise ImageError(
                "mask and series have different grids",
                path=mask,
                expected=f"the grid of {dwi}",
                advice="resample the mask to the series",
            )
        return replace(opened, mask=inside)

    @classmethod
    def from_raw(cls, image: SpatialImage, gradients: RawGradients) -> Dwi:
        """Join a raw 4-D image and its gradients; excluded volumes are dropped."""
        if not gradients.left_out:
            return cls(image, gradients.gtab)
        kept = read_array(image)[..., list(gradients.kept)]
        return cls.from_arrays(kept, image.affine, gradients.gtab)

    @classmethod
    def from_arrays(
        cls,
        data: ArrayLike,
        affine: ArrayLike,
        gtab: GradientTable,
        *,
        mask: ArrayLike | None = None,
    ) -> Dwi:
        """Wrap an array of shape (X, Y, Z, N) and its voxel-to-RAS+ mm affine."""
        array = np.asarray(data, dtype=np.float32)
        image = nib.Nifti1Image(array, np.asarray(affine, dtype=np.float64))
        return cls(image, gtab, None if mask is None else np.asarray(mask, dtype=bool))

    @cached_property
    def data(self) -> NDArray[np.float32]:
        """Shape (X, Y, Z, N), float32, scanner units; read once."""
        return read_array(self.image)

    @property
    def affine(self) -> NDArray[np.float64]:
        """Shape (4, 4), voxel to RAS+ mm."""
        return np.asarray(self.image.affine, dtype=np.float64)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """X, Y, Z, N."""
        x, y, z, n = self.image.shape
        return int(x), int(y), int(z), int(n)

    @property
    def voxel_size_mm(self) -> NDArray[np.float64]:
        """Shape (3,), mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def brain(self) -> NDArray[np.bool_]:
        """Shape (X, Y, Z): the mask.

        Raises
        ------
        ImageError
            If the series has none.
        """
        if self.mask is None:
            raise ImageError("a series without a brain mask", expected="a mask on its grid")
        return self.mask

    def select(self, index: Sequence[int] | NDArray[np.int_]) -> Dwi:
        """Return a series of the given volumes, in the given order."""
        index = np.asarray(index)
        return Dwi.from_arrays(
            self.data[..., index], self.affine, self.gtab.select(index), mask=self.mask
        )

    def with_mask(self, mask: ArrayLike) -> Dwi:
        """Return the series with another mask."""
        return replace(self, mask=np.asarray(mask, dtype=bool))

    def mean_b0(self) -> NDArray[np.float32]:
        """Return the mean of the b=0 volumes, shape (X, Y, Z).

        Raises
        ------
        GradientError
            If the series has no b=0 volume.
        """
        self.gtab.require_b0()
        mean: NDArray[np.float32] = self.data[..., self.gtab.is_b0].mean(axis=3)
        return mean

    def save(self, stem: str | Path) -> tuple[Path, Path, Path]:
        """Write `stem.nii.gz`, `stem.bval` and `stem.bvec`; return their paths."""
        stem = Path(stem)
        paths = tuple(stem.with_name(stem.name + e) for e in (".nii.gz", ".bval", ".bvec"))
        save_image(self.data, self.affine, paths[0])
        write_gradients(self.gtab, paths[1], paths[2], affine=self.affine)
        return paths[0], paths[1], paths[2]
