"""Maps of diffusion tensors, the result of the tensor fit and of tensor networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm.identity import about_model
from dmri_fm.model_metadata import (
    join_models,
    metadata_of_map,
    nest_model,
    orientation_encoding,
)
from dmri_fm.series import save_image

#: Nine in ten of a normal variable lie within this many standard deviations.
NORMAL_90 = 1.6449

#: Order of the tensor's elements along the last axis.
TENSOR_ELEMENTS = ("D11", "D12", "D13", "D22", "D23", "D33")

#: Layout of tensors and axes in the volumes of 4-D maps, in the fields of BEP016.
_LAYOUTS: dict[str, dict[str, Any]] = {
    "diffusivity": {
        "OrientationEncoding": orientation_encoding(),
        "TensorElements": list(TENSOR_ELEMENTS),
    },
    "v1": {
        "OrientationEncoding": {
            "Type": "unit3vector",
            "Reference": "xyz",
            "EncodingAxis": 3,
            "AntipodalSymmetry": True,
        }
    },
}

#: Sweeps of the Jacobi rotation; a 3x3 matrix needs four or five.
_SWEEPS = 12


@njit(nogil=True, cache=True)
def _decompose(tensors, values, first):  # type: ignore
    """Fill (M, 3) eigenvalues, descending, and (M, 3) first eigenvectors of (M, 6) tensors."""
    a = np.empty((3, 3))
    v = np.empty((3, 3))
    for m in range(tensors.shape[0]):
        a[0, 0], a[0, 1], a[0, 2] = tensors[m, 0], tensors[m, 1], tensors[m, 2]
        a[1, 1], a[1, 2], a[2, 2] = tensors[m, 3], tensors[m, 4], tensors[m, 5]
        for i in range(3):
            for j in range(3):
                v[i, j] = 1.0 if i == j else 0.0
        size = a[0, 0] ** 2 + a[1, 1] ** 2 + a[2, 2] ** 2
        for _ in range(_SWEEPS):
            off = a[0, 1] ** 2 + a[0, 2] ** 2 + a[1, 2] ** 2
            if off <= 1e-30 * (size + off):
                break
            for p in range(2):
                for q in range(p + 1, 3):
                    if a[p, q] == 0.0:
                        continue
                    theta = (a[q, q] - a[p, p]) / (2.0 * a[p, q])
                    t = 1.0 / (abs(theta) + np.sqrt(theta * theta + 1.0))
                    if theta < 0:
                        t = -t
                    c = 1.0 / np.sqrt(t * t + 1.0)
                    s = t * c
                    apq = a[p, q]
                    a[p, p] -= t * apq
                    a[q, q] += t * apq
                    a[p, q] = 0.0
                    r = 3 - p - q
                    arp = a[min(r, p), max(r, p)]
                    arq = a[min(r, q), max(r, q)]
                    a[min(r, p), max(r, p)] = c * arp - s * arq
                    a[min(r, q), max(r, q)] = s * arp + c * arq
                    for i in range(3):
                        vip, viq = v[i, p], v[i, q]
                        v[i, p] = c * vip - s * viq
                        v[i, q] = s * vip + c * viq
        high = 0
        low = 0
        for i in range(1, 3):
            if a[i, i] > a[high, high]:
                high = i
            if a[i, i] <= a[low, low]:
                low = i
        if high == low:
            high, low = 0, 2
        values[m, 0] = a[high, high]
        values[m, 1] = a[3 - high - low, 3 - high - low]
        values[m, 2] = a[low, low]
        largest = 0
        for i in range(1, 3):
            if abs(v[i, high]) > abs(v[largest, high]):
                largest = i
        sign = 1.0 if v[largest, high] > 0 else -1.0
        for i in range(3):
            first[m, i] = sign * v[i, high]


def decompose_tensors(tensors: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return eigenvalues and main axes of tensors, in float64.

    Parameters
    ----------
    tensors
        Shape (..., 6), order xx, xy, xz, yy, yz, zz.

    Returns
    -------
    values
        Shape (..., 3), descending.
    first
        Shape (..., 3): unit eigenvector of the largest eigenvalue; an axis has no sign, so
        its largest component is made positive.

    Examples
    --------
    >>> values, first = decompose_tensors([1.0, 0, 0, 3.0, 0, 2.0])
    >>> values.tolist(), first.tolist()
    ([3.0, 2.0, 1.0], [0.0, 1.0, 0.0])
    """
    array = np.asarray(tensors, dtype=np.float64)
    flat = np.ascontiguousarray(array.reshape(-1, 6))
    values = np.empty((len(flat), 3))
    first = np.empty((len(flat), 3))
    _decompose(flat, values, first)
    shape = (*array.shape[:-1], 3)
    return values.reshape(shape), first.reshape(shape)


