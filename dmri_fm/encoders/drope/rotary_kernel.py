"""D-RoPE attention of many patch positions in one compiled loop, for inference on a CPU.

Nothing of the size patches x directions x directions x channels exists: the tables of cosines and
sines belong to the scan, and stay in the processor's cache while patch after patch passes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: `nnan` is not among these: a NaN in the input must reach the output.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


@njit(nogil=True, cache=True, fastmath=_FASTMATH, error_model="numpy")
def _attend_range(qkv, cos, sin, out, start, stop):  # type: ignore
    """Fill `out` (S, T, heads, d) for patches `start` to `stop` of `qkv` (S, T, 3, heads, d)."""
    n_directions, n_heads, dim = qkv.shape[1], qkv.shape[3], qkv.shape[4]
    half = dim // 2
    # Keys are padded to a multiple of four with scores whose exponential is nothing.
    n_keys = (n_directions + 3) // 4 * 4
    # Copies of one patch and attention head lie densely: it is them that the inner loops read.
    q = np.empty((n_directions, dim), dtype=np.float32)
    k = np.empty((n_directions, dim), dtype=np.float32)
    v = np.zeros((n_keys, dim), dtype=np.float32)
    mixed = np.empty(dim, dtype=np.float32)
    score = np.full((n_directions, n_keys), np.float32(-1e9))
    flat = score.reshape(-1)
    power = np.empty(flat.size, dtype=np.int32)
    two_to = power.view(np.float32)
    for s in range(start, stop):
        for h in range(n_heads):
            for m in range(n_directions):
                for i in range(dim):
                    q[m, i] = qkv[s, m, 0, h, i]
                    k[m, i] = qkv[s, m, 1, h, i]
                    v[m, i] = qkv[s, m, 2, h, i]
            for m in range(n_directions):
                for n in range(n_directions):
                    total = np.float32(0.0)
                    for i in range(half):
                        j = half + i
                        first = cos[m, n, i] * q[m, i] + sin[m, n, j] * q[m, j]
                        second = cos[m, n, j] * q[m, j] - sin[m, n, i] * q[m, i]
                        total += k[n, i] * first + k[n, j] * second
                    score[m, n] = total
                top = score[m, 0]
                for n in range(n_directions):
                    top = score[m, n] if score[m, n] > top else top
                for n in range(n_directions):
                    score[m, n] -= top
                for n in range(n_directions, n_keys):
                    score[m, n] = np.float32(-1e9)
            # exp: a power of two times a short Taylor series.
            for i in range(flat.size):
                x = np.float32(-80.0) if flat[i] < np.float32(-80.0) else flat[i]
                x *= np.float32(1.4426950408889634)
                whole = np.floor(x + np.float32(0.5))
                power[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
                f = (x - whole) * np.float32(0.6931471805599453)
                series = np.float32(1 / 120) + f * np.float32(1 / 720)
                series = np.float32(1 / 6) + f * (np.float32(1 / 24) + f * series)
                series = np.float32(1.0) + f * (np.float32(0.5) + f * series)
                flat[i] = (np.float32(1.0) + f * series) * two_to[i]
            for m in range(n_directions):
                mixed[:] = np.float32(0.0)
                total = np.float32(0.0)
                for n in range(0, n_keys, 4):
                    w0, w1, w2, w3 = score[m, n], score[m, n + 1], score[m, n + 2], score[m, n + 3]
                    total += w0 + w1 + w2 + w3
                    for i in range(dim):
                        low = w0 * v[n, i] + w1 * v[n + 1, i]
                        mixed[i] += low + (w2 * v[n + 2, i] + w3 * v[n + 3, i])
                for i in range(dim):
                    out[s, m, h, i] = mixed[i] / total


def attend_directions(
    qkv: NDArray[np.float32],
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    *,
    pool: ThreadPoolExecutor | None = None,
    n_threads: int = 1,
) -> NDArray[np.float32]:
    """Let the directions of each patch position attend to one another.

    Parameters
    ----------
    qkv
        Shape (S, T, 3, heads, d): queries, keys, values. The channels of queries and keys are in
        halves: the first of all pairs, then the second of all pairs.
    cos, sin
        Shape (T, T, d), those of :func:`~dmri_fm.encoders.drope.rotary.pair_tables` times
        d^-1/2, with the channels in halves, too.
    pool, n_threads
        Threads of the pool, which share the patches.

    Returns
    -------
    ndarray
        Shape (S, T, heads, d), float32.
    """
    # One layout, so that the loop is compiled once.
    qkv, cos, sin = (np.ascontiguousarray(a) for a in (qkv, cos, sin))
    n_positions = qkv.shape[0]
    out = np.empty((n_positions, qkv.shape[1], qkv.shape[3], qkv.shape[4]), dtype=np.float32)
    if pool is None or n_threads < 2:
        _attend_range(qkv, cos, sin, out, 0, n_positions)
        return out
    edges = np.linspace(0, n_positions, n_threads + 1).astype(int).tolist()
    jobs = [pool.submit(_attend_range, qkv, cos, sin, out, a, b) for a, b in pairwise(edges)]
    for job in jobs:
        job.result()
    return out
