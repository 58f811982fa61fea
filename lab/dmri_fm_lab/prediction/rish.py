"""RISH features: power of the white-matter fibre orientation distribution (FOD), by order.

The FOD is estimated by single-shell constrained spherical deconvolution (CSD, Tournier et al.
2007, https://doi.org/10.1016/j.neuroimage.2007.02.016) with one response for all scans, the mean
of theirs, so that its size can be compared between participants. A feature is the mean over a
region of the sum of squared coefficients of an order (0, 2, 4). Kung et al. 2026 use multi-tissue
deconvolution and 55 tracts, which gives 165 numbers; here the regions are the template's blocks of
white matter, or those of a label image. Multi-tissue deconvolution in DIPY needs a solver
(cvxpy) that this package does not bring.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from dipy.reconst.dti import TensorModel
from dipy.reconst.shm import sph_harm_ind_list
from numpy.typing import NDArray

from dmri_fm.errors import InputError
from dmri_fm.gradients import GradientTable, group_shells
from dmri_fm.normalise.grid import Grid, resample_image
from dmri_fm.normalise.template import load_regions
from dmri_fm.qspace import distinct_directions
from dmri_fm.series import Dwi
from dmri_fm_lab.feature_cache import FeatureCache, Vectors, digest
from dmri_fm_lab.qc_exclusions import read_exclusions
from dmri_fm_lab.scan_tables import LeftOut, ScanTable
from dmri_fm_lab.scans import Scan, find_scans, list_corrected
from dmri_fm_lab.spherical_deconvolution import (
    Response,
    deconvolution,
    dipy_table,
    estimate_response,
)
from dmri_fm_workflows.bids.names import SCAN_ENTITIES
from dmri_fm_workflows.outputs.tsv import scan_columns

logger = logging.getLogger(__name__)

#: Largest order of the FOD, and its coefficients: fewer directions do not determine it.
MAX_ORDER = 4
N_COEFFICIENTS = (MAX_ORDER + 1) * (MAX_ORDER + 2) // 2

#: Voxels of highest FA from which the response is estimated, at most.
N_RESPONSE_VOXELS = 300


_NO_TEMPLATE = "no series in the template's space"


class Labels(NamedTuple):
    """Regions: label image on a grid in the template's space, and names by label."""

    image: NDArray[np.int16]
    grid: Grid
    names: Mapping[int, str]


def white_matter() -> Labels:
    """Return the template's blocks of white matter."""
    regions = load_regions()
    names = {r.index: r.name for r in regions.table if r.tissue == "wm"}
    return Labels(regions.labels, regions.grid, names)


class _Shell(NamedTuple):
    """Voxels of white matter: signals over the median b=0 (N, T), and labels (N,)."""

    signals: NDArray[np.float64]
    labels: NDArray[np.int16]
    gtab: GradientTable


def rish_table(
    derivatives: Path, *, cache: FeatureCache | None = None, labels: Labels | None = None
) -> ScanTable:
    """Compute RISH features of the scans of a study.

    Parameters
    ----------
    derivatives
        Output folder of the app, with series in the template's space.
    cache
        Keeps responses and features by scan.
    labels
        Regions; those of :func:`white_matter` if None.

    Returns
    -------
    ScanTable
        Columns `rish<order>_<region>`; scans whose largest shell has fewer distinct directions
        than the FOD has coefficients (15), and those that quality control excluded at the group
        level, are left out.

    Raises
    ------
    InputError
        If no scan can be used.
    """
    labels, cache = labels or white_matter(), cache or FeatureCache()
    regions = digest(labels.image, labels.grid, dict(labels.names))
    scans: dict[str, Scan] = {}
    left_out: list[LeftOut] = []
    responses = []
    in_template = list_corrected(derivatives)
    if any(in_template.values()):
        left_out += [LeftOut(s, _NO_TEMPLATE) for s, has in in_template.items() if not has]
    excluded = read_exclusions(derivatives)
    for scan in find_scans(derivatives, prefers_template=True):
        if scan.name in excluded:
            left_out.append(excluded[scan.name])
            continue
        if reason := _find_obstacle(scan):
            left_out.append(LeftOut(scan.name, reason))
            continue
        name = f"{scan.name}_{scan_state(scan)}_{regions}_response"
        stored = cache.get(name, partial(rish_response, scan.dwi, labels))
        scans[scan.name] = scan
        responses.append(stored["response"])
    if not scans:
        raise InputError(
            "no scan for RISH features: "
            + ("; ".join(f"{n}: {r}" for n, r in left_out[:3]) or "no series"),
            path=derivatives,
            expected=f"series in the template's space with {N_COEFFICIENTS} directions in a shell",
        )
    response = np.mean(responses, axis=0)
    rows = {}
    for name, scan in scans.items():
        logger.info("RISH features of %s", name)
        key = f"{name}_{scan_state(scan)}_{digest(response, regions)}"
        stored = cache.get(key, partial(rish_features, scan.dwi, response, labels))
        rows[name] = {column: float(value) for column, value in stored.items()}
    keys = [scan_columns(_entities(name)) for name in rows]
    index = pd.Index(list(rows), name="scan_id")
    return ScanTable(
        pd.DataFrame(keys, index=index),
        pd.DataFrame(list(rows.values()), index=index),
        tuple(left_out),
        derivatives,
    )


