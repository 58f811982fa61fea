"""Label images and fibre bundles that a user names."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dmri_fm.errors import InputError
from dmri_fm.normalise.template import load_template
from dmri_fm_workflows.group.atlases import read_atlas, read_bundles, split_atlas

AFFINE = np.array([[2.0, 0, 0, -10], [0, 2, 0, -12], [0, 0, 2, -10], [0, 0, 0, 1]])
TEMPLATES = Path(os.environ.get("DMRI_TEST_DATA", "")) / "templates"


def write_image(path: Path, data, affine=AFFINE) -> Path:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data), affine), path)
    return path


@pytest.fixture
def labels() -> np.ndarray:
    data = np.zeros((10, 12, 10), np.int16)
    data[:3], data[3:5], data[6:8] = 1, 2, 7
    return data


def write_table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["index\tname", *rows]) + "\n")
    return path


def test_regions_are_named_after_file_and_label(tmp_path: Path, labels, caplog) -> None:
    image = write_image(tmp_path / "My-Atlas.nii.gz", labels)
    write_table(tmp_path / "My-Atlas.tsv", "0\tBackground", "1\tFornix (column)", "2\tCST L",
                "9\tGone")  # fmt: skip
    with caplog.at_level(logging.WARNING):
        atlas = read_atlas(image)
    assert atlas.members == {"my_atlas_fornix_column": (1,), "my_atlas_cst_l": (2,)}
    assert "no name of labels 7" in caplog.text
    assert "no voxel of Gone" in caplog.text
    assert atlas.about["my_atlas_cst_l"] == "label 2 of atlas My-Atlas.nii.gz"
    first, second = atlas.on_grid(labels.shape, AFFINE)
    np.testing.assert_array_equal(np.sort(first.voxels), np.flatnonzero(labels == 1))
    assert second.name == "my_atlas_cst_l"


def test_sides_have_to_fit_the_names(tmp_path: Path, labels, caplog) -> None:
    table = write_table(tmp_path / "a.tsv", "1\tCST L", "2\tleft fornix", "7\tCST R")
    assert len(read_atlas(write_image(tmp_path / "a.nii", labels), table).members) == 3
    assert "not on the side" not in caplog.text
    mirrored = write_image(tmp_path / "m.nii", labels[::-1])
    with pytest.raises(InputError, match=r"3 of 3 regions lie on the other side.*m_cst_l"):
        read_atlas(mirrored, table)
    swapped = write_table(tmp_path / "b.tsv", "1\tCST L", "2\tfornix R", "7\tCST R")
    read_atlas(write_image(tmp_path / "a.nii", labels), swapped)
    assert "not on the side of their names: a_fornix_r" in caplog.text


def test_a_table_elsewhere(tmp_path: Path, labels) -> None:
    image = write_image(tmp_path / "a.nii.gz", labels)
    table = write_table(tmp_path / "names.tsv", "1\tx")
    assert list(read_atlas(*split_atlas(f"{image}:{table}")).members) == ["a_x"]
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_atlas(image)
    assert caught.value.path == tmp_path / "a.tsv"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1\tx", "1\ty"], "stands there twice: 1"),
        (["1\tCST L", "2\tcst-l"], "stands there twice: cst_l"),
        (["1.5\tx"], "is no table of labels"),
        (["1\t-"], "one without a name"),
        (["4\tx"], "no label of the table"),
        ([], "has no row"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, labels, rows, message: str) -> None:
    image = write_image(tmp_path / "a.nii", labels)
    write_table(tmp_path / "a.tsv", *rows)
    with pytest.raises(InputError, match=message):
        read_atlas(image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, a: (d * 0.5, a), "values are no labels"),
        (lambda d, a: (-d, a), "values are no labels"),
        (lambda d, a: (d * 0, a), "no voxel is above 0"),
        (lambda d, a: (d[0], a), "2-D|rank|dimension"),
        # The corner of the image is the origin, as in headers without a transform.
        (lambda d, a: (np.ones((91, 109, 91), np.int16), np.diag([2.0, 2, 2, 1])), "reach from"),
        # Metres in place of millimetres.
        (lambda d, a: (d, np.diag([0.001, 0.001, 0.001, 1])), "voxel edges"),
    ],
)
def test_what_is_not_in_the_template_s_space_is_refused(
    tmp_path: Path, labels, change, message: str
) -> None:
    image = write_image(tmp_path / "a.nii", *change(labels.astype(np.float32), AFFINE))
    write_table(tmp_path / "a.tsv", "1\tx")
    with pytest.raises(InputError, match=message):
        read_atlas(image)


def test_bundles_have_weights(tmp_path: Path, labels) -> None:
    folder = tmp_path / "bundles"
    write_image(folder / "CST_left.nii.gz", (labels == 1) * np.float32(0.5))
    write_image(folder / "AF.nii", (labels == 2).astype(np.uint8))
    (folder / "notes.txt").write_text("x")
    bundles = read_bundles(folder)
    assert bundles.about == {
        "bundle_af": "bundle AF.nii, voxels weighted by its values",
        "bundle_cst_left": "bundle CST_left.nii.gz, voxels weighted by its values",
    }
    af, cst = bundles.on_grid(labels.shape, AFFINE)
    np.testing.assert_array_equal(cst.voxels, np.flatnonzero(labels == 1))
    assert cst.weights is not None
    assert set(cst.weights) == {0.5}
    assert len(af.voxels) == np.count_nonzero(labels == 2)


@pytest.mark.parametrize("value", [-1.0, np.nan, 0.0])
def test_bundles_that_are_no_weights_are_refused(tmp_path: Path, labels, value: float) -> None:
    write_image(tmp_path / "b" / "x.nii", np.full(labels.shape, value, np.float32))
    with pytest.raises(InputError, match=r"no weights|no voxel"):
        read_bundles(tmp_path / "b")
    with pytest.raises(InputError, match="no image here"):
        read_bundles(tmp_path)


@pytest.mark.realdata
def test_the_white_matter_labels_of_jhu(tmp_path: Path) -> None:
    image = TEMPLATES / "JHU-WhiteMatter-labels-1mm.nii.gz"
    if not image.is_file():
        pytest.skip("no JHU labels")
    lines = (TEMPLATES / "JHU-WhiteMatter-labels-1mm.nii.txt").read_text().splitlines()
    table = write_table(tmp_path / "jhu.tsv", *(line for line in lines if line.strip()))
    # The qform of this copy lays the brain upside down, and is refused unless it is mended.
    with pytest.raises(InputError, match="qform and sform disagree"):
        read_atlas(image, table)
    data, affine = np.asarray(nib.load(image).dataobj), nib.load(image).get_sform()
    # Its sform mirrors it: right tracts would be tabulated as left ones.
    with pytest.raises(InputError, match="42 of 42 regions lie on the other side"):
        read_atlas(write_image(tmp_path / "mirrored.nii.gz", data, affine), table)
    affine[0] = [-1, 0, 0, 90]
    image = write_image(tmp_path / "jhu.nii.gz", data, affine)
    atlas = read_atlas(image, table)
    assert len(atlas.members) == 48
    grid = load_template(2).grid
    regions = {r.name: r for r in atlas.on_grid(grid.shape, grid.affine)}
    splenium = regions["jhu_splenium_of_corpus_callosum"]
    points = grid.points()[splenium.voxels]
    # Behind the origin, across the midline; about 13 ml.
    assert abs(points[:, 0].mean()) < 2
    assert -50 < points[:, 1].mean() < -30
    assert 8 * len(points) == pytest.approx(13_000, rel=0.1)
    assert grid.points()[regions["jhu_corticospinal_tract_r"].voxels, 0].min() > 0
