"""How far simulated training patches are from real scans of four vendors.

Usage: python benchmarks/realism.py [--output docs] [--quick]

Real patches are cut from the raw scans of `ds-vendors` (in the folder that DMRI_TEST_DATA names,
or ../shared/data beside the repository); simulated ones come from `draw_batch` with the gradient
tables of those scans. Compares distributions of what can be measured on both, and lets two
classifiers tell one from the other: a small 3-D network, and logistic regression on the
measurements. Each is tested on a scanner that it was not trained on.

Writes the tables of realism.md, between its two marks, and two figures in img/.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.stats import ks_2samp
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor, nn

from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.qspace import LARGEST_CONDITION, choose_six
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm.tensor_networks.inputs import estimate_noise, tensor_inputs
from dmri_fm_lab.simulate import draw_anatomy, draw_batch
from dmri_fm_lab.simulate.scanner import Acquisition, acquire
from dmri_fm_lab.simulate.subject import Tissue, place_subject

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SCANNERS = {"prisma": "b 2500", "trio": "b 1000", "galan": "b 1500", "umr": "b 950"}

#: As large as the thinnest slab allows, voxels.
SHAPE = (32, 32, 16)
PICTURE_SHAPE = (64, 64, 16)

#: Scanners whose protocols the other generator shows in the picture.
PICTURED_SCANS = ("trio", "galan")

#: Patches with a smaller share of brain are not taken.
FEWEST_BRAIN = 0.5

#: White matter, grey matter and CSF, as the tensor fit sees them.
WHITE_FA, TISSUE_MD, CSF_MD = 0.2, (0.2e-3, 1.1e-3), 2.0e-3
GREY_FA = 0.15
#: A tissue of fewer voxels has no statistics.
FEWEST_VOXELS = 30

#: Band of the power spectra's slope, cycles per voxel.
BAND = (0.06, 0.5)

#: Draws per call of the simulator.
DRAWS = 4

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


class Quantity(NamedTuple):
    """How a measurement is called and printed."""

    title: str
    digits: int
    factor: float = 1.0


QUANTITIES = {
    "fa": Quantity("FA of white matter, median", 2),
    "fa_high": Quantity("FA of white matter, 90th percentile", 2),
    "md": Quantity("MD of white matter, median, 1e-3 mm²/s", 2, 1e3),
    "white_share": Quantity("share of white matter in the brain", 2),
    "snr_b0": Quantity("SNR of white matter, b=0", 1),
    "snr_weighted": Quantity("SNR of white matter, weighted", 1),
    "b0_range": Quantity("b=0, 95th over 50th percentile", 2),
    "b0_csf": Quantity("b=0, CSF over white matter", 2),
    "b0_grey": Quantity("b=0, grey over white matter", 2),
    "slope_b0": Quantity("slope of the power spectrum, b=0", 2),
    "slope_weighted": Quantity("slope of the power spectrum, weighted", 2),
    "coherence_next": Quantity("coherence of V1, next voxel", 2),
    "coherence_4mm": Quantity("coherence of V1, 4 mm", 2),
    "coherence_8mm": Quantity("coherence of V1, 8 mm", 2),
}


@dataclass(frozen=True)
class Effort:
    """Patches per scanner and side, sets of seven volumes; networks per question, their steps."""

    patches: int
    sets: int
    networks: int
    steps: int
    batch: int = 32


FULL = Effort(patches=120, sets=12, networks=3, steps=250)
QUICK = Effort(patches=4, sets=2, networks=1, steps=4, batch=8)


# Patches. Each is a `Dwi` with a mask, of all volumes of its gradient table.


def read_scan(dataset: Path, scanner: str) -> Dwi:
    """Read the AP series of a scanner, with a brain mask."""
    stem = dataset / f"sub-{scanner}" / "dwi" / f"sub-{scanner}_dir-AP_dwi"
    dwi = Dwi.from_files(*(stem.with_suffix(end) for end in (".nii.gz", ".bval", ".bvec")))
    return dwi.with_mask(brain_mask(dwi.mean_b0(), dwi.affine, contrast="b0").mask)


def crop(dwi: Dwi, corner: Sequence[int], shape: Sequence[int]) -> Dwi:
    """Cut a box out of a scan with a mask; as much of it as the scan holds."""
    box = tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))
    affine = dwi.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(corner)
    assert dwi.mask is not None
    return Dwi.from_arrays(dwi.data[box], affine, dwi.gtab, mask=dwi.mask[box])


def brain_share(dwi: Dwi) -> float:
    """Return the share of the mask."""
    assert dwi.mask is not None
    return float(dwi.mask.mean())


def cut_patches(rng: np.random.Generator, scan: Dwi, n: int) -> list[Dwi]:
    """Cut patches at random places of the brain; they overlap."""
    highest = np.array(scan.shape[:3]) - SHAPE
    patches: list[Dwi] = []
    while len(patches) < n:
        patch = crop(scan, [int(i) for i in rng.integers(0, highest + 1)], SHAPE)
        if brain_share(patch) >= FEWEST_BRAIN:
            patches.append(patch)
    return patches


def matched_affine(rng: np.random.Generator, voxel_mm: NDArray[np.float64]) -> Tensor:
    """Return the grid of an upright patch of given voxel size, somewhere in the MNI brain."""
    centre = rng.uniform((-35.0, -65.0, -10.0), (35.0, 30.0, 45.0))
    affine = np.diag([*voxel_mm, 1.0])
    affine[:3, 3] = centre - voxel_mm * (np.array(SHAPE) - 1) / 2
    return torch.tensor(affine, dtype=torch.float32)


def simulate_patches(
    rng: np.random.Generator,
    gtab: GradientTable,
    n: int,
    *,
    shape: tuple[int, int, int] = SHAPE,
    voxel_mm: NDArray[np.float64] | None = None,
) -> list[Dwi]:
    """Draw patches as the training does, or upright ones of a given voxel size."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    patches: list[Dwi] = []
    while len(patches) < n:
        batch = draw_batch(
            generator,
            [gtab] * DRAWS,
            shape=shape,
            affine=None if voxel_mm is None else matched_affine(rng, voxel_mm),
            with_truth=False,
        )
        drawn = (
            Dwi.from_arrays(signal.movedim(0, 3).numpy(), affine, gtab, mask=mask.numpy())
            for signal, affine, mask in zip(batch.signal, batch.affine, batch.mask, strict=True)
        )
        patches += [patch for patch in drawn if brain_share(patch) >= FEWEST_BRAIN]
    return patches[:n]


