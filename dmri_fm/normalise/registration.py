"""Registration of heads to ACPC and to templates."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.normalise.grid import (
    HEAD_MARGIN_MM,
    Grid,
    Image3D,
    PointMap,
    affine_map,
    brain_grid,
    compose,
    resample_image,
)
from dmri_fm.normalise.template import TEMPLATE_NAME, Template
from dmri_fm.normalise.transforms import warp_map, write_affine
from dmri_fm.preprocess.alignment import (
    Level,
    align,
    one_itk_thread,
    to_ants_image,
)
from dmri_fm.series import load_image, read_array

#: Below this overlap of the registered brain with the template's, other starts are tried, and the
#: registration is doubted.
GOOD_DICE = 0.85

#: Head turns to try, degrees about the left-right (pitch) and the head-foot axis (yaw).
STARTS_DEG = ((20, 0), (-20, 0), (0, 25), (0, -25), (35, 0), (-35, 0))


#: Resolutions of the registration to the template.
TEMPLATE_LEVELS = (Level(4, 2, 100), Level(2, 1, 50), Level(1, 0, 50))

#: Random seed of ANTs' metric sampling in the warp.
SYN_SEED = 20


def name_normalisation(method: str, template: str = TEMPLATE_NAME) -> str:
    """Return the name of a registration to a template, for plan and sidecar."""
    names = {"affine": "affine (ANTs)", "syn": "affine and SyN (ANTs)"}
    return f"{names[method]} to {template}"


@dataclass(frozen=True, eq=False)
class TemplateRegistration:
    """A brain registered to the template.

    Attributes
    ----------
    template2image
        Takes points of the template to points of the image, RAS+ mm.
    displacement_mm
        The map and its inverse as displacements, on the template's and on the image's grid; None
        where they are affine.
    matrix
        Shape (4, 4): the affine, template points to image points; of a warp, its affine part.
    """

    template2image: PointMap
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


def describe_dice(dice: float) -> list[str]:
    """Return the warning of a doubtful registration to the template; none if it is good.

    Examples
    --------
    >>> describe_dice(0.93)
    []
    """
    if dice >= GOOD_DICE:
        return []
    return [
        f"The registered brain overlaps the template's by {dice:.2f} only (Dice): "
        "check the registration in the report."
    ]


def register_affine(
    brain: Image3D,
    template: Template,
    *,
    initial: ArrayLike | None = None,
    is_coarse: bool = False,
    lesion: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Register the template to a brain; the matrix takes template points to the brain's.

    It starts from `initial`, or the identity. A coarse one stops at 4 mm: for starts and tests.
    Voxels of `lesion`, on the brain's grid, do not count.
    """
    return align(
        template.t1,
        brain.data,
        fixed_affine=template.grid.affine,
        moving_affine=brain.affine,
        freedom="affine",
        initial=initial,
        levels=TEMPLATE_LEVELS[: 2 if is_coarse else 3],
        moving_mask=None if lesion is None else ~lesion,
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
        Brain mask, same grid.
    template
        Template at 2 mm.

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
        matrix, dice = _try_start(brain, mask, template, _start(turn, target, centre))
        if dice > best_dice:
            best, best_dice = matrix, dice
    return _rigid_part(best, target)


@dataclass(frozen=True, eq=False)
class AcpcHead:
    """A head on the template's axes.

    Attributes
    ----------
    acpc2image_xfm
        Shape (4, 4): takes ACPC points to points of the image it came from, RAS+ mm.
    head, brain, mask
        On one isotropic grid in ACPC.
    """

    acpc2image_xfm: NDArray[np.float64]
    head: Image3D
    brain: Image3D
    mask: Image3D


def place_in_acpc(head: Image3D, mask: Image3D, template: Template) -> AcpcHead:
    """Turn a head rigidly to the template's axes, on a grid that holds all of it.

    Parameters
    ----------
    head
        Bias-corrected image.
    mask
        Brain mask, same grid.
    template
        Template at 2 mm.
    """
    xfm = acpc_alignment(Image3D(head.data * (mask.data > 0), head.affine), mask, template)
    to_image = affine_map(xfm)
    size_mm = float(np.linalg.norm(head.affine[:3, :3], axis=0).min())
    grid = brain_grid(mask, np.linalg.inv(xfm), size_mm, margin_mm=HEAD_MARGIN_MM)
    data = resample_image(head.data, head.affine, grid, target2source=to_image, order=3).clip(0)
    inside = resample_image(mask.data, mask.affine, grid, target2source=to_image) > 0.5
    return AcpcHead(xfm, *(Image3D(image, grid.affine) for image in (data, data * inside, inside)))


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
    matrix = register_affine(brain, template, initial=start, is_coarse=True)
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
    is_coarse: bool = False,
    lesion: NDArray[np.bool_] | None = None,
) -> TemplateRegistration:
    """Register a brain to the template non-linearly (ANTs SyN).

    Parameters
    ----------
    brain
        Skull-stripped image.
    template
        Template, on the grid of the warp.
    initial
        Shape (4, 4): affine from template points to image points, RAS+ mm.
    is_coarse
        Few iterations, for tests.
    lesion
        Shape of the brain's image, bool: voxels that do not count; None: all of them do.

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
            random_seed=SYN_SEED,
            singleprecision=True,
            **_count_outside(lesion, brain),
        )
        forward = next(p for p in result["fwdtransforms"] if p.endswith("Warp.nii.gz"))
        inverse = next(p for p in result["invtransforms"] if p.endswith("InverseWarp.nii.gz"))
        warp, grid = _read_ants_warp(forward)
        inverse_warp, inverse_grid = _read_ants_warp(inverse)
    to_image = compose(warp_map(warp, grid), affine_map(matrix))
    to_template = compose(affine_map(np.linalg.inv(matrix)), warp_map(inverse_warp, inverse_grid))
    displacements = (
        as_displacement(to_image, template.grid),
        as_displacement(to_template, brain.grid),
    )
    return TemplateRegistration(to_image, displacements, matrix)


def _count_outside(lesion: NDArray[np.bool_] | None, brain: Image3D) -> dict[str, Any]:
    """Return the arguments of ANTs that leave a lesion out of the metric of every stage."""
    if lesion is None:
        return {}
    return {"moving_mask": to_ants_image(~lesion, brain.affine), "mask_all_stages": True}


def _read_ants_warp(path: str) -> tuple[NDArray[np.float32], Grid]:
    image = load_image(path)
    lps = read_array(image, path=path).squeeze()
    x, y, z, _ = lps.shape
    return lps * np.array([-1, -1, 1], np.float32), Grid((x, y, z), np.asarray(image.affine))


def as_displacement(point_map: PointMap, grid: Grid) -> NDArray[np.float32]:
    """Return the displacement of each point of a grid, mm RAS+, shape (X, Y, Z, 3)."""
    points = grid.points()
    moved = (point_map(points) - points).astype(np.float32)
    return moved.reshape(*grid.shape, 3)


def register_template(
    brain: Image3D,
    template: Template,
    *,
    method: Literal["affine", "syn"],
    is_coarse: bool = False,
    starts_at_centre: bool = False,
    lesion: NDArray[np.bool_] | None = None,
) -> TemplateRegistration:
    """Register a brain that stands in ACPC to a template.

    Parameters
    ----------
    brain
        Skull-stripped image in ACPC.
    template
        Template, on the grid of a warp.
    method
        `affine`, or `syn` for a warp on top of it.
    is_coarse
        Coarse registrations, for tests.
    starts_at_centre
        Start with the centres of both brains on one another: the origin of the template need not
        be that of ACPC.
    lesion
        Shape of the brain's image, bool: voxels that do not count; None: all of them do.
    """
    initial = None
    if starts_at_centre:
        target = Image3D(template.t1, np.asarray(template.grid.affine)).centre_mm()
        initial = _start(np.eye(3), target, brain.centre_mm())
    matrix = register_affine(brain, template, initial=initial, is_coarse=is_coarse, lesion=lesion)
    if method == "syn":
        return register_syn(brain, template, initial=matrix, is_coarse=is_coarse, lesion=lesion)
    return TemplateRegistration(affine_map(matrix), None, matrix)
