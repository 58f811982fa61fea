"""The head that is scanned: tissues, deformation, fibres."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmri_fm_lab.simulate.anatomy import Anatomy, Fractions, Shape, draw_anatomy, voxel_mm
from dmri_fm_lab.simulate.bundles import draw_streamlines, load_bundles
from dmri_fm_lab.simulate.subject import grid
from dmri_fm_lab.simulate.template import load_anatomy_maps


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return draw_anatomy(np.random.default_rng(1))


@pytest.fixture(scope="module")
def fibres() -> tuple[np.ndarray, np.ndarray]:
    """Middles and unit directions of the segments of one head's streamlines, MNI."""
    middles, steps = draw_streamlines(np.random.default_rng(0)).segments()
    return middles, steps / np.linalg.norm(steps, axis=1, keepdims=True)


def test_fractions_add_up_to_one_inside_the_brain(anatomy: Anatomy) -> None:
    shape, affine = grid((4.0, 4.0, 4.0))
    parts = anatomy.fractions(shape, affine)
    total = parts.wm + parts.gm + parts.csf
    centre = parts.mask & (total > 0.99)
    assert centre.sum() > 0.8 * parts.mask.sum()
    np.testing.assert_allclose(total.max(), 1.0, atol=1e-5)
    for part in (parts.wm, parts.gm, parts.csf, parts.lesion, parts.scalp):
        assert part.min() >= 0
    # Adult brains: litres of the whole, and shares of its tissues.
    millilitres = 4.0**3 / 1000
    assert 1400 < parts.mask.sum() * millilitres < 2300
    assert 0.3 < parts.wm.sum() / total.sum() < 0.5
    assert 0.3 < parts.gm.sum() / total.sum() < 0.5


def test_averaging_over_the_voxel_agrees_with_a_finer_grid(anatomy: Anatomy) -> None:
    shape, affine = grid((6.0, 6.0, 6.0))
    coarse = anatomy.fractions(shape, affine, n_inside=(2, 2, 2)).wm
    fine_affine = affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine_affine[:3, 3] -= 1.5
    fine = anatomy.fractions((2 * shape[0], 2 * shape[1], 2 * shape[2]), fine_affine).wm
    blocks = fine.reshape(shape[0], 2, shape[1], 2, shape[2], 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(coarse, blocks, atol=1e-4)


def test_streamlines_go_through_the_white_matter_of_the_same_head(anatomy: Anatomy) -> None:
    """The warp of tissue and the inverse warp of fibres belong together."""
    points = anatomy.fibres.points.T.astype(np.float32)
    depth = load_anatomy_maps().sample(anatomy.mni_mm(points))[0]
    assert (depth < 1.0).mean() > 0.75
    shifted = load_anatomy_maps().sample(anatomy.mni_mm(points + np.float32(6.0)))[0]
    assert (depth < 1.0).mean() > (shifted < 1.0).mean() + 0.1


def test_shape_changes_what_it_says(anatomy: Anatomy) -> None:
    shape, affine = grid((4.0, 4.0, 4.0))

    def parts(form: Shape) -> Fractions:
        return replace(anatomy, shape=form).fractions(shape, affine)

    plain, other = parts(Shape()), parts(Shape(ventricles_mm=2.0, cortex_mm=-0.5))
    assert other.csf.sum() > 1.02 * plain.csf.sum()
    assert other.gm.sum() < 0.95 * plain.gm.sum()
    sick = parts(Shape(lesions=((25.0, -20.0, 28.0, 6.0),)))
    volume = sick.lesion.sum() * 64.0
    assert volume == pytest.approx(0.9 * 4 / 3 * np.pi * 6.0**3, rel=0.5)
    assert plain.wm.sum() - sick.wm.sum() == pytest.approx(sick.lesion.sum(), rel=1e-3)
    thin = parts(Shape(callosum=0.5))
    lost = plain.wm - thin.wm
    # Half of a plate of some 6 cm^2 and 2.4 cm across.
    assert 3e3 < lost.sum() * 64.0 < 14e3
    middle = np.abs(voxel_mm(shape, affine)[0]) < 25
    assert lost[middle].sum() > 0.99 * lost.sum()


def test_bundles_run_inside_the_brain() -> None:
    bundles = load_bundles()
    assert len(bundles) > 25
    for name, bundle in bundles.items():
        brain = load_anatomy_maps().sample(bundle.course[:, :3].T.astype(np.float32))[3]
        assert brain.max() < 8, name
        assert (bundle.course[:, 3] > 0).all(), name
        assert bundle.is_commissure == (bundle.course[-1, 0] == 0), name


@pytest.mark.parametrize(
    ("place_mm", "axis"),
    [
        # Corpus callosum and pons' crossing fibres: left-right.
        ((0, -6, 26), 0),
        ((0, 26, 12), 0),
        ((0, -38, 16), 0),
        ((0, -21, -33), 0),
        # Internal capsule and brainstem: up-down.
        ((22, -16, 5), 2),
        ((-22, -16, 5), 2),
        ((5, -28, -50), 2),
        # Cingulum, superior longitudinal and inferior longitudinal fascicles: front-back.
        ((9, -12, 37), 1),
        ((37, -12, 30), 1),
        ((40, -40, -10), 1),
    ],
)
def test_fibres_run_as_the_atlases_have_them(fibres, place_mm, axis: int) -> None:
    middles, directions = fibres
    here = np.linalg.norm(middles - np.array(place_mm), axis=1) < 4
    assert here.sum() > 50
    share = (directions[here] ** 2).mean(axis=0)
    assert share.argmax() == axis
    assert share[axis] > 0.45


def test_fibres_reach_nearly_all_white_matter(fibres) -> None:
    middles, _ = fibres
    maps = load_anatomy_maps()
    white = maps.channels[0, ::2, ::2, ::2] < -1
    voxels = np.rint((middles - maps.origin_mm) / 2).astype(int)
    inside = ((voxels >= 0) & (voxels < white.shape)).all(axis=1)
    reached = np.zeros(white.shape, dtype=bool)
    reached[tuple(voxels[inside].T)] = True
    assert reached[white].mean() > 0.97


def test_left_and_right_are_alike(fibres) -> None:
    middles, directions = fibres
    right = middles[:, 0] > 0
    assert right.mean() == pytest.approx(0.5, abs=0.02)
    for side in (right, ~right):
        share = (directions[side] ** 2).mean(axis=0)
        np.testing.assert_allclose(share, (directions**2).mean(axis=0), atol=0.02)
