"""Draw what the D-RoPE encoder looks at, and how it lays out a cohort.

Usage: python benchmarks/drope_figures.py OUT [--data BIDS] [--weights PATH] [--gallery 40]

Writes OUT/drope_attention.png: attention of the scan tokens to the places of a scan, the last
block's, mean over directions and heads; and OUT/drope_cohort.png: UMAP (McInnes et al. 2018,
https://doi.org/10.48550/arXiv.1802.03426; `pip install umap-learn`) of features of a gallery that
differs in microstructure only, by three protocols, and of the scans of BIDS, two sets of
directions each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.patches import unpatchify
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.qspace import choose_spread
from dmri_fm_lab.evaluate.galleries import (
    acquire_tissue,
    brain_geometry,
    draw_gallery,
)
from dmri_fm_lab.evaluate.representations import encode
from dmri_fm_lab.grid_scans import GridScan, dataset_scans
from dmri_fm_lab.simulate.protocol import draw_shells
from dmri_fm_lab.train.runs import load_encoder

mpl.use("Agg")

#: Slices of the attention picture, as shares of the brain's height.
LEVELS = np.linspace(0.2, 0.85, 6)

#: Protocols of the gallery, s/mm^2.
BVALS = (1000.0, 1000.0, 2000.0)


def attention(encoder: Drope, scan: GridScan) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return attention of each scan token to places, (C, X, Y, Z), and the mean image."""
    tokens = tokenise(scan.signal, scan.gtab, scan.mask, encoder.config)
    layer: Any = encoder.blocks[-1]
    kept: list[torch.Tensor] = []
    handle = layer.attn_space.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    # With gradients the encoder runs at once, block by block, as it is written.
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    with torch.enable_grad():
        encoder(tokens.patches[None], tokens.qspace[None], tokens.positions[None])
    handle.remove()
    rows = kept[0].detach()  # (T, C + S, dim)
    config = encoder.config
    q, k, _ = rearrange(
        layer.attn_space.qkv(rows).detach(), "t n (three h d) -> three t h n d", three=3,
        h=config.heads,
    )  # fmt: skip
    scores = q[:, :, : config.n_cls] @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    share = scores.softmax(dim=-1)[..., config.n_cls :].mean(dim=(0, 1))  # (C, S)
    full = torch.zeros(1, config.n_cls, int(np.prod(config.patch_grid)), 1)
    full[0, :, tokens.index, 0] = share / share.mean()
    n_voxels = int(np.prod(config.patch))
    volume = unpatchify(full.expand(-1, -1, -1, n_voxels), config.patch, config.patch_grid)[0]
    return volume.numpy() * scan.mask, scan.signal.mean(axis=3)


def draw_attention(encoder: Drope, scan: GridScan, out: Path) -> None:
    import matplotlib.pyplot as plt

    maps, mean = attention(encoder, scan)
    levels = np.flatnonzero(scan.mask.any(axis=(0, 1)))
    slices = [int(levels[round(share * (len(levels) - 1))]) for share in LEVELS]
    figure, axes = plt.subplots(
        len(maps), len(slices), figsize=(2.1 * len(slices), 2.4 * len(maps)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    top = float(np.percentile(maps[:, scan.mask], 99))
    for number, row in enumerate(axes):
        for axis, z in zip(row, slices, strict=True):
            axis.imshow(mean[:, :, z].T, origin="lower", cmap="gray", vmin=0, vmax=0.8)
            shown = np.ma.masked_where(~scan.mask[:, :, z], maps[number, :, :, z]).T
            picture = axis.imshow(
                shown, origin="lower", cmap="inferno", vmin=0, vmax=top, alpha=0.55
            )
            axis.set_axis_off()
        row[0].set_title(f"scan token {number + 1}", loc="left", fontsize=9)
    figure.colorbar(picture, ax=axes, label="attention over its mean", shrink=0.6)
    figure.suptitle(f"{scan.name}: left of the image is left of the head", fontsize=10)
    figure.savefig(out, dpi=120)
    print(out)


def draw_cohort(encoder: Drope, scans: list[GridScan], n: int, out: Path) -> None:
    import matplotlib.pyplot as plt
    from umap import UMAP

    rng = np.random.default_rng(4)
    geometry = brain_geometry(encoder.config.grid)
    tissues = draw_gallery(rng, n)
    rows, protocol, factor = [], [], []
    for number, gtab in enumerate(draw_shells(rng, n_directions=12, bvals=BVALS)):
        for tissue in tissues:
            scan = acquire_tissue(geometry, tissue, gtab, snr=25.0, rng=rng)
            rows.append(encode(encoder, scan))
            protocol.append(number)
            factor.append(1e3 * tissue.grey)
    names = []
    for scan in scans:
        left = np.arange(len(scan.gtab))
        for _ in range(2):
            chosen = left[choose_spread(scan.gtab.select(left), min(12, len(left)), seed=0)]
            left = np.setdiff1d(left, chosen)
            rows.append(encode(encoder, scan.select(chosen)))
            names.append(scan.name)
            if len(left) < 6:
                break
    found = UMAP(n_neighbors=12, random_state=0).fit_transform(np.stack(rows))
    gallery, real = found[: len(protocol)], found[len(protocol) :]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for number, (bval, marker) in enumerate(zip(BVALS, "osD", strict=True)):
        which = np.array(protocol) == number
        picture = axes[0].scatter(
            *gallery[which].T, c=np.array(factor)[which], marker=marker, s=22, cmap="viridis",
            label=f"protocol {'ABC'[number]}, b {bval:.0f}",
        )  # fmt: skip
    figure.colorbar(picture, ax=axes[0], label="diffusivity of grey matter, um^2/ms")
    axes[0].set_title("gallery: microstructure alone differs", loc="left", fontsize=10)
    axes[0].legend(fontsize=8)
    axes[1].scatter(*gallery.T, c="#cccccc", s=12, label="gallery")
    for name in dict.fromkeys(names):
        axes[1].scatter(*real[np.array(names) == name].T, s=30, label=name)
    axes[1].set_title("the same, with real scans", loc="left", fontsize=10)
    axes[1].legend(fontsize=7)
    figure.savefig(out, dpi=120)
    print(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="a dataset")
    parser.add_argument("--weights", type=Path, help="in place of the shipped")
    parser.add_argument("--gallery", type=int, default=40, help="members")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    encoder, _ = load_encoder("drope", weights=options.weights)
    grid = encoder.config.grid
    scans = list(dataset_scans(options.data, grid)) if options.data else []
    draw_cohort(encoder, scans, options.gallery, options.out / "drope_cohort.png")
    if scans:
        draw_attention(encoder, scans[-1], options.out / "drope_attention.png")


if __name__ == "__main__":
    main()
