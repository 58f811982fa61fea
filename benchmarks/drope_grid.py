"""Print what a step of pretraining costs on grids of 1 mm and 2 mm.

Usage: python benchmarks/drope_grid.py [--steps 6] [--hours 4 8] [--directions 12]

Steps of `drope` on one slab of four slices, the brain patches of the template, in single
precision and with layers in bfloat16; the network is the same on both grids. The table has
CPU-seconds, which other work on the processor changes little: means over as many steps that mask
patches as steps that mask directions, after one of each that does not count; the number of steps
of one slab that hours on one core buy; and the same for `drope-ablation` on 2 mm.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.mae import MaeConfig, MaskedAutoencoder
from dmri_fm.encoders.drope.template_patches import template_tissue
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.encoders.patches import unpatchify
from dmri_fm.gradients import GradientTable
from dmri_fm.registry import find_model
from dmri_fm_lab.evaluate.tables import markdown
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.train.config import DropePretraining, read_training
from dmri_fm_lab.train.drope import MAE_CONFIGS
from dmri_fm_lab.train.masked_steps import step_losses

#: Voxels of a head along each axis, by voxel size in mm; those of the published grid at 1 mm.
GRIDS = {1.0: (192, 224, 192), 2.0: (96, 112, 96)}

#: Height of the slab's first slice: that of the lateral ventricles, where the brain is widest.
HEIGHT_MM = 80.0

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6, help="steps to time, an even number")
    parser.add_argument("--hours", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--directions", type=int, default=12)
    options = parser.parse_args()

    torch.set_num_threads(1)
    header = ["network", "grid (mm)", "precision", "patches", "parameters (M)", "CPU-s a step"]
    print(markdown([[*header, *(f"steps in {hours:g} h" for hours in options.hours)]]), flush=True)
    for name, sizes in (("drope", (1.0, 2.0)), ("drope-ablation", (2.0,))):
        settings = read_training(DropePretraining, name)
        training = replace(settings, masking="alternating", steps_per_epoch=1)
        for size in sizes:
            config = replace(find_model(name).config, grid_shape=GRIDS[size], voxel_size_mm=size)
            mae = replace(MAE_CONFIGS[name], encoder=config)
            scan = cut_slab(config, n_directions=options.directions)
            with torch.device("meta"):
                n = sum(p.numel() for p in MaskedAutoencoder(mae).parameters())
            for precision, dtype in PRECISIONS.items():
                spent = time_steps(mae, scan, training, dtype=dtype, n=options.steps)
                steps = (f"{3600 * hours / spent:,.0f}" for hours in options.hours)
                cells = [name, f"{size:g}", precision, str(len(scan.index)), f"{n / 1e6:.2f}"]
                print(f"| {' | '.join([*cells, f'{spent:.2f}', *steps])} |", flush=True)


if __name__ == "__main__":
    main()
