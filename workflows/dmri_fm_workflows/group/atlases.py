"""Regions that a user names: label images with their tables, and folders of fibre bundles.

They have to be in the space of the template, which cannot be read from a file: grids are checked
for what a file can show, a plausible field of view in MNI coordinates.
"""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, ImageError, InputError
from dmri_fm.series import load_image, read_array
from dmri_fm_workflows.group.regional import SCALAR_SPACE, Bundles, RegionSet

LOGGER = logging.getLogger(__name__)

#: The brain of the template reaches this far, RAS+ mm, with a margin: no atlas lies outside.
_LOWEST, _HIGHEST = np.array([-100.0, -135.0, -95.0]), np.array([100.0, 105.0, 115.0])

_IMAGES = (".nii.gz", ".nii")


def split_atlas(text: str) -> tuple[Path, Path | None]:
    """Split `FILE` or `FILE:TABLE`.

    Examples
    --------
    >>> [str(p) for p in split_atlas("a/jhu.nii.gz:a/jhu.tsv")]
    ['a/jhu.nii.gz', 'a/jhu.tsv']
    >>> split_atlas("jhu.nii.gz")[1]
    """
    image, colon, table = text.partition(":")
    return Path(image), Path(table) if colon and table else None


def region_name(text: str) -> str:
    """Return a region's name as it stands in columns: lower case, words joined by `_`.

    Examples
    --------
    >>> region_name("Cingulum (hippocampus) L")
    'cingulum_hippocampus_l'
    """
    return re.sub(r"[^0-9a-z]+", "_", text.lower()).strip("_")


def read_atlas(image: Path, table: Path | None = None) -> RegionSet:
    """Read a label image in the template's space and the names of its labels.

    Parameters
    ----------
    image
        3-D NIfTI image of whole numbers, 0 outside.
    table
        Tab-separated, with columns `index` and `name`; by default of the image's name with
        `.tsv`.

    Returns
    -------
    RegionSet
        Regions named `<stem of the image>_<name>`, in the order of the table. Labels without a
        name are no regions; a warning lists them, and names without a voxel.

    Raises
    ------
    InputError
        If a file is missing or damaged, a label is no whole number, or the grid is not one of
        MNI coordinates.
    """
    table = table or image.with_name(f"{_stem(image)}.tsv")
    names = _read_names(table)
    data, affine = _read_image(image)
    if not np.isfinite(data).all() or (data != np.rint(data)).any() or (data < 0).any():
        raise ImageError(
            "values are no labels",
            path=image,
            expected="whole numbers, 0 and above",
            advice="give probability images by --bundles",
        )
    labels = data.astype(np.int_)
    _check_space(labels > 0, affine, image)
    there = set(np.unique(labels).tolist()) - {0}
    unnamed = sorted(there - set(names))
    empty = [names[index] for index in sorted(set(names) - there - {0})]
    if unnamed:
        LOGGER.warning("%s: no name of labels %s: they are left out", image.name, _listed(unnamed))
    if empty:
        LOGGER.warning("%s: no voxel of %s", image.name, _listed(empty))
    prefix = region_name(_stem(image))
    members = {
        f"{prefix}_{region_name(name)}": (index,)
        for index, name in names.items()
        if index in there
    }
    if not members:
        raise ImageError("no label of the table is in the image", path=image)
    _check_sides({name: labels == value for name, (value,) in members.items()}, affine, image)
    return RegionSet(labels, affine, members, source=f"atlas {image.name}")


def read_bundles(folder: Path) -> Bundles:
    """Read a folder of masks or probability images, one fibre bundle each.

    Parameters
    ----------
    folder
        Of 3-D NIfTI images in the template's space; a bundle has its file's name.

    Raises
    ------
    InputError
        If there is no image, one is damaged or empty, or has a value below 0 or that is not
        finite.
    """
    files = sorted(p for p in folder.glob("[!.]*") if p.name.endswith(_IMAGES))
    if not files:
        raise InputError("no image here", path=folder, expected="a NIfTI image per bundle")
    images, sources = {}, {}
    for path in files:
        data, affine = _read_image(path)
        if not np.isfinite(data).all() or (data < 0).any():
            raise ImageError(
                "values are no weights", path=path, expected="finite numbers, 0 and above"
            )
        _check_space(data > 0, affine, path)
        name = f"bundle_{region_name(_stem(path))}"
        if name in images:
            raise ConfigError(f"two bundles are called {name}", path=folder)
        images[name], sources[name] = (data, affine), path.name
        _check_sides({name: data > 0}, affine, path)
    return Bundles(images, sources)


