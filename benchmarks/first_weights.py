"""Score the weights that ship against plain rivals, on held-out simulation and a real scan.

Usage: python benchmarks/first_weights.py [--data FOLDER] [--pretraining FOLDER] [--scans 24]

Prints, for simulated patches that no training run draws and, with --data, for a real scan
(sub-trio of the test scans, never used in training): errors of FA, MD and V1 of the tensor network
and of weighted least squares on the same seven volumes, as measured and after Gaussian smoothing.
With --pretraining (the folder of a run of `dmri-fm pretrain`, whose checkpoint holds the decoder):
the error of hidden directions and places against the mean of the visible directions.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from dipy.segment.mask import median_otsu
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter

from dmri_fm.gradients import rotation_part
from dmri_fm.models.directions import choose_spread
from dmri_fm.models.drope import SMALL
from dmri_fm.models.mae import SMALL_MAE, Mask, MaskedAutoencoder, draw_mask
from dmri_fm.models.maps import TensorMaps
from dmri_fm.models.predict import extract_features, predict_tensor
from dmri_fm.models.tensor import fit_tensor
from dmri_fm.models.tokens import ScanTokens, feature_grid, tokenise
from dmri_fm.models.weights import load_weights
from dmri_fm.normalise.grid import affine_map, resample_dwi
from dmri_fm.normalise.registration import Image3D, register_affine
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.normalise.template import load_template
from dmri_fm.simulate import draw_sample
from dmri_fm.train.drope import draw_scan_tokens
from dmri_fm.train.qcg_dti import draw_training_protocol
from dmri_fm.volumes import Dwi

#: Training draws from [seed, step] and [seed, 0..2, number]; these seeds lie outside.
HELD_OUT = 777_000

#: Voxels of a higher MD are left out as CSF, mm^2/s.
CSF_MD = 1.6e-3

#: V1 is compared where the reference's FA is above this.
V1_FA = 0.3


def smooth(dwi: Dwi, sigma_voxels: float) -> Dwi:
    """Blur every volume."""
    data = gaussian_filter(dwi.data, (sigma_voxels,) * 3 + (0,))
    return Dwi.from_arrays(data, dwi.affine, dwi.gtab, mask=dwi.mask)


#: The rivals, from the same volumes.
METHODS: dict[str, Callable[[Dwi], TensorMaps]] = {
    "WLS": fit_tensor,
    "Gaussian 0.5 voxel, WLS": lambda dwi: fit_tensor(smooth(dwi, 0.5)),
    "Gaussian 0.7 voxel, WLS": lambda dwi: fit_tensor(smooth(dwi, 0.7)),
    "qcg-dti": predict_tensor,
}


def errors(maps: TensorMaps, truth: TensorMaps, where: NDArray[np.bool_]) -> dict[str, float]:
    """Return mean absolute errors within a region; tensors and MD in 1e-3 mm^2/s."""
    difference = np.abs(maps.diffusivity - truth.diffusivity)[where].sum(axis=1)
    fibres = where & (truth.fa > V1_FA)
    cosine = np.abs((maps.v1 * truth.v1).sum(axis=3))[fibres].clip(0, 1)
    return {
        "tensor": 1e3 * float(difference.mean()),
        "FA": float(np.abs(maps.fa - truth.fa)[where].mean()),
        "FA bias": float((maps.fa - truth.fa)[where].mean()),
        "MD": 1e3 * float(np.abs(maps.md - truth.md)[where].mean()),
        "V1": float(np.rad2deg(np.arccos(cosine)).mean()) if fibres.any() else float("nan"),
    }


def print_table(title: str, rows: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{title}\n")
    names = list(next(iter(rows.values()))[0])
    print("| method | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for method, values in rows.items():
        means = (np.nanmean([v[n] for v in values]) for n in names)
        print(f"| {method} | " + " | ".join(f"{m:.4f}" for m in means) + " |")


def score_tensors_on_simulation(n_scans: int) -> None:
    """Compare with the true tensor of simulated patches."""
    tables: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for number in range(n_scans):
        rng = np.random.default_rng([HELD_OUT, number])
        gtab = draw_training_protocol(rng, spread_share=0.3)
        sample = draw_sample(rng, shape=(40, 40, 40), gtab=gtab)
        assert sample.truth_tensor is not None
        dwi = Dwi.from_arrays(sample.signal, sample.affine, gtab, mask=sample.mask)
        truth = TensorMaps.from_tensor(
            sample.truth_tensor, sample.mask, affine=sample.affine, model="tensor"
        )
        where = sample.mask & (sample.fractions[..., 2] < 0.5)
        snr = "SNR < 20" if sample.signal[where, 0].mean() < 20 * sample.sigma else "SNR >= 20"
        shell = "b <= 1500" if sample.truth_bval <= 1500 else "b > 1500"
        for method, run in METHODS.items():
            found = errors(run(dwi), truth, where)
            tables[f"{shell}, {snr}"][method].append(found)
    for title, rows in sorted(tables.items()):
        n = len(next(iter(rows.values())))
        print_table(f"Held-out simulation, {title}, {n} patches (truth known, CSF left out)", rows)


def read_trio(data: Path) -> Dwi:
    stem = data / "ds-vendors" / "sub-trio" / "dwi"
    image = next(stem.glob("*_dwi.nii.gz"))
    name = str(image).removesuffix(".nii.gz")
    dwi = Dwi.from_files(image, f"{name}.bval", f"{name}.bvec")
    _, mask = median_otsu(dwi.mean_b0(), median_radius=4, numpass=4)
    return dwi.with_mask(mask)


def score_tensors_on_trio(dwi: Dwi) -> None:
    """Compare with least squares on the volumes, and the b=0, that were not used."""
    b0 = np.flatnonzero(dwi.gtab.is_b0)
    weighted = np.flatnonzero(~dwi.gtab.is_b0)
    assert dwi.mask is not None
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    halves = (weighted[: weighted.size // 2], weighted[weighted.size // 2 :])
    # Each repetition of the 20 directions gives one test; the other b=0 is the reference's.
    for half, own_b0, other_b0 in zip(halves, b0[:2], b0[1::-1], strict=True):
        pool = dwi.select([own_b0, *half])
        six = np.array([own_b0, *half])[predict_tensor(pool).metadata["Volumes"]]
        test = dwi.select([own_b0, *six])
        rest = [v for v in weighted if v not in six]
        reference = fit_tensor(dwi.select([other_b0, *rest]))
        where = binary_erosion(dwi.mask, iterations=2) & (reference.md < CSF_MD)
        for method, run in METHODS.items():
            rows[method].append(errors(run(test), reference, where))
    print_table("sub-trio, raw, b 1000 (reference: WLS on 34 other volumes, noisy itself)", rows)


def to_model_grid(dwi: Dwi) -> Dwi:
    """Register a series to the template (affine) and resample it to the encoder's grid."""
    grid, template = feature_grid("drope"), load_template(2)
    assert dwi.mask is not None
    brain = Image3D(dwi.mean_b0() * dwi.mask, dwi.affine)
    shift = np.eye(4)
    target = Image3D(template.t1, np.asarray(template.grid.affine))
    shift[:3, 3] = brain.centre_mm() - target.centre_mm()
    matrix = register_affine(brain, template, initial=shift).xfm
    data = np.nan_to_num(
        resample_dwi(dwi.data, dwi.affine, grid, target2dwiref=affine_map(matrix))
    )
    mask = resample_dwi(
        dwi.mask[..., None], dwi.affine, grid, target2dwiref=affine_map(matrix), order=1
    )
    gtab = dwi.gtab.rotated(rotation_part(np.linalg.inv(matrix)))
    return Dwi.from_arrays(data, grid.affine, gtab, mask=mask[..., 0] > 0.5)


