"""Latent features of a scan as a value object."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["FeatureKind", "ScanFeatures", "feature_columns"]

#: What describes a scan: its patch tokens, pooled, or the class token.
FeatureKind = Literal["pooled", "cls"]


def feature_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns of a table that hold features of the scan.

    Examples
    --------
    >>> feature_columns(["participant_id", "pooled000", "pooled001", "ood_score"])
    ['pooled000', 'pooled001']
    """
    numbered = re.compile(rf"(?:{'|'.join(get_args(FeatureKind))})\d+")
    return [column for column in columns if numbered.fullmatch(column)]


@dataclass(frozen=True, eq=False)
class ScanFeatures:
    """Features of a scan; N patches, C order of the grid's patches.

    Attributes
    ----------
    vector
        Shape (D,), float32: features of the scan.
    kind
        What `vector` is: "pooled", patch tokens pooled over the scan; "cls", the class token.
    model
        Label of the encoder in file names.
    tokens
        Shape (N, d), float32: features of the patches, mean over directions; zero where not
        valid.
    ijk
        Shape (N, 3), int: patch indices.
    xyz_mm
        Shape (N, 3): patch centres, RAS+ mm, MNI152NLin2009aSym.
    valid
        Shape (N,), bool: which patches the network saw.
    grid_shape, affine
        The patch grid: patches along each axis, and patch index to RAS+ mm, shape (4, 4).
    ood_score
        Largest of five signs of an unusual scan, see
        :mod:`dmri_fm.encoders.out_of_distribution`; of sound
        scans, 0 is their middle and 1 their upper fifth.
    ood_percentile
        Share of further draws of sound scans with a lower score, percent; 100 is beyond all.
    error
        Shape (N,), float32: error of hidden directions in each patch, S/S0, see
        :func:`~dmri_fm.encoders.drope.masked_directions.direction_errors`; NaN where not valid
        or unknown.
    n_directions
        Directions the network saw.
    max_bval
        Highest b-value among them, s/mm^2.
    weights_sha256
        Checksum of the weights.
    metadata
        Model, volumes, normalisation, seed.
    """

    vector: NDArray[np.float32]
    kind: FeatureKind
    model: str
    tokens: NDArray[np.float32]
    ijk: NDArray[np.int_]
    xyz_mm: NDArray[np.float64]
    valid: NDArray[np.bool_]
    grid_shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    ood_score: float
    ood_percentile: float
    n_directions: int
    max_bval: float
    weights_sha256: str
    error: NDArray[np.float32]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def direction_error(self) -> float:
        """Median of the patches' errors of hidden directions, S/S0; NaN if unknown."""
        known = self.error[np.isfinite(self.error)]
        return float(np.median(known)) if known.size else float("nan")

    def row(self) -> dict[str, Any]:
        """Return the scan's row of a features table: pooled000 ... and what describes it."""
        return {
            **{f"{self.kind}{i:03d}": float(value) for i, value in enumerate(self.vector)},
            "ood_score": self.ood_score,
            "ood_percentile": self.ood_percentile,
            "direction_error": self.direction_error,
            "n_directions": self.n_directions,
            "max_bval": self.max_bval,
            "weights_sha256": self.weights_sha256,
        }

    def save_patches(self, path: Path) -> Path:
        """Write what is known of each patch as npz; return the path."""
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

    def save(self, stem: str | Path) -> dict[str, Path]:
        """Write the scan's and the patches' features.

        `<stem>_model-<model>_desc-<kind>_features.tsv` and
        `<stem>_model-<model>_desc-patch_features.npz`.

        Returns
        -------
        dict
            Paths by "scan" and "patch"; a JSON file with the metadata stands beside each.
        """
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        start = f"{stem.name}_model-{self.model}"
        table = stem.with_name(f"{start}_desc-{self.kind}_features.tsv")
        with table.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
            row = self.row()
            writer.writerow(row)
            writer.writerow(f"{v:.7g}" if isinstance(v, float) else v for v in row.values())
        arrays = self.save_patches(stem.with_name(f"{start}_desc-patch_features.npz"))
        text = json.dumps(self.metadata, indent=2) + "\n"
        for path in (table, arrays):
            path.with_suffix(".json").write_text(text, encoding="utf-8")
        return {"scan": table, "patch": arrays}
