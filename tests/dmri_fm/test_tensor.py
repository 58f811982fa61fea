from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ConfigError, GradientError, ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi
from dmri_fm.tensor import MIN_SIGNAL, fit_tensor, smallest_signal
from dmri_fm.tensor_design import select_shells
from dmri_fm_lab.simulate import draw_protocol
from dmri_fm_lab.simulate.brains import draw_brains
from dmri_fm_lab.simulate.mixture import dense_shell, draw_tissues, fit_shell, mixture

#: dipy's order is Dxx, Dxy, Dyy, Dxz, Dyz, Dzz.
DIPY_TO_OURS = [0, 1, 3, 2, 4, 5]


def fit_dipy(data: np.ndarray, gtab: GradientTable):
    table = gradient_table(gtab.bvals, bvecs=gtab.bvecs_ras, b0_threshold=50)
    return TensorModel(table, fit_method="WLS", return_S0_hat=True).fit(data)


def multi_shell(rng: np.random.Generator, *, bvals=(1000,), n=20, n_b0=2) -> GradientTable:
    return draw_protocol(rng, scheme="multishell", n_directions=n, bvals=bvals, n_b0=n_b0)


def gaussian_signal(gtab: GradientTable, matrices: np.ndarray, s0: float = 1000) -> np.ndarray:
    adc = np.einsum("ni,mij,nj->mn", gtab.bvecs_ras, matrices, gtab.bvecs_ras)
    return s0 * np.exp(-adc * gtab.bvals)


def random_matrices(rng: np.random.Generator, n: int) -> np.ndarray:
    factor = rng.normal(0, 0.02, (n, 3, 3))
    return factor @ factor.transpose(0, 2, 1) + 2e-4 * np.eye(3)


def wrap(signal: np.ndarray, gtab: GradientTable, affine=None) -> Dwi:
    affine = np.eye(4) if affine is None else affine
    return Dwi.from_arrays(signal.reshape(-1, 1, 1, len(gtab)), affine, gtab)


