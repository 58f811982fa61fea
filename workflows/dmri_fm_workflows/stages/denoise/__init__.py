"""Denoising stage: noise and Gibbs ringing, run by run; one module per engine."""

from importlib import import_module
from typing import Any

#: Engines of `--denoise`, in the order in which `auto` prefers them; each is a module of this
#: package with a record `ENGINE`. Modules are imported when asked for, so `--help` stays quick.
NAMES = ("dwidenoise", "mppca", "patch2self", "none")


def load(name: str) -> Any:
    """Return the :class:`~dmri_fm_workflows.stages.denoise.engine.DenoiseEngine` of a name."""
    return import_module(f"{__name__}.{name}").ENGINE
