"""Registration of heads to the template and of the b=0 reference to the T1w image."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.normalise.grid import Grid, PointMap, affine_map, compose, resample_image
from dmri_fm.normalise.template import Template
from dmri_fm.normalise.transforms import warp_map, write_affine
from dmri_fm.preprocess.alignment import Alignment, align, one_itk_thread, to_ants_image
from dmri_fm.series import load_image, read_array

__all__ = [
    "Image3D",
    "TemplateRegistration",
    "acpc_alignment",
    "register_affine",
    "register_rigid",
    "register_syn",
    "register_template",
    "registration_dice",
]

#: Below this overlap of the registered brain with the template's, other starts are tried.
GOOD_DICE = 0.85

#: Head turns to try, degrees about the left-right (pitch) and the head-foot axis (yaw).
STARTS_DEG = ((20, 0), (-20, 0), (0, 25), (0, -25), (35, 0), (-35, 0))


@dataclass(frozen=True, eq=False)
class Image3D:
    """A 3-D image: `data` of shape (X, Y, Z) and its voxel-to-RAS+ mm `affine`."""

    data: NDArray[Any]
    affine: NDArray[np.float64]

    @property
    def grid(self) -> Grid:
        """The image's own voxels."""
        x, y, z = self.data.shape
        return Grid((x, y, z), self.affine)

    def centre_mm(self) -> NDArray[np.float64]:
        """Return the centre of mass of what is above zero, RAS+ mm."""
        index = np.argwhere(self.data > 0)
        return np.asarray(apply_affine(self.affine, index.mean(axis=0)))


@dataclass(frozen=True, eq=False)
class TemplateRegistration:
    """A brain registered to the template.

    Attributes
    ----------
    template2image, image2template
        Maps of points, RAS+ mm.
    displacement_mm
        Both maps as displacement fields (on the template's and on the image's grid), or None
        where the maps are affine.
    matrix
        Shape (4, 4): the affine, template points to image points; of a warp, its affine part.
    """

    template2image: PointMap
    image2template: PointMap
    displacement_mm: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    matrix: NDArray[np.float64]


def registration_dice(mask: Image3D, template: Template, *, template2image: PointMap) -> float:
    """Return the overlap of a brain mask, resampled to the template, with the template's brain.

    Template voxels that lie outside the image's field of view do not count, so that a slab is
    judged by what it shows.
    """
    warped = resample_image(
        mask.data, mask.affine, template.grid, target2source=template2image, order=1
    )
    seen = resample_image(
        np.ones(mask.data.shape), mask.affine, template.grid, target2source=template2image, order=0
    )
    inside = seen > 0
    brain, reference = (warped > 0.5) & inside, template.brain_mask & inside
    total = int(brain.sum() + reference.sum())
    return 2.0 * int((brain & reference).sum()) / total if total else 0.0


def register_rigid(fixed: Image3D, moving: Image3D, *, initial: Any = "identity") -> Alignment:
    """Register rigidly by mutual information; the matrix takes fixed points to moving ones."""
    return align(
        fixed.data,
        moving.data,
        fixed_affine=fixed.affine,
        moving_affine=moving.affine,
        kind="rigid",
        initial=initial,
    )


def register_affine(
    brain: Image3D, template: Template, *, initial: Any = "identity", is_coarse: bool = False
) -> Alignment:
    """Register the template to a brain; the matrix takes template points to the brain's.

    A coarse one stops at 4 mm: for starts, and for tests.
    """
    n_levels = 2 if is_coarse else 3
    return align(
        template.t1,
        brain.data,
        fixed_affine=template.grid.affine,
        moving_affine=brain.affine,
        kind="affine",
        initial=initial,
        shrink_factors=(4, 2, 1)[:n_levels],
        smoothing_voxels=(2, 1, 0)[:n_levels],
        iterations=(100, 50, 50)[:n_levels],
    )


def acpc_alignment(brain: Image3D, mask: Image3D, template: Template) -> NDArray[np.float64]:
    """Find the rigid movement that lays a head on the template's axes.

    An affine registration of the brain to the template is reduced to its rotation and to the
    translation of the brain's centre. If the registered brain does not cover the template's,
    turned heads are tried.

    Parameters
    ----------
    brain
        Skull-stripped image.
    mask
        Its mask, same grid.
    template
        At 2 mm.

    Returns
    -------
    ndarray
        Shape (4, 4): takes ACPC points to points of the image, RAS+ mm.
    """
    centre = brain.centre_mm()
    target = Image3D(template.t1, np.asarray(template.grid.affine)).centre_mm()
    best, best_dice = _try_start(brain, mask, template, _start(np.eye(3), target, centre))
    for pitch, yaw in STARTS_DEG:
        if best_dice >= GOOD_DICE:
            break
        turn = Rotation.from_euler("xz", [pitch, yaw], degrees=True).as_matrix()
        found, dice = _try_start(brain, mask, template, _start(turn, target, centre))
        if dice > best_dice:
            best, best_dice = found, dice
    return _rigid_part(best, target)