def simulate_scan(rng: np.random.Generator, scan: Dwi) -> Dwi:
    """Scan a head as `dmri-fm simulate` does, with a scan's gradient table and voxel size."""
    x, y, z = scan.voxel_size_mm.tolist()
    subject = place_subject(
        draw_anatomy(rng), Tissue(), voxel_size_mm=(x, y, z), rng=rng, field_peak_hz=65.0
    )
    # White matter has some 450 at b=0: an SNR of about 20.
    data = acquire(subject, scan.gtab, Acquisition(sigma=22.0, ghost=0.005))
    return Dwi.from_arrays(data, subject.affine, scan.gtab, mask=subject.fractions.mask)


# Measurements.


def white_matter(maps: TensorMaps) -> NDArray[np.bool_]:
    """Return the voxels that the tensor takes for white matter, off the border of the mask."""
    low, high = TISSUE_MD
    inner = binary_erosion(maps.mask, border_value=1)
    return inner & (maps.fa > WHITE_FA) & (maps.md > low) & (maps.md < high)


def median_in(values: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
    """Return a median, NaN of too few voxels."""
    return float(np.median(values[where])) if where.sum() >= FEWEST_VOXELS else np.nan


def noise_of(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the standard deviation of the noise, from the finest diagonal detail."""
    images = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    return float(estimate_noise(images, torch.from_numpy(mask)[None, None]))


def spectrum_slope(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the slope of log power over log frequency, averaged over directions."""
    window = mask.astype(np.float64)
    for axis, n in enumerate(image.shape):
        window *= np.hanning(n + 2)[1:-1].reshape([-1 if k == axis else 1 for k in range(3)])
    centred = (image - np.average(image, weights=window)) * window
    power = np.abs(np.fft.fftn(centred)) ** 2
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij")
    frequency = np.sqrt(sum(axis**2 for axis in axes))
    edges = np.geomspace(*BAND, 12)
    shell = np.digitize(frequency, edges)
    means = [power[shell == k].mean() for k in range(1, len(edges))]
    return float(np.polyfit(np.log(edges[:-1] * edges[1:]) / 2, np.log(means), 1)[0])


def coherence(
    v1: NDArray[np.float32], where: NDArray[np.bool_], voxel_mm: NDArray[np.float64]
) -> dict[str, float]:
    """Return the mean |cos| between main axes of white-matter voxels at three distances."""
    near, at_4mm, at_8mm = [], [], []
    for axis in range(3):
        axes, inside = np.moveaxis(v1, axis, 0), np.moveaxis(where, axis, 0)
        lags = np.arange(1, min(int(np.ceil(8.0 / voxel_mm[axis])) + 1, len(axes)))
        means = []
        for lag in lags:
            both = inside[lag:] & inside[:-lag]
            cosine = np.abs((axes[lag:] * axes[:-lag]).sum(axis=-1))
            means.append(float(cosine[both].mean()) if both.sum() >= FEWEST_VOXELS else np.nan)
        near.append(means[0])
        at_4mm.append(np.interp(4.0, lags * voxel_mm[axis], means))
        at_8mm.append(np.interp(8.0, lags * voxel_mm[axis], means))
    return {
        "coherence_next": float(np.mean(near)),
        "coherence_4mm": float(np.mean(at_4mm)),
        "coherence_8mm": float(np.mean(at_8mm)),
    }


def describe(patch: Dwi) -> dict[str, float]:
    """Measure a patch; the keys are those of :data:`QUANTITIES`."""
    maps = fit_tensor(patch)
    white, mask = white_matter(maps), maps.mask
    low, high = TISSUE_MD
    grey = mask & (maps.fa < GREY_FA) & (maps.md > low) & (maps.md < high)
    first_b0 = patch.data[..., int(np.flatnonzero(patch.gtab.is_b0)[0])]
    first_weighted = patch.data[..., int(np.flatnonzero(~patch.gtab.is_b0)[0])]
    b0_white = median_in(first_b0, white)
    return {
        "fa": median_in(maps.fa, white),
        "fa_high": float(np.percentile(maps.fa[white], 90)) if white.any() else np.nan,
        "md": median_in(maps.md, white),
        "white_share": float(white.sum() / mask.sum()),
        "snr_b0": b0_white / noise_of(first_b0, mask),
        "snr_weighted": median_in(first_weighted, white) / noise_of(first_weighted, mask),
        "b0_range": float(np.divide(*np.percentile(first_b0[mask], (95, 50)))),
        "b0_csf": median_in(first_b0, mask & (maps.md > CSF_MD)) / b0_white,
        "b0_grey": median_in(first_b0, grey) / b0_white,
        "slope_b0": spectrum_slope(first_b0, mask),
        "slope_weighted": spectrum_slope(first_weighted, mask),
        **coherence(maps.v1, white, patch.voxel_size_mm),
    }


def measure(patches: Sequence[Dwi]) -> NDArray[np.float64]:
    """Measure patches: shape (patches, quantities)."""
    rows = [describe(patch) for patch in patches]
    return np.array([[row[key] for key in QUANTITIES] for row in rows])


# Classifiers.


def choose_sevens(rng: np.random.Generator, gtab: GradientTable, n: int) -> list[NDArray[np.int_]]:
    """Choose sets of one b=0 and six directions that determine a tensor, at random."""
    b0, weighted = np.flatnonzero(gtab.is_b0), np.flatnonzero(~gtab.is_b0)
    sets: list[NDArray[np.int_]] = []
    while len(sets) < n:
        some = rng.choice(weighted, min(20, len(weighted) - 2), replace=False)
        six = choose_six(gtab.select(some))
        if six.condition_number < LARGEST_CONDITION:
            sets.append(np.array([rng.choice(b0), *some[list(six.index)]]))
    return sets


def network_inputs(
    rng: np.random.Generator, patches: Sequence[Dwi], sets: Sequence[NDArray[np.int_]]
) -> Tensor:
    """Return seven volumes of patches as the tensor network reads them: (B, 7, X, Y, Z)."""
    inputs = []
    for patch in patches:
        seven = patch.select(sets[rng.integers(len(sets))])
        assert seven.mask is not None
        read = tensor_inputs(seven.data, seven.gtab, seven.mask, seven.affine)
        inputs.append(torch.cat([read.s0, read.ratios.clamp(0, 1.5)], dim=1))
    return torch.cat(inputs)


def build_network() -> nn.Module:
    """Return a network of 34 thousand weights that scores patches (B, 7, X, Y, Z)."""
    layers: list[nn.Module] = []
    for before, after in ((7, 16), (16, 24), (24, 32)):
        layers += [
            nn.Conv3d(before, after, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm3d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 1)
    )


def train_network(real: Tensor, simulated: Tensor, effort: Effort, seed: int) -> nn.Module:
    """Train a network to score real patches above simulated ones; random flips."""
    torch.manual_seed(seed)
    network = build_network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    half = effort.batch // 2
    labels = torch.cat([torch.ones(half), torch.zeros(half)])
    for _ in range(effort.steps):
        batch = torch.cat([side[torch.randint(len(side), (half,))] for side in (real, simulated)])
        batch = batch.flip([axis for axis in (2, 3, 4) if torch.rand(1) < 0.5])
        loss = nn.functional.binary_cross_entropy_with_logits(network(batch)[:, 0], labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def build_regression() -> Pipeline:
    """Return logistic regression on the measurements and their products."""
    return make_pipeline(
        SimpleImputer(),
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),
        LogisticRegression(C=0.1, max_iter=5000),
    )


class Verdict(NamedTuple):
    """How well real and simulated patches are told apart; 0.5 is chance for both."""

    balanced_accuracy: float
    auroc: float


def judge(scores: NDArray[np.floating], is_real: NDArray[np.bool_]) -> Verdict:
    """Compare scores, positive for real, with what the patches are."""
    return Verdict(
        float(balanced_accuracy_score(is_real, scores > 0)), float(roc_auc_score(is_real, scores))
    )


def judge_network(
    real: dict[str, Tensor], simulated: dict[str, Tensor], left_out: str, effort: Effort
) -> Verdict:
    """Train networks on all scanners but one, and test them there: the mean of their verdicts."""
    sides = [torch.cat([v for k, v in s.items() if k != left_out]) for s in (real, simulated)]
    tested = torch.cat([real[left_out], simulated[left_out]])
    is_real = np.arange(len(tested)) < len(real[left_out])
    verdicts = []
    for seed in range(effort.networks):
        network = train_network(*sides, effort, seed)
        with torch.inference_mode():
            verdicts.append(judge(network(tested)[:, 0].numpy(), is_real))
    return Verdict(*np.mean(verdicts, axis=0))


def judge_regression(
    real: dict[str, NDArray[np.float64]], simulated: dict[str, NDArray[np.float64]], left_out: str
) -> Verdict:
    """Train the regression on all scanners but one, and test it there."""
    sides = [np.concatenate([v for k, v in s.items() if k != left_out]) for s in (real, simulated)]
    regression = build_regression().fit(
        np.concatenate(sides), np.repeat([True, False], [len(s) for s in sides])
    )
    scores = regression.decision_function(np.concatenate([real[left_out], simulated[left_out]]))
    return judge(scores, np.arange(len(scores)) < len(real[left_out]))


# Tables and figures.


def summarise(values: NDArray[np.float64], quantity: Quantity) -> str:
    """Print a median and the 10th and 90th percentiles."""
    middle, low, high = np.nanpercentile(values * quantity.factor, (50, 10, 90))
    d = quantity.digits
    return f"{middle:.{d}f} ({low:.{d}f} to {high:.{d}f})"


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the Kolmogorov-Smirnov distance: 0 if equal, 1 if nothing overlaps."""
    return float(ks_2samp(a[np.isfinite(a)], b[np.isfinite(b)]).statistic)


def table_of_quantities(
    real: dict[str, NDArray[np.float64]], simulated: dict[str, NDArray[np.float64]]
) -> list[str]:
    """Return the lines of the table of measurements."""
    lines = ["| quantity | scanner | real | simulated | KS distance |", "|---|---|---|---|---|"]
    for k, quantity in enumerate(QUANTITIES.values()):
        for scanner in real:
            a, b = real[scanner][:, k], simulated[scanner][:, k]
            lines.append(
                f"| {quantity.title} | {scanner} | {summarise(a, quantity)} "
                f"| {summarise(b, quantity)} | {distance(a, b):.2f} |"
            )
    mean = np.mean([
        distance(real[s][:, k], simulated[s][:, k]) for s in real for k in range(len(QUANTITIES))
    ])  # fmt: skip
    return [*lines, f"| mean of all | | | | {mean:.2f} |"]


def table_of_verdicts(verdicts: dict[tuple[str, str, str], Verdict]) -> list[str]:
    """Return the lines of the table of classifiers: keys are patches, classifier, scanner."""
    scanners = list(dict.fromkeys(scanner for *_, scanner in verdicts))
    titles = " | ".join(f"{s}, {SCANNERS[s]}" for s in scanners)
    lines = [f"| simulated patches | classifier | {titles} |", "|---" * (2 + len(scanners)) + "|"]
    for patches, classifier in dict.fromkeys(key[:2] for key in verdicts):
        found = [verdicts[patches, classifier, scanner] for scanner in scanners]
        cells = " | ".join(f"{v.balanced_accuracy:.2f}, {v.auroc:.2f}" for v in found)
        lines.append(f"| {patches} | {classifier} | {cells} |")
    return lines


def insert_tables(page: Path, lines: Sequence[str]) -> None:
    """Replace what stands between the two marks of a page; a new page holds only them."""
    text = page.read_text(encoding="utf-8") if page.is_file() else f"{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]), encoding="utf-8")


def draw_distributions(
    real: dict[str, NDArray[np.float64]], simulated: dict[str, NDArray[np.float64]], path: Path
) -> None:
    """Draw a box for every quantity, scanner and side: quartiles, 10th and 90th percentiles."""
    figure, panels = plt.subplots(3, 5, figsize=(15, 8), layout="constrained")
    for k, (panel, quantity) in enumerate(zip(panels.flat, QUANTITIES.values(), strict=False)):
        for side, colour, shift in ((real, "tab:blue", -0.2), (simulated, "tab:orange", 0.2)):
            values = [v[np.isfinite(v[:, k]), k] * quantity.factor for v in side.values()]
            panel.boxplot(
                values, positions=np.arange(len(values)) + shift, widths=0.3, whis=(10, 90),
                showfliers=False, patch_artist=True, manage_ticks=False,
                boxprops={"facecolor": colour, "alpha": 0.6}, medianprops={"color": "black"},
            )  # fmt: skip
        panel.set_xticks(range(len(real)), list(real))
        panel.set_title(quantity.title, fontsize=9)
    for panel in panels.flat[len(QUANTITIES) :]:
        panel.axis("off")
    handles = [plt.Rectangle((0, 0), 1, 1, color=c, alpha=0.6) for c in ("tab:blue", "tab:orange")]
    panels.flat[-1].legend(handles, ["real", "simulated"], loc="center", fontsize=12)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def centre_of_brain(scan: Dwi) -> Dwi:
    """Cut the picture's patch around the middle of the brain."""
    assert scan.mask is not None
    middle = np.argwhere(scan.mask).mean(axis=0)
    room = np.maximum(np.array(scan.shape[:3]) - PICTURE_SHAPE, 0)
    corner = np.clip(np.round(middle - np.array(PICTURE_SHAPE) / 2), 0, room).astype(int)
    return crop(scan, [int(c) for c in corner], PICTURE_SHAPE)


def draw_rows(rows: Sequence[tuple[str, Dwi]], path: Path) -> None:
    """Draw the middle slice of patches: b=0, one weighted volume, FA, MD, direction."""
    columns = ("b=0", "weighted", "FA, 0 to 1", "MD, 0 to 3e-3 mm²/s", "main direction")
    size = (2.1 * len(columns), 2.25 * len(rows))
    figure, panels = plt.subplots(len(rows), len(columns), figsize=size, layout="constrained")
    for (title, patch), line in zip(rows, panels, strict=True):
        maps, z = fit_tensor(patch), patch.shape[2] // 2
        b0 = patch.data[..., int(np.flatnonzero(patch.gtab.is_b0)[0])]
        weighted = patch.data[..., int(np.flatnonzero(~patch.gtab.is_b0)[0])]
        brightest = [np.percentile(image[maps.mask], 99) for image in (b0, weighted)]
        images = [
            b0 * maps.mask / brightest[0],
            weighted * maps.mask / brightest[1],
            maps.fa,
            maps.md / 3e-3,
            np.abs(maps.v1) * maps.fa[..., None],
        ]
        for panel, image in zip(line, images, strict=True):
            view = np.rot90(image[:, :, z].clip(0, 1))
            panel.imshow(view, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, fontsize=8)
    for panel, title in zip(panels[0], columns, strict=True):
        panel.set_title(title, fontsize=9)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def row_title(kind: str, scanner: str, patch: Dwi) -> str:
    """Name a row of the picture."""
    size = " x ".join(f"{mm:.1f}" for mm in patch.voxel_size_mm)
    return f"{kind}, {scanner}, {SCANNERS[scanner]}\n{size} mm"


def simulate_sides(
    rng: np.random.Generator, scans: dict[str, Dwi], n: int
) -> dict[str, dict[str, list[Dwi]]]:
    """Draw both kinds of simulated patches, with the gradient table of every scanner."""
    return {
        "as in training": {s: simulate_patches(rng, scan.gtab, n) for s, scan in scans.items()},
        "upright, voxel size of the scan": {
            s: simulate_patches(rng, scan.gtab, n, voxel_mm=scan.voxel_size_mm)
            for s, scan in scans.items()
        },
    }


def compare(dataset: Path, folder: Path, effort: Effort) -> list[str]:
    """Draw, measure, classify; draw the figures and return the lines of the tables."""
    rng = np.random.default_rng(0)
    scans = {scanner: read_scan(dataset, scanner) for scanner in SCANNERS}
    real = {s: cut_patches(rng, scan, effort.patches) for s, scan in scans.items()}
    measured = {s: measure(patches) for s, patches in real.items()}
    sets = {s: choose_sevens(rng, scan.gtab, effort.sets) for s, scan in scans.items()}
    inputs = {s: network_inputs(rng, patches, sets[s]) for s, patches in real.items()}
    verdicts: dict[tuple[str, str, str], Verdict] = {}
    table: list[str] = []
    for kind, side in simulate_sides(rng, scans, effort.patches).items():
        baselines = {s: measure(patches) for s, patches in side.items()}
        baseline_inputs = {s: network_inputs(rng, ps, sets[s]) for s, ps in side.items()}
        for s in scans:
            verdicts[kind, "network", s] = judge_network(inputs, baseline_inputs, s, effort)
            verdicts[kind, "regression", s] = judge_regression(measured, baselines, s)
        if not table:
            table = table_of_quantities(measured, baselines)
            draw_distributions(measured, baselines, folder / "realism_distributions.png")
    pictured = [("real", s, centre_of_brain(scan)) for s, scan in scans.items()] + [
        ("simulated", s, simulate_patches(rng, scan.gtab, 1, shape=PICTURE_SHAPE)[0])
        for s, scan in scans.items()
    ]
    for s in PICTURED_SCANS:
        pictured.append(("scanned by trxscan", s, centre_of_brain(simulate_scan(rng, scans[s]))))
    draw_rows([(row_title(*row), row[2]) for row in pictured], folder / "realism.png")
    return [*table_of_verdicts(verdicts), "", *table]


def main() -> int:
    """Find the scans, compare, write the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of realism.md")
    parser.add_argument("--quick", action="store_true", help="few patches: to see that it runs")
    options = parser.parse_args()
    dataset = Path(os.environ.get("DMRI_TEST_DATA", DEFAULT_DATA)) / "ds-vendors"
    if not dataset.is_dir():
        print(
            f"no real scans at {dataset}; DMRI_TEST_DATA names the folder of ds-vendors",
            file=sys.stderr,
        )
        return 1
    # Sets of directions that are doubted are drawn again.
    logging.getLogger("dmri_fm.qspace").setLevel(logging.ERROR)
    start = time.process_time()
    pictures = options.output / "img"
    pictures.mkdir(parents=True, exist_ok=True)
    lines = compare(dataset, pictures, QUICK if options.quick else FULL)
    insert_tables(options.output / "realism.md", lines)
    print("\n".join(lines))
    print(f"{time.process_time() - start:.0f} CPU-s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