def rish(coefficients: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    """Return the power of each order of an even series.

    Parameters
    ----------
    coefficients
        Shape (N, 15): of an orthonormal basis, orders 0, 2 and 4.

    Returns
    -------
    dict
        By order, shape (N,). They do not change when the function turns.

    Examples
    --------
    >>> {order: power.tolist() for order, power in rish(np.ones((1, 15))).items()}
    {0: [1.0], 2: [5.0], 4: [9.0]}
    """
    _, orders = sph_harm_ind_list(MAX_ORDER)
    return {
        int(order): (coefficients[:, orders == order] ** 2).sum(axis=1)
        for order in np.unique(orders)
    }


def _find_obstacle(scan: Scan) -> str | None:
    if not scan.is_in_template:
        return _NO_TEMPLATE
    return rish_obstacle(scan.dwi.gtab)


def rish_obstacle(gtab: GradientTable) -> str | None:
    """Return why volumes determine no RISH features; None if they do."""
    if not gtab.is_b0.any():
        return "no b=0 volume"
    n = 0 if gtab.is_b0.all() else len(distinct_directions(gtab.select(_largest_shell(gtab))))
    return (
        None
        if n >= N_COEFFICIENTS
        else (f"{n} directions in its largest shell; order {MAX_ORDER} needs {N_COEFFICIENTS}")
    )


def _largest_shell(gtab: GradientTable) -> NDArray[np.int_]:
    """Return the volumes of the shell with most directions, of the highest b among equals."""
    weighted = np.flatnonzero(~gtab.is_b0)
    shells = [weighted[group] for group in group_shells(gtab.bvals[weighted])]
    return max(shells, key=lambda s: (len(s), gtab.bvals[s].mean()))


def labels_on(dwi: Dwi, labels: Labels) -> NDArray[np.int16]:
    """Return the labels of a series' voxels, (X, Y, Z); 0 outside regions and the brain mask.

    Raises
    ------
    InputError
        If no voxel has a label.
    """
    grid = Grid(dwi.shape[:3], np.asarray(dwi.affine))
    own: NDArray[np.int16] = resample_image(
        labels.image, labels.grid.affine, grid, order=0
    ).astype(np.int16)
    own[~np.isin(own, list(labels.names))] = 0
    if dwi.mask is not None:
        own[~dwi.mask] = 0
    if not own.any():
        raise InputError(
            "no voxel of a region in the brain mask",
            path=dwi.image.get_filename(),
            expected="a whole brain",
        )
    return own


def _read(dwi: Dwi, labels: Labels) -> _Shell:
    own = labels_on(dwi, labels)
    inside = own > 0
    volumes = np.concatenate([np.flatnonzero(dwi.gtab.is_b0), _largest_shell(dwi.gtab)])
    table = dwi.gtab.select(volumes)
    signals = dwi.data[inside][:, volumes].astype(np.float64)
    signals /= np.median(signals[:, table.is_b0].mean(axis=1))
    return _Shell(signals, own[inside], table)


def rish_response(dwi: Dwi, labels: Labels) -> Vectors:
    """Return `response`: eigenvalues and S0 of the voxels of highest FA, shape (4,)."""
    shell = _read(dwi, labels)
    fa = TensorModel(dipy_table(shell.gtab)).fit(shell.signals).fa
    best = np.argsort(fa)[-N_RESPONSE_VOXELS:]
    response = estimate_response(shell.signals[best], shell.gtab)
    return {"response": np.array([*response.evals, response.s0])}


def rish_features(dwi: Dwi, response: NDArray[np.float64], labels: Labels) -> Vectors:
    """Return the mean of each order in each region, by column; see :func:`rish_response`."""
    shell = _read(dwi, labels)
    single = Response(response[:3], float(response[3]))
    with deconvolution(shell.gtab, single, order=MAX_ORDER) as model:
        powers = rish(model.fit(shell.signals).shm_coeff)
    return {
        f"rish{order}_{name}": np.array(
            power[shell.labels == label].mean() if (shell.labels == label).any() else np.nan
        )
        for order, power in powers.items()
        for label, name in labels.names.items()
    }


def scan_state(scan: Scan) -> str:
    """Return a digest of the file of a scan: its path, size and time."""
    path = Path(str(scan.dwi.image.get_filename()))
    return digest(str(path), path.stat().st_size, path.stat().st_mtime_ns)


def _entities(name: str) -> dict[str, str]:
    parts = dict(part.split("-", 1) for part in name.split("_"))
    return {SCAN_ENTITIES[key]: value for key, value in parts.items()}
