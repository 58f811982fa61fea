"""Which arrangement of the b-vectors' axes continues the fibres best."""

from __future__ import annotations

import itertools
import json
import pickle
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from dmri_fm.gradient_arrangements import arrangement_matrix
from dmri_fm.gradient_files import read_gradients
from dmri_fm.gradients import GradientTable, fsl_to_ras, ras_to_fsl
from dmri_fm.preprocess.gradient_check import check_gradients
from dmri_fm.series import Dwi

RAS = np.diag([2.0, 2.0, 2.0, 1.0])
LAS = np.diag([-2.0, 2.0, 2.0, 1.0])
OBLIQUE = LAS.copy()
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [12, -7, 25], degrees=True).as_matrix() @ LAS[:3, :3]

SCANS = [
    "sub-galan/dwi/sub-galan_acq-tilted_dir-PA",
    "sub-galan/dwi/sub-galan_dir-AP",
    "sub-galan/dwi/sub-galan_dir-PA",
    "sub-prisma/dwi/sub-prisma_dir-AP",
    "sub-prisma/dwi/sub-prisma_dir-PA",
    "sub-trio/dwi/sub-trio_dir-AP",
    "sub-umr/dwi/sub-umr_acq-rot_dir-PA",
    "sub-umr/dwi/sub-umr_dir-AP",
    "sub-umr/dwi/sub-umr_dir-PA",
]


def rearranged(gtab: GradientTable, affine: np.ndarray, label: str) -> GradientTable:
    """Read the components of the stored b-vectors as a label says."""
    stored = ras_to_fsl(gtab.bvecs_ras, affine)
    rows = [
        -stored[:, "xyz".index(word[-1])]
        if word.startswith("-")
        else stored[:, "xyz".index(word[-1])]
        for word in label.replace("identity", "x,y,z").split(",")
    ]
    return GradientTable(gtab.bvals, fsl_to_ras(np.column_stack(rows), affine))


def every_arrangement() -> list[str]:
    return [
        ",".join(("-" if row == flipped else "") + axis for row, axis in enumerate(order))
        for order in itertools.permutations("xyz")
        for flipped in (None, 0, 1, 2)
    ]


def make_phantom(affine: np.ndarray, *, size: int = 28, noise: float = 0.03) -> Dwi:
    """Return straight bundles in many directions, 3 voxels wide, in isotropic surroundings."""
    rng = np.random.default_rng(11)
    points = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1)
    points = points @ affine[:3, :3].T
    centre = points.reshape(-1, 3).mean(axis=0)
    tensors = np.broadcast_to(0.8e-3 * np.eye(3), (size, size, size, 3, 3)).copy()
    for _ in range(14):
        along = rng.normal(size=3)
        along /= np.linalg.norm(along)
        through = centre + rng.uniform(-16, 16, size=3)
        offset = points - through
        across = offset - (offset @ along)[..., None] * along
        inside = np.linalg.norm(across, axis=-1) < 3.0
        tensors[inside] = 0.3e-3 * np.eye(3) + 1.4e-3 * np.outer(along, along)
    bvecs = rng.normal(size=(24, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    gtab = GradientTable([0, 0] + [1000] * 24, np.vstack([np.zeros((2, 3)), bvecs]))
    exponent = np.einsum(
        "n,ni,xyzij,nj->xyzn", gtab.bvals, gtab.bvecs_ras, tensors, gtab.bvecs_ras
    )
    signal = 1000 * np.exp(-exponent)
    signal = np.abs(signal + 1000 * noise * rng.normal(size=signal.shape))
    return Dwi.from_arrays(signal, affine, gtab, mask=np.ones((size,) * 3))


@pytest.fixture(scope="module")
def phantom() -> Dwi:
    return make_phantom(LAS)


def check(dwi: Dwi, *, gtab: GradientTable | None = None):
    return check_gradients(dwi if gtab is None else replace(dwi, gtab=gtab))


@pytest.mark.parametrize("affine", [RAS, LAS, OBLIQUE], ids=["RAS", "LAS", "oblique"])
def test_right_gradients_win(affine) -> None:
    found = check(make_phantom(affine))
    assert (found.best, found.is_consistent, found.is_decisive) == ("identity", True, True)
    assert found.margin > 0.05
    assert len(found.scores) == 24
    assert found.n_voxels > 1000


@pytest.mark.parametrize("label", every_arrangement())
def test_label_says_what_the_components_should_be(phantom, label) -> None:
    wrong = rearranged(phantom.gtab, LAS, label)
    found = check(phantom, gtab=wrong)
    mended = rearranged(wrong, LAS, found.best)
    # v and -v are one gradient.
    cosine = np.einsum("ni,ni->n", mended.bvecs_ras, phantom.gtab.bvecs_ras)[2:]
    np.testing.assert_allclose(np.abs(cosine), 1.0, atol=1e-12)
    assert found.is_consistent == (label == "x,y,z")
    assert found.is_decisive


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "ASL", "SRA", "IPL"])
def test_storage_changes_no_score(phantom, codes) -> None:
    image = nib.Nifti1Image(phantom.data, LAS)
    moved = image.as_reoriented(ornt_transform(io_orientation(LAS), axcodes2ornt(codes)))
    found = check_gradients(Dwi(moved, phantom.gtab, phantom.mask))
    before = check(phantom)
    assert found.best == "identity"
    # The same 24 pictures in another order; only the order of sums differs.
    np.testing.assert_allclose(
        sorted(found.scores.values()), sorted(before.scores.values()), rtol=1e-6
    )
    assert found.margin == pytest.approx(before.margin, rel=1e-4)
    assert found.n_voxels == before.n_voxels


