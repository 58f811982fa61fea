"""Gradient-echo field maps are named among what is not used."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("suffixes", "named"),
    [
        (("phasediff", "magnitude1"), ["phasediff"]),
        (("phase1", "phase2", "magnitude1"), ["phase1", "phase2"]),
        (("fieldmap", "magnitude"), ["fieldmap"]),
    ],
)
def test_gradient_echo_field_maps_are_named(maker, suffixes, named) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    for suffix in suffixes:
        maker.epi(f"sub-01_{suffix}", {})
    found = maker.reasons(maker.only_series())
    assert list(found) == [f"sub-01_{suffix}" for suffix in named]
    assert all("not built in yet (it does not say for which" in text for text in found.values())
