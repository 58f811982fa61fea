"""Latent features of a scan as a value object."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dmri_fm.normalise.grid import Image3D
from dmri_fm.series import save_image

#: Features of a scan: its class token; or its patch tokens, pooled.
FeatureType = Literal["cls", "pooled"]


def feature_columns(columns: Iterable[str]) -> dict[FeatureType, list[str]]:
    """Return the columns of a table that hold features of the scan, by type.

    Examples
    --------
    >>> feature_columns(["participant_id", "cls000", "pooled000", "pooled001", "ood_score"])
    {'cls': ['cls000'], 'pooled': ['pooled000', 'pooled001']}
    """
    names = list(columns)
    found = {t: [c for c in names if re.fullmatch(rf"{t}\d+", c)] for t in get_args(FeatureType)}
    return {t: columns for t, columns in found.items() if columns}


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """Features of the N patches of a scan, C order of the patch grid.

    Attributes
    ----------
    tokens
        Shape (N, d), float32: features of the patches, mean over directions; zero where not
        valid.
    valid
        Shape (N,), bool: patches that the network saw.
    error
        Shape (N,), float32: error of measurements that are predicted from the others, S/S0; NaN
        where not valid or unknown. D-RoPE predicts them by a Gaussian process, without the
        network.
    grid_shape, affine
        The patch grid: patches along each axis, and patch index to RAS+ mm in
        MNI152NLin2009aSym, shape (4, 4).
    """

    tokens: NDArray[np.float32]
    valid: NDArray[np.bool_]
    error: NDArray[np.float32]
    grid_shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def ijk(self) -> NDArray[np.int_]:
        """Patch indices, shape (N, 3)."""
        return np.indices(self.grid_shape).reshape(3, -1).T

    @property
    def xyz_mm(self) -> NDArray[np.float64]:
        """Patch centres, shape (N, 3), RAS+ mm in MNI152NLin2009aSym."""
        centres: NDArray[np.float64] = self.ijk @ self.affine[:3, :3].T + self.affine[:3, 3]
        return centres

    @property
    def direction_error(self) -> float:
        """Median over patches of `error`, S/S0; NaN if unknown."""
        known = self.error[np.isfinite(self.error)]
        return float(np.median(known)) if known.size else float("nan")

    def save(self, path: Path) -> Path:
        """Write the arrays as npz; return the path."""
        np.savez_compressed(
            path,
            tokens=self.tokens,
            ijk=self.ijk,
            xyz_mm=self.xyz_mm,
            valid=self.valid,
            error=self.error,
            grid_shape=np.array(self.grid_shape),
            affine=self.affine,
        )
        return path


@dataclass(frozen=True, eq=False)
class ScanFeatures:
    """Features of a scan.

    Attributes
    ----------
    vectors
        Features of the scan by type, float32: "cls", the class token, shape (d,); "pooled", the
        other tokens pooled: shape (2 d,) where these are patches in several directions, their
        mean and their deviation between directions, which is NaN where there are too few
        directions to tell it from noise; shape (d,), their mean, where they are volumes. An
        encoder may give one of them.
    model
        Label of the encoder in file names.
    n_directions, max_bval
        Number of directions that the network saw, and their highest b-value, s/mm^2.
    weights_sha256
        Checksum of the weights.
    patches
        Features of the patches; None from encoders without patches.
    sensitivity
        Image in MNI152NLin2009aSym of how far features follow the signal of a place; None from
        encoders that do not compute it.
    ood_score, ood_percentile
        Out-of-distribution score of the scan and its percentile among held-out training scans,
        see :mod:`dmri_fm.out_of_distribution`; NaN without a reference.
    metadata
        Description of the run, for sidecars.
    """

    vectors: Mapping[FeatureType, NDArray[np.float32]]
    model: str
    n_directions: int
    max_bval: float
    weights_sha256: str
    patches: PatchFeatures | None = None
    sensitivity: Image3D | None = None
    ood_score: float = float("nan")
    ood_percentile: float = float("nan")
    metadata: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the row of a features table: `cls000` ..., `pooled000` ..., its description.

        Unknown numbers are NaN; tables have `n/a` for them.
        """
        return {
            **{
                f"{of}{i:03d}": float(value)
                for of, vector in self.vectors.items()
                for i, value in enumerate(vector)
            },
            "ood_score": self.ood_score,
            "ood_percentile": self.ood_percentile,
            **({"direction_error": self.patches.direction_error} if self.patches else {}),
            "n_directions": self.n_directions,
            "max_bval": self.max_bval,
            "weights_sha256": self.weights_sha256,
        }

    def save(self, stem: str | Path) -> dict[str, Path]:
        """Write the features.

        `<stem>_model-<model>_desc-scan_features.tsv`; and what the encoder gives of
        `<stem>_model-<model>_desc-patch_features.npz` and
        `<stem>_model-<model>_param-sensitivity_dwimap.nii.gz`.

        Returns
        -------
        dict
            Paths by "scan", "patch" and "sensitivity"; a JSON file with the metadata stands
            beside each.
        """
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        start = f"{stem.name}_model-{self.model}"
        table = stem.with_name(f"{start}_desc-scan_features.tsv")
        with table.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
            row = self.row()
            writer.writerow(row)
            writer.writerow(map(_format_cell, row.values()))
        paths = {"scan": table}
        if self.patches is not None:
            name = f"{start}_desc-patch_features.npz"
            paths["patch"] = self.patches.save(stem.with_name(name))
        if self.sensitivity is not None:
            name = f"{start}_param-sensitivity_dwimap.nii.gz"
            image = self.sensitivity
            paths["sensitivity"] = save_image(image.data, image.affine, stem.with_name(name))
        text = json.dumps(self.metadata, indent=2) + "\n"
        for path in paths.values():
            beside = path.with_name(path.name.partition(".")[0] + ".json")
            beside.write_text(text, encoding="utf-8")
        return paths


def _format_cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.9g}" if np.isfinite(value) else "n/a"