@pytest.mark.parametrize("bvals", [(1000,), (700, 1400), (2500,)])
def test_noise_free_tensors_come_back(bvals) -> None:
    rng = np.random.default_rng(0)
    gtab = multi_shell(rng, bvals=bvals)
    matrices = random_matrices(rng, 500)
    # Some of these tensors leave less signal than any scanner measures.
    maps = fit_tensor(wrap(gaussian_signal(gtab, matrices), gtab), min_signal=MIN_SIGNAL)
    expected = matrices[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    # ln S carries single precision, about 1e-6, which a b-value turns into a diffusivity.
    np.testing.assert_allclose(maps.diffusivity[:, 0, 0], expected, atol=5e-6 / min(bvals))
    np.testing.assert_allclose(maps.s0, 1000.0, rtol=1e-5)


@pytest.mark.parametrize("snr", [30.0, 4.0])
@pytest.mark.parametrize("bvals", [(1000,), (400, 1300), (3000,)])
def test_agrees_with_dipy_under_noise(bvals, snr) -> None:
    rng = np.random.default_rng(1)
    gtab = multi_shell(rng, bvals=bvals, n=17)
    signal = gaussian_signal(gtab, random_matrices(rng, 4000))
    noise = rng.normal(0, 1000 / snr, (2, *signal.shape))
    data = np.hypot(signal + noise[0], noise[1]).astype(np.float32).reshape(-1, 1, 1, len(gtab))
    maps = fit_tensor(Dwi.from_arrays(data, np.eye(4), gtab), min_signal=MIN_SIGNAL)
    theirs = fit_dipy(data, gtab)
    positive = theirs.evals[..., 2] > 1e-7
    assert positive.mean() > 0.5
    assert np.abs(maps.fa - theirs.fa)[positive].max() < 1e-5
    np.testing.assert_allclose(maps.md[positive], theirs.md[positive], atol=1e-9)
    np.testing.assert_allclose(maps.s0[positive], theirs.S0_hat[positive], rtol=1e-4)
    np.testing.assert_allclose(
        maps.diffusivity[positive],
        theirs.lower_triangular()[..., DIPY_TO_OURS][positive],
        atol=1e-8,
    )
    # Voxels with clipped eigenvalues follow the same rule; rounding may tip one over.
    assert np.quantile(np.abs(maps.fa - theirs.fa), 0.999) < 1e-4


def test_zero_and_negative_signals_are_clipped_as_dipy_clips_them() -> None:
    rng = np.random.default_rng(2)
    gtab = multi_shell(rng, n=30)
    data = gaussian_signal(gtab, random_matrices(rng, 300)).astype(np.float32)
    for voxel in range(300):
        data[voxel, rng.integers(len(gtab))] = rng.choice([0.0, -5.0, 1e-7])
    data[0] = 0.0
    data = data.reshape(-1, 1, 1, len(gtab))
    maps = fit_tensor(Dwi.from_arrays(data, np.eye(4), gtab), min_signal=MIN_SIGNAL)
    theirs = fit_dipy(data, gtab)
    positive = theirs.evals[..., 2] > 1e-7
    assert positive.any()
    assert np.abs(maps.fa - theirs.fa)[positive].max() < 1e-4
    assert np.isfinite(maps.fa).all()
    assert maps.fa[0, 0, 0] == 0


@pytest.mark.realdata
def test_agrees_with_dipy_on_a_real_scan(data_dir) -> None:
    folder = data_dir / "ds-vendors" / "sub-trio" / "dwi"
    stem = folder / "sub-trio_dir-AP_dwi"
    whole = Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")
    data = np.asarray(whole.image.dataobj[30:70, 30:70, 28:32], dtype=np.float32)
    maps = fit_tensor(Dwi.from_arrays(data, whole.affine, whole.gtab), min_signal=MIN_SIGNAL)
    theirs = fit_dipy(data, whole.gtab)
    positive = theirs.evals[..., 2] > 1e-7
    assert positive.mean() > 0.8
    assert np.abs(maps.fa - theirs.fa)[positive].max() < 1e-4


def test_memory_layout_mask_and_threads_do_not_change_the_numbers() -> None:
    rng = np.random.default_rng(3)
    gtab = multi_shell(rng)
    data = rng.uniform(10, 1000, (9, 10, 11, len(gtab))).astype(np.float32)
    mask = rng.uniform(size=data.shape[:3]) > 0.5
    reference = fit_tensor(Dwi.from_arrays(data, np.eye(4), gtab), n_threads=1)
    for array in (data, np.asfortranarray(data), data[::-1].copy()[::-1]):
        for inside in (None, mask):
            image = nib.Nifti1Image(array, np.eye(4))
            maps = fit_tensor(Dwi(image, gtab), mask=inside, n_threads=3)
            chosen = np.ones(mask.shape, bool) if inside is None else inside
            np.testing.assert_allclose(
                maps.diffusivity[chosen], reference.diffusivity[chosen], rtol=1e-4, atol=1e-9
            )
            assert not maps.diffusivity[~chosen].any()
            np.testing.assert_array_equal(maps.mask, chosen)


def test_rotated_bvecs_rotate_the_tensor() -> None:
    rng = np.random.default_rng(4)
    gtab = multi_shell(rng, n=12)
    signal = gaussian_signal(gtab, random_matrices(rng, 100))
    rotation = Rotation.random(random_state=rng).as_matrix()
    plain = fit_tensor(wrap(signal, gtab))
    turned = fit_tensor(wrap(signal, gtab.rotated(rotation)))
    np.testing.assert_allclose(turned.fa, plain.fa, atol=1e-5)
    cosine = np.abs(np.einsum("xyzi,xyzi->xyz", turned.v1, plain.v1 @ rotation.T))
    distinct = plain.ad > 1.1 * plain.md
    np.testing.assert_allclose(cosine[distinct], 1.0, atol=1e-4)


def test_tensor_is_in_the_scanner_frame_whatever_the_storage(tmp_path) -> None:
    rng = np.random.default_rng(5)
    gtab = multi_shell(rng, n=10)
    axis = np.array([0.8, 0.6, 0.0])
    matrix = 2e-4 * np.eye(3) + 1.5e-3 * np.outer(axis, axis)
    data = np.broadcast_to(gaussian_signal(gtab, matrix[None]), (3, 3, 3, len(gtab)))
    for name, affine in {
        "ras": np.diag([2.0, 2, 2, 1]),
        "las": np.diag([-2.0, 2, 2, 1]),
        "sagittal": np.array([[0, 0, 2.0, 0], [-2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]]),
    }.items():
        paths = Dwi.from_arrays(data, affine, gtab).save(tmp_path / name)
        maps = fit_tensor(Dwi.from_files(*paths))
        np.testing.assert_allclose(np.abs(maps.v1[1, 1, 1] @ axis), 1.0, atol=1e-5)


def test_true_tensor_of_the_simulator_is_the_fit_of_its_noise_free_shell() -> None:
    generator = torch.Generator().manual_seed(6)
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    brains = draw_brains(generator, (16, 16, 16), affine[None], atlas_weight=torch.ones(1))
    tissues = draw_tissues(generator, 1)
    gtab = draw_protocol(np.random.default_rng(6), scheme="shell", n_directions=90, bvals=1200)
    signal = mixture(
        brains,
        tissues,
        torch.tensor(gtab.bvals / 1000, dtype=torch.float32)[None],
        torch.tensor(gtab.bvecs_ras, dtype=torch.float32)[None],
    )
    dense = torch.cat([torch.zeros(1, 3), dense_shell(torch.device("cpu"))])
    bvals = torch.cat([torch.zeros(1), torch.full((len(dense) - 1,), 1.2)])
    clean = mixture(brains, tissues, bvals[None], dense[None])
    truth = 1e-3 * fit_shell(clean[:, 1:], clean[:, 0], torch.tensor([1.2]))[0].movedim(0, 3)
    mask = brains.mask[0].numpy()
    dwi = Dwi.from_arrays(signal[0].movedim(0, 3).numpy(), affine.numpy(), gtab, mask=mask)
    difference = np.abs(fit_tensor(dwi).diffusivity - truth.numpy())[mask]
    # Two finite sets of directions see the fourth-order part of crossings a little differently.
    assert mask.sum() > 2000
    assert np.quantile(difference, 0.99) < 3e-5
    assert np.median(difference) < 5e-6


def test_shell_selection() -> None:
    rng = np.random.default_rng(7)
    gtab = multi_shell(rng, bvals=(700, 1500, 3000), n=8)
    assert gtab.bvals[select_shells(gtab)].max() == 1500
    assert select_shells(gtab).size == 2 + 16
    assert select_shells(gtab, shell="all").size == len(gtab)
    only = gtab.bvals[select_shells(gtab, shell=3000)]
    assert sorted(set(only)) == [0, 3000]
    high = multi_shell(rng, bvals=(500, 2500), n=5)
    assert select_shells(high).size == len(high)
    with pytest.raises(ConfigError, match="no shell at b = 2000"):
        select_shells(gtab, shell=2000)
    with pytest.raises(ConfigError, match="shell 'low'"):
        select_shells(gtab, shell="low")


def test_metadata_says_which_volumes_were_used() -> None:
    rng = np.random.default_rng(8)
    gtab = multi_shell(rng, bvals=(1000, 3000), n=6)
    signal = gaussian_signal(gtab, random_matrices(rng, 5))
    maps = fit_tensor(wrap(signal, gtab))
    assert maps.metadata["BValues"] == [1000]
    assert maps.metadata["Volumes"] == list(range(8))
    assert maps.metadata["Directions"] == 6


@pytest.mark.parametrize(
    ("bvals", "bvecs", "message"),
    [
        ([0] + [1000] * 5, SKARE_DIRECTIONS[:5], "5 distinct directions"),
        (
            [0] + [1000] * 10,
            np.concatenate([SKARE_DIRECTIONS[:5], -SKARE_DIRECTIONS[:5]]),
            "5 distinct directions",
        ),
        ([1000] * 6, SKARE_DIRECTIONS, "no b=0 volume"),
        (
            [0] + [1000] * 7,
            [[np.cos(a), np.sin(a), 0] for a in np.linspace(0, 2.8, 7)],
            "do not determine a tensor",
        ),
    ],
)
def test_impossible_designs_are_refused(bvals, bvecs, message) -> None:
    vectors = np.zeros((len(bvals), 3))
    vectors[len(bvals) - len(bvecs) :] = bvecs
    gtab = GradientTable(bvals, vectors)
    with pytest.raises(GradientError, match=message):
        fit_tensor(wrap(np.ones((1, len(gtab))), gtab))


def test_bad_arguments_are_refused() -> None:
    gtab = GradientTable([0] + [1000] * 6, np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    dwi = wrap(np.ones((4, 7)), gtab)
    with pytest.raises(ImageError, match="mask of shape"):
        fit_tensor(dwi, mask=np.ones((2, 2, 2)))
    with pytest.raises(ConfigError, match="0 threads"):
        fit_tensor(dwi, n_threads=0)
    with pytest.raises(ConfigError, match="smallest signal"):
        fit_tensor(dwi, min_signal=0)


def test_empty_mask_gives_empty_maps() -> None:
    gtab = GradientTable([0] + [1000] * 6, np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    maps = fit_tensor(wrap(np.ones((4, 7)), gtab), mask=np.zeros((4, 1, 1)))
    assert not maps.fa.any()
    assert not maps.diffusivity.any()


def test_the_smallest_signal_follows_the_brain() -> None:
    gtab = multi_shell(np.random.default_rng(3), n=12)
    data = gaussian_signal(gtab, np.stack([7e-4 * np.eye(3)] * 8), s0=500)
    data[0] = np.where(gtab.is_b0, 500, 0.0)
    dwi = wrap(data, gtab)
    mask = np.ones(dwi.shape[:3], dtype=bool)
    assert smallest_signal(dwi, mask) == pytest.approx(1.0)
    maps = fit_tensor(dwi)
    assert maps.metadata["MinimalSignal"] == pytest.approx(1.0)
    # A zero counts as 1 of 500: ln(500) / b, not a thousand times the diffusivity of water.
    assert maps.md.max() == pytest.approx(np.log(500) / gtab.bvals.max(), rel=0.02)
    no_b0 = dwi.select(np.flatnonzero(~gtab.is_b0))
    weighted = float(np.median(no_b0.data[1:]))
    assert smallest_signal(no_b0, mask) == pytest.approx(0.002 * weighted, rel=0.2)
    assert smallest_signal(dwi, ~mask) == MIN_SIGNAL