def _stem(path: Path) -> str:
    ending = next((e for e in _IMAGES if path.name.endswith(e)), path.suffix)
    return path.name.removesuffix(ending)


def _listed(items: Sequence[object]) -> str:
    more = f" and {len(items) - 20} more" if len(items) > 20 else ""
    return ", ".join(map(str, items[:20])) + more


def _read_image(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    image = load_image(path, ndim=3)
    data = read_array(image, path=path, is_finite=False)
    return np.asarray(data, dtype=np.float32), np.asarray(image.affine, dtype=np.float64)


def _read_names(path: Path) -> dict[int, str]:
    """Return the name of each label, in the order of the table."""
    expected = "a tab-separated table with columns index and name, one row per label"
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot be read ({error})",
            path=path,
            expected=expected,
            advice="name the table of an atlas by --atlas FILE:TABLE",
        ) from None
    try:
        pairs = [(int(row["index"]), str(row["name"]).strip()) for row in rows]
    except (KeyError, TypeError, ValueError):
        raise InputError("is no table of labels", path=path, expected=expected) from None
    cleaned = [region_name(name) for _, name in pairs]
    counted = (Counter(index for index, _ in pairs), Counter(cleaned))
    if twice := sorted(str(k) for counts in counted for k, n in counts.items() if n > 1):
        raise InputError(f"stands there twice: {_listed(twice)}", path=path, expected=expected)
    if not pairs or "" in cleaned:
        raise InputError("has no row, or one without a name", path=path, expected=expected)
    return dict(pairs)


def _check_space(inside: NDArray[np.bool_], affine: NDArray[np.float64], path: Path) -> None:
    """Refuse what cannot be in MNI coordinates; a shift of some mm cannot be seen."""
    voxels = np.argwhere(inside)
    if not len(voxels):
        raise ImageError("no voxel is above 0", path=path, expected="at least one region")
    corners = np.array(np.meshgrid(*zip(voxels.min(0), voxels.max(0), strict=True))).reshape(3, -1)
    points = affine[:3, :3] @ corners + affine[:3, 3:]
    low, high = points.min(axis=1), points.max(axis=1)
    if (low < _LOWEST).any() or (high > _HIGHEST).any() or not _has_volume(affine):
        raise ImageError(
            f"regions reach from {np.round(low).tolist()} to {np.round(high).tolist()} mm",
            path=path,
            expected=f"MNI coordinates, {_LOWEST.tolist()} to {_HIGHEST.tolist()} mm (RAS+)",
            advice=f"resample it into {SCALAR_SPACE}, with the header's affine in mm",
        )


def _check_sides(
    inside: Mapping[str, NDArray[np.bool_]], affine: NDArray[np.float64], path: Path
) -> None:
    """Refuse an image whose regions lie on the other side than most of their names say.

    Copies of atlases that were mirrored, or whose header lost its left-right axis, look right.
    """
    sided, wrong = 0, []
    for name, voxels in inside.items():
        words = name.split("_")
        side = ("left" in words or words[-1] == "l") - ("right" in words or words[-1] == "r")
        if side:
            centre = affine[0] @ np.append(np.argwhere(voxels).mean(axis=0), 1)
            sided += 1
            wrong += [name] if centre * side > 0 else []
    if len(wrong) > sided / 2:
        raise ImageError(
            f"{len(wrong)} of {sided} regions lie on the other side than their names say: "
            f"{_listed(wrong)}",
            path=path,
            expected="left at negative x (RAS+ mm)",
            advice="the copy is mirrored, or the x axis of its header is wrong: get it from its "
            "source, or correct the header",
        )
    if wrong:
        LOGGER.warning("%s: not on the side of their names: %s", path.name, _listed(wrong))


def _has_volume(affine: NDArray[np.float64]) -> bool:
    return 1e-3 < abs(float(np.linalg.det(affine[:3, :3]))) < 1e3
