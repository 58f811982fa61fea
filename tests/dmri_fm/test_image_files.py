"""Damage is found wherever it lies, and headers that describe no scan are refused."""

from __future__ import annotations

import gzip
import logging
import resource
import time
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from dmri_fm.errors import ImageError
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm.voxel_file import MAX_PADDING_BYTES

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
DATA = np.random.default_rng(0).integers(0, 1000, (6, 5, 4)).astype(np.int16)


def write(path, *, change=None, data=DATA, affine=AFFINE, kind=nib.Nifti1Image):
    """Write an image after `change` has been at its header, which nibabel then leaves alone."""
    image = kind(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    content = bytearray(image.to_bytes())
    size = image.header.sizeof_hdr
    header = image.header_class(bytes(content[:size]), check=False)
    if change is not None:
        change(header)
    content[:size] = header.binaryblock
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else bytes(content))
    return path


def setting(**fields):
    """Return a change of header fields; `pixdim_1=3` is one element of an array."""

    def change(header):
        for key, value in fields.items():
            name, _, place = key.rpartition("_")
            if place.isdecimal():
                header[name][int(place)] = value
            else:
                header[key] = value

    return change


# Voxels


def test_flipped_bits_are_found_or_harmless(tmp_path) -> None:
    voxels = DATA[:3, :3]
    path = write(tmp_path / "x.nii.gz", data=voxels)
    content = path.read_bytes()
    found = 0
    # The first ten bytes, of which some mean nothing, and a thousand bits of all.
    bits = {*range(80), *np.random.default_rng(0).permutation(8 * len(content))[:1000].tolist()}
    for bit in sorted(bits):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            image = load_image(path)
            data = read_array(image)
        except ImageError:
            found += 1
        else:
            np.testing.assert_array_equal(data, voxels)
            np.testing.assert_array_equal(image.affine, AFFINE)
    # Harmless: time, level, system, unused flags of the gzip header; codes that no symbol uses.
    assert found >= len(bits) - 72


@pytest.mark.parametrize("use", ["whole", "slice", "get_fdata"])
def test_no_way_to_the_voxels_passes_the_checksum_by(tmp_path, use) -> None:
    path = write(tmp_path / "x.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    image = load_image(path)
    with pytest.raises(ImageError, match="CRC check failed"):
        _ = {
            "whole": lambda: np.asarray(image.dataobj),
            "slice": lambda: image.dataobj[..., 0],
            "get_fdata": image.get_fdata,
        }[use]()


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "i4", "u8", "f4", ">f4", "f8"])
@pytest.mark.parametrize("scaling", [(1, 0), (0, 7), (0.1, -3), (2, 0)])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_voxels_are_those_that_nibabel_reads(tmp_path, dtype, scaling, extension) -> None:
    path = tmp_path / f"x{extension}"
    order = ">" if dtype.startswith(">") else "<"
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(dtype))
    image = nib.Nifti1Image(DATA.astype(dtype), AFFINE, header)
    content = bytearray(image.to_bytes())
    stored = nib.Nifti1Header(bytes(content[:348]), order, check=False)
    stored["scl_slope"], stored["scl_inter"] = scaling
    content[:348] = stored.binaryblock
    path.write_bytes(gzip.compress(content) if extension == ".nii.gz" else bytes(content))
    expected = np.asanyarray(nib.load(path).dataobj)
    ours = load_image(path)
    np.testing.assert_array_equal(np.asarray(ours.dataobj), expected)
    np.testing.assert_array_equal(ours.dataobj[1:3, ..., 2], expected[1:3, ..., 2])
    np.testing.assert_array_equal(ours.dataobj[..., -1], expected[..., -1])
    np.testing.assert_array_equal(ours.get_fdata(), expected)
    data = read_array(ours)
    assert data.flags.f_contiguous
    np.testing.assert_array_equal(data, expected.astype(np.float32))


def test_stream_of_several_members_is_one_file(tmp_path) -> None:
    path = write(tmp_path / "x.nii.gz")
    plain = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(plain[:400]) + gzip.compress(plain[400:]))
    np.testing.assert_array_equal(read_array(load_image(path)), DATA)
    first, second = gzip.compress(plain[:400]), bytearray(gzip.compress(plain[400:]))
    second[-8] ^= 1
    path.write_bytes(first + second)
    with pytest.raises(ImageError, match="CRC check failed"):
        read_array(load_image(path))


