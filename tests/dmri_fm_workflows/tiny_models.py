"""Narrow networks in place of those that ship without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dmri_fm.encoders.artefact_unet.network import ArtefactUnet
from dmri_fm.encoders.drope import authors_checkpoint
from dmri_fm.encoders.drope.config import PAPER
from dmri_fm.encoders.ssdiff.network import Ssdiff
from dmri_fm.tensor_networks.qcg_dti import QcgDti, QcgDtiConfig
from dmri_fm.weights import save_weights
from dmri_fm_lab.__main__ import main
from tests.dmri_fm.encoders.artefact_unet.narrow import NARROW as NARROW_UNET
from tests.dmri_fm.encoders.drope.authors_state import draw_state_dict
from tests.dmri_fm.encoders.ssdiff.narrow import NARROW

#: The published encoder, small and on a grid of 2 mm in place of 1 mm, to be quick.
COARSE = replace(PAPER, grid_shape=(96, 112, 96), voxel_size_mm=2.0, dim=24, depth=1, heads=2)


def write_tiny_weights(folder: Path) -> dict[str, Path]:
    """Write tiny weights of the networks that ship without; a converted checkpoint is one."""
    torch.manual_seed(0)
    names = ("qcg-dti-paper", "drope-paper", "ssdiff", "artefact-unet")
    paths = {name: folder / f"{name}.safetensors" for name in names}
    network, name = QcgDti(QcgDtiConfig(widths=(2, 4))), "qcg-dti-paper"
    save_weights(paths[name], network, name=name, version="0", training={})
    save_weights(paths["ssdiff"], Ssdiff(NARROW), name="ssdiff", version="0", training={})
    unet, name = ArtefactUnet(NARROW_UNET), "artefact-unet"
    save_weights(paths[name], unet, name=name, version="0", training={})
    torch.save(draw_state_dict(dim=24, depth=1, patch=PAPER.patch), folder / "theirs.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(authors_checkpoint, "PAPER", COARSE)
        files = [str(folder / "theirs.pth"), str(paths["drope-paper"])]
        assert main(["convert", *files, "--heads", str(COARSE.heads)]) == 0
    return paths
