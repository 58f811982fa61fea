"""Regional statistics against numpy on the same voxels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from dmri_fm.errors import ImageError
from dmri_fm_workflows.group.regional import RegionSet, summarise_map


@pytest.fixture
def case():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, (8, 9, 10))
    data = rng.normal(size=labels.shape)
    data[0, 0, :3] = np.nan
    mask = rng.random(labels.shape) > 0.3
    members = {"a": (1,), "b": (2,), "ab": (1, 2), "absent": (9,)}
    return RegionSet(labels, np.eye(4), members), data, mask


def test_statistics_are_numpy_s(case):
    regions, data, mask = case
    found, coverage = summarise_map(data, mask, regions=regions)
    for name in ("a", "b", "ab"):
        region = np.isin(regions.labels, regions.members[name])
        values = data[region & mask & np.isfinite(data)]
        assert found[name]["mean"] == pytest.approx(values.mean(), rel=1e-12)
        assert found[name]["median"] == np.median(values)
        assert found[name]["std"] == pytest.approx(values.std(), rel=1e-12)
        assert coverage[name] == pytest.approx(mask[region].mean(), rel=1e-12)
    assert np.isnan(found["absent"]["mean"])
    assert coverage["absent"] == 0


def test_small_regions_have_no_statistics(case):
    regions, data, _ = case
    mask = np.zeros(data.shape, bool)
    mask[1, 1, :] = True
    found, _ = summarise_map(data, mask, regions=regions)
    assert all(np.isnan(v) for v in found["ab"].values())


def test_voxel_order_does_not_matter(case):
    regions, data, mask = case
    turned = RegionSet(regions.labels[::-1].copy(), np.eye(4), regions.members)
    before, _ = summarise_map(data, mask, regions=regions)
    after, _ = summarise_map(data[::-1], mask[::-1], regions=turned)
    for name in before:
        for statistic, value in before[name].items():
            assert after[name][statistic] == pytest.approx(value, rel=1e-12, nan_ok=True)


def test_regions_on_another_grid_are_those_of_the_nearest_voxel(case):
    regions, *_ = case
    affine = np.array([[0, -0.5, 0, 8.1], [0.7, 0, 0, -1], [0, 0, 1.3, 0.2], [0, 0, 0, 1.0]])
    found = regions.on_grid((12, 18, 9), affine)
    points = np.indices((12, 18, 9)).reshape(3, -1)
    xyz = affine[:3, :3] @ points + affine[:3, 3:]
    expected = map_coordinates(regions.labels, np.rint(xyz), order=0, mode="constant", cval=0)
    np.testing.assert_array_equal(found.labels.ravel(), expected)
    assert regions.on_grid(regions.labels.shape, np.eye(4)) is regions


def test_shapes_must_fit(case):
    regions, data, mask = case
    with pytest.raises(ImageError, match="map of shape"):
        summarise_map(data[:-1], mask[:-1], regions=regions)
    with pytest.raises(ImageError, match="labels of shape"):
        RegionSet(np.zeros((2, 2)), np.eye(4), {})
