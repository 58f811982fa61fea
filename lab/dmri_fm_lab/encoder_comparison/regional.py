"""Regional measures as methods: FA and MD of the tensor, RISH, NODDI."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_design import determines_tensor
from dmri_fm_lab.encoder_comparison.method import Method, Sample
from dmri_fm_lab.encoder_comparison.noddi import MEASURES, fit_noddi, noddi_obstacle
from dmri_fm_lab.feature_cache import Vectors
from dmri_fm_lab.prediction.rish import (
    Labels,
    labels_on,
    rish_features,
    rish_obstacle,
)

_Array = NDArray[np.float64]


def regional_means(images: Mapping[str, _Array], dwi: Dwi, labels: Labels) -> _Array:
    """Return the means of images (X, Y, Z) in regions, image by image; NaN where one is empty."""
    own = labels_on(dwi, labels)
    index = list(labels.names)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        # A region without voxels has no mean.
        warnings.simplefilter("ignore", RuntimeWarning)
        means = [ndimage.mean(image, own, index) for image in images.values()]
    return np.concatenate(means)


def tensor_method() -> Method:
    """Return regional FA and MD, of the tensor that the app fits."""

    def compute(sample: Sample) -> Vectors:
        maps = fit_tensor(sample.dwi, mask=sample.dwi.mask, n_threads=1)
        images = {"fa": maps.fa.astype(np.float64), "md": 1e3 * maps.md.astype(np.float64)}
        return {"": regional_means(images, sample.dwi, sample.labels)}

    return Method("regional FA, MD", compute, ("tensor",), tensor_obstacle)


def tensor_obstacle(gtab: GradientTable) -> str | None:
    """Return why volumes determine no tensor; None if they do."""
    return None if determines_tensor(gtab) else "its directions determine no tensor"


def rish_method(response: _Array | None) -> Method:
    """Return RISH features of white matter by one response for all scans, shape (4,).

    See :mod:`dmri_fm_lab.prediction.rish`. None where some scan has an obstacle: the method does
    not apply then.
    """

    def compute(sample: Sample) -> Vectors:
        assert response is not None
        found = rish_features(sample.dwi, response, white_regions(sample.labels))
        return {"": np.array([float(v) for v in found.values()])}

    return Method("regional RISH", compute, ("rish", response), rish_obstacle)


def white_regions(labels: Labels) -> Labels:
    """Return the regions of white matter, whose names start with `wm_`."""
    names = {k: name for k, name in labels.names.items() if name.startswith("wm_")}
    return labels._replace(names=names)


def noddi_method() -> Method:
    """Return regional means of NODDI's maps, as AMICO fits them; see :mod:`.noddi`."""

    def compute(sample: Sample) -> Vectors:
        dwi = sample.dwi
        inside = labels_on(dwi, sample.labels) > 0
        found = fit_noddi(dwi.data[inside], dwi.gtab)
        images = {}
        for name, values in zip(MEASURES, found.T, strict=True):
            images[name] = np.zeros(inside.shape)
            images[name][inside] = values
        return {"": regional_means(images, dwi, sample.labels)}

    return Method("regional NODDI", compute, ("noddi",), noddi_obstacle)
