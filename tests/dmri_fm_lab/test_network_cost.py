"""Multiply-adds of a scan: those that the command prints are those that are counted."""

from __future__ import annotations

import pytest

from dmri_fm.encoders.drope.config import SMALL
from dmri_fm.registry import MODELS
from dmri_fm_lab.network_cost import SCAN_GMACS, scan_gmacs


def test_every_network_has_its_number() -> None:
    assert SCAN_GMACS.keys() == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_that_are_counted(name: str) -> None:
    # Four digits are printed.
    assert scan_gmacs(name) == pytest.approx(SCAN_GMACS[name], rel=1e-3)


def test_the_count_of_an_encoder_is_that_of_its_matrices() -> None:
    """D-RoPE: both attentions and both MLPs of a block, and the map of patches to tokens."""
    dim, directions, patches, voxels = SMALL.dim, 12, 1310, 8 * 8 * 4
    tokens = directions * patches
    maps = (4 + 2 * SMALL.mlp_ratio) * 2 * dim**2 * tokens
    across = 2 * dim * tokens * directions + 2 * dim * directions * (patches + 1) ** 2
    expected = SMALL.depth * (maps + across) + voxels * dim * tokens
    # The class token's row and codes of position are not in the formula.
    assert SCAN_GMACS["drope"] == pytest.approx(expected / 1e9, rel=2e-3)
