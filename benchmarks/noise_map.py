"""Noise maps of runs against the noise that was added: `python benchmarks/noise_map.py`.

Simulated heads without noise get Rician noise whose deviation grows from 0.7 to 1.3 across the
field of view. Printed are MP-PCA's map and the one number, over the true deviation; and what the
removal of Gibbs ringing leaves of noise. A few minutes on one core.
"""

from __future__ import annotations

import numpy as np

from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.denoise import unring
from dmri_fm.series import Dwi
from dmri_fm.tensor_networks.noise_map import map_by_mppca, measure_detail
from dmri_fm_lab.simulate import draw_sample, spread_directions

#: b=0 and weighted volumes of the runs.
RUNS = ((1, 6), (1, 9), (1, 12), (2, 20), (3, 32))

#: White-matter b=0 signal over the mean deviation.
SNRS = (10, 20, 40)

AFFINE = np.array([[2.0, 0, 0, -40], [0, 2, 0, -60], [0, 0, 2, -20], [0, 0, 0, 1]])


def main() -> None:
    """Print the table."""
    print("volumes  SNR  MP-PCA: median, 5th to 95th percentile   one number   unringed")
    for n_b0, n_weighted in RUNS:
        rng = np.random.default_rng(0)
        axes = spread_directions(rng, n_weighted)
        gtab = GradientTable(
            np.r_[np.zeros(n_b0), np.full(n_weighted, 1000.0)],
            np.r_[np.zeros((n_b0, 3)), axes],
        )
        sample = draw_sample(
            rng, shape=(36, 36, 36), affine=AFFINE, gtab=gtab, snr=1e5, with_truth=False
        )
        white = np.median(sample.signal[sample.fractions[..., 0] > 0.9][:, 0])
        for snr in SNRS:
            sigma = (
                white
                / snr
                * np.broadcast_to(np.linspace(0.7, 1.3, 36)[:, None, None], (36, 36, 36))
            )
            noise = rng.standard_normal((2, *sample.signal.shape), dtype=np.float32)
            noise *= sigma[..., None].astype(np.float32)
            data = np.hypot(sample.signal + noise[0], noise[1])
            dwi = Dwi.from_arrays(data, AFFINE, gtab, mask=sample.mask)
            found = map_by_mppca(dwi, sample.mask)
            assert found is not None
            ratio = (found / sigma)[sample.mask]
            low, middle, high = np.percentile(ratio, [5, 50, 95])
            number = measure_detail(dwi, sample.mask) / sigma[sample.mask].mean()
            left = unring(data[..., -1:]) - unring(sample.signal[..., -1:])
            kept = left[sample.mask].std() / noise[0, ..., -1][sample.mask].std()
            print(
                f"{len(gtab):7d}  {snr:3d}  {middle:.3f} ({low:.3f} to {high:.3f})"
                f"{number:28.3f}{kept:11.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