def _start(
    rotation: NDArray[np.float64], target: NDArray[np.float64], centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = centre - rotation @ target
    return matrix


def _try_start(
    brain: Image3D, mask: Image3D, template: Template, start: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    matrix = register_affine(brain, template, initial=start, is_coarse=True).xfm
    return matrix, registration_dice(mask, template, template2image=affine_map(matrix))


def _rigid_part(matrix: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rigid matrix that agrees with an affine in rotation and at one point."""
    rigid = np.eye(4)
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    rigid[:3, :3] = u @ vt
    rigid[:3, 3] = apply_affine(matrix, centre) - rigid[:3, :3] @ centre
    return rigid


@one_itk_thread()
def register_syn(
    brain: Image3D,
    template: Template,
    *,
    initial: ArrayLike,
    seed: int = 20,
    is_coarse: bool = False,
) -> TemplateRegistration:
    """Register a brain to the template non-linearly (ANTs SyN).

    Parameters
    ----------
    brain
        Skull-stripped image.
    template
        Its grid is that of the warp.
    initial
        Shape (4, 4): affine from template points to image points, RAS+ mm.
    seed
        Of ANTs' sampling.
    is_coarse
        Few iterations, for tests.

    References
    ----------
    Avants et al. 2008, doi:10.1016/j.media.2007.06.004.
    """
    import ants

    matrix = np.asarray(initial, dtype=np.float64)
    fixed = to_ants_image(template.t1, template.grid.affine)
    moving = to_ants_image(brain.data, brain.affine)
    with tempfile.TemporaryDirectory() as folder:
        start = write_affine(matrix, Path(folder) / "initial.txt")
        result = ants.registration(
            fixed,
            moving,
            type_of_transform="SyNOnly",
            initial_transform=str(start),
            outprefix=str(Path(folder) / "syn"),
            syn_metric="mattes",
            reg_iterations=(20, 5, 0) if is_coarse else (40, 20, 10),
            random_seed=seed,
            singleprecision=True,
        )
        forward = next(p for p in result["fwdtransforms"] if p.endswith("Warp.nii.gz"))
        inverse = next(p for p in result["invtransforms"] if p.endswith("InverseWarp.nii.gz"))
        warp, grid = _read_ants_warp(forward)
        inverse_warp, inverse_grid = _read_ants_warp(inverse)
    to_image = compose(warp_map(warp, grid), affine_map(matrix))
    to_template = compose(affine_map(np.linalg.inv(matrix)), warp_map(inverse_warp, inverse_grid))
    fields = (_as_field(to_image, template.grid), _as_field(to_template, brain.grid))
    return TemplateRegistration(to_image, to_template, fields, matrix)


def _read_ants_warp(path: str) -> tuple[NDArray[np.float32], Grid]:
    image = load_image(path)
    lps = read_array(image, path=path).squeeze()
    x, y, z, _ = lps.shape
    return lps * np.array([-1, -1, 1], np.float32), Grid((x, y, z), np.asarray(image.affine))


def _as_field(point_map: PointMap, grid: Grid) -> NDArray[np.float32]:
    points = grid.points()
    moved = (point_map(points) - points).astype(np.float32)
    return moved.reshape(*grid.shape, 3)


def register_template(
    brain: Image3D,
    template: Template,
    *,
    method: Literal["affine", "syn"],
    is_coarse: bool = False,
) -> TemplateRegistration:
    """Register a brain that stands in ACPC to the template.

    Parameters
    ----------
    brain
        Skull-stripped image in ACPC.
    template
        At 2 mm.
    method
        `affine`, or `syn` for a warp on top of it.
    is_coarse
        Coarse registrations, for tests.
    """
    matrix = register_affine(brain, template, is_coarse=is_coarse).xfm
    if method == "syn":
        return register_syn(brain, template, initial=matrix, is_coarse=is_coarse)
    return TemplateRegistration(
        affine_map(matrix), affine_map(np.linalg.inv(matrix)), None, matrix
    )
