"""Gradient tables: values, files that are read and refused, shells, the b=0 threshold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.gradient_files import read_gradients
from dmri_fm.gradients import GradientTable, group_shells
from dmri_fm.qspace import choose_six, to_qspace


def test_table_is_a_value() -> None:
    bvals, bvecs = np.array([0.0, 1000.0]), np.array([[0.0, 0, 0], [0, 0, 1]])
    gtab = GradientTable(bvals, bvecs)
    bvals[1] = 7
    assert gtab.bvals.tolist() == [0, 1000]
    with pytest.raises(ValueError, match="read-only"):
        gtab.bvecs_ras[0, 0] = 1


@pytest.mark.parametrize("low", [0, 1.25, 5, 10, 49.9])
def test_low_b_values_are_b0_whatever_their_vector(low) -> None:
    for vector in ([np.nan] * 3, [0, 0, 0], [0.3, 0.3, 0], [1, 0, 0]):
        gtab = GradientTable([low, 1000], [vector, [0, 1, 0]])
        assert gtab.is_b0.tolist() == [True, False]
        assert gtab.bvecs_ras[0].tolist() == [0, 0, 0]


def test_nearly_unit_vectors_are_normalised() -> None:
    gtab = GradientTable([1000, 1000], [[1.008, 0, 0], [0, 0, -0.995]])
    np.testing.assert_allclose(np.linalg.norm(gtab.bvecs_ras, axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize(
    ("bvals", "bvecs", "words"),
    [
        ([0, 1000], [[0, 0, 0]], "shapes"),
        ([[0, 1000]], [[0, 0, 0], [1, 0, 0]], "shapes"),
        ([-5, 1000], [[0, 0, 0], [1, 0, 0]], "negative"),
        ([np.nan, 1000], [[0, 0, 0], [1, 0, 0]], "not finite"),
        ([0, 1000], [[0, 0, 0], [np.nan, 0, 0]], "volume 1"),
        ([0, 1000], [[0, 0, 0], [np.inf, 0, 0]], "volume 1"),
        ([0, 1000], [[0, 0, 0], [0, 0, 0]], "length 0.000"),
        ([0, 1000], [[0, 0, 0], [0.5, 0, 0]], "length 0.500"),
        ([0, 1000], [[0, 0, 0], [0, 1000, 0]], "length 1000.000"),
    ],
)
def test_table_that_cannot_be_is_refused(bvals, bvecs, words) -> None:
    with pytest.raises(GradientError, match=words) as caught:
        GradientTable(bvals, bvecs)
    assert caught.value.expected


def test_shells_group_neighbouring_b_values() -> None:
    gtab = GradientTable([2000, 0, 995, 1005, 5, 2010, 700], [[1, 0, 0]] * 7)
    assert [(round(s.bval), s.index) for s in gtab.shells] == [
        (700, (6,)),
        (1000, (2, 3)),
        (2005, (0, 5)),
    ]


def test_opposite_and_repeated_vectors_are_one_direction() -> None:
    gtab = GradientTable([0] + [1000] * 4, [[0] * 3, [1, 0, 0], [-1, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert gtab.count_directions() == 2


def test_rotations_compose_and_keep_b_values(vectors) -> None:
    gtab = GradientTable([1000] * 12, vectors)
    one, two = Rotation.random(2, random_state=5).as_matrix()
    np.testing.assert_allclose(
        gtab.rotated(one).rotated(two).bvecs_ras, gtab.rotated(two @ one).bvecs_ras
    )
    each = np.stack([one, two] * 6)
    np.testing.assert_allclose(gtab.rotated(each).bvecs_ras[1], two @ vectors[1])


def test_selecting_undoes_joining(vectors) -> None:
    one = GradientTable([1000] * 5, vectors[:5])
    two = GradientTable([2000] * 7, vectors[5:])
    both = GradientTable.concatenate([one, two])
    np.testing.assert_array_equal(both.select(range(5)).bvecs_ras, one.bvecs_ras)
    np.testing.assert_array_equal(both.select(range(5, 12)).bvals, two.bvals)


GOOD_BVAL = "0 1000 1000 2000"
GOOD_BVEC = "0 1 0 0\n0 0 1 0\n0 0 0 1"


def read_texts(tmp_path, bval: str, bvec: str) -> GradientTable:
    (tmp_path / "x.bval").write_text(bval)
    (tmp_path / "x.bvec").write_text(bvec)
    return read_gradients(
        tmp_path / "x.bval",
        tmp_path / "x.bvec",
        affine=np.diag([-2.0, 2.5, 3.0, 1.0]),
        n_volumes=4,
    )


@pytest.mark.parametrize(
    ("bval", "bvec"),
    [
        (GOOD_BVAL, GOOD_BVEC),
        (GOOD_BVAL.replace(" ", "\n"), GOOD_BVEC),
        (GOOD_BVAL.replace(" ", "\t") + "\r\n", GOOD_BVEC.replace("\n", "\r\n") + "\r\n\r\n"),
        (GOOD_BVAL.replace(" ", ", "), GOOD_BVEC.replace(" ", ",")),
        ("\ufeff0 1e3 1.0e3 2000.", GOOD_BVEC),
    ],
    ids=["plain", "column", "tabs and DOS line ends", "commas", "byte order mark"],
)
def test_ways_to_write_the_same_table(tmp_path, bval, bvec) -> None:
    gtab = read_texts(tmp_path, bval, bvec)
    assert gtab.bvals.tolist() == [0, 1000, 1000, 2000]
    assert gtab.bvecs_ras.tolist() == [[0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("bval", "bvec", "file", "words"),
    [
        ("", GOOD_BVEC, "bval", ["empty"]),
        (GOOD_BVAL, " \n\n", "bvec", ["empty"]),
        ("0 1000 1000", GOOD_BVEC, "bval", ["3 b-values", "4 volumes"]),
        (GOOD_BVAL, "0 1 0\n0 0 1\n0 0 0", "bvec", ["3 rows of 3", "4 volumes"]),
        (GOOD_BVAL, "0 1 0 0\n0 0 1 0", "bvec", ["2 rows of 4"]),
        (GOOD_BVAL, "0 0 0\n1 0 0\n0 1 0\n0 0 1", "bvec", ["transposed", ".T"]),
        (GOOD_BVAL, "0 1 0 0\n0 0 1\n0 0 0 1", "bvec", ["unequal length"]),
        (GOOD_BVAL, GOOD_BVEC.replace("1", "one"), "bvec", ["not a number"]),
        (GOOD_BVAL, GOOD_BVEC.replace("1", "nan", 1), "bvec", ["volume 1", "not finite"]),
        (GOOD_BVAL, GOOD_BVEC.replace("1", "12"), "bvec", ["length 12"]),
        ("0 -1000 1000 1000", GOOD_BVEC, "bval", ["negative"]),
        ("0 nan 1000 1000", GOOD_BVEC, "bval", ["not finite"]),
        ("nan nan nan nan", GOOD_BVEC, "bval", ["not finite"]),
        ("0 1 1 2", GOOD_BVEC, "bval", ["largest b-value is 2", "s/mm^2", "by 1000"]),
        ("0 1e9 1e9 2e9", GOOD_BVEC, "bval", ["s/mm^2", "1e6"]),
    ],
)
def test_file_that_cannot_be_used_is_named(tmp_path, bval, bvec, file, words) -> None:
    with pytest.raises(GradientError) as caught:
        read_texts(tmp_path, bval, bvec)
    assert caught.value.path == tmp_path / f"x.{file}"
    assert caught.value.expected
    assert caught.value.advice
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("missing", ["x.bval", "x.bvec"])
def test_missing_file_is_named(tmp_path, missing) -> None:
    (tmp_path / "x.bval").write_text(GOOD_BVAL)
    (tmp_path / "x.bvec").write_text(GOOD_BVEC)
    (tmp_path / missing).unlink()
    with pytest.raises(GradientError, match="missing") as caught:
        read_gradients(tmp_path / "x.bval", tmp_path / "x.bvec", affine=np.eye(4), n_volumes=4)
    assert caught.value.path == tmp_path / missing


@pytest.mark.parametrize("bval", ["0 5 10 10", "5 5 5 5", "1.25 8 8 8", "0 0 0 0"])
def test_series_of_b0_volumes_is_no_wrong_unit(tmp_path, bval) -> None:
    assert read_texts(tmp_path, bval, GOOD_BVEC).is_b0.all()


def test_full_scheme_in_another_unit_is_told_from_b0(tmp_path, vectors) -> None:
    (tmp_path / "x.bval").write_text("0 " + " ".join(["10"] * 12))
    np.savetxt(tmp_path / "x.bvec", np.vstack([np.zeros(3), vectors]).T)
    with pytest.raises(GradientError, match="by 1000"):
        read_gradients(tmp_path / "x.bval", tmp_path / "x.bvec", affine=np.eye(4), n_volumes=13)


# --- shells and the b=0 threshold -----------------------------------------------------------


@pytest.mark.parametrize(
    ("bvals", "shells"),
    [
        # HCP 3T, HCP 7T and UK Biobank state the b-value of every volume.
        ([0, 5, 990, 995, 1000, 1005, 1985, 2000, 2010, 2990, 2995, 3010], [4, 3, 3]),
        ([60, 65, 995, 1000, 1005, 1995, 2005], [3, 2]),
        ([0, 995, 1000, 1005, 1995, 2000, 2005], [3, 3]),
        ([0, 4850, 4930, 5000, 5080, 5150], [5]),
        ([0, 4850, 5000, 5150], [3]),
        ([0, 700, 1000], [1, 1]),
        ([0, 700, 1000, 2000, 3000], [1, 1, 1, 1]),
        ([0, 1000, 1200], [1, 1]),
        ([0, 2000, 2500, 3000, 4000, 5000, 10000], [1, 1, 1, 1, 1, 1]),
    ],
)
def test_jitter_of_b_does_not_split_a_shell(bvals, shells) -> None:
    axes = np.eye(3)[np.arange(len(bvals)) % 3]
    gtab = GradientTable(bvals, axes)
    assert [len(shell.index) for shell in gtab.shells] == shells


def test_a_jittered_shell_serves_six_directions_and_the_encoder_as_one() -> None:
    rng = np.random.default_rng(3)
    axes = rng.normal(size=(12, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    bvals = np.concatenate([[0], 5000 + np.linspace(-150, 150, 12)])
    gtab = GradientTable(bvals, np.vstack([np.zeros((1, 3)), axes]))
    assert gtab.count_directions() == 12
    assert choose_six(gtab).bval == pytest.approx(5000)
    rho = to_qspace(gtab.select(range(1, 13)))[:, 0]
    assert len(group_shells(1000.0 * rho)) == 1


def test_a_table_keeps_its_threshold() -> None:
    axes = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    gtab = GradientTable([60, 1000, 2000], axes)
    assert gtab.b0_threshold == 150
    assert gtab.is_b0.tolist() == [True, False, False]
    # A b=0 volume that is weighted a little keeps its direction, and turns with the others.
    turned = gtab.rotated(Rotation.from_euler("z", 90, degrees=True).as_matrix())
    np.testing.assert_allclose(turned.bvecs_ras[0], [0, 1, 0], atol=1e-12)
    assert to_qspace(gtab)[0].tolist() == [0, 0, 0]
    for part in (gtab.select([1]), turned, GradientTable.concatenate([gtab, gtab])):
        assert part.b0_threshold == 150
    # What is b=0 in one run stays so in the series of several.
    usual = GradientTable([0, 1000], [[0, 0, 0], axes[0]])
    assert usual.b0_threshold == 50
    joined = GradientTable.concatenate([usual, gtab])
    assert joined.is_b0.tolist() == [True, False, True, False, False]
    # That is no reason to take a weak shell of the other run for b=0.
    weak = GradientTable([0, 120], [[0, 0, 0], axes[0]])
    assert (
        GradientTable.concatenate([weak, gtab]).is_b0.tolist() == [True, False, True] + [False] * 2
    )


def test_an_explicit_threshold_may_lie_below_the_usual_one() -> None:
    gtab = GradientTable([0, 20, 1000], [[0, 0, 0], [1, 0, 0], [0, 1, 0]], 10.0)
    assert gtab.is_b0.tolist() == [True, False, False]
    assert gtab.bvecs_ras[1].tolist() == [1, 0, 0]
    with pytest.raises(ConfigError):
        GradientTable([0], [[0, 0, 0]], -1.0)
