"""The address of the work that defines a map's parameter (`ParameterURL` of BEP016)."""

from __future__ import annotations

from dmri_fm_workflows.outputs.maps import Kind
from dmri_fm_workflows.outputs.references import load_references

__all__ = ["parameter_url"]


def parameter_url(kind: Kind) -> str | None:
    """Return the address of the work that defines a map's parameter, or None."""
    if kind.parameter is None:
        return None
    return f"https://doi.org/{load_references()[kind.parameter].doi}"
