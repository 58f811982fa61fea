"""The template that travels with nilearn, and regions for group tables made from it.

ICBM 152 nonlinear symmetric, version 2009a (Fonov et al. 2011,
doi:10.1016/j.neuroimage.2010.07.033). Its T1 image is skull-stripped.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dmri_fm.normalise.grid import Grid, Image3D

#: Label of the space in file names.
TEMPLATE_NAME = "MNI152NLin2009aSym"

#: A voxel belongs to a tissue class where its probability is above this.
TISSUE_THRESHOLD = 0.5

#: White matter is kept this far from its border for regional means, in voxels of 2 mm.
WHITE_EROSION = 1


@dataclass(frozen=True, eq=False)
class Template:
    """Template images on one grid.

    Attributes
    ----------
    t1
        T1 contrast of the brain, skull-stripped.
    brain_mask
        Bool.
    grid
        Grid of the images.
    name
        Label of the space.
    """

    t1: NDArray[np.float32]
    brain_mask: NDArray[np.bool_]
    grid: Grid
    name: str


@dataclass(frozen=True, eq=False, kw_only=True)
class TissueTemplate(Template):
    """The packaged template, RAS+; its `t1` lies between 0 and 1.

    Attributes
    ----------
    gm, wm
        Tissue probabilities, 0 to 1.
    """

    gm: NDArray[np.float32]
    wm: NDArray[np.float32]


@dataclass(frozen=True)
class Region:
    """One region of the group tables.

    Attributes
    ----------
    index
        Value in the label image.
    name
        Column name, e.g. `wm_left_frontal`.
    tissue, hemisphere, block
        Parts of the name; cerebellum and brainstem have hemispheres as well.
    """

    index: int
    name: str
    tissue: str
    hemisphere: str
    block: str


@dataclass(frozen=True, eq=False)
class Regions:
    """Label image on the template's 2 mm grid, and its table."""

    labels: NDArray[np.int16]
    table: tuple[Region, ...]
    grid: Grid


def _load(image: Any) -> NDArray[np.float32]:
    return np.asarray(image.dataobj, dtype=np.float32)


@cache
def load_template(resolution_mm: Literal[1, 2] = 2) -> TissueTemplate:
    """Return the packaged template.

    Parameters
    ----------
    resolution_mm
        Voxel size; 1 gives 197 x 233 x 189 voxels, 2 gives 99 x 117 x 95.
    """
    from nilearn import datasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t1 = datasets.load_mni152_template(resolution=resolution_mm)
        mask = datasets.load_mni152_brain_mask(resolution=resolution_mm)
        gm = datasets.load_mni152_gm_template(resolution=resolution_mm)
        wm = datasets.load_mni152_wm_template(resolution=resolution_mm)
    shape = (int(t1.shape[0]), int(t1.shape[1]), int(t1.shape[2]))
    arrays = [_load(image) for image in (t1, gm, wm)]
    for array in arrays:
        array.setflags(write=False)
    return TissueTemplate(
        t1=arrays[0],
        brain_mask=_load(mask) > 0,
        gm=arrays[1],
        wm=arrays[2],
        grid=Grid(shape, np.asarray(t1.affine)),
        name=TEMPLATE_NAME,
    )


def make_template(name: str, image: Image3D, mask: Image3D | None = None) -> Template:
    """Return a template of other files.

    Parameters
    ----------
    name
        Label of its space.
    image
        T1-weighted image, of the head or of the brain.
    mask
        Brain mask on its grid; None: nothing but the brain is in the image.
    """
    inside = image.data > 0 if mask is None else mask.data > 0.5
    return Template(
        t1=np.where(inside, image.data, 0).astype(np.float32),
        brain_mask=inside,
        grid=image.grid,
        name=name,
    )


#: Blocks of the brain by MNI coordinates (x away from the midline, y, z; mm), first match wins.
#: They follow the usual landmarks: the central sulcus near y = -20 on the lateral surface, the
#: parieto-occipital border near y = -70, the Sylvian fissure between the temporal lobe and what
#: lies above it, the tentorium above the cerebellum. Blocks, not lobes: no folding is known.
BLOCKS = ("infratentorial", "deep", "temporal", "occipital", "frontal", "parietal")


def _block_of(xyz: NDArray[np.float64]) -> NDArray[np.int_]:
    x, y, z = np.abs(xyz[:, 0]), xyz[:, 1], xyz[:, 2]
    is_infratentorial = (y < -35) & (z < -10 - 0.25 * (y + 35)) & (z < -12)
    is_infratentorial |= (x < 18) & (y < -8) & (y >= -45) & (z < -14)
    is_deep = (x < 34) & (y > -38) & (y < 26) & (z > -14) & (z < 22)
    is_temporal = (y > -60) & (y < 22) & (z < 0.35 * (-y) + 4) & (x > 16) & (z < 18)
    is_occipital = y < -70
    is_frontal = y > -20
    conditions = [is_infratentorial, is_deep, is_temporal, is_occipital, is_frontal]
    return np.select(conditions, range(len(conditions)), default=BLOCKS.index("parietal"))


@cache
def load_regions() -> Regions:
    """Return tissue classes by hemisphere and lobe-like block, on the 2 mm grid.

    Left is x < 0 in RAS+. The white-matter class is eroded by one voxel, which keeps grey matter
    and CSF out of its means.
    """
    from scipy.ndimage import binary_erosion

    template = load_template(2)
    gm = (template.gm > TISSUE_THRESHOLD) & template.brain_mask
    wm = binary_erosion(
        (template.wm > TISSUE_THRESHOLD) & template.brain_mask, iterations=WHITE_EROSION
    )
    points = template.grid.points()
    order = (template.grid.shape[0], template.grid.shape[1], template.grid.shape[2])
    block = _block_of(points).reshape(order)
    side = np.sign(points[:, 0]).reshape(order)
    labels = np.zeros(order, dtype=np.int16)
    table: list[Region] = []
    for tissue, mask in (("gm", gm), ("wm", wm & ~gm)):
        for hemisphere, sign in (("left", -1), ("right", 1)):
            for position, name in enumerate(BLOCKS):
                index = len(table) + 1
                labels[mask & (side == sign) & (block == position)] = index
                table.append(
                    Region(index, f"{tissue}_{hemisphere}_{name}", tissue, hemisphere, name)
                )
    labels.setflags(write=False)
    return Regions(labels, tuple(table), template.grid)
