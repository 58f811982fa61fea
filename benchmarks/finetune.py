"""Cost of fine-tuning and of image networks on a CPU: seconds of each part, minutes of a fold.

    python benchmarks/finetune.py                       # measures parts, and adds them up
    python benchmarks/finetune.py --whole FOLDER        # runs one fold of each to its end

Scans are a few brains of the training generator on the encoder's grid, which stand for all
participants: time does not depend on whose they are. Half of the participants are trained on, a
quarter each is for validation and test. Times are CPU time of one thread, and so those of an idle
processor, whatever else runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch

from dmri_fm.registry import load_weights
from dmri_fm_lab.feature_cache import FeatureCache
from dmri_fm_lab.prediction.finetune import standardise_head
from dmri_fm_lab.prediction.finetune_network import TunedEncoder, frozen_front
from dmri_fm_lab.prediction.finetune_scans import FrontViews, ViewSettings
from dmri_fm_lab.prediction.fold_training import FoldSettings, Samples, train_fold
from dmri_fm_lab.prediction.image_networks import (
    DEFAULT_SETTINGS,
    NETWORKS,
    SIZES,
    ImageTraining,
    make_image_network,
)
from dmri_fm_lab.prediction.image_samples import DirectionImages
from dmri_fm_lab.prediction.outcomes import Outcome
from dmri_fm_lab.prediction.presets import PRESETS
from dmri_fm_lab.prediction.splits import Fold
from dmri_fm_lab.train.brain_source import simulate_brain
from dmri_fm_lab.train.scan_cache import CachedScan


def seconds(call: Callable[[], object], *, n: int = 3) -> float:
    """Return the CPU time of a call, the mean of some after a first."""
    call()
    start = time.process_time()
    for _ in range(n):
        call()
    return (time.process_time() - start) / n


def draw_scans(folder: Path, n: int, n_brains: int) -> dict[str, CachedScan]:
    """Return the scans of n participants, who share a few simulated brains."""
    grid = load_weights("drope").config.grid
    brains = [
        simulate_brain(np.random.default_rng(k), grid, folder / f"brain-{k}", n_directions=16)
        for k in range(n_brains)
    ]
    names = [f"sub-{i:03d}" for i in range(n)]
    return {
        name: CachedScan(name, own.folder, own.gtab, {"participant": name})
        for i, name in enumerate(names)
        for own in [brains[i % n_brains]]
    }


def methods(scans: dict[str, CachedScan], cache: Path) -> dict[str, tuple]:
    """Return samples, maker of the network, and settings by method; images are directions."""
    encoder = load_weights("drope").model
    found: dict[str, tuple] = {}
    for mode, blocks in (("last-layer", 1), ("lora", 1)):
        tuning, settings = PRESETS["small"].replaced(mode=mode, blocks=blocks)
        front = frozen_front(encoder, tuning)
        samples = FrontViews(
            scans, front, ViewSettings(), FeatureCache.of(cache, front), is_kept=True
        )
        found[mode] = (samples, lambda t=tuning: TunedEncoder(encoder, t), settings)
    for name in NETWORKS:
        n_channels = 12 if name == "vit-raw" else 2
        views = 4 if name == "vit-raw" else 1
        samples = DirectionImages(scans, SIZES["small"].pool, n_channels, views)
        found[name] = (
            samples,
            lambda n=name, c=n_channels: make_image_network(ImageTraining(n), c),
            DEFAULT_SETTINGS,
        )
    return found


#: Numbers of the views that are read: new ones for every method.
NUMBERS = count(1_000_000)


def measure(samples: Samples, network: torch.nn.Module) -> dict[str, float]:
    """Return seconds of a view: read (and passed through the front), trained on, predicted."""
    view = samples.draw("sub-000", 0)

    def train() -> None:
        network([view, view]).square().sum().backward()

    def predict() -> None:
        with torch.no_grad():
            network([view])

    return {
        "read": seconds(lambda: samples.draw("sub-000", next(NUMBERS))),
        "train": seconds(train) / 2,
        "predict": seconds(predict),
    }


def add_up(cost: dict[str, float], samples: Samples, settings: FoldSettings, n: int) -> float:
    """Return the minutes of a fold of n participants."""
    n_train, n_val = n // 2, n // 4
    n_views = len(samples.views("sub-000"))
    n_passes = settings.epochs * n_train
    n_predicted = n_views * (n_val * settings.epochs + n)
    # Behind a front views are kept; images are read anew.
    is_kept = isinstance(samples, FrontViews)
    n_read = n_train * settings.n_draws + n_views * n if is_kept else n_passes + n_predicted
    total = cost["read"] * n_read + cost["train"] * n_passes + cost["predict"] * n_predicted
    return total / 60


def run_whole(name: str, method: tuple, names: list[str], folder: Path) -> float:
    """Run a fold to its end; return CPU minutes."""
    samples, make_network, settings = method
    quarter = len(names) // 4
    val, test = frozenset(names[:quarter]), frozenset(names[quarter : 2 * quarter])
    fold = Fold("1", frozenset(names) - val - test, val, test)
    rng = np.random.default_rng(0)
    outcome = Outcome("noise", "regression", {p: float(rng.normal()) for p in names})
    start = time.process_time()
    network = make_network()
    if isinstance(network, TunedEncoder):
        standardise_head(network, samples, sorted(fold.train))
    train_fold(
        network, samples, fold, outcome, settings=settings, folder=folder / name, description={}
    )
    return (time.process_time() - start) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--participants", type=int, default=60)
    parser.add_argument("--brains", type=int, default=2, help="simulated; shared by participants")
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--whole", type=Path, metavar="FOLDER", help="run one fold of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n = options.participants
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.whole or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        scans = draw_scans(folder, n, options.brains)
        title = "run" if options.whole else "read, train, predict (s a view)"
        print(f"| method | {title} | minutes of a fold of {n} |\n|---|---|---|")
        for name, method in methods(scans, folder / "fronts").items():
            if options.methods and name not in options.methods:
                continue
            if options.whole:
                minutes = run_whole(name, method, list(scans), folder)
                print(f"| {name} | whole | {minutes:.1f} |", flush=True)
                continue
            cost = measure(method[0], method[1]().train())
            parts = ", ".join(f"{v:.3f}" for v in cost.values())
            minutes = add_up(cost, method[0], method[2], n)
            print(f"| {name} | {parts} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    main()
