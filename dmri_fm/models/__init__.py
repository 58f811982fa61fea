"""Networks, the tensor fit, and what runs them.

Names are imported at first use: the tensor fit must not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmri_fm.models.maps import TensorMaps
    from dmri_fm.models.predict import extract_features, predict_tensor
    from dmri_fm.models.scan_features import ScanFeatures
    from dmri_fm.models.tensor import fit_tensor
    from dmri_fm.models.tokens import feature_grid
    from dmri_fm.models.weights import Weights, load_weights, save_weights

__all__ = [
    "ScanFeatures",
    "TensorMaps",
    "Weights",
    "extract_features",
    "feature_grid",
    "fit_tensor",
    "load_weights",
    "predict_tensor",
    "save_weights",
]

_MODULES = {
    "ScanFeatures": "scan_features",
    "TensorMaps": "maps",
    "Weights": "weights",
    "extract_features": "predict",
    "feature_grid": "tokens",
    "fit_tensor": "tensor",
    "load_weights": "weights",
    "predict_tensor": "predict",
    "save_weights": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
