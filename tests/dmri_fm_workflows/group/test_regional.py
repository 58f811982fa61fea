"""Regional statistics against numpy on the same voxels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from dmri_fm.errors import ImageError
from dmri_fm_workflows.group.regional import Bundles, RegionSet, summarise_map


@pytest.fixture
def case():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, (8, 9, 10))
    data = rng.normal(size=labels.shape)
    data[0, 0, :3] = np.nan
    mask = rng.random(labels.shape) > 0.3
    members = {"a": (1,), "b": (2,), "ab": (1, 2), "absent": (9,)}
    return RegionSet(labels, np.eye(4), members), data, mask


def placed(regions, data):
    """Return the regions on their own grid."""
    return regions.on_grid(data.shape, np.eye(4))


def test_statistics_are_numpy_s(case):
    regions, data, mask = case
    found = summarise_map(data, mask, regions=placed(regions, data))
    assert list(regions.members) == ["a", "b", "ab", "absent"]
    for row, name in enumerate(("a", "b", "ab")):
        region = np.isin(regions.labels, regions.members[name])
        values = data[region & mask & np.isfinite(data)]
        expected = [values.mean(), np.median(values), values.std()]
        np.testing.assert_allclose(found.statistics[row], expected, rtol=1e-12)
        assert found.n_voxels[row] == values.size
        assert found.coverage[row] == pytest.approx(mask[region].mean(), rel=1e-12)
    assert np.isnan(found.statistics[3]).all()
    assert (found.n_voxels[3], found.coverage[3]) == (0, 0)


def test_weights_count(case):
    _, data, mask = case
    rng = np.random.default_rng(4)
    weights = rng.integers(0, 4, data.shape).astype(np.float32)
    (region,) = Bundles({"cst": (weights, np.eye(4))}, {"cst": "cst.nii"}).on_grid(
        data.shape, np.eye(4)
    )
    found = summarise_map(data, mask, regions=[region])
    # A weight of n is a voxel that stands there n times.
    times = np.where(mask & np.isfinite(data), weights, 0).astype(int).ravel()
    values = np.repeat(data.ravel(), times)
    expected = [values.mean(), np.quantile(values, 0.5, method="inverted_cdf"), values.std()]
    np.testing.assert_allclose(found.statistics[0], expected, rtol=1e-12)
    assert found.n_voxels[0] == np.count_nonzero(times)
    assert found.coverage[0] == pytest.approx(
        weights[mask].sum(dtype=float) / weights.sum(dtype=float), rel=1e-12
    )


def test_small_regions_have_no_statistics(case):
    regions, data, _ = case
    mask = np.zeros(data.shape, bool)
    mask[1, 1, :] = True
    found = summarise_map(data, mask, regions=placed(regions, data))
    assert np.isnan(found.statistics).all()
    assert found.n_voxels[2] > 0


def test_voxel_order_does_not_matter(case):
    regions, data, mask = case
    turned = RegionSet(regions.labels[::-1].copy(), np.eye(4), regions.members)
    before = summarise_map(data, mask, regions=placed(regions, data))
    after = summarise_map(data[::-1], mask[::-1], regions=placed(turned, data))
    np.testing.assert_allclose(after.statistics, before.statistics, rtol=1e-12)
    np.testing.assert_array_equal(after.n_voxels, before.n_voxels)


def test_regions_on_another_grid_are_those_of_the_nearest_voxel(case):
    regions, *_ = case
    # No voxel lies half way between two others.
    affine = np.array([[0, -0.5, 0, 8.1], [0.71, 0, 0, -1], [0, 0, 1.31, 0.2], [0, 0, 0, 1.0]])
    found = {r.name: r.voxels for r in regions.on_grid((12, 18, 9), affine)}
    points = np.indices((12, 18, 9)).reshape(3, -1)
    xyz = affine[:3, :3] @ points + affine[:3, 3:]
    expected = map_coordinates(regions.labels, np.rint(xyz), order=0, mode="constant", cval=0)
    for name, members in regions.members.items():
        np.testing.assert_array_equal(
            np.sort(found[name]), np.flatnonzero(np.isin(expected, members))
        )


def test_shapes_must_fit(case):
    regions, data, mask = case
    with pytest.raises(ImageError, match="map of shape"):
        summarise_map(data[:-1], mask, regions=placed(regions, data))
    with pytest.raises(ImageError, match="labels of shape"):
        RegionSet(np.zeros((2, 2)), np.eye(4), {})