def fractional_anisotropy(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fractional anisotropy, (M,), of eigenvalues (M, 3), not negative."""
    squared = (values**2).sum(axis=1)
    spread = ((values - values[:, [1, 2, 0]]) ** 2).sum(axis=1)
    fa: NDArray[np.float64] = np.sqrt(0.5 * spread / np.where(squared > 0, squared, 1.0))
    return fa.clip(0.0, 1.0)


class Scalar(NamedTuple):
    """A scalar of the tensor: its units, and its function (M,) of eigenvalues.

    Eigenvalues are (M, 3), mm^2/s, descending, not negative.
    """

    units: str
    compute: Callable[[NDArray[np.float64]], NDArray[np.float64]]


#: Scalars of the tensor, by their `param` label. A line here is a map of :class:`TensorMaps`.
SCALARS: Mapping[str, Scalar] = MappingProxyType(
    {
        "fa": Scalar("unitless", fractional_anisotropy),
        "md": Scalar("mm^2/s", lambda values: values.mean(axis=1)),
        "ad": Scalar("mm^2/s", lambda values: values[:, 0]),
        "rd": Scalar("mm^2/s", lambda values: values[:, 1:].mean(axis=1)),
    }
)

#: Units of all maps, by their `param` label.
_UNITS = {
    "diffusivity": "mm^2/s",
    "v1": "unitless",
    "s0": "arbitrary",
    "ood": "percent",
    **{name: scalar.units for name, scalar in SCALARS.items()},
}


@dataclass(frozen=True, eq=False)
class TensorMaps:
    """A tensor per voxel, and the scalars that follow from it.

    Build one with :meth:`from_tensor`.

    Attributes
    ----------
    diffusivity
        Shape (X, Y, Z, 6), float32, mm^2/s, RAS+, order D11, D12, D13, D22, D23, D33, as
        estimated: eigenvalues may be negative. Zero outside the mask, as every map.
    scalars
        Map of each of :data:`SCALARS`, by its name: shape (X, Y, Z), float32, no NaN.
    v1
        Shape (X, Y, Z, 3), float32: unit eigenvector of the largest eigenvalue, RAS+.
    mask
        Shape (X, Y, Z), bool.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    model
        Label of the model in file names: `"tensor"`, `"tensorrefiner"`.
    s0
        Shape (X, Y, Z), float32, scanner units: signal without weighting; None if unknown.
    std
        Standard deviation of a map, by the map's name; None if not estimated.
    ood_percentile
        Shape (X, Y, Z), float32: out-of-distribution percentile of a voxel's surroundings, see
        :mod:`dmri_fm.out_of_distribution`; None if not estimated.
    metadata
        Description of the fit or of the prediction.
    """

    diffusivity: NDArray[np.float32]
    scalars: Mapping[str, NDArray[np.float32]]
    v1: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    model: str
    s0: NDArray[np.float32] | None = None
    std: dict[str, NDArray[np.float32]] | None = None
    ood_percentile: NDArray[np.float32] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        grid = self.mask.shape
        maps = {**self._images(), **(self.std or {})}
        if self.ood_percentile is not None:
            maps["ood"] = self.ood_percentile
        wrong = [f"{name} {array.shape}" for name, array in maps.items() if array.shape != grid]
        if len(grid) != 3 or wrong or self.diffusivity.shape != (*grid, 6):
            raise ImageError(
                f"tensor maps of unlike shapes: mask {grid}, diffusivity "
                f"{self.diffusivity.shape}, {', '.join(wrong) or 'others fit'}",
                expected="one grid, six tensor elements",
            )

    @classmethod
    def from_tensor(
        cls,
        diffusivity: ArrayLike,
        mask: ArrayLike,
        *,
        affine: ArrayLike,
        model: str,
        s0: ArrayLike | None = None,
        metadata: Mapping[str, Any] | None = None,
        min_diffusivity: float = 0.0,
    ) -> TensorMaps:
        """Compute the scalar maps of a tensor image.

        Parameters
        ----------
        diffusivity
            Shape (X, Y, Z, 6), mm^2/s, RAS+; elements that are not finite count as zero.
        mask
            Shape (X, Y, Z).
        affine
            Shape (4, 4), voxel to RAS+ mm.
        model
            Label of the model in file names: `"tensor"`, `"tensorrefiner"`.
        s0, metadata
            See the class.
        min_diffusivity
            Eigenvalues below this are raised to it before the scalars are computed, mm^2/s.

        Raises
        ------
        ImageError
            If the shapes do not fit.
        """
        inside = np.array(mask, dtype=bool)
        tensor = np.asarray(diffusivity)
        if tensor.shape != (*inside.shape, 6):
            raise ImageError(
                f"tensor image of shape {tensor.shape} for a mask of shape {inside.shape}",
                expected="(X, Y, Z, 6) and (X, Y, Z)",
            )
        chosen = np.nan_to_num(tensor[inside].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        values, first = decompose_tensors(chosen)
        values = np.maximum(values, min_diffusivity)

        def lay_out(numbers: NDArray[Any]) -> NDArray[np.float32]:
            out = np.zeros((*inside.shape, *numbers.shape[1:]), dtype=np.float32)
            out[inside] = numbers
            return out

        return cls(
            diffusivity=lay_out(chosen),
            scalars={name: lay_out(s.compute(values)) for name, s in SCALARS.items()},
            v1=lay_out(np.where(values[:, :1] > 0, first, 0.0)),
            mask=inside,
            affine=np.array(affine, dtype=np.float64),
            model=model,
            s0=None if s0 is None else lay_out(np.nan_to_num(np.asarray(s0)[inside])),
            metadata=dict(metadata or {}),
        )

    def with_uncertainty(
        self, *, std: Mapping[str, ArrayLike] | None, ood_percentile: ArrayLike | None
    ) -> TensorMaps:
        """Return the maps with standard deviations, the OOD map, or both; zero outside the mask.

        Raises
        ------
        ImageError
            If the shapes do not fit.
        """

        def within(image: ArrayLike) -> NDArray[np.float32]:
            array = np.asarray(image, dtype=np.float32)
            # The constructor refuses another grid.
            return array * self.mask if array.shape == self.mask.shape else array

        return replace(
            self,
            std=None if std is None else {name: within(image) for name, image in std.items()},
            ood_percentile=None if ood_percentile is None else within(ood_percentile),
        )

    @property
    def fa(self) -> NDArray[np.float32]:
        """Fractional anisotropy, 0 to 1."""
        return self.scalars["fa"]

    @property
    def md(self) -> NDArray[np.float32]:
        """Mean diffusivity, mm^2/s."""
        return self.scalars["md"]

    @property
    def ad(self) -> NDArray[np.float32]:
        """Axial diffusivity, mm^2/s."""
        return self.scalars["ad"]

    @property
    def rd(self) -> NDArray[np.float32]:
        """Radial diffusivity, mm^2/s."""
        return self.scalars["rd"]

    def _images(self) -> dict[str, NDArray[np.float32]]:
        """Return the maps of one number per voxel, without uncertainties."""
        return {**({} if self.s0 is None else {"s0": self.s0}), **self.scalars}

    def save(self, stem: str | Path) -> dict[str, Path]:
        """Write every map as `<stem>_model-<model>_param-<map>_dwimap.nii.gz`.

        Parameters
        ----------
        stem
            Folder and leading entities, e.g. `out/sub-01_space-ACPC`.

        Returns
        -------
        dict
            Path of each image by its `param` label; uncertainties as `<map>_std`. Each has a
            JSON file beside it with its units and the model; that of the tensor and of the
            eigenvector says how its volumes hold them, in the fields of BEP016.
        """
        stem = Path(stem)

        def path(label: str, desc: str = "") -> Path:
            return stem.with_name(
                f"{stem.name}_model-{self.model}_param-{label}{desc}_dwimap.nii.gz"
            )

        arrays = {"diffusivity": self.diffusivity, "v1": self.v1, **self._images()}
        paths = {
            label: save_image(array, self.affine, path(label)) for label, array in arrays.items()
        }
        for label, array in (self.std or {}).items():
            paths[f"{label}_std"] = save_image(array, self.affine, path(label, "_desc-std"))
        if self.ood_percentile is not None:
            paths["ood"] = save_image(self.ood_percentile, self.affine, path("ood"))
        for label, image in paths.items():
            param = label.removesuffix("_std")
            own = nest_model(metadata_of_map(self.metadata, param))["Model"]
            sidecar = {
                "Units": _UNITS[param],
                "SkullStripped": True,
                **_LAYOUTS.get(param, {}),
                "Model": join_models(about_model(self.model), own),
            }
            image.with_name(image.name.removesuffix(".nii.gz") + ".json").write_text(
                json.dumps(sidecar, indent=2, default=float) + "\n", encoding="utf-8"
            )
        return paths
