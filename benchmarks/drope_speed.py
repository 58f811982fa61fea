"""Time the D-RoPE encoder against a plain PyTorch implementation of the published operator.

Usage: python benchmarks/drope_speed.py [--quick] [--blocks 1] [--directions 12] [--plot | --share]

The published configuration on 192 x 224 x 56 voxels and 12 directions, float32, same weights and
input for both, in one run: CPU-seconds of both, their ratio, the relative error, and the memory
each needs above weights and input. A full encoder is 24 TFLOP, so `--blocks` says how many of its
ten blocks run; with fewer, what ten cost when only the scan token is wanted is worked out from
blocks measured with and without that (and said to be). The D-RoPE core alone is compared with
plain attention over the same queries, keys and values.

Run it with OMP_NUM_THREADS=1 where other work shares the processors: threads that wait for one
another spin, and spinning counts as processor time.

`--quick` takes a slab of 4 slices; ratios are smaller there: attention over patch positions is.
`--share` prints the rate of one block, in arithmetic operations a second of processor time, as a
share of the machine's own matrix product in float32 (the faster of PyTorch's and oneDNN's), by one
thread, and how long default features of a scan take; ratios hold on a busy machine, too.
`--plot` measures how time grows with patch positions and directions, for docs/img/drope_speed.png.
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
from dmri_fm.encoders.drope.config import PAPER, SMALL, DropeConfig
from dmri_fm.encoders.drope.encoder import DropeEncoder
from dmri_fm.encoders.drope.extraction import Region
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.packed_linear import PackedLinear
from dmri_fm.encoders.drope.rotary import pair_tables
from dmri_fm.encoders.drope.rotary_kernel import attend_directions
from dmri_fm.encoders.drope.stream import stream_blocks
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import resample_image
from dmri_fm.normalise.template import load_template
from dmri_fm.qspace import FEATURE_DIRECTIONS
from dmri_fm.series import Dwi
from dmri_fm.weights import Weights
from dmri_fm_lab.simulate import spread_directions

GRID = (192, 224, 56)
FIGURE = Path(__file__).parents[1] / "docs" / "img" / "drope_speed.png"

#: Blocks of the published encoder.
DEPTH = 10

#: The project's claims: gain for all tokens, for the scan token; core over plain attention.
ALL_TOKENS, CLS_ONLY, CORE = 2.5, 3.0, 1.3

#: Smallest share of the matrix product's rate that a block reaches, at these patch positions.
SHARE, PLACES = 0.80, (9408, 2688)

#: Largest time of default features by one thread, CPU-s: of the published crop, of a whole brain.
FEATURE_SECONDS: dict[Region, float] = {"published": 30.0, "whole": 180.0}

#: Largest relative error, and memory in GB above weights and input.
ERROR, MEMORY_GB = 1e-5, 1.5


class NaiveEncoder:
    """The baseline: every rotated key is made, for all pairs of directions and patch positions.

    It is kinder than the authors' code, which works out cosines and sines for every patch
    position: here it is done once a scan. Attention over patch positions is PyTorch's own.
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


def time_core(n_patches: int, n_directions: int) -> float:
    """Return the time of D-RoPE's core over that of plain attention."""
    heads, dim = PAPER.heads, PAPER.dim // PAPER.heads
    _, qspace, _ = draw_inputs(PAPER, PAPER.patch, n_directions)
    cos, sin = pair_tables(qspace[0], dim, gamma=PAPER.gamma, base=PAPER.base)
    halves = torch.cat([torch.arange(0, dim, 2), torch.arange(1, dim, 2)])
    cos, sin = ((t[..., halves] * dim**-0.5).contiguous() for t in (cos, sin))
    qkv = torch.randn(n_patches, n_directions, 3, heads, dim)
    q, k, v = (t.contiguous() for t in rearrange(qkv, "s t three h d -> three s h t d"))

    def ours() -> None:
        attend_directions(qkv.numpy(), cos.numpy(), sin.numpy())

    def plain() -> None:
        functional.scaled_dot_product_attention(q, k, v)

    ours(), plain()
    times = np.array([[cpu_seconds(ours), cpu_seconds(plain)] for _ in range(5)]).min(axis=0)
    print(
        f"core, {n_patches} patch positions x {n_directions} directions: {times[0]:.3f} CPU-s, "
        f"plain attention {times[1]:.3f}: {times[0] / times[1]:.2f} times"
    )
    return float(times[0] / times[1])


