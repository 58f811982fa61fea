"""Images that open, images that cannot, and the series as a value."""

from __future__ import annotations

import gzip
import pickle

import nibabel as nib
import numpy as np
import pytest

from dmri_fm import Dwi
from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.series import load_image, read_array, save_image

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
GTAB = GradientTable([0, 1000, 1000, 5], [[np.nan] * 3, [1, 0, 0], [0, 0.6, 0.8], [0.1, 0, 0]])


@pytest.fixture
def dwi() -> Dwi:
    data = np.random.default_rng(0).uniform(10, 100, size=(5, 4, 3, 4))
    return Dwi.from_arrays(data, AFFINE, GTAB)


def shifted_along_x(mm: float) -> np.ndarray:
    shifted = AFFINE.copy()
    shifted[0, 3] += mm
    return shifted


def assert_says(error: ImageError | GradientError, *words: str) -> None:
    assert error.expected
    for word in words:
        assert word in str(error)


# Round trips


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_saved_image_is_read_back(tmp_path, extension, dtype) -> None:
    data = np.arange(60).reshape(5, 4, 3)
    path = save_image(data, AFFINE, tmp_path / "new" / f"image{extension}", dtype=dtype)
    image = load_image(path, ndim=3)
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(read_array(image), data)
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.header["qform_code"] == image.header["sform_code"] == 1


def test_saved_series_is_read_back(tmp_path, dwi) -> None:
    again = Dwi.from_files(*dwi.save(tmp_path / "sub-01_dwi"))
    np.testing.assert_array_equal(again.data, dwi.data)
    np.testing.assert_allclose(again.affine, dwi.affine)
    np.testing.assert_allclose(again.gtab.bvals, dwi.gtab.bvals)
    # Six decimals are written.
    np.testing.assert_allclose(again.gtab.bvecs_ras, dwi.gtab.bvecs_ras, atol=2e-6)


def test_series_survives_pickling(dwi) -> None:
    again = pickle.loads(pickle.dumps(dwi))
    np.testing.assert_array_equal(again.data, dwi.data)


def test_voxels_are_not_read_before_they_are_needed(tmp_path, dwi) -> None:
    paths = dwi.save(tmp_path / "x")
    content = gzip.decompress(paths[0].read_bytes())
    paths[0].write_bytes(gzip.compress(content[:400]))
    opened = Dwi.from_files(*paths)
    assert opened.shape == dwi.shape
    with pytest.raises(ImageError, match="cannot be read"):
        _ = opened.data


@pytest.mark.parametrize("ndim", [3, 4])
def test_trailing_dimensions_of_length_one_are_dropped(tmp_path, ndim) -> None:
    shape = (5, 4, 3, 2)[:ndim]
    data = np.random.default_rng(1).normal(size=shape)
    path = save_image(data.reshape(*shape, 1), AFFINE, tmp_path / "x.nii.gz")
    image = load_image(path, ndim=ndim)
    assert image.shape == shape
    np.testing.assert_allclose(read_array(image), data, rtol=1e-6)
    np.testing.assert_allclose(image.affine, AFFINE)


# The series as a value


def test_series_says_what_it_is(dwi) -> None:
    assert dwi.shape == (5, 4, 3, 4)
    np.testing.assert_allclose(dwi.voxel_size_mm, [2, 2, 3])
    assert dwi.mask is None
    np.testing.assert_allclose(dwi.mean_b0(), dwi.data[..., [0, 3]].mean(axis=3), rtol=1e-6)


def test_selecting_keeps_order_and_leaves_the_original(dwi) -> None:
    before = dwi.data.copy()
    some = dwi.with_mask(dwi.data[..., 0] > 50).select([2, 0])
    np.testing.assert_array_equal(some.data, before[..., [2, 0]])
    assert some.gtab.bvals.tolist() == [1000, 0]
    assert some.mask is not None
    np.testing.assert_array_equal(dwi.data, before)
    assert dwi.mask is None


def test_series_without_b0_has_no_mean_b0(dwi) -> None:
    with pytest.raises(GradientError) as caught:
        dwi.select([1, 2]).mean_b0()
    assert_says(caught.value, "no b=0 volume among 2", "b < 50")


def test_parts_must_fit(dwi) -> None:
    with pytest.raises(GradientError, match="4 gradients for 3 volumes"):
        Dwi.from_arrays(dwi.data[..., :3], AFFINE, GTAB)
    with pytest.raises(ImageError, match="mask of shape"):
        dwi.with_mask(np.ones((5, 4, 4)))
    with pytest.raises(ImageError, match="4 dimensions"):
        Dwi.from_arrays(dwi.data[..., 0], AFFINE, GTAB)


