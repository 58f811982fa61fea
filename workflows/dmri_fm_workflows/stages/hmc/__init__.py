"""Stage of the head motion correction (HMC), with eddy currents: one module per method."""

from importlib import import_module
from typing import Any

#: Methods of `--hmc`, in the order in which `auto` prefers them; each is a module of this package
#: with a record `ENGINE`. Modules are imported when asked for, so `--help` stays quick.
NAMES = ("eddy", "builtin", "none")


def load(name: str) -> Any:
    """Return the :class:`~dmri_fm_workflows.stages.hmc.engine.HmcEngine` of a name."""
    return import_module(f"{__name__}.{name}").ENGINE
