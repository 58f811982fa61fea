"""RISH features."""

import shutil

import numpy as np
import pytest
from dipy.core.sphere import HemiSphere
from dipy.reconst.shm import real_sh_descoteaux
from scipy.spatial.transform import Rotation

from dmri_fm.errors import InputError
from dmri_fm_lab.feature_cache import FeatureCache
from dmri_fm_lab.prediction.image_samples import find_maps
from dmri_fm_lab.prediction.rish import N_COEFFICIENTS, rish, rish_table, white_matter
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.train.dataset_cache import find_unusable
from tests.dmri_fm_lab.prediction.tiny_cohort import write_cohort


def coefficients_of(function, directions):
    """Fit an even series of order 4 to a function of directions."""
    sphere = HemiSphere(xyz=directions)
    basis, _, _ = real_sh_descoteaux(4, sphere.theta, sphere.phi, legacy=False)
    return np.linalg.lstsq(basis, function(sphere.vertices), rcond=None)[0][None]


def test_features_do_not_turn_with_the_function():
    directions = spread_directions(np.random.default_rng(0), 60)
    # A polynomial of degree four has no higher order.
    powers = []
    for turn in Rotation.random(3, random_state=0):
        axes = turn.apply(np.eye(3))
        found = rish(
            coefficients_of(lambda v, a=axes: (v @ a[0]) ** 4 + 0.5 * (v @ a[1]) ** 2, directions)
        )
        powers.append([float(found[order][0]) for order in (0, 2, 4)])
    np.testing.assert_allclose(powers, np.tile(powers[0], (3, 1)), rtol=1e-6)
    assert min(powers[0]) > 1e-3


def test_a_constant_has_order_zero_alone():
    directions = spread_directions(np.random.default_rng(0), 60)
    found = rish(coefficients_of(lambda v: np.full(len(v), 3.0), directions))
    # The first harmonic is 1 / sqrt(4 pi).
    assert found[0][0] == pytest.approx(9.0 * 4 * np.pi)
    assert found[2][0] == pytest.approx(0.0, abs=1e-12)


def test_the_table_of_a_cohort(tiny_cohort, tmp_path):
    table = rish_table(tiny_cohort.derivatives, cache=FeatureCache(tmp_path))
    assert table.values.shape == (8, 3 * 12)
    assert table.values.columns[0] == "rish0_wm_left_infratentorial"
    assert table.scans["participant_id"].tolist() == [f"sub-0{i}" for i in range(1, 9)]
    assert np.isfinite(table.values.to_numpy()).all()
    # Diffusivity falls with age, so that an older signal is larger under the common response.
    assert (np.diff(table.values["rish0_wm_left_frontal"]) > 0).all()
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = rish_table(tiny_cohort.derivatives, cache=FeatureCache(tmp_path))
    np.testing.assert_array_equal(again.values, table.values)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == kept


def test_other_regions_are_not_taken_from_the_cache(tmp_path):
    two = write_cohort(tmp_path, {"01": 30.0, "02": 60.0}).derivatives
    cache, one = FeatureCache(tmp_path / "cache"), white_matter()
    # The same names, left and right exchanged.
    turned = one._replace(image=one.image[::-1].copy())
    first, other = (rish_table(two, cache=cache, labels=own) for own in (one, turned))
    assert not np.array_equal(first.values, other.values)


def test_scans_in_the_participants_space_alone_are_named(tmp_path):
    folder = write_cohort(tmp_path, {"01": 30.0, "02": 60.0}).derivatives
    for path in (folder / "sub-02" / "dwi").glob("*_desc-preproc_dwi.*"):
        ending = path.name.split("_desc-preproc", 1)[1]
        path.rename(path.with_name(f"sub-02_space-ACPC_desc-preproc{ending}"))
    table = rish_table(folder)
    assert table.left_out == (("sub-02", "no series in the template's space"),)
    assert find_unusable(folder, list(table.values.index)) == list(table.left_out)
    for path in (folder / "sub-02" / "dwi").glob("*_dwimap.nii.gz"):
        path.unlink()
    assert find_maps(folder)[1] == [("sub-02", "no FA and MD maps in the template's space")]


def test_fewer_directions_than_coefficients(tiny_cohort, tmp_path):
    few = write_cohort(tmp_path, {"09": 40.0}, n_directions=N_COEFFICIENTS - 1)
    with pytest.raises(InputError, match="sub-09: 14 directions in its largest shell; order 4"):
        rish_table(few.derivatives)
    shutil.copytree(tiny_cohort.derivatives / "sub-01", few.derivatives / "sub-01")
    table = rish_table(few.derivatives)
    assert list(table.values.index) == ["sub-01"]
    assert [item.name for item in table.left_out] == ["sub-09"]
