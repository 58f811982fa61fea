"""Raw gradient files: lengths of b-vectors, volumes without a direction, the b=0 threshold."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.gradient_files import (
    RawGradients,
    read_gradients,
    read_raw_gradients,
    stated_b0_threshold,
    write_gradients,
)
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.series import Dwi, save_image
from dmri_fm.tensor import fit_tensor

LAS = np.diag([-2.0, 2.0, 2.0, 1.0])


def spiral(n: int) -> np.ndarray:
    """n axes, spread over the sphere."""
    z = 1 - (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    xy = np.sqrt(1 - z**2) * np.stack([np.cos(turn), np.sin(turn)])
    return np.vstack([xy, z]).T


def write(folder: Path, bvals, bvecs) -> tuple[Path, Path]:
    paths = folder / "dwi.bval", folder / "dwi.bvec"
    np.savetxt(paths[0], [bvals], fmt="%g")
    np.savetxt(paths[1], np.asarray(bvecs).T, fmt="%.8f")
    return paths


def read(folder: Path, bvals, bvecs, **options) -> RawGradients:
    return read_raw_gradients(
        *write(folder, bvals, bvecs), affine=LAS, options=GradientOptions(**options)
    )


#: One b=0 without a vector, twelve directions.
BVALS = np.array([0.0] + [1000.0] * 12)
BVECS = np.vstack([np.zeros(3), spiral(12)])


# --- lengths --------------------------------------------------------------------------------


def test_rounding_is_normalised_without_a_word(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).uniform(0.991, 1.009, (13, 1))
    raw = read(tmp_path, BVALS, BVECS * lengths)
    assert raw.is_as_stored
    assert raw.warnings == ()
    assert raw.gtab.bvals.tolist() == BVALS.tolist()
    np.testing.assert_allclose(np.linalg.norm(raw.gtab.bvecs_ras[1:], axis=1), 1, atol=1e-12)


def test_lengths_that_vary_within_one_nominal_b_scale_it(tmp_path: Path) -> None:
    # Three shells as some scanners store them: b is nominal, the length its square root.
    meant = np.repeat([1000.0, 2000.0, 3000.0], 6)
    bvals = np.concatenate([[0.0], np.full(18, 3000.0)])
    bvecs = np.vstack([np.zeros(3), spiral(18) * np.sqrt(meant / 3000)[:, None]])
    raw = read(tmp_path, bvals, bvecs)
    np.testing.assert_allclose(raw.gtab.bvals[1:], meant, rtol=1e-6)
    assert [len(s.index) for s in raw.gtab.shells] == [6, 6, 6]
    assert raw.lengths is not None
    assert (raw.lengths.method, raw.lengths.is_asked) == ("length", False)
    assert raw.lengths.as_record()["VectorLengths"] == [0.5774, 1.0]
    (warning,) = raw.warnings
    assert "dwi.bvec" in warning
    assert "multiplied by the squared length" in warning
    asked = read(tmp_path, bvals, bvecs, b_scaling="none")
    assert asked.gtab.bvals.tolist() == bvals.tolist()
    assert "taken as they are, as --b-scaling says" in asked.warnings[0]


def test_one_common_length_is_refused_with_what_it_would_mean(tmp_path: Path) -> None:
    with pytest.raises(GradientError) as caught:
        read(tmp_path, BVALS, 0.93 * BVECS)
    error = str(caught.value)
    # .93^2 and its inverse: what b and MD would be multiplied by.
    for words in ("dwi.bvec", "length 0.93", "0.865", "1.156", "--b-scaling length", "none"):
        assert words in error


@pytest.mark.parametrize(("b_scaling", "factor"), [("length", 0.93**2), ("none", 1.0)])
def test_a_common_length_is_read_as_asked(tmp_path: Path, b_scaling: str, factor: float) -> None:
    raw = read(tmp_path, BVALS, 0.93 * BVECS, b_scaling=b_scaling)
    np.testing.assert_allclose(raw.gtab.bvals, factor * BVALS)
    assert raw.lengths is not None
    assert raw.lengths.common == pytest.approx(0.93)
    assert raw.lengths.as_record()["Reason"] == "--b-scaling"
    assert "--b-scaling" in raw.warnings[0]
    # MD of one and the same signal goes as one over b.
    signal = 1000 * np.exp(-BVALS * 1e-3).reshape(1, 1, 1, -1)
    md = fit_tensor(Dwi.from_arrays(signal, LAS, raw.gtab)).md[0, 0, 0]
    assert md == pytest.approx(1e-3 / factor, rel=1e-4)


def test_shells_with_a_common_length_each_are_refused_too(tmp_path: Path) -> None:
    # b-values that differ already and lengths that differ as well: scaling might count twice.
    bvals = np.concatenate([[0.0], np.full(6, 1000.0), np.full(6, 3000.0)])
    lengths = np.concatenate([[1.0], np.full(6, np.sqrt(1 / 3)), np.ones(6)])
    with pytest.raises(GradientError, match=r"share the length 0\.577"):
        read(tmp_path, bvals, BVECS * lengths[:, None])


@pytest.mark.parametrize(("spread", "is_one"), [(0.019, True), (0.021, False)])
def test_lengths_within_two_percent_of_their_median_are_one(
    tmp_path: Path, spread: float, is_one: bool
) -> None:
    # The median of the 12 is the length of the ten.
    lengths = np.r_[1.0, np.ones(10), 1 - spread, 1 + spread][:, None]
    if is_one:
        with pytest.raises(GradientError, match=r"share the length 0\.93"):
            read(tmp_path, BVALS, 0.93 * lengths * BVECS)
    else:
        assert read(tmp_path, BVALS, 0.93 * lengths * BVECS).lengths.method == "length"
    about_one = read(tmp_path, BVALS, lengths * BVECS)
    assert about_one.lengths.is_rounding == is_one
    assert (about_one.gtab.bvals == BVALS).all() == is_one


@pytest.mark.parametrize("decimals", [2, 3])
def test_components_of_few_decimals_leave_a_common_length_undecided(
    tmp_path: Path, decimals: int
) -> None:
    with pytest.raises(GradientError, match="--b-scaling length"):
        read(tmp_path, BVALS, np.round(0.93 * BVECS, decimals))


def test_lengths_that_scatter_about_one_are_rounding_and_said_so(tmp_path: Path) -> None:
    lengths = np.linspace(0.985, 1.015, 13)[:, None]
    raw = read(tmp_path, BVALS, lengths * BVECS)
    np.testing.assert_allclose(np.linalg.norm(raw.gtab.bvecs_ras[1:], axis=1), 1, atol=1e-12)
    assert raw.gtab.bvals.tolist() == BVALS.tolist()
    assert raw.lengths.as_record()["Reason"] == "lengths scatter about 1"
    assert "by no more than 2%" in raw.warnings[0]


def test_zero_length_makes_b0_where_lengths_scale_b(tmp_path: Path) -> None:
    # b is nominal in every volume: only the vectors tell b = 0, 3000 and 1000.
    lengths = np.r_[0.0, np.ones(6), np.full(6, np.sqrt(1 / 3))]
    bvecs = np.vstack([np.zeros(3), spiral(12)]) * lengths[:, None]
    raw = read(tmp_path, np.full(13, 3000.0), bvecs)
    assert raw.left_out == {}
    assert raw.gtab.is_b0.tolist() == [True] + [False] * 12
    np.testing.assert_allclose(raw.gtab.bvals, [0] + [3000] * 6 + [1000] * 6, rtol=1e-6)
    assert raw.lengths.as_record()["UnweightedVolumes"] == [0]
    assert "volume 0 (counted from 0) counted as b=0" in raw.warnings[1]
    # NaN is no length, and `none` says that lengths mean nothing.
    bvecs[0] = np.nan
    assert list(read(tmp_path, np.full(13, 3000.0), bvecs).left_out) == [0]
    bvecs[0] = 0
    assert list(read(tmp_path, np.full(13, 3000.0), bvecs, b_scaling="none").left_out) == [0]


@pytest.mark.parametrize(("first", "trace"), [(0.0, 3000.0), (1000.0, 1000.0)])
def test_a_trace_image_is_no_b0(tmp_path: Path, first: float, trace: float) -> None:
    # In the first file b=0 is stated, in the second the shell of the trace does not vary.
    lengths = np.r_[first > 0, np.ones(6), 1.0, 0.8, 0.6, 1.0, 0.8, 0.6, 0.0][:, None]
    bvals = np.r_[first, np.full(6, 1000.0), np.full(6, 3000.0), trace]
    raw = read(tmp_path, bvals, lengths * spiral(14))
    assert list(raw.left_out) == [13]
    assert raw.lengths.unweighted == ()


def test_directions_times_b_stay_an_error(tmp_path: Path) -> None:
    for options in ({}, {"b_scaling": "length"}, {"b_scaling": "none"}):
        with pytest.raises(GradientError, match=r"has length 1000\.000"):
            read(tmp_path, BVALS, 1000 * BVECS, **options)


def test_files_are_strict_or_raw_and_read_alike_by_library_and_app(tmp_path: Path, caplog) -> None:
    # A trace image at the end, and lengths of .93.
    bvals, bvecs = np.append(BVALS, 1000.0), np.vstack([0.93 * BVECS, np.zeros(3)])
    paths = write(tmp_path, bvals, bvecs)
    data = np.arange(14.0).reshape(1, 1, 1, 14)
    image = save_image(data, LAS, tmp_path / "dwi.nii.gz")
    for strict in ({}, {"b_scaling": None}):
        with pytest.raises(GradientError, match=r"volume 13|has length 0\.930"):
            Dwi.from_files(image, *paths, **strict)
    with pytest.raises(GradientError, match="--b-scaling length"):
        Dwi.from_files(image, *paths, b_scaling="auto")
    mask = save_image(np.ones((1, 1, 1)), LAS, tmp_path / "mask.nii.gz")
    with caplog.at_level(logging.WARNING):
        dwi = Dwi.from_files(image, *paths, mask, b_scaling="length")
    raw = read(tmp_path, bvals, bvecs, b_scaling="length")
    assert dwi.gtab.bvals.tolist() == raw.gtab.bvals.tolist()
    assert dwi.data.ravel().tolist() == list(range(13))
    assert dwi.mask is not None
    assert [record.message for record in caplog.records] == list(raw.warnings)


# --- volumes without a direction ------------------------------------------------------------


@pytest.mark.parametrize("vector", [0.0, np.nan])
def test_a_trace_image_at_the_end_is_named_and_left_out(tmp_path: Path, vector: float) -> None:
    bvals = np.append(BVALS, 1000.0)
    raw = read(tmp_path, bvals, np.vstack([BVECS, np.full(3, vector)]))
    assert raw.kept == tuple(range(13))
    assert list(raw.left_out) == [13]
    assert not raw.is_as_stored
    assert len(raw.gtab) == 13
    (warning,) = raw.warnings
    assert "volume 13 (counted from 0) left out" in warning
    with pytest.raises(GradientError, match="volume 13"):
        read_gradients(*write(tmp_path, bvals, np.vstack([BVECS, np.full(3, vector)])), affine=LAS)


def test_all_weighted_volumes_without_a_direction_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(GradientError, match="none of the 12 volumes with b >= 50"):
        read(tmp_path, BVALS, np.zeros((13, 3)))


# --- the b=0 threshold ----------------------------------------------------------------------


def test_b0_of_60_without_a_direction_is_b0_and_said_so(tmp_path: Path) -> None:
    bvals = np.array([60.0, 65.0] + [1000.0] * 12)
    raw = read(tmp_path, bvals, np.vstack([np.zeros((2, 3)), spiral(12)]))
    assert raw.gtab.is_b0.tolist() == [True, True] + [False] * 12
    assert raw.left_out == {}
    (warning,) = raw.warnings
    assert "60 to 65 s/mm^2, count as b=0" in warning
    # A file that holds these b=0 alone, as of the opposite phase encoding, is read alike.
    assert read(tmp_path, [60, 65], np.zeros((2, 3))).gtab.is_b0.all()


def test_the_automatic_choice_survives_writing(tmp_path: Path) -> None:
    bvals = np.array([60.0] + [1000.0] * 12)
    raw = read(tmp_path, bvals, np.vstack([[1.0, 0, 0], spiral(12)]))
    paths = tmp_path / "out.bval", tmp_path / "out.bvec"
    write_gradients(raw.gtab, *paths, affine=LAS)
    again = read_gradients(*paths, affine=LAS)
    assert again.b0_threshold == raw.gtab.b0_threshold == 150
    # The weak weighting of b=0 keeps its direction: MD would be 6% too low without.
    np.testing.assert_allclose(again.bvecs_ras, raw.gtab.bvecs_ras, atol=1e-6)
    signal = 1000 * np.exp(-bvals * 1e-3).reshape(1, 1, 1, -1)
    md = fit_tensor(Dwi.from_arrays(signal, LAS, again)).md[0, 0, 0]
    assert md == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize(("threshold", "n_b0"), [(10.0, 1), (65.0, 2), (200.0, 3)])
def test_an_explicit_threshold_decides(tmp_path: Path, threshold: float, n_b0: int) -> None:
    bvals = np.array([0.0, 60.0, 150.0] + [1000.0] * 12)
    bvecs = np.vstack([np.zeros(3), spiral(14)])
    raw = read(tmp_path, bvals, bvecs, b0_threshold=threshold)
    assert raw.gtab.is_b0.sum() == n_b0
    assert raw.gtab.b0_threshold == threshold
    assert raw.warnings == ()
    paths = write(tmp_path, bvals, bvecs)
    assert read_gradients(*paths, affine=LAS, b0_threshold=threshold).is_b0.sum() == n_b0


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    for options in ({"b0_threshold": 0.0}, {"b0_threshold": 2000.0}, {"b_scaling": "on"}):
        with pytest.raises(ConfigError):
            GradientOptions(**options)
    with pytest.raises(ConfigError):
        read_gradients(*write(tmp_path, BVALS, BVECS), affine=LAS, b0_threshold=-1.0)


@pytest.mark.parametrize("value", [None, "150", True, -1, 1e9, [150], 10**400])
def test_a_sidecars_threshold_is_a_number_or_nothing(value) -> None:
    assert stated_b0_threshold({"B0Threshold": value}) is None
    assert stated_b0_threshold({"B0Threshold": 65}) == 65
