"""Time the D-RoPE encoder against a plain PyTorch implementation of the published operator.

Usage: python benchmarks/drope_speed.py [--quick] [--blocks 1] [--directions 12] [--plot]

The published configuration on 192 x 224 x 56 voxels and 12 directions, float32, same weights and
input for both, in one run: CPU-seconds of both, their ratio, the relative error, and the memory
each needs above weights and input. A full encoder is 24 TFLOP, so `--blocks` says how many of its
ten blocks run; with fewer, what ten cost when only the scan token is wanted is worked out from
blocks measured with and without that (and said to be). The D-RoPE core alone is compared with
plain attention over the same queries, keys and values.

Run it with OMP_NUM_THREADS=1 where other work shares the processors: threads that wait for one
another spin, and spinning counts as processor time.

`--quick` takes a slab of 4 slices; ratios are smaller there, for attention over places is.
`--plot` measures how time grows with places and directions, for docs/img/drope_speed.png.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dmri_fm.encoders.drope.block import DropeBlock
from dmri_fm.encoders.drope.config import PAPER, DropeConfig
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.rotary import pair_tables
from dmri_fm.encoders.drope.rotary_kernel import attend_directions

GRID = (192, 224, 56)
FIGURE = Path(__file__).parents[1] / "docs" / "img" / "drope_speed.png"

#: Blocks of the published encoder.
DEPTH = 10

#: The project's claims: gain for all tokens, for the scan token; core over plain attention.
ALL_TOKENS, CLS_ONLY, CORE = 2.5, 3.0, 1.3

#: Largest relative error, and memory in GB above weights and input.
ERROR, MEMORY_GB = 1e-5, 1.5


class NaiveEncoder:
    """The baseline: every rotated key is made, for all pairs of directions and all places.

    It is kinder than the authors' code, which works out cosines and sines for every place: here it
    is done once a scan. Attention over places is PyTorch's own.
    """

    def __init__(self, model: Drope) -> None:
        self.model = model

    def __call__(self, patches: Tensor, qspace: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        model, config = self.model, self.model.config
        x = model.patch_mlp(patches) + model.position(qspace, positions)
        cos, sin = pair_tables(
            qspace[0], config.dim // config.heads, gamma=config.gamma, base=config.base
        )
        cls = model.cls_token
        for block in model.blocks:
            cls, x = self.run_block(block, cls, x, cos, sin)
        return model.ln(cls), model.ln(x)

    def run_block(
        self, block: DropeBlock, cls: Tensor, x: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        n_directions, heads = x.shape[1], block.attn_space.heads
        rows = rearrange(x, "b t s d -> (b s) t d")
        qkv = block.attn_diffusion.qkv(block.norm1_diffusion(rows))
        q, k, v = rearrange(qkv, "s t (three h d) -> three s h t d", three=3, h=heads)
        first, second = k[..., 0::2], k[..., 1::2]
        swapped = torch.stack([-second, first], dim=-1).flatten(-2)
        turned = cos * k[:, :, None] + sin * swapped[:, :, None]
        score = torch.einsum("shmd,shmnd->shmn", q, turned) * q.shape[-1] ** -0.5
        del turned
        mixed = rearrange(score.softmax(dim=-1) @ v, "s h t d -> s t (h d)")
        rows = rows + block.attn_diffusion.out_proj(mixed)
        rows = rows + block.mlp_diffusion(block.norm2_diffusion(rows))
        x = rearrange(rows, "s t d -> t s d")
        every = torch.cat([cls.expand(n_directions, -1, -1), x], dim=1)
        q, k, v = rearrange(
            block.attn_space.qkv(block.norm1_space(every)),
            "t n (three h d) -> three t h n d",
            three=3,
            h=heads,
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        r = block.attn_space.out_proj(rearrange(mixed, "t h n d -> t n (h d)"))
        new = cls + r[:, :1].mean(dim=0, keepdim=True)
        x = x + r[:, 1:]
        new = new + block.mlp_space(block.norm2_space(new))
        x = x + block.mlp_space(block.norm2_space(x))
        return new, x[None]


class PeakMemory:
    """Largest growth of this process's memory, GB, looked at every few milliseconds."""

    def __enter__(self) -> PeakMemory:
        self._done = threading.Event()
        self._start = self._peak = _resident()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._peak = max(self._peak, _resident())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.gigabytes = (self._peak - self._start) / 1e9


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the processor time of one call, all threads."""
    start = time.process_time()
    run()
    return time.process_time() - start


def draw_inputs(
    config: DropeConfig, shape: tuple[int, int, int], n_directions: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return patches, qspace and positions of random numbers."""
    rng = np.random.default_rng(0)
    patch = np.array(config.patch)
    centres = np.indices(shape // patch).reshape(3, -1).T * patch + (patch - 1) / 2
    rho = rng.choice([1.0, 2.0, 3.0], n_directions)
    theta = np.arccos(rng.uniform(-1, 1, n_directions))
    phi = rng.uniform(-np.pi, np.pi, n_directions)
    patches = rng.random((1, n_directions, len(centres), int(patch.prod())), dtype=np.float32)
    return (
        torch.from_numpy(patches),
        torch.from_numpy(np.stack([rho, theta, phi], axis=1))[None],
        torch.from_numpy(centres.astype(np.float32))[None],
    )


def make_encoder(n_blocks: int) -> Drope:
    """Return a published encoder of some blocks, its weights drawn at random."""
    torch.manual_seed(0)
    return Drope(replace(PAPER, depth=n_blocks)).eval()


def time_core(n_places: int, n_directions: int) -> float:
    """Return the time of D-RoPE's core over that of plain attention."""
    heads, dim = PAPER.heads, PAPER.dim // PAPER.heads
    _, qspace, _ = draw_inputs(PAPER, PAPER.patch, n_directions)
    cos, sin = pair_tables(qspace[0], dim, gamma=PAPER.gamma, base=PAPER.base)
    halves = torch.cat([torch.arange(0, dim, 2), torch.arange(1, dim, 2)])
    cos, sin = ((t[..., halves] * dim**-0.5).contiguous() for t in (cos, sin))
    qkv = torch.randn(n_places, n_directions, 3, heads, dim)
    q, k, v = (t.contiguous() for t in rearrange(qkv, "s t three h d -> three s h t d"))

    def ours() -> None:
        attend_directions(qkv.numpy(), cos.numpy(), sin.numpy())

    def plain() -> None:
        functional.scaled_dot_product_attention(q, k, v)

    ours(), plain()
    times = np.array([[cpu_seconds(ours), cpu_seconds(plain)] for _ in range(5)]).min(axis=0)
    print(
        f"core, {n_places} places x {n_directions} directions: {times[0]:.3f} CPU-s, "
        f"plain attention {times[1]:.3f}: {times[0] / times[1]:.2f} times"
    )
    return float(times[0] / times[1])


def compare(shape: tuple[int, int, int], n_directions: int, n_blocks: int) -> bool:
    """Time both encoders on one scan; say whether the claims hold."""
    model = make_encoder(n_blocks)
    inputs = draw_inputs(model.config, shape, n_directions)
    # Compile and lay out before the clock runs.
    model(*draw_inputs(model.config, (16, 16, 4), n_directions))
    n_places = inputs[2].shape[1]
    print(
        f"{n_blocks} of {DEPTH} blocks, {n_places} places x {n_directions} directions, "
        f"{torch.get_num_threads()} threads"
    )
    with PeakMemory() as ours_memory:
        start = time.process_time()
        cls, tokens = model(*inputs)
        ours = time.process_time() - start
    print(f"dmri_fm   {ours:8.2f} CPU-s {ours_memory.gigabytes:6.2f} GB", flush=True)
    alone = cpu_seconds(lambda: model.encode_cls(*inputs))
    print(f"          {alone:8.2f} CPU-s when only the scan token is wanted", flush=True)
    with PeakMemory() as naive_memory:
        start = time.process_time()
        naive_cls, naive_tokens = NaiveEncoder(model)(*inputs)
        naive = time.process_time() - start
    print(f"naive     {naive:8.2f} CPU-s {naive_memory.gigabytes:6.2f} GB", flush=True)
    error = max(
        float((found - expected).norm() / expected.norm())
        for found, expected in ((cls, naive_cls[:, 0]), (tokens, naive_tokens))
    )
    ours_ten = ours * (DEPTH / n_blocks)
    cls_ten = ours_ten - (ours - alone)
    ratio, ratio_cls = naive / ours, naive * DEPTH / n_blocks / cls_ten
    print(f"relative error {error:.1g}")
    print(f"all tokens: {ratio:.2f}x (claimed {ALL_TOKENS:g}x)")
    how = "measured" if n_blocks == DEPTH else f"worked out for {DEPTH} blocks from {n_blocks}"
    print(f"scan token only: {ratio_cls:.2f}x, {how} (claimed {CLS_ONLY:g}x)")
    return (
        ratio >= ALL_TOKENS
        and ratio_cls >= CLS_ONLY
        and error < ERROR
        and ours_memory.gigabytes <= MEMORY_GB
    )


def plot_growth() -> None:
    """Draw CPU-seconds of one block over places and over directions."""
    model = make_encoder(1)
    naive = NaiveEncoder(model)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    slices = [4, 8, 16, 28]
    directions = [3, 6, 12, 24]
    runs = (
        ("places (12 directions)", [((96, 112, z), 12) for z in slices]),
        ("directions (672 places)", [((192, 224, 4), t) for t in directions]),
    )
    for axis, (label, sizes) in zip(axes, runs, strict=True):
        x, ours, theirs = [], [], []
        for shape, n_directions in sizes:
            inputs = draw_inputs(model.config, shape, n_directions)
            model(*inputs)
            ours.append(cpu_seconds(lambda: model(*inputs)))  # noqa: B023
            theirs.append(cpu_seconds(lambda: naive(*inputs)))  # noqa: B023
            x.append(inputs[2].shape[1] if label.startswith("places") else n_directions)
            print(f"{label}: {x[-1]}: {ours[-1]:.2f} and {theirs[-1]:.2f} CPU-s", flush=True)
        axis.loglog(x, theirs, "o--", color="0.5", label="plain PyTorch")
        axis.loglog(x, ours, "o-", color="tab:blue", label="dmri_fm")
        axis.set_xticks(x, [str(n) for n in x])
        axis.minorticks_off()
        axis.set_xlabel(label)
    axes[0].set_ylabel("CPU-seconds of one block")
    axes[0].legend(frameon=False)
    figure.savefig(FIGURE, dpi=120)
    print(FIGURE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--directions", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="a slab of 4 slices")
    parser.add_argument("--plot", action="store_true", help="draw the figure instead")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("highest")
    with torch.inference_mode():
        if options.plot:
            plot_growth()
            return 0
        shape = (192, 224, 4) if options.quick else GRID
        core = time_core(672, options.directions)
        is_fast = compare(shape, options.directions, options.blocks)
    return 0 if is_fast and core <= CORE else 1


if __name__ == "__main__":
    raise SystemExit(main())