def test_zeros_may_follow_a_stream_and_nothing_else(tmp_path) -> None:
    path = write(tmp_path / "x.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content + bytes(512))
    np.testing.assert_array_equal(read_array(load_image(path)), DATA)
    path.write_bytes(content + b"more")
    with pytest.raises(ImageError, match="cannot be read"):
        read_array(load_image(path))


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_file_may_be_padded_but_holds_no_second_image(tmp_path, extension) -> None:
    plain = write(tmp_path / "x.nii").read_bytes()
    path = tmp_path / f"y{extension}"
    pack = gzip.compress if extension == ".nii.gz" else bytes
    path.write_bytes(pack(plain + bytes(MAX_PADDING_BYTES)))
    np.testing.assert_array_equal(read_array(load_image(path)), DATA)
    path.write_bytes(pack(plain + bytes(MAX_PADDING_BYTES + 1)))
    with pytest.raises(ImageError, match="goes on after the last voxel"):
        read_array(load_image(path))


def test_reading_takes_the_memory_of_the_array_and_a_buffer(tmp_path) -> None:
    data = np.random.default_rng(1).integers(0, 9, (128, 128, 64, 10)).astype(np.int16)
    path = save_image(data, AFFINE, tmp_path / "x.nii", dtype=np.int16)
    tracemalloc.start()
    start = time.perf_counter()
    array = read_array(load_image(path))
    seconds = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    np.testing.assert_array_equal(load_image(path).dataobj[..., 7], data[..., 7])
    _, peak_of_one = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_of_one - before < 20 * 2**20
    assert array.nbytes == 4 * data.size
    # One buffer as stored, its copy in the wanted type, and a mask of one volume.
    assert peak < array.nbytes + 20 * 2**20
    assert seconds < 5


# Headers


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting(vox_offset=np.nan), "start at byte nan"),
        (setting(vox_offset=np.inf), "start at byte inf"),
        (setting(vox_offset=0), "start at byte 0"),
        (setting(vox_offset=352.5), "start at byte 352.5"),
        (setting(vox_offset=1e30), "the header describes 1000000015047466219876688855280"),
        (setting(quatern_b=2), "no rotation"),
        (setting(quatern_c=np.nan), "no rotation"),
        (setting(qoffset_x=np.inf), "no rotation"),
        (setting(dim_0=0), "0 dimensions"),
        (setting(dim_0=-3), "-3 dimensions"),
        (setting(dim_0=9), "9 dimensions"),
        (setting(dim_0=2), "2 dimensions"),
        (setting(dim_2=0), r"\(6, 0, 4\)"),
        (setting(dim_2=-5), r"\(6, -5, 4\)"),
        (setting(dim_1=32767, dim_2=32767, dim_3=32767), "the header describes 7036"),
        (setting(pixdim_1=1e30), "voxel edges of 1e.30"),
        (setting(pixdim_2=0), "voxel edges of 2 x 0 x 3"),
        (setting(pixdim_3=-3), "voxel edges of 2 x 2 x -3"),
        (setting(pixdim_1=np.nan), "voxel edges of nan"),
        (setting(pixdim_0=np.nan), r"pixdim\[0\]"),
        (setting(srow_x=[1e30, 0, 0, 0]), "voxel edges of 1e.30"),
        (setting(srow_x=[np.nan, 0, 0, 0]), "singular or not finite"),
        (setting(srow_x=[0, 2, 0, 0]), "singular or not finite"),
        (setting(srow_x=[-2, 0, 0, 1e6]), "as far as 1.00001e.06 mm"),
        (setting(scl_slope=np.nan), "scale factors are nan"),
        (setting(scl_slope=np.inf), "scale factors are inf"),
        (setting(scl_slope=1, scl_inter=np.nan), "scale factors are 1 and nan"),
        (setting(datatype=999), "unknown type 999"),
        (setting(datatype=1), "unknown type 1"),
        (setting(xyzt_units=1), "lengths in metre"),
        (setting(xyzt_units=3), "lengths in micron"),
        (setting(xyzt_units=6), "unknown unit 6"),
        (setting(sform_code=77), "orientation codes"),
        (setting(magic=b"ni1"), "no NIfTI header"),
    ],
)
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_header_of_no_possible_scan_is_refused(tmp_path, change, words, extension) -> None:
    path = write(tmp_path / f"x{extension}", change=change)
    with pytest.raises(ImageError, match=words) as caught:
        load_image(path)
    assert caught.value.path == path
    assert caught.value.expected
    assert caught.value.advice


@pytest.mark.parametrize(
    "change",
    [
        setting(pixdim_0=-7),
        setting(pixdim_0=0, qform_code=0),
        setting(bitpix=8),
        setting(xyzt_units=0),
        setting(scl_slope=0, scl_inter=np.nan),
        setting(qform_code=0, quatern_b=np.nan),
        setting(descrip=b"\xff" * 80),
        setting(pixdim_4=np.nan),
    ],
)
def test_oddities_that_decide_nothing_are_read_in_silence(tmp_path, change, caplog) -> None:
    path = write(tmp_path / "x.nii", change=change)
    with caplog.at_level(logging.DEBUG):
        image = load_image(path)
        np.testing.assert_array_equal(read_array(image), DATA)
    np.testing.assert_allclose(image.affine, AFFINE)
    assert caplog.records == []


def test_second_version_of_the_format_is_read(tmp_path) -> None:
    path = write(tmp_path / "x.nii.gz", kind=nib.Nifti2Image)
    np.testing.assert_array_equal(read_array(load_image(path)), DATA)
    bad = write(tmp_path / "y.nii.gz", kind=nib.Nifti2Image, change=setting(dim_1=2**40))
    with pytest.raises(ImageError, match="the header describes"):
        load_image(bad)


def test_promise_that_a_stream_cannot_keep_costs_no_memory(tmp_path) -> None:
    """The stream is long enough for the bound on deflate, and still ends early."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((1024, 1024, 800))
    header.set_sform(AFFINE, 1)
    header["pixdim"][1:4], header["vox_offset"] = 2, 352
    noise = np.random.default_rng(0).bytes(900_000)
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + noise, 1))
    image = load_image(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="900000 bytes of voxels instead"):
        read_array(image)
    # kB; 0.8 GB were promised.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + noise[:1000], 1))
    with pytest.raises(ImageError, match="compressed"):
        load_image(path)


def test_numbers_too_large_for_float32_are_not_finite(tmp_path) -> None:
    path = tmp_path / "x.nii"
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), 1e300), AFFINE), path)
    with pytest.raises(ImageError, match="27 voxels are NaN or infinite"):
        read_array(load_image(path))


def test_uncompressed_file_with_the_name_of_a_compressed_one(tmp_path) -> None:
    path = write(tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match=r"not compressed, and its name ends in \.gz") as caught:
        load_image(path)
    assert "rename it to end in .nii" in caught.value.advice
    path.write_bytes(b"neither")
    with pytest.raises(ImageError, match="cannot be opened") as caught:
        load_image(path)
    assert "rename" not in caught.value.advice
