"""Anatomy that another pipeline prepared: is it this head, where is it, does its transform fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dmri_fm.normalise.grid import (
    Image3D,
    PointMap,
    affine_map,
    compose,
    linear_part,
    resample_image,
)
from dmri_fm.normalise.registration import (
    TemplateRegistration,
    as_displacement,
    registration_dice,
)
from dmri_fm.normalise.template import Template
from dmri_fm.preprocess.alignment import LEVELS, align

#: Lowest correlation, inside the brain, of two T1-weighted images of one head.
SAME_HEAD = 0.6

#: Images are divided by their mean around each voxel before they are correlated, as an image as
#: acquired has an intensity bias; standard deviation of that mean, mm.
LOCAL_MM = 10.0

#: Largest median distance, mm, by which a transform and its inverse may miss a point.
ROUND_TRIP_MM = 1.0

#: Resolutions at which a head is found; the finest is left out, for a tenth of a voxel less.
_LEVELS = LEVELS[:2]

#: Distance of the points at which transforms are compared, in voxels of the template.
_EVERY = 4


class HeadPosition(NamedTuple):
    """Position of a prepared T1-weighted image in the frame of the image as acquired.

    Attributes
    ----------
    xfm
        Shape (4, 4), RAS+ mm: takes points of the prepared image to points of the acquired one.
    correlation
        Of the two inside the brain, at that position, each divided by its local mean; -1 to 1.
    """

    xfm: NDArray[np.float64]
    correlation: float

    @property
    def is_same_head(self) -> bool:
        """Whether both images show one head."""
        return self.correlation >= SAME_HEAD


def locate_head(prepared: Image3D, acquired: Image3D, mask: Image3D) -> HeadPosition:
    """Find a prepared T1-weighted image in the image as acquired, and compare the two.

    Pipelines turn heads to the axes of a template, and some change the frame of the scanner
    without a file that says so; so the position is found by a rigid registration. It starts at
    the same position, and at that where the centres of both heads meet; the better one counts.

    Parameters
    ----------
    prepared
        Image of the whole head or of the brain.
    acquired
        Image of the whole head, as the scanner placed it.
    mask
        Brain mask on the grid of `prepared`.

    Raises
    ------
    ImageError
        If an image is constant, or ANTs gives up.
    """
    inside = mask.data > 0
    centred = np.eye(4)
    centred[:3, 3] = acquired.centre_mm() - prepared.centre_mm()
    found = []
    for start in (np.eye(4), centred):
        xfm = align(
            prepared.data,
            acquired.data,
            fixed_affine=prepared.affine,
            moving_affine=acquired.affine,
            initial=start,
            levels=_LEVELS,
        )
        shown = resample_image(
            acquired.data, acquired.affine, prepared.grid, target2source=affine_map(xfm), order=1
        )
        pair = (
            _flatten(Image3D(data, prepared.affine), inside) for data in (prepared.data, shown)
        )
        found.append(HeadPosition(xfm, _correlation(*pair)))
        if found[-1].is_same_head:
            break
    return max(found, key=lambda position: position.correlation)


def _flatten(image: Image3D, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the voxels of a brain, each divided by the mean of the brain around it."""
    sigma = LOCAL_MM / np.linalg.norm(image.affine[:3, :3], axis=0)
    data = np.where(inside, image.data, 0).astype(np.float32)
    weight = gaussian_filter(inside.astype(np.float32), sigma)[inside]
    mean = gaussian_filter(data, sigma)[inside] / weight
    return np.asarray(data[inside] / np.where(mean > 0, mean, 1))


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    if one.size < 2 or float(np.ptp(one)) == 0.0 or float(np.ptp(other)) == 0.0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


class TransformFit(NamedTuple):
    """How well a pair of transforms fits a brain and the template.

    Attributes
    ----------
    dice
        Overlap of the brain with the template's.
    round_trip_mm
        Median distance of points of the template's brain from where the pair brings them back.
    """

    dice: float
    round_trip_mm: float


def judge_transforms(
    mask: Image3D,
    template: Template,
    *,
    template2image: PointMap,
    image2template: PointMap,
) -> TransformFit:
    """Compare a transform to the template with its inverse, and the brain with the template's.

    Parameters
    ----------
    mask
        Brain mask of the image.
    template
        Template at 2 mm.
    template2image, image2template
        Take points of one to points of the other, RAS+ mm.
    """
    chosen = np.zeros(template.grid.shape, dtype=bool)
    chosen[::_EVERY, ::_EVERY, ::_EVERY] = True
    points = template.grid.points()[(chosen & template.brain_mask).ravel()]
    back = image2template(template2image(points))
    return TransformFit(
        registration_dice(mask, template, template2image=template2image),
        float(np.median(np.linalg.norm(back - points, axis=1))),
    )


def join_transforms(
    template2image: PointMap,
    image2template: PointMap,
    *,
    acpc2image_xfm: NDArray[np.float64],
    brain: Image3D,
    template: Template,
    is_warp: bool,
) -> TemplateRegistration:
    """Return the transforms of a prepared image to the template as those of its brain in ACPC.

    Parameters
    ----------
    template2image, image2template
        Take points of one to points of the other, RAS+ mm.
    acpc2image_xfm
        Shape (4, 4): takes points of ACPC to points of the image, RAS+ mm.
    brain
        The brain in ACPC, whose grid the inverse warp gets.
    template
        Template at 2 mm.
    is_warp
        Whether the transforms are warps.
    """
    to_acpc = compose(template2image, affine_map(np.linalg.inv(acpc2image_xfm)))
    to_template = compose(affine_map(acpc2image_xfm), image2template)
    matrix = linear_part(to_acpc)
    if not is_warp:
        return TemplateRegistration(affine_map(matrix), None, matrix)
    fields = as_displacement(to_acpc, template.grid), as_displacement(to_template, brain.grid)
    return TemplateRegistration(to_acpc, fields, matrix)