SAGITTAL = np.array([[0, 0, 2.0, 0], [-2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("label", ["-x,y,z", "x,y,-z", "y,x,z", "z,-x,y"])
@pytest.mark.parametrize("raw", [RAS, LAS, OBLIQUE, SAGITTAL, SAGITTAL @ np.diag([1, -1, 1, 1])])
def test_label_is_of_the_raw_file_wherever_the_series_was_turned(phantom, raw, label) -> None:
    """The file beside a raw image was wrong; the series of the phantom is that image, turned."""
    turn = Rotation.from_euler("zyx", [20, -8, 15], degrees=True).as_matrix()
    right = ras_to_fsl(phantom.gtab.bvecs_ras @ turn, raw)
    wrong = right @ arrangement_matrix(label).T
    read = GradientTable(phantom.gtab.bvals, fsl_to_ras(wrong, raw) @ turn.T)
    axes = turn @ fsl_to_ras(np.eye(3), raw).T
    found = check_gradients(replace(phantom, gtab=read), file_axes=axes)
    assert found.is_decisive
    mended = wrong @ arrangement_matrix(found.best).T
    cosine = np.einsum("ni,ni->n", mended, right)[2:]
    np.testing.assert_allclose(np.abs(cosine), 1.0, atol=1e-9)


def test_neither_scale_nor_order_of_volumes_matters(phantom) -> None:
    order = np.random.default_rng(0).permutation(len(phantom.gtab))
    gtab = phantom.gtab.select(order)
    data = 7.5 * phantom.data[..., order]
    found = check_gradients(Dwi.from_arrays(data, LAS, gtab, mask=phantom.mask))
    for label, score in check(phantom).scores.items():
        assert found.scores[label] == pytest.approx(score, rel=1e-4)


def test_dropout_of_one_slice_does_not_fool(phantom) -> None:
    data = phantom.data.copy()
    data[:, :, 9, 4] *= 0.3
    data[:, :, 17, 8] *= 0.3
    found = check_gradients(Dwi.from_arrays(data, LAS, phantom.gtab, mask=phantom.mask))
    assert (found.best, found.is_decisive) == ("identity", True)


def test_no_fibres_decide_nothing(phantom) -> None:
    rng = np.random.default_rng(1)
    data = 1000 * np.exp(-0.8e-3 * phantom.gtab.bvals) + rng.normal(
        scale=60.0, size=(12, 12, 12, 26)
    )
    for label in ("x,y,z", "-x,y,z"):
        found = check_gradients(Dwi.from_arrays(data, LAS, rearranged(phantom.gtab, LAS, label)))
        assert found.is_consistent
        assert not found.is_decisive
        assert "could not be decided" in found.summary


@pytest.mark.parametrize("index", [range(2, 26), range(7), [0, *[2] * 20]])
def test_no_tensor_decides_nothing(phantom, index) -> None:
    some = phantom.select(list(index))
    found = check_gradients(replace(some, mask=None))
    assert (found.is_consistent, found.is_decisive, found.n_voxels) == (True, False, 0)


def test_empty_mask_decides_nothing(phantom) -> None:
    found = check_gradients(phantom.with_mask(np.zeros(phantom.shape[:3])))
    assert (found.is_consistent, found.is_decisive, found.n_voxels) == (True, False, 0)


def test_answer_goes_into_a_sidecar_and_between_processes(phantom) -> None:
    found = check(phantom, gtab=rearranged(phantom.gtab, LAS, "-x,y,z"))
    assert pickle.loads(pickle.dumps(found)).scores == found.scores
    told = json.loads(json.dumps(found.as_record()))
    assert told["Warnings"] == [found.summary]
    assert check(phantom).as_record()["Warnings"] == []
    entry = told["GradientCheck"]
    assert (entry["Best"], entry["IsConsistent"], entry["IsDecisive"]) == ("-x,y,z", False, True)
    assert "-x,y,z" in entry["Summary"]
    assert "any of the 23" in check(phantom).summary


def test_after_a_repair_what_is_best_is_told_of_the_rows_as_stored(phantom) -> None:
    right = check(phantom)
    record = right.as_record(["z,-x,y"])
    entry = record["GradientCheck"]
    assert (entry["Best"], entry["AfterRepair"], record["Warnings"]) == ("z,-x,y", ["z,-x,y"], [])
    assert entry["Summary"].startswith("The b-vectors as repaired (z,-x,y) continue")
    assert right.as_record(["z,-x,y", "x,y,z"])["GradientCheck"]["Best"] == ["z,-x,y", "identity"]
    # A repair that put right rows wrong: what was stored is best.
    wrong = check(phantom, gtab=rearranged(phantom.gtab, LAS, "z,-x,y"))
    record = wrong.as_record(["z,-x,y"])
    assert record["GradientCheck"]["Best"] == "identity"
    assert "further read as (-y,z,x)" in record["Warnings"][0]
    undecided = replace(right, is_decisive=False)
    assert undecided.as_record()["Warnings"] == []
    (warning,) = undecided.as_record(["z,-x,y"])["Warnings"]
    assert "as repaired (z,-x,y) could not be decided" in warning


# Real scans


def open_scan(data_dir: Path, name: str) -> Dwi:
    stem = data_dir / "ds-vendors" / f"{name}_dwi"
    return Dwi.from_files(*[Path(f"{stem}{e}") for e in (".nii.gz", ".bval", ".bvec")])


def expect_stored_to_win(dwi: Dwi, *, codes: str | None = None) -> None:
    found = check(dwi)
    assert (found.best, found.is_decisive) == ("identity", True), found.summary
    flipped = check(dwi, gtab=rearranged(dwi.gtab, dwi.affine, "-x,y,z"))
    assert (flipped.best, flipped.is_decisive) == ("-x,y,z", True), flipped.summary
    assert not flipped.is_consistent
    if codes is not None:
        turn = ornt_transform(io_orientation(dwi.affine), axcodes2ornt(codes))
        image = nib.Nifti1Image(dwi.data, dwi.affine).as_reoriented(turn)
        moved = Dwi.from_arrays(image.get_fdata(dtype=np.float32), image.affine, dwi.gtab)
        assert check(moved).margin == pytest.approx(found.margin, abs=0.01)
        assert check(moved).best == "identity"


@pytest.mark.realdata
@pytest.mark.parametrize("name", SCANS)
def test_stored_gradients_win_on_a_slab_of_every_scanner(data_dir, name) -> None:
    dwi = open_scan(data_dir, name)
    # 24 mm about the middle of the head: the fewest slices that decide for every scanner, with
    # a margin to spare (18 mm do).
    n_slices = round(24 / dwi.voxel_size_mm[2])
    bright = dwi.mean_b0() > dwi.mean_b0().mean()
    start = int(np.argwhere(bright)[:, 2].mean()) - n_slices // 2
    affine = dwi.affine.copy()
    affine[:3, 3] += start * affine[:3, 2]
    slab = Dwi.from_arrays(dwi.data[:, :, start : start + n_slices], affine, dwi.gtab)
    expect_stored_to_win(slab)


#: Series whose b-vectors a DICOM converter got wrong, and the row it negated.
WRONGLY_CONVERTED = [("acq-ortho_dir-AP", "x,y,-z", 2), ("acq-sagittal_dir-PA", "-x,y,z", 0)]


@pytest.mark.realdata
@pytest.mark.parametrize(("series", "label", "row"), WRONGLY_CONVERTED)
def test_tables_that_a_converter_got_wrong_are_named(data_dir, series, label, row) -> None:
    stem = f"sub-galan6_{series}_dwi"
    folder = data_dir / "ds-more" / "sub-galan6" / "dwi"
    image = nib.load(folder / f"{stem}.nii.gz").slicer[:, :, 14:26]
    bval, right = folder / f"{stem}.bval", folder / f"{stem}.bvec"
    wrong = data_dir / "gradients-as-converted" / f"{stem}.bvec"
    tables = {
        path: read_gradients(bval, path, affine=image.affine, n_volumes=image.shape[3])
        for path in (wrong, right)
    }
    data = np.asanyarray(image.dataobj)
    found = {
        path: check_gradients(Dwi.from_arrays(data, image.affine, gtab))
        for path, gtab in tables.items()
    }
    assert found[wrong].is_decisive
    assert not found[wrong].is_consistent
    assert found[wrong].best == label
    assert found[right].is_decisive
    assert found[right].is_consistent
    assert found[right].best == "identity"
    # The repair that the label names is the right table, row by row of the file.
    repaired = np.loadtxt(wrong)
    repaired[row] *= -1
    sign = np.sign((repaired * np.loadtxt(right)).sum(axis=0))
    np.testing.assert_allclose(repaired * sign, np.loadtxt(right), atol=2e-6)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("name", [*SCANS, "../ds-sim/sub-sim01/dwi/sub-sim01_dir-AP"])
def test_stored_gradients_win_on_every_whole_scan_in_any_storage(data_dir, name) -> None:
    expect_stored_to_win(open_scan(data_dir, name), codes="PIR")
