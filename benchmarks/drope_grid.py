"""Print what a step of pretraining costs on grids of 1 mm and 2 mm, and what equal time buys.

Usage: python benchmarks/drope_grid.py [--steps 6] [--hours 4 8] [--directions 12]
       python benchmarks/drope_grid.py --minutes 30 --runs RUNS [--brains 4] [--fine 1]

Steps of `drope` on one slab of four slices, the brain patches of the template, in single
precision and with layers in bfloat16; the network is the same on both grids. The table has
CPU-seconds, which other work on the processor changes little: means over as many steps that mask
patches as steps that mask directions, after one of each that does not count; the number of steps
of the settings' batch that hours on one core buy; and the same for `drope-ablation` on 2 mm.

With `--minutes`, `drope` is trained from its initial weights on both grids, by as many steps as
take that CPU time, and masked directions of held-out brains are predicted, slab by slab. The
brains of the coarse grid are means over 2 x 2 x 2 voxels of those of the fine one. Errors of both
are those of the coarse voxels, over the error of the mean of the visible directions there: one
measure in one space. RUNS keeps brains and runs; an unfinished run goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import reduce
from numpy.typing import NDArray

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.mae import MaeConfig, Mask, MaskedAutoencoder
from dmri_fm.encoders.drope.template_patches import template_tissue
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.encoders.patches import unpatchify
from dmri_fm.gaussian_process import mean_weights
from dmri_fm.gradients import GradientTable
from dmri_fm.registry import find_model
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.train.config import DropePretraining, read_training
from dmri_fm_lab.train.drope import MAE_CONFIGS, Start, pretrain_drope
from dmri_fm_lab.train.initial_weights import start_near_identity
from dmri_fm_lab.train.loop import HELD_OUT, TRAINING, Run
from dmri_fm_lab.train.masked_steps import ScanSource, step_losses
from dmri_fm_lab.train.scan_cache import CachedScan

#: Voxels of the published grid along each axis, at 1 mm.
PUBLISHED = (192, 224, 192)

#: Height of the slab's first slice: that of the lateral ventricles, where the brain is widest.
HEIGHT_MM = 80.0

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}

#: Epochs of a training by `--minutes`: masks alternate by epoch.
EPOCHS = 20

#: Held-out brains, their directions, and the seed of directions and masks.
N_HELD_OUT, N_DIRECTIONS, SEED = 2, 12, 0

_Image = NDArray[np.float32]


def on_grid(name: str, size: float) -> MaeConfig:
    """Return the autoencoder of a model on a grid with voxels of a size, mm."""
    x, y, z = (round(n / size) for n in PUBLISHED)
    config = replace(find_model(name).config, grid_shape=(x, y, z), voxel_size_mm=size)
    return replace(MAE_CONFIGS[name], encoder=config)


def cut_slab(config: DropeConfig, *, n_directions: int) -> ScanTokens:
    """Return a slab of noise in the template's brain."""
    rng = np.random.default_rng(0)
    gtab = GradientTable(np.full(n_directions, 1000.0), spread_directions(rng, n_directions))
    tissue = template_tissue(config).sum(dim=2)[None, None]
    first = round(HEIGHT_MM / config.voxel_size_mm)
    mask = unpatchify(tissue, config.patch, config.patch_grid)[0, 0, :, :, first : first + 4]
    inside = mask.numpy() > 0.3
    signal = rng.uniform(0.1, 0.9, (*inside.shape, n_directions)).astype(np.float32)
    return tokenise(signal, gtab, inside, config, origin=(0, 0, first))