def compare(shape: tuple[int, int, int], n_directions: int, n_blocks: int) -> bool:
    """Time both encoders on one scan; say whether the claims hold."""
    model = make_encoder(n_blocks)
    inputs = draw_inputs(model.config, shape, n_directions)
    # Compile and lay out before the clock runs.
    model(*draw_inputs(model.config, (16, 16, 4), n_directions))
    n_patches = inputs[2].shape[1]
    print(
        f"{n_blocks} of {DEPTH} blocks, {n_patches} patch positions x {n_directions} directions, "
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


def measure_product(side: int = 2048) -> float:
    """Return the rate of a square matrix product in float32, operations a CPU-s."""
    a, b = torch.randn(2, side, side)
    packed = PackedLinear(b)
    products = (lambda: a @ b.T, lambda: packed(a))
    # The median, for a block is timed as a whole, with what disturbs it.
    seconds = min(float(np.median([cpu_seconds(p) for _ in range(9)])) for p in products)
    return 2.0 * side**3 / seconds


def count_operations(config: DropeConfig, n_patches: int, n_directions: int) -> float:
    """Return the operations of a block's products, without rotations, norms and softmax."""
    tokens, dim = n_patches * n_directions, config.dim
    linear = tokens * 2 * (4 + 2 * config.mlp_ratio) * dim**2
    space = n_directions * 2 * n_patches**2 * dim
    directions = n_patches * 2 * n_directions**2 * dim
    return 2.0 * (linear + space + directions)


def measure_share(n_patches: int, n_directions: int) -> float:
    """Return the rate of a block over that of the matrix product, measured before and after."""
    model = make_encoder(1)
    config, blocks = model.config, list(model.blocks)
    _, qspace, _ = draw_inputs(config, config.patch, n_directions)
    x = torch.randn(n_directions, n_patches, config.dim)
    cls = torch.randn(1, config.dim)

    def run(tokens: Tensor) -> None:
        stream_blocks(blocks, cls, tokens, qspace[0], config, only_cls=False)

    run(x[:, :64].clone())
    before = measure_product()
    seconds = cpu_seconds(lambda: run(x))
    product = (before + measure_product()) / 2
    rate = count_operations(config, n_patches, n_directions) / seconds
    print(
        f"one block, {n_patches} patch positions x {n_directions} directions: "
        f"{seconds:.2f} CPU-s, {rate / 1e9:.1f} GFLOP a CPU-s; matrix product "
        f"{product / 1e9:.1f}: {rate / product:.2f} of it (claimed {SHARE:.2f})",
        flush=True,
    )
    return rate / product


def draw_template_scan(config: DropeConfig, n_directions: int) -> Dwi:
    """Return a series on an encoder's grid: the template's brain, noise inside."""
    rng = np.random.default_rng(0)
    template, grid = load_template(1), config.grid
    tissue = resample_image(template.wm + template.gm, template.grid.affine, grid)
    mask = tissue > 0.3
    bvecs = np.concatenate([np.zeros((1, 3)), spread_directions(rng, n_directions)])
    gtab = GradientTable(np.r_[0.0, np.full(n_directions, 1000.0)], bvecs)
    data = np.zeros((*grid.shape, n_directions + 1), dtype=np.float32)
    data[mask] = rng.uniform(100.0, 500.0, (int(mask.sum()), n_directions + 1))
    data[mask, 0] = 600.0
    return Dwi.from_arrays(data, grid.affine, gtab, mask=mask)


def time_features() -> bool:
    """Time the features of a scan by an encoder of the default's size; say if it is fast."""
    torch.manual_seed(0)
    network = Drope(SMALL).eval()
    encoder = DropeEncoder(Weights("drope", "0", "", SMALL, network, {}, {}, {}))
    dwi = draw_template_scan(SMALL, 2 * FEATURE_DIRECTIONS)
    is_fast = True
    for region, limit in FEATURE_SECONDS.items():
        start, cpu_start = time.perf_counter(), time.process_time()
        prepared = encoder.prepare(dwi, n_directions=FEATURE_DIRECTIONS, seed=0, region=region)
        encoder.encode(prepared)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
        print(
            f"default features, {region}: {len(prepared.tokens.index)} patches, {cpu:.1f} CPU-s, "
            f"{seconds:.1f} s by {torch.get_num_threads()} threads (claimed {limit:g} CPU-s)",
            flush=True,
        )
        is_fast &= cpu <= limit
    return is_fast


def plot_growth() -> None:
    """Draw CPU-seconds of one block over patch positions and over directions."""
    model = make_encoder(1)
    naive = NaiveEncoder(model)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    slices = [4, 8, 16, 28]
    directions = [3, 6, 12, 24]
    runs = (
        ("patch positions (12 directions)", [((96, 112, z), 12) for z in slices]),
        ("directions (672 patch positions)", [((192, 224, 4), t) for t in directions]),
    )
    for axis, (label, sizes) in zip(axes, runs, strict=True):
        x, ours, theirs = [], [], []
        for shape, n_directions in sizes:
            inputs = draw_inputs(model.config, shape, n_directions)
            model(*inputs)
            ours.append(cpu_seconds(lambda: model(*inputs)))  # noqa: B023
            theirs.append(cpu_seconds(lambda: naive(*inputs)))  # noqa: B023
            x.append(inputs[2].shape[1] if label.startswith("patch") else n_directions)
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
    parser.add_argument("--share", action="store_true", help="share of the matrix product instead")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("highest")
    with torch.inference_mode():
        if options.plot:
            plot_growth()
            return 0
        if options.share:
            torch.set_num_threads(1)
            shares = [measure_share(n, options.directions) for n in PLACES]
            return 0 if time_features() and min(shares) >= SHARE else 1
        shape = (192, 224, 4) if options.quick else GRID
        core = time_core(672, options.directions)
        is_fast = compare(shape, options.directions, options.blocks)
    return 0 if is_fast and core <= CORE else 1


if __name__ == "__main__":
    raise SystemExit(main())