def test_mask_file_must_be_on_the_grid(tmp_path, dwi) -> None:
    paths = dwi.save(tmp_path / "x")
    good = save_image(dwi.data[..., 0] > 50, AFFINE, tmp_path / "mask.nii.gz", dtype=np.uint8)
    np.testing.assert_array_equal(Dwi.from_files(*paths, good).mask, dwi.data[..., 0] > 50)
    for bad in (
        save_image(np.ones((5, 4, 3)), shifted_along_x(1.0), tmp_path / "shifted.nii.gz"),
        save_image(np.ones((5, 4, 4)), AFFINE, tmp_path / "taller.nii.gz"),
    ):
        with pytest.raises(ImageError, match="different grids") as caught:
            Dwi.from_files(*paths, bad)
        assert caught.value.path == bad


# Images that cannot be used


def spoiled(kind: str, path):
    """Write an image that is wrong in one way."""
    data = np.arange(5 * 4 * 3 * 2, dtype=np.float32).reshape(5, 4, 3, 2)
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
        return path
    if kind == "dangling link":
        path.symlink_to("nowhere")
        return path
    image = nib.Nifti1Image(data, AFFINE)
    image.set_sform(AFFINE, code=1)
    image.set_qform(AFFINE, code=1)
    if kind in ("mirrored sform", "shifted sform", "turned sform"):
        other = {
            "mirrored sform": AFFINE @ np.diag([-1.0, 1, 1, 1]),
            "shifted sform": shifted_along_x(3.0),
            "turned sform": AFFINE[[1, 0, 2, 3]],
        }[kind]
        image.set_sform(other, code=1)
    if kind == "singular":
        image.set_sform(np.diag([2.0, 2, 0, 1]), code=1)
        image.set_qform(None, code=0)
    if kind == "NaN affine":
        image.set_qform(None, code=0)
        image.header["srow_x"] = np.nan
        image = nib.Nifti1Image(data, None, image.header)
        image.header["sform_code"] = 1
    if kind == "3-D":
        image = nib.Nifti1Image(data[..., 0], AFFINE)
    if kind == "5-D":
        image = nib.Nifti1Image(np.stack([data, data], axis=-1), AFFINE)
    nib.save(image, path)
    content = path.read_bytes()
    if kind == "zero bytes":
        path.write_bytes(b"")
    if kind == "short header":
        path.write_bytes(gzip.compress(gzip.decompress(content)[:200]))
    if kind == "cut gzip header":
        path.write_bytes(content[:20])
    if kind == "text":
        path.write_bytes(b"this is no image" * 40)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", ["file is missing"]),
        ("folder", ["no regular file"]),
        ("dangling link", ["leads nowhere", "mount"]),
        ("zero bytes", ["zero bytes", "datalad get"]),
        ("short header", ["cannot be opened"]),
        ("cut gzip header", ["cannot be opened"]),
        ("text", ["cannot be opened"]),
        ("3-D", ["3 dimensions", "(5, 4, 3)", "4 dimensions"]),
        ("5-D", ["5 dimensions", "(5, 4, 3, 2, 2)"]),
        ("mirrored sform", ["qform and sform disagree by 16.0 mm", "fslorient"]),
        ("shifted sform", ["disagree by 3.0 mm"]),
        ("turned sform", ["disagree"]),
        ("singular", ["singular"]),
        ("NaN affine", ["not finite"]),
    ],
)
def test_image_that_cannot_be_used_is_named(tmp_path, kind, words) -> None:
    path = spoiled(kind, tmp_path / "x.nii.gz")
    with pytest.raises(ImageError) as caught:
        load_image(path, ndim=4)
    assert caught.value.path == path
    assert caught.value.advice
    assert_says(caught.value, *words)


def test_small_disagreement_of_the_forms_is_rounding(tmp_path) -> None:
    image = nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(shifted_along_x(0.3), code=2)
    nib.save(image, tmp_path / "x.nii")
    assert load_image(tmp_path / "x.nii").shape == (5, 4, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted(tmp_path, value) -> None:
    data = np.ones((5, 4, 3))
    data[0, 0, :2] = value
    path = save_image(data, AFFINE, tmp_path / "x.nii.gz")
    with pytest.raises(ImageError) as caught:
        read_array(load_image(path))
    assert caught.value.path == path
    assert_says(caught.value, "2 voxels are NaN or infinite")


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_truncated_file_is_named(tmp_path, keep) -> None:
    data = np.random.default_rng(2).normal(size=(30, 30, 30))
    path = save_image(data, AFFINE, tmp_path / "x.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ImageError) as caught:
        read_array(load_image(path))
    assert caught.value.path == path
    assert_says(caught.value, "cannot be read", "truncated")


def test_damaged_bytes_are_named(tmp_path) -> None:
    data = np.random.default_rng(2).normal(size=(30, 30, 30))
    path = save_image(data, AFFINE, tmp_path / "x.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError) as caught:
        read_array(load_image(path))
    assert caught.value.path == path


@pytest.mark.parametrize(
    "dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])]
)
def test_voxels_must_be_real_numbers(tmp_path, dtype) -> None:
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), dtype), AFFINE), path)
    with pytest.raises(ImageError, match="one real number per voxel"):
        read_array(load_image(path))
