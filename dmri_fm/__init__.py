"""Diffusion MRI as arrays and tensors: correction, normalisation, tensor fit, networks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmri_fm.encoders.extract import extract_features
    from dmri_fm.gradients import GradientTable
    from dmri_fm.normalise.series import resample_series
    from dmri_fm.registry import feature_grid
    from dmri_fm.series import Dwi
    from dmri_fm.tensor import fit_tensor
    from dmri_fm.tensor_networks.predict import predict_tensor

__version__ = "0.1.0"

__all__ = [
    "Dwi",
    "GradientTable",
    "__version__",
    "extract_features",
    "feature_grid",
    "fit_tensor",
    "predict_tensor",
    "resample_series",
]

_HOMES = {
    "Dwi": "dmri_fm.series",
    "GradientTable": "dmri_fm.gradients",
    "extract_features": "dmri_fm.encoders.extract",
    "feature_grid": "dmri_fm.registry",
    "fit_tensor": "dmri_fm.tensor",
    "predict_tensor": "dmri_fm.tensor_networks.predict",
    "resample_series": "dmri_fm.normalise.series",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    # The networks' libraries take seconds to import: load them when they are asked for.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
