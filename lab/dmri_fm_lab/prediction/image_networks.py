"""Image networks, trained from scratch on the same folds: the baselines of fine-tuning.

A 3-D ResNet18 (MONAI) on FA and MD maps, and a vision transformer with 3-D rotary positions on
these maps or on raw diffusion directions, as in Kung et al. 2026, section 4.3
(https://doi.org/10.48550/arXiv.2603.25977). Their training settings are not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError, InputError
from dmri_fm.normalise.grid import Grid
from dmri_fm_lab.baseline_networks.vit_rope import VitRope, VitRopeConfig
from dmri_fm_lab.feature_cache import FeatureCache
from dmri_fm_lab.prediction.fold_training import FoldSettings, train_folds
from dmri_fm_lab.prediction.image_samples import DirectionImages, MapImages, find_maps
from dmri_fm_lab.prediction.network_records import describe_run, write_run
from dmri_fm_lab.prediction.study import EncoderSource, Study, StudyFiles, read_series, read_study
from dmri_fm_lab.train.dataset_cache import SCANS
from dmri_fm_lab.train.loop import CPU, Hardware
from dmri_fm_lab.train.seen import Seen

#: Networks: architecture, and what it reads.
NETWORKS = {
    "resnet18": ("3D ResNet18", "FA and MD maps"),
    "vit-maps": ("ViT w/RoPE", "FA and MD maps"),
    "vit-raw": ("ViT w/RoPE", "raw dMRI"),
}


@dataclass(frozen=True)
class NetworkSize:
    """Size of image networks.

    Attributes
    ----------
    pool
        Voxels of the encoder's grid along each axis that are averaged into one.
    widening
        Of the 64 to 512 channels of ResNet18.
    stride
        Of its first convolution.
    dim, depth, heads, patch
        Of the vision transformer.
    """

    pool: int
    widening: float
    stride: int
    dim: int
    depth: int
    heads: int
    patch: tuple[int, int, int]


#: "small" trains on a CPU. "published" has the published width and depth, on the encoder's own
#: voxels and all of the brain (2 mm for `drope`; published: 56 slices at 1 mm): for a GPU.
SIZES = {
    "small": NetworkSize(
        pool=2, widening=0.25, stride=2, dim=96, depth=4, heads=3, patch=(8, 8, 8)
    ),
    "published": NetworkSize(
        pool=1, widening=1.0, stride=1, dim=384, depth=10, heads=3, patch=(8, 8, 4)
    ),
}

#: Optimiser and schedule; images are varied anew in every epoch.
DEFAULT_SETTINGS = FoldSettings(weight_decay=0.05, final_weight_decay=0.05, n_draws=0)


@dataclass(frozen=True)
class ImageTraining:
    """Training of an image network.

    Attributes
    ----------
    network
        Key of :data:`NETWORKS`.
    size
        Key of :data:`SIZES`.
    encoder
        On whose grid maps and series are read.
    settings
        Optimiser and schedule.
    maps
        Label of the model that made the maps.
    n_directions, n_views
        Of "vit-raw", see :class:`.image_samples.DirectionImages`.
    hardware
        One processor.
    cache
        Folder of images that runs can share; None: in the run's folder.
    """

    network: str
    size: str = "small"
    encoder: EncoderSource = field(default_factory=EncoderSource)
    settings: FoldSettings = DEFAULT_SETTINGS
    maps: str = "tensor"
    n_directions: int = 12
    n_views: int = 4
    hardware: Hardware = CPU
    cache: Path | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("network", self.network, NETWORKS),
            ("size", self.size, SIZES),
        ):
            if value not in known:
                raise ConfigError(f"{name} {value!r}", expected=" or ".join(known))


class ImageNetwork(nn.Module):
    """A network of images (B, C, X, Y, Z), called with a list of them."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Map B images (C, X, Y, Z) to (B,)."""
        device = next(self.body.parameters()).device
        out: Tensor = self.body(torch.stack(list(images)).to(device)).reshape(len(images))
        return out


def make_image_network(request: ImageTraining, n_channels: int) -> ImageNetwork:
    """Return a network with random weights."""
    size = SIZES[request.size]
    if request.network != "resnet18":
        config = VitRopeConfig(n_channels, size.patch, size.dim, size.depth, size.heads)
        return ImageNetwork(VitRope(config))
    # MONAI takes seconds to import.
    from monai.networks.nets.resnet import resnet18

    width = int(512 * size.widening)
    body = resnet18(
        spatial_dims=3,
        n_input_channels=n_channels,
        num_classes=width,
        widen_factor=size.widening,
        conv1_t_stride=size.stride,
    )
    return ImageNetwork(nn.Sequential(body, nn.GELU(), nn.Linear(width, 1)))


def train_image_network(folder: Path, files: StudyFiles, request: ImageTraining) -> dict[str, Any]:
    """Train an image network on each fold, and score it on the test set.

    Parameters, files in the folder, record and errors as of :func:`.finetune.finetune`; the
    record has no encoder. Participants without maps, or with too few directions, are left out.
    """
    encoder, _ = request.encoder.load()
    cache = request.cache or folder / SCANS
    samples: MapImages | DirectionImages
    if request.network == "vit-raw":
        samples, study = _directions(files, request, cache, encoder)
    else:
        samples, study = _maps(files, request, cache, encoder.config.grid)
    description = {
        "network": request.network,
        "size": asdict(SIZES[request.size]),
        "target": files.target,
    }
    run = train_folds(
        lambda _: make_image_network(request, samples.n_channels),
        samples,
        study.folds,
        study.outcome,
        settings=request.settings,
        folder=folder,
        hardware=request.hardware,
        description=description,
    )
    record = {
        **describe_run(run, study.outcome, study.folds, study.left_out),
        **description,
        "settings": asdict(request.settings),
    }
    write_run(folder, record, run, seen=Seen())
    return record


def _maps(
    files: StudyFiles, request: ImageTraining, cache: Path, grid: Grid
) -> tuple[MapImages, Study]:
    maps, lacking = find_maps(files.derivatives, model=request.maps)
    study = read_study(files, list(maps), lacking)
    own = {participant: maps[scan] for participant, scan in study.scans.items()}
    kept = FeatureCache(cache / "maps")
    pool, seed = SIZES[request.size].pool, request.settings.seed
    return MapImages(own, grid, pool, kept, seed=seed), study


def _directions(
    files: StudyFiles, request: ImageTraining, cache: Path, encoder: Drope
) -> tuple[DirectionImages, Study]:
    n = request.n_directions
    usable, few = read_series(files.derivatives, cache, encoder, fewest_directions=n)
    if not usable:
        raise InputError(
            f"no scan has {n} distinct directions", path=files.derivatives, expected="one or more"
        )
    study = read_study(files, list(usable), few)
    own = {participant: usable[scan] for participant, scan in study.scans.items()}
    pool, seed = SIZES[request.size].pool, request.settings.seed
    return DirectionImages(own, pool, n, request.n_views, seed=seed), study
