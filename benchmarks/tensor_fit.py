"""Time the tensor fit against dipy's, on the same voxels, in one run.

Usage: python benchmarks/tensor_fit.py [--voxels 900000] [--threads 1]

Prints CPU seconds of both, their ratio, and the largest difference of FA among the voxels whose
eigenvalues are positive. The project's claim is a ratio of 10 or more.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from numpy.typing import NDArray

from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi
from dmri_fm.tensor import MIN_SIGNAL, fit_tensor
from dmri_fm_lab.simulate import draw_protocol

#: The project's claim.
RATIO_CLAIMED = 10.0


def simulate(rng: np.random.Generator, gtab: GradientTable, n_voxels: int) -> NDArray[np.float32]:
    """Draw tensors of random shape and pose, and their Rician signals at an SNR of 30."""
    shape = (n_voxels // 9000, 90, 100)
    n = int(np.prod(shape))
    factor = rng.normal(0.0, 0.02, (n, 3, 3))
    tensors = factor @ factor.transpose(0, 2, 1) + 2e-4 * np.eye(3)
    weight = np.einsum("ni,nj->nij", gtab.bvecs_ras, gtab.bvecs_ras) * gtab.bvals[:, None, None]
    signal = 1000.0 * np.exp(-tensors.reshape(n, 9) @ weight.reshape(-1, 9).T)
    noise = rng.normal(0.0, 1000.0 / 30.0, (2, *signal.shape))
    noisy = np.hypot(signal + noise[0], noise[1])
    return noisy.reshape(*shape, -1).astype(np.float32)


def time_call(function: Callable[[], object]) -> tuple[float, float]:
    """Return CPU and wall seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voxels", type=int, default=900_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    gtab = draw_protocol(rng, scheme="shell", n_directions=100, bvals=1000, n_b0=8)
    fit_tensor(Dwi.from_arrays(simulate(rng, gtab, 9000), np.eye(4), gtab))
    data = simulate(rng, gtab, options.voxels)
    dwi = Dwi.from_arrays(data, np.eye(4), gtab)
    print(f"{np.prod(data.shape[:3])} voxels x {data.shape[3]} volumes")

    results = {}

    def ours() -> None:
        results["ours"] = fit_tensor(dwi, min_signal=MIN_SIGNAL, n_threads=options.threads)

    def theirs() -> None:
        table = gradient_table(gtab.bvals, bvecs=gtab.bvecs_ras)
        fit = TensorModel(table, fit_method="WLS").fit(data)
        results["dipy"] = fit.fa, fit.evals

    cpu, wall = time_call(ours)
    print(f"dmri_fm   {cpu:7.2f} CPU-s  {wall:7.2f} s")
    cpu_dipy, wall_dipy = time_call(theirs)
    print(f"dipy WLS  {cpu_dipy:7.2f} CPU-s  {wall_dipy:7.2f} s")
    fa, evals = results["dipy"]
    positive = evals[..., 2] > 1e-8
    error = float(np.abs(results["ours"].fa - fa)[positive].max())
    print(f"ratio of CPU time {cpu_dipy / cpu:.1f}x (claimed: {RATIO_CLAIMED:g}x)")
    print(f"largest FA difference {error:.2g} in {positive.mean():.1%} of the voxels")
    return 0 if cpu_dipy / cpu >= RATIO_CLAIMED and error < 1e-4 else 1


if __name__ == "__main__":
    raise SystemExit(main())
