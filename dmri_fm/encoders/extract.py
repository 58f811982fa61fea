"""Features of a scan by any encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from dmri_fm.encoders.features import ScanFeatures
from dmri_fm.errors import ConfigError, ImageError
from dmri_fm.identity import about_model, identity
from dmri_fm.normalise.grid import Grid
from dmri_fm.registry import feature_grid, load_encoder
from dmri_fm.series import Dwi

#: Difference between two affines of the same grid, at most, mm.
GRID_TOLERANCE_MM = 1e-3


def extract_features(
    dwi_mni: Dwi,
    *,
    model: str = "drope",
    weights: str | Path | None = None,
    device: str = "cpu",
    n_directions: int | None = None,
    seed: int = 0,
    region: str | None = None,
    rotations: ArrayLike | None = None,
) -> ScanFeatures:
    """Compute features of a scan with an encoder.

    Parameters
    ----------
    dwi_mni
        The series on the encoder's grid in MNI152NLin2009aSym, see
        :func:`dmri_fm.feature_grid`, b-vectors in its RAS frame, scanner units (not yet divided
        by b=0), with a brain mask.
    model
        Name in the registry.
    weights
        A `.safetensors` file in place of the weights that ship with the package.
    device
        A torch device.
    n_directions
        Directions to use, chosen as the encoder does; all there are if the series has fewer; if
        None those of the encoder: 12 for D-RoPE; all for SSDiff and one shell for the
        artefact-removal U-Net, which have no other choice.
    seed
        Seed of the choice of directions.
    region
        Part of the grid to read: "whole", or "published" (slices 64 to 119 at 1 mm); if None that
        of the encoder, which is the published one for `drope-paper` and the whole for the others.
    rotations
        Shape (X, Y, Z, 3): rotation vectors, rad, RAS+, by which a warp turned directions beyond
        the gradient table; for encoders that read them (SSDiff).

    Raises
    ------
    ImageError
        If the series is on another grid, or no patch holds brain.
    GradientError
        If there is no b=0 volume, or no diffusion-weighted one.
    ConfigError, WeightsError
        If the model is unknown or no encoder, it knows no such region, number of directions or
        rotations, or its weights cannot be used.
    """
    if rotations is not None and not identity(model).extraction.reads_rotations:
        raise ConfigError(f"rotations for {model!r}", expected="an encoder that reads them")
    if n_directions is not None and n_directions < 1:
        raise ConfigError(f"{n_directions} directions", expected="one or more")
    _check_grid(dwi_mni, feature_grid(model), model)
    encoder = load_encoder(model, weights=weights, device=device)
    prepared = encoder.prepare(
        dwi_mni,
        n_directions=n_directions,
        seed=seed,
        region=region,
        rotations=None if rotations is None else np.asarray(rotations, dtype=np.float32),
    )
    features = encoder.encode(prepared)
    metadata = {
        "Model": about_model(encoder.name)
        | encoder.weights.describe()
        | ({"Status": "experimental"} if identity(encoder.name).is_experimental else {})
        | {"Features": list(features.vectors), "Precision": "float32"},
        "Preprocessing": encoder.weights.normalisation,
        "Space": "MNI152NLin2009aSym",
        "Device": device,
        "Seed": seed,
        **features.metadata,
    }
    return replace(features, metadata=metadata)


def _check_grid(dwi: Dwi, grid: Grid, model: str) -> None:
    if dwi.shape[:3] == grid.shape and np.allclose(
        dwi.affine, grid.affine, atol=GRID_TOLERANCE_MM
    ):
        return
    raise ImageError(
        f"a series of {dwi.shape[:3]} voxels of {np.round(dwi.voxel_size_mm, 3).tolist()} mm "
        f"with origin {np.round(dwi.affine[:3, 3], 2).tolist()}",
        expected=f"the grid of {model!r}: {tuple(grid.shape)} voxels, origin "
        f"{np.round(grid.affine[:3, 3], 2).tolist()}, MNI152NLin2009aSym",
        advice="resample it with dmri_fm.resample_series(dwi, dmri_fm.feature_grid(model))",
    )
