"""Truth of simulated datasets: maps, tissue fractions and distortion field.

Read from `derivatives/truth`, as `dmri-fm simulate` writes it, or under the shorter names of the
test dataset `ds-sim`, which has the scalars of the tensor and not the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.errors import InputError
from dmri_fm.normalise.grid import (
    Grid,
    PointMap,
    linear_part,
    read_at,
    resample_image,
    spline_of,
)
from dmri_fm.normalise.noise import spline_noise_gain
from dmri_fm.series import Dwi, load_image, read_array
from dmri_fm.tensor_maps import SCALARS, TensorMaps
from dmri_fm.tensor_networks.inputs import turn_tensors
from dmri_fm.tensor_networks.noise_map import noise_map
from dmri_fm_lab.evaluate.reference import Reference
from dmri_fm_lab.evaluate.regions import true_regions
from dmri_fm_lab.simulate.anatomy import Fractions

#: Endings of the files' names, of either kind of dataset.
_ENDINGS: dict[str, tuple[str, ...]] = {
    "diffusivity": ("model-tensor_param-diffusivity_desc-truth_dwimap",),
    **{
        name: (f"desc-truth_{name}", f"model-tensor_param-{name}_desc-truth_dwimap")
        for name in SCALARS
    },
    "field": ("desc-truth_fieldmap_hz", "desc-truth_fieldmap"),
    "wm": ("desc-truth_wm", "label-WM_desc-truth_probseg"),
    "gm": ("desc-truth_gm", "label-GM_desc-truth_probseg"),
    "csf": ("desc-truth_csf", "label-CSF_desc-truth_probseg"),
    "lesion": ("label-lesion_desc-truth_probseg",),
    "mask": ("desc-truth_mask",),
}

#: Files that a dataset may lack.
_OPTIONAL = ("diffusivity", "lesion")

_MOTION = "from-dwiref_to-orig_mode-image_desc-truth_xfm.tsv"

#: Share of brain in a voxel, after interpolation, from which on its truth is compared.
_WHOLE = 0.99

#: Voxels around the brain that undistorted series have.
_MARGIN_VOXELS = 3


@dataclass(frozen=True, eq=False)
class Truth:
    """Truth of a participant on one grid.

    Attributes
    ----------
    maps
        Tensor and scalars, within the brain; the scalars alone where `has_tensor` is false.
    fractions
        Tissue fractions.
    field
        Distortion field of the head at rest.
    has_tensor
        Whether the tensor itself is known.
    is_moving
        Whether the head moves during the scan.
    """

    maps: TensorMaps
    fractions: Fractions
    field: DistortionField
    has_tensor: bool
    is_moving: bool

    def reference(self) -> Reference:
        """Return the truth as a reference without noise."""
        return Reference(
            self.maps,
            true_regions(self.fractions),
            noise=None,
            halves=None,
            is_truth=True,
            has_tensor=self.has_tensor,
        )

    def resample(self, grid: Grid, *, target2truth: PointMap) -> Truth:
        """Bring the truth to another grid; tensors turn with the head.

        Tensors and scalars are read by cubic splines, as series are; fractions linearly.

        Parameters
        ----------
        grid
            Target grid.
        target2truth
            Takes points of the target to points of the truth's frame, RAS+ mm; close to rigid.
        """

        def bring(image: NDArray[Any], order: int = 1) -> NDArray[np.float32]:
            return resample_image(
                image.astype(np.float32),
                self.maps.affine,
                grid,
                target2source=target2truth,
                order=order,
            )

        parts = self.fractions
        named = (parts.wm, parts.gm, parts.csf, parts.lesion, parts.scalp)
        fractions = Fractions.of(*(bring(part) for part in named))
        mask = bring(self.maps.mask) > _WHOLE
        if self.has_tensor:
            tensor = np.moveaxis(bring(self.maps.diffusivity, order=3), 3, 0)
            u, _, vt = np.linalg.svd(np.linalg.inv(linear_part(target2truth)[:3, :3]))
            turned = turn_tensors(torch.from_numpy(tensor.copy()), u @ vt).numpy()
            maps = TensorMaps.from_tensor(
                np.moveaxis(turned, 0, 3), mask, affine=grid.affine, model="tensor"
            )
        else:
            scalars = {name: bring(map_, order=3) for name, map_ in self.maps.scalars.items()}
            maps = _scalar_maps(scalars, mask, grid.affine)
        field = DistortionField(bring(self.field.hz), grid.affine)
        return Truth(maps, fractions, field, self.has_tensor, self.is_moving)


def read_truth(root: str | Path, participant: str) -> Truth | None:
    """Read the truth of a participant of a raw dataset; None where it has no truth.

    Parameters
    ----------
    root
        The raw dataset.
    participant
        Label, without `sub-`.

    Raises
    ------
    InputError
        If some of the files are missing or damaged.
    """
    folder = Path(root) / "derivatives" / "truth" / f"sub-{participant}" / "dwi"
    if not folder.is_dir():
        return None
    images: dict[str, NDArray[np.float32]] = {}
    affine = np.eye(4)
    for name, endings in _ENDINGS.items():
        paths = [folder / f"sub-{participant}_{ending}.nii.gz" for ending in endings]
        path = next((p for p in paths if p.is_file()), None)
        if path is None and name in _OPTIONAL:
            continue
        if path is None:
            raise InputError(
                f"no truth of {name}", path=folder, expected=" or ".join(p.name for p in paths)
            )
        image = load_image(path)
        images[name], affine = read_array(image, path=path), np.asarray(image.affine)
    mask = images["mask"] > 0
    has_tensor = "diffusivity" in images
    nothing = np.zeros(mask.shape, dtype=np.float32)
    maps = (
        TensorMaps.from_tensor(images["diffusivity"], mask, affine=affine, model="tensor")
        if has_tensor
        else _scalar_maps({name: images[name] for name in SCALARS}, mask, affine)
    )
    lesion = images.get("lesion", nothing)
    fractions = Fractions.of(images["wm"], images["gm"], images["csf"], lesion, nothing)
    return Truth(
        maps,
        fractions,
        DistortionField(images["field"], affine),
        has_tensor,
        is_moving=(folder / f"sub-{participant}_{_MOTION}").is_file(),
    )


def _scalar_maps(
    scalars: dict[str, NDArray[np.float32]], mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> TensorMaps:
    """Return maps whose scalars alone are known: tensor and axis are zero."""
    return TensorMaps(
        diffusivity=np.zeros((*mask.shape, 6), dtype=np.float32),
        scalars={name: image * mask for name, image in scalars.items()},
        v1=np.zeros((*mask.shape, 3), dtype=np.float32),
        mask=mask,
        affine=affine,
        model="tensor",
    )


def undistort(dwi: Dwi, truth: Truth, encoding: PhaseEncoding) -> Dwi:
    """Undo the distortion of a series at rest by the true field, on the truth's grid.

    Parameters
    ----------
    dwi
        As acquired.
    truth
        Field and brain mask.
    encoding
        Of all volumes.

    Returns
    -------
    Dwi
        Cubic splines; zero farther than :data:`_MARGIN_VOXELS` from the brain.
    """
    where, voxels, factor = _sampling(truth, encoding, dwi.affine)
    data = np.zeros((*where.shape, dwi.shape[3]), dtype=np.float32)
    for n in range(dwi.shape[3]):
        values = read_at(spline_of(dwi.data[..., n], 3), voxels, 3, outside=0.0)
        data[where, n] = np.maximum(values * factor, 0.0)
    return Dwi.from_arrays(data, truth.maps.affine, dwi.gtab, mask=truth.maps.mask)


def undistorted_noise(dwi: Dwi, truth: Truth, encoding: PhaseEncoding) -> NDArray[np.float32]:
    """Return the noise of one volume after :func:`undistort`, estimated as the app does.

    Parameters are those of :func:`undistort`, `dwi` the whole series. The result has the shape
    (X, Y, Z) of the truth and scanner units.
    """
    where, voxels, factor = _sampling(truth, encoding, dwi.affine)
    sigma = np.zeros(where.shape, dtype=np.float32)
    read = read_at(noise_map(dwi).sigma, voxels, 1, outside=0.0)
    sigma[where] = read * spline_noise_gain(voxels, 3) * factor
    return sigma


def _sampling(
    truth: Truth, encoding: PhaseEncoding, affine: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float32]]:
    """Return the voxels in and around the brain, where they were seen, and their stretching."""
    field = truth.field
    where = binary_dilation(truth.maps.mask, iterations=_MARGIN_VOXELS)
    shift = field.displacement_mm(encoding, affine)[where]
    points = apply_affine(field.affine, np.argwhere(where)) + shift
    voxels = np.asarray(apply_affine(np.linalg.inv(affine), points))
    return where, voxels, field.jacobian(encoding, affine)[where]
