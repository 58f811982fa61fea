"""Stage of the susceptibility correction (SDC): one module per method.

A method is a module with a record `ENGINE`, and a name in `NAMES`; everything else derives from
these: the choices of `--sdc`, what `auto` takes, the plan, the sidecar and the methods text.
"""

from importlib import import_module
from typing import Any

#: Methods of `--sdc`, in the order in which `auto` prefers them. Modules are imported when asked
#: for, so `--help` stays quick.
NAMES = ("topup", "pepolar", "none")


def load(name: str) -> Any:
    """Return the :class:`~dmri_fm_workflows.stages.sdc.engine.SdcEngine` of a name."""
    return import_module(f"{__name__}.{name}").ENGINE
