"""Voxel-wise tests of scalar maps in template space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.normalise.template import load_template
from dmri_fm.series import load_image, read_array
from dmri_fm_lab.qc_exclusions import read_exclusions
from dmri_fm_lab.scan_tables import LeftOut, ScanTable, listed
from dmri_fm_lab.statistics.linear import Floats, make_estimator, score_effect
from dmri_fm_lab.statistics.outcomes import Dependence, Permutations
from dmri_fm_lab.statistics.permutations import (
    draw_shuffles,
    family_wise_p,
    find_exchangeable,
    largest_t,
    reduced_residuals,
)
from dmri_fm_lab.statistics.request import MapsRequest
from dmri_fm_workflows.group.collect import list_outputs, list_participants
from dmri_fm_workflows.group.regional import SCALAR_SPACE
from dmri_fm_workflows.outputs.tsv import SCAN_COLUMNS, SCAN_ID

#: Tissue probability above which a voxel of the template is tested.
TISSUE = 0.5


@dataclass(frozen=True, eq=False)
class MapScores:
    """A contrast in every voxel of a scalar map.

    Attributes
    ----------
    param, effect
        Scalar, and name of the contrast.
    t, log_p
        Shape (X, Y, Z): t, and -log10 of the family-wise p; zero outside the mask.
    mask
        Shape (X, Y, Z).
    affine
        Voxel to template mm.
    method
        Procedure, as a sentence fragment.
    is_robust
        Whether t has robust standard errors, and not one residual variance of all scans.
    """

    param: str
    effect: str
    t: NDArray[np.float32]
    log_p: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    method: str
    is_robust: bool


def list_maps(request: MapsRequest, param: str) -> dict[str, tuple[Path, Mapping[str, str]]]:
    """Return the map of each scan in template space, and the scan's columns, by `scan_id`.

    Raises
    ------
    LayoutError
        If the folder holds no participant.
    InputError
        If no participant has such a map.
    """
    found = {}
    for participant in list_participants(request.derivatives):
        outputs, _ = list_outputs(request.derivatives, participant)
        for file in outputs:
            is_in_space = file.name.entities.get("space") == SCALAR_SPACE
            if is_in_space and (file.name.type.name, file.name.model) == (param, request.model):
                found[file.scan] = (file.path, file.columns)
    if not found:
        raise InputError(
            f"no map of {param} by the model {request.model} in {SCALAR_SPACE}",
            path=request.derivatives,
            expected="the app's output folder, with maps in template space",
        )
    return found


def find_maps(request: MapsRequest) -> ScanTable:
    """Return the scans that have a map of every scalar, without values; none that QC excluded."""
    maps = {param: list_maps(request, param) for param in request.params}
    in_all = set.intersection(*(set(m) for m in maps.values()))
    lacking = set.union(*(set(m) for m in maps.values())) - in_all
    excluded = read_exclusions(request.derivatives)
    left_out = (
        *(item for name, item in excluded.items() if name in in_all),
        *(LeftOut(scan, "a map is missing") for scan in sorted(lacking)),
    )
    shared = sorted(in_all - excluded.keys())
    if not shared:
        raise InputError(
            f"no scan that is not excluded has a map of each of {listed(request.params)}",
            path=request.derivatives,
        )
    of_scan = next(iter(maps.values()))
    columns = [dict(of_scan[scan][1]) for scan in shared]
    scans = pd.DataFrame(columns, index=pd.Index(shared, name=SCAN_ID))
    scans = scans[[c for c in SCAN_COLUMNS if c in scans]].astype(str)
    return ScanTable(scans, pd.DataFrame(index=scans.index), left_out, request.derivatives)


def score_maps(
    request: MapsRequest,
    scans: pd.Index,
    design: Floats,
    contrasts: Mapping[str, Floats],
    dependence: Dependence,
    *,
    permutations: Permutations,
) -> list[MapScores]:
    """Test contrasts in every voxel.

    Where scans are independent and of one variance, nilearn's permutations with threshold-free
    cluster enhancement are used. It permutes rows freely, which families and sites of different
    variances forbid: there, the robust t of the tables and permutations by block are used, with
    the family-wise error rate over voxels and without cluster enhancement.

    Parameters
    ----------
    request
        Maps.
    scans
        `scan_id` of the rows of the design.
    design, contrasts, dependence
        Those of the tables.
    permutations
        Exchange, seed and level; the number is that of `request`.

    Raises
    ------
    InputError
        If a scan has no map, or maps are on different grids.
    ConfigError
        If no voxel is covered by every scan.
    """
    is_free = (
        dependence.groups is None
        and len(np.unique(dependence.blocks)) == len(design)
        and permutations.exchange == "whole"
    )
    results = []
    for param in request.params:
        data, mask, affine = _read_maps(list_maps(request, param), scans, request.mask)
        for effect, contrast in contrasts.items():
            if is_free:
                t, log_p, method = _by_nilearn(
                    data, design, contrast, mask, affine, request, seed=permutations.seed
                )
            else:
                t, log_p, method = _by_blocks(
                    data, design, contrast, dependence, permutations, request.permutations
                )
            volumes = (_in_volume(t, mask), _in_volume(log_p, mask))
            results.append(MapScores(param, effect, *volumes, mask, affine, method, not is_free))
    return results


def _in_volume(values: Floats, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    volume = np.zeros(mask.shape, dtype=np.float32)
    volume[mask] = values
    return volume


def _by_nilearn(
    data: Floats,
    design: Floats,
    contrast: Floats,
    mask: NDArray[np.bool_],
    affine: Floats,
    request: MapsRequest,
    *,
    seed: int,
) -> tuple[Floats, Floats, str]:
    from nilearn.maskers import NiftiMasker
    from nilearn.mass_univariate import permuted_ols

    null = np.linalg.svd(contrast[None])[2][1:].T
    found = permuted_ols(
        (design @ contrast / (contrast @ contrast))[:, None],
        data,
        confounding_vars=design @ null,
        model_intercept=False,  # the design has one
        n_perm=request.permutations,
        random_state=seed,
        masker=NiftiMasker(nib.Nifti1Image(mask.astype(np.uint8), affine)).fit(),
        tfce=request.tfce,
        output_type="dict",
    )
    key = "logp_max_tfce" if request.tfce else "logp_max_t"
    what = "threshold-free cluster enhancement" if request.tfce else "the largest t"
    method = f"{request.permutations} permutations of scans, {what} (nilearn)"
    return found["t"][0], found[key][0], method


def _by_blocks(
    data: Floats,
    design: Floats,
    contrast: Floats,
    dependence: Dependence,
    permutations: Permutations,
    n: int,
) -> tuple[Floats, Floats, str]:
    estimator = make_estimator(design, contrast, dependence.blocks)
    allowed = find_exchangeable(
        dependence.blocks, dependence.groups, exchange=permutations.exchange
    )
    rng = np.random.default_rng(permutations.seed)
    shuffles = draw_shuffles(allowed, n, alpha=permutations.alpha, rng=rng)
    t = score_effect(estimator, data).t
    largest = largest_t(estimator, reduced_residuals(design, contrast, data), shuffles)
    method = (
        f"{n} permutations ({permutations.exchange}) of blocks within sites of one variance, "
        "the largest robust t. Cluster enhancement is nilearn's, which permutes scans freely: "
        'families and signs forbid that, and so do sites of unequal variances (fit = "ols" takes '
        "them as equal)"
    )
    return t, -np.log10(family_wise_p(t, largest)), method


def _read_maps(
    maps: Mapping[str, tuple[Path, Mapping[str, str]]], scans: pd.Index, mask: Path | None
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.float64]]:
    """Return values (N, V) in a mask (X, Y, Z), and the affine."""
    if missing := [s for s in scans if s not in maps]:
        raise InputError(
            f"no map of {listed(missing)}",
            expected="a map of every scan that is analysed",
            advice="exclude these scans, or run the app for them",
        )
    volumes: list[NDArray[np.float32]] = []
    affine = np.eye(4)
    inside = np.empty(0, dtype=bool)
    for scan in scans:
        path = maps[scan][0]
        image = load_image(path, ndim=3)
        data = read_array(image, path=path, is_finite=False)
        if not volumes:
            affine, inside = np.asarray(image.affine), _mask_on(image, mask)
        if data.shape != inside.shape or not np.allclose(image.affine, affine, atol=1e-3):
            raise InputError("another grid than the other maps", path=path, expected="one grid")
        volumes.append(data[inside])
    values = np.stack(volumes).astype(np.float64)
    covered = (np.isfinite(values) & (values != 0)).all(axis=0)
    if not covered.any():
        raise ConfigError(
            "no voxel of the mask is covered by every scan",
            expected="a mask inside the brain, and whole scans",
        )
    inside = inside.copy()
    inside[inside] = covered
    return values[:, covered], inside, affine


def _mask_on(image: SpatialImage, path: Path | None) -> NDArray[np.bool_]:
    """Return the given mask, or the template's tissue, on the grid of a map."""
    from nilearn.image import resample_to_img

    if path is None:
        template = load_template(2)
        tissue = np.maximum(template.gm, template.wm) > TISSUE
        source = nib.Nifti1Image(tissue.astype(np.uint8), template.grid.affine)
    else:
        given = load_image(path, ndim=3)
        source = nib.Nifti1Image((read_array(given, path=path) > 0).astype(np.uint8), given.affine)
    grid = nib.Nifti1Image(np.zeros(image.shape, dtype=np.uint8), image.affine)
    moved = resample_to_img(
        source, grid, interpolation="nearest", force_resample=True, copy_header=True
    )
    return np.asarray(moved.dataobj) > 0