def time_steps(
    mae: MaeConfig,
    scan: ScanTokens,
    training: DropePretraining,
    *,
    dtype: torch.dtype | None,
    n: int,
) -> float:
    """Return CPU-seconds of a step, forward, backward and optimiser."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(training.optimisation.matmul_precision)
    model = MaskedAutoencoder(mae)
    optimiser = torch.optim.AdamW(model.parameters())
    spent = []
    for step in range(n + 2):
        start = time.process_time()
        with nullcontext() if dtype is None else torch.autocast("cpu", dtype):
            loss = step_losses(model, training, model, [scan], step)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        spent.append(time.process_time() - start)
    return float(np.mean(spent[2:]))


def halve(scan: CachedScan, folder: Path) -> CachedScan:
    """Write the scan on a grid of twice the voxel size: means over the brain of 2^3 voxels."""
    if folder.exists():
        return CachedScan.read(folder)
    share = _coarsen(np.load(scan.folder / "mask.npy").astype(np.float32)[..., None])[..., 0]
    inside = share >= 0.5
    volumes = (
        _coarsen(v.astype(np.float32)[..., None])[..., 0] / np.maximum(share, 0.5) * inside
        for v in np.load(scan.folder / "signal.npy", mmap_mode="r")
    )
    return CachedScan.write(folder, np.stack(list(volumes), axis=3), inside, scan.gtab)


def _coarsen(images: _Image) -> _Image:
    """Return means (X/2, Y/2, Z/2, T) over 2^3 voxels."""
    return np.asarray(reduce(images, "(x a) (y b) (z c) t -> x y z t", "mean", a=2, b=2, c=2))


def train(
    mae: MaeConfig, settings: DropePretraining, runs: Path, minutes: float
) -> tuple[MaskedAutoencoder, Run, float]:
    """Train by as many steps as take so many CPU-minutes; return CPU-seconds a step, too."""
    alternating = replace(settings, masking="alternating", steps_per_epoch=1)
    slab = cut_slab(mae.encoder, n_directions=settings.max_directions)
    spent = time_steps(mae, slab, alternating, dtype=torch.bfloat16, n=4) * settings.batch
    size = f"{mae.encoder.voxel_size_mm:g}-mm"
    folder = runs / size
    # The number of steps of a run that goes on is that of its start.
    written = folder / "n_steps.txt"
    folder.mkdir(parents=True, exist_ok=True)
    if not written.exists():
        written.write_text(str(max(EPOCHS, round(60 * minutes / spent))), encoding="utf-8")
    n = int(written.read_text(encoding="utf-8"))
    # The running average of the weights spans a twentieth of the steps.
    schedule = replace(
        settings.optimisation,
        n_steps=n,
        warmup_steps=max(1, n // 10),
        average_decay=1.0 - 20.0 / n,
    )
    torch.manual_seed(settings.optimisation.seed)
    network = MaskedAutoencoder(mae)
    start_near_identity(network)
    run = pretrain_drope(
        replace(settings, steps_per_epoch=max(1, n // EPOCHS), optimisation=schedule),
        folder,
        brains=runs / f"brains-{size}",
        start=Start(network, {"grid": size}),
    )
    return network.eval().requires_grad_(False), run, spent


def predict(
    network: MaskedAutoencoder,
    scan: CachedScan,
    which: NDArray[np.int_],
    kept: torch.Tensor,
    first: int,
) -> tuple[_Image, NDArray[np.bool_]]:
    """Reconstruct some directions of a slab from `kept` ones; return its brain that was read."""
    config, slices = network.config.encoder, slice(first, first + network.config.encoder.patch[2])
    mask = np.load(scan.folder / "mask.npy", mmap_mode="r")[:, :, slices]
    stored = np.load(scan.folder / "signal.npy", mmap_mode="r")
    signal = np.moveaxis(stored[which, :, :, slices].astype(np.float32), 0, 3)
    tokens = tokenise(signal, scan.gtab.select(which), mask, config, origin=(0, 0, first))
    if not tokens.index.size:
        return np.zeros_like(signal), np.zeros(mask.shape, dtype=bool)
    drawn = Mask("diffusion", kept)
    with torch.inference_mode():
        patches = network(tokens.patches[None], tokens.qspace[None], tokens.positions[None], drawn)
    found, seen = (_lay(p, tokens, config, mask.shape) for p in (patches[0], tokens.brain[None]))
    return found, seen[..., 0] > 0


def _lay(
    patches: torch.Tensor, tokens: ScanTokens, config: DropeConfig, shape: tuple[int, ...]
) -> _Image:
    """Put patches (T, S, P) back into a slab, (X, Y, Z, T); zero where there is none."""
    x, y, z = (n // p for n, p in zip(shape, config.patch, strict=True))
    full = torch.zeros(len(patches), x * y * z, patches.shape[2])
    full[:, torch.from_numpy(tokens.index)] = patches.float()
    volumes = unpatchify(full[None], config.patch, (x, y, z))[0].numpy()
    return np.ascontiguousarray(np.moveaxis(volumes, 0, 3))


def score(
    networks: Sequence[MaskedAutoencoder], scans: Sequence[CachedScan], seed: int
) -> NDArray[np.float64]:
    """Return sums of squared errors of masked directions, in coarse voxels.

    Of the network on the fine grid, that on the coarse one, and the mean of visible directions.
    """
    rng = np.random.default_rng([SEED, seed])
    which = np.sort(rng.permutation(len(scans[0].gtab))[:N_DIRECTIONS])
    kept = np.sort(rng.permutation(N_DIRECTIONS)[: N_DIRECTIONS // 2])
    masked = np.setdiff1d(np.arange(N_DIRECTIONS), kept)
    gtab = scans[1].gtab.select(which)
    weights = mean_weights(gtab.select(kept), gtab.select(masked))
    inside = np.load(scans[1].folder / "mask.npy")
    stored = np.load(scans[1].folder / "signal.npy", mmap_mode="r")
    n_slices = networks[1].config.encoder.patch[2]
    index, total = torch.from_numpy(kept)[None], np.zeros(3)
    for first in range(0, inside.shape[2], n_slices):
        slices = slice(first, first + n_slices)
        starts = (2 * first, 2 * first + n_slices)
        halves = [predict(networks[0], scans[0], which, index, start) for start in starts]
        joined = [np.concatenate(parts, axis=2) for parts in zip(*halves, strict=True)]
        fine, share = (
            _coarsen(part.reshape(*part.shape[:3], -1).astype(np.float32)) for part in joined
        )
        coarse, seen = predict(networks[1], scans[1], which, index, first)
        where = inside[:, :, slices] & seen & (share[..., 0] == 1)
        target = np.moveaxis(stored[which, :, :, slices].astype(np.float64), 0, 3)[where]
        found = (fine[where][:, masked], coarse[where][:, masked], target[:, kept] @ weights)
        total += [((estimate - target[:, masked]) ** 2).sum() for estimate in found]
    return total


def compare_trainings(minutes: float, runs: Path, *, n_brains: int, fine: float) -> str:
    """Train on both grids in equal CPU time; return a table of errors."""
    settings = replace(
        read_training(DropePretraining, "drope"), n_brains=n_brains, n_reuse=1, whole_from=1.0
    )
    sizes = (fine, 2 * fine)
    maes = [on_grid("drope", size) for size in sizes]
    folders = [runs / f"brains-{size:g}-mm" for size in sizes]
    source = ScanSource(maes[0].encoder, settings, folders[0])
    pairs = []
    for purpose, n in ((TRAINING, n_brains), (HELD_OUT, N_HELD_OUT)):
        for number in range(n):
            scan = replace(source, purpose=purpose).brain(number)
            pairs.append((scan, halve(scan, folders[1] / scan.name)))
            print(f"{scan.name}: drawn", flush=True)
    trained = [train(mae, settings, runs, minutes) for mae in maes]
    networks = [network for network, _, _ in trained]
    held_out = pairs[n_brains:]
    errors = np.sum([score(networks, pair, k) for k, pair in enumerate(held_out)], axis=0)
    header = [
        *("grid (mm)", "steps", "slabs a step", "CPU-s a step", "CPU-hours"),
        "masked directions: error over that of the mean of visible ones",
    ]
    rows = [
        [
            *(f"{size:g}", str(run.steps), str(settings.batch), f"{spent:.2f}"),
            *(f"{run.steps * spent / 3600:.3f}", f"{error / errors[2]:.3f}"),
        ]
        for size, (_, run, spent), error in zip(sizes, trained, errors, strict=False)
    ]
    return markdown([header, *rows])


def print_costs(options: argparse.Namespace) -> None:
    """Print the table of costs, line by line."""
    header = ["network", "grid (mm)", "precision", "patches", "autoencoder, parameters (M)"]
    header += ["CPU-s a slab", "slabs a step"]
    header += [f"steps in {hours:g} h" for hours in options.hours]
    print(markdown([header]), flush=True)
    for name, sizes in (("drope", (1.0, 2.0)), ("drope-ablation", (2.0,))):
        settings = read_training(DropePretraining, name)
        training = replace(settings, masking="alternating", steps_per_epoch=1)
        for size in sizes:
            mae = on_grid(name, size)
            scan = cut_slab(mae.encoder, n_directions=options.directions)
            with torch.device("meta"):
                n = sum(p.numel() for p in MaskedAutoencoder(mae).parameters())
            for precision, dtype in PRECISIONS.items():
                spent = time_steps(mae, scan, training, dtype=dtype, n=options.steps)
                steps = (3600 * hours / (spent * settings.batch) for hours in options.hours)
                cells = [name, f"{size:g}", precision, str(len(scan.index)), f"{n / 1e6:.2f}"]
                cells += [f"{spent:.2f}", str(settings.batch), *(f"{n:,.0f}" for n in steps)]
                print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6, help="steps to time, an even number")
    parser.add_argument("--hours", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--directions", type=int, default=12)
    parser.add_argument("--minutes", type=float, help="train on both grids, CPU-minutes each")
    parser.add_argument("--runs", type=Path, help="folder of brains and runs, with --minutes")
    parser.add_argument("--brains", type=int, default=4, help="to train on; default 4")
    parser.add_argument("--fine", type=float, default=1.0, help="the fine grid, mm; default 1")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.minutes is None:
        print_costs(options)
        return
    if options.runs is None:
        parser.error("--minutes needs --runs")
    table = compare_trainings(
        options.minutes, options.runs, n_brains=options.brains, fine=options.fine
    )
    print(f"\n{table}")


if __name__ == "__main__":
    main()