def load_autoencoder(folder: Path) -> MaskedAutoencoder:
    state = torch.load(folder / "last.ckpt", weights_only=True)["average"]
    model = MaskedAutoencoder(SMALL_MAE)
    prefix = "module."
    model.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    return model.eval()


def hidden_errors(
    model: MaskedAutoencoder, scan: ScanTokens, rng: np.random.Generator
) -> dict[str, float]:
    """Return root mean squared errors of S/S0 in hidden patches of the brain."""
    n, places = scan.qspace.shape[0], scan.positions.shape[0]
    brain = scan.brain.bool()
    out: dict[str, float] = {}
    for kind in ("diffusion", "spatial"):
        mask: Mask = draw_mask(rng, SMALL_MAE, kind=kind, n_directions=n, n_places=places)
        with torch.inference_mode():
            made = model(scan.patches[None], scan.qspace[None], scan.positions[None], mask)[0]
        hidden = mask.hidden(n, places)[0]
        if kind == "diffusion":
            mean = scan.patches[~hidden[:, 0]].mean(dim=0).expand_as(scan.patches)
            rival = "mean of visible directions"
        else:
            seen = ~hidden[0]
            values = torch.stack([p[seen][brain[seen]].mean() for p in scan.patches])
            mean = values[:, None, None].expand_as(scan.patches)
            rival = "mean of visible places"
        voxels = hidden[..., None] & brain[None]
        for name, estimate in (("network", made), (rival, mean)):
            square = (estimate - scan.patches).square()[voxels].mean()
            out[f"{kind}: {name}"] = float(square.sqrt())
    return out


def score_autoencoder(folder: Path, n_scans: int, trio: Dwi | None) -> None:
    model = load_autoencoder(folder)
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(n_scans):
        rng = np.random.default_rng([HELD_OUT + 1, number])
        scan = draw_scan_tokens(rng, SMALL, n_directions=12)
        rows["held-out simulation"].append(hidden_errors(model, scan, rng))
    if trio is not None:
        chosen = choose_spread(trio.gtab, 12)
        volumes = np.concatenate([np.flatnonzero(trio.gtab.is_b0), chosen])
        table = trio.gtab.select(volumes)
        assert trio.mask is not None
        signal = normalise_b0(trio.data[..., volumes], table, mask=trio.mask).signal
        scan = tokenise(signal[..., ~table.is_b0], trio.gtab.select(chosen), trio.mask, SMALL)
        rows["sub-trio"].append(hidden_errors(model, scan, np.random.default_rng(0)))
    print_table("Masked autoencoder: RMSE of S/S0 in hidden patches, noise included", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the real test scans")
    parser.add_argument("--pretraining", type=Path, help="folder of a pretraining run")
    parser.add_argument("--scans", type=int, default=24, help="simulated scans of each kind")
    options = parser.parse_args()

    for name in ("qcg-dti", "drope"):
        loaded = load_weights(name)
        print(f"{name} {loaded.version}, sha256 {loaded.sha256}")
        print(f"  {loaded.training['steps']} steps, {loaded.training['minutes']} minutes")
    score_tensors_on_simulation(options.scans)
    trio = read_trio(options.data) if options.data else None
    in_mni = None
    if trio is not None:
        score_tensors_on_trio(trio)
        in_mni = to_model_grid(trio)
        features = extract_features(in_mni)
        print(
            f"\nsub-trio's features: familiarity score {features.ood_score:.2f}, "
            f"percentile {features.ood_percentile:.0f} of held-out simulation"
        )
    if options.pretraining:
        score_autoencoder(options.pretraining, max(1, options.scans // 4), in_mni)


if __name__ == "__main__":
    main()
