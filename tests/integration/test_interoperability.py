"""What docs/interoperability.md says, on a real scan: other tools read the outputs and agree.

The page's own blocks are executed, section by section, and their results compared with the
app's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from bids import BIDSLayout
from nibabel.affines import apply_affine

from dmri_fm.normalise.grid import compose, resample_image
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.transforms import read_affine, read_point_map
from dmri_fm.series import load_image, read_array
from dmri_fm_workflows.outputs import identify, output_path, pybids_config

if TYPE_CHECKING:
    from tests.integration.conftest import AppRun

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interoperability.md"
MRTRIX = ("dwi2tensor", "tensor2metric", "mrconvert", "transformconvert")
LPS = np.array([-1.0, -1.0, 1.0])

#: Series of `sub-umr`: the runs of both phase encodings, and one stored along other axes.
SERIES = ({"subject": "umr"}, {"subject": "umr", "acquisition": "rot", "direction": "PA"})
every_series = pytest.mark.parametrize("scan", SERIES, ids=["pair", "rot"])


def blocks(section: str) -> list[tuple[str, str]]:
    """Return the code blocks of a section as language and text."""
    text = PAGE.read_text(encoding="utf-8")
    body = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    assert body, f"the page has no section {section!r}"
    return re.findall(r"^```(bash|python)\n(.*?)^```$", body[1], re.S | re.M)


def file_of(out: Path, scan: dict[str, str], of: str, **options: str) -> Path:
    return out / output_path(scan, of, **options)


@pytest.fixture
def run_section(umr: AppRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that executes a section in an empty folder; it returns Python's names."""
    assert umr.code == 0, umr.text[-3000:]

    def run(section: str, scan: dict[str, str] = SERIES[0]) -> dict[str, Any]:
        found = blocks(section)
        assert found
        series = file_of(umr.out_dir, scan, "preproc_dwi", space="ACPC")
        monkeypatch.setenv("OUT", str(umr.out_dir))
        monkeypatch.setenv("DWI", str(series).split("_space-")[0])
        monkeypatch.setenv("ANAT", str(umr.out_dir / "sub-umr" / "anat" / "sub-umr"))
        monkeypatch.chdir(tmp_path)
        names: dict[str, Any] = {}
        for language, code in found:
            if language == "bash":
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", code],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
            else:
                exec(compile(code, f"{PAGE.name}: {section}", "exec"), names)
        return names

    return run


def read(path: str | Path) -> np.ndarray:
    return np.nan_to_num(read_array(load_image(path)))


def our_maps(out: Path, scan: dict[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the tensor is positive, the app's FA, and its main directions, RAS+."""
    brain = read(file_of(out, scan, "dwi_mask", space="ACPC")) > 0
    tensor = read(file_of(out, scan, "diffusivity", model="tensor"))
    symmetric = tensor[brain][:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    directions = np.zeros((*brain.shape, 3))
    values, vectors = np.linalg.eigh(symmetric)
    directions[brain] = vectors[..., -1]
    # What a negative eigenvalue means for FA is answered differently: zero here and in DIPY.
    assert (values[:, 0] > 0).mean() > 0.99
    brain[brain] = values[:, 0] > 0
    return brain, read(file_of(out, scan, "fa", model="tensor", space="ACPC")), directions


def median_angle_deg(first: np.ndarray, second: np.ndarray) -> float:
    cosine = np.abs((first * second).sum(axis=-1)) / np.linalg.norm(first, axis=-1)
    return float(np.degrees(np.median(np.arccos(cosine.clip(0, 1)))))


def assert_maps_agree(
    out: Path, scan: dict[str, str], fa: np.ndarray, v1: np.ndarray, *, is_same: bool = False
) -> None:
    """Compare a tensor fit of another tool with ours, or (`is_same`) our own tensor read by it."""
    brain, our_fa, our_v1 = our_maps(out, scan)
    strong = brain & (our_fa > 0.2)
    assert strong.sum() > 5000
    r = np.corrcoef(fa[brain], our_fa[brain])[0, 1]
    angle = median_angle_deg(v1[strong], our_v1[strong])
    print(f"{scan}: FA r {r:.4f}, V1 {angle:.3f} degrees")
    if is_same:
        np.testing.assert_allclose(fa[brain], our_fa[brain], atol=1e-4)
        assert angle < 0.05
    assert r > 0.99
    assert angle < 1.0


@every_series
def test_mrtrix_fits_and_reads_the_same_tensor(
    umr: AppRun, run_section: Any, scan: dict[str, str]
) -> None:
    missing = [program for program in MRTRIX if shutil.which(program) is None]
    if missing:
        pytest.skip(f"MRtrix3 is not installed: no {', '.join(missing)}")
    run_section("MRtrix3", scan)
    assert_maps_agree(umr.out_dir, scan, read("mrtrix_fa.nii.gz"), read("mrtrix_v1.nii.gz"))
    # Both gradient files are rounded to six decimals.
    from_b, from_bvec = (read(f"tensor_from_{name}.nii.gz") for name in ("b", "bvec"))
    np.testing.assert_allclose(from_b, from_bvec, atol=1e-7)
    assert_maps_agree(
        umr.out_dir, scan, read("our_fa.nii.gz"), read("our_v1.nii.gz"), is_same=True
    )
    ours = file_of(umr.out_dir, {"subject": "umr"}, "anat_xfm", from_space="T1w", to_space="ACPC")
    np.testing.assert_allclose(np.loadtxt("T1w_to_ACPC.txt"), read_affine(ours), atol=1e-4)


@every_series
def test_dipy_fits_and_reads_the_same_tensor(
    umr: AppRun, run_section: Any, scan: dict[str, str]
) -> None:
    names = run_section("DIPY", scan)
    assert_maps_agree(umr.out_dir, scan, names["dipy_fa"], names["dipy_v1"])
    assert_maps_agree(umr.out_dir, scan, names["our_fa"], names["our_v1"], is_same=True)


# nilearn 0.14 announces another value for the default of `standardize`.
@pytest.mark.filterwarnings("ignore:boolean values for 'standardize':FutureWarning")
def test_nilearn_masks_the_maps_with_its_own_template(umr: AppRun, run_section: Any) -> None:
    names = run_section("nibabel, nilearn")
    mask = names["masker"].mask_img_.get_fdata() > 0
    assert len(names["maps"]) == len(SERIES)
    assert names["values"].shape == (len(SERIES), mask.sum())
    for row, path in zip(names["values"], names["maps"], strict=True):
        name = identify(Path(path).relative_to(umr.out_dir))
        assert (name.type.name, name.model) == ("fa", "tensor")
        np.testing.assert_allclose(row, read(path)[mask], atol=1e-6)
        white = load_template(2).wm[mask] > 0.9
        assert 0.25 < np.median(row[white & (row > 0.2)]) < 0.6


@every_series
def test_ants_resamples_to_the_same_map(
    umr: AppRun, run_section: Any, scan: dict[str, str]
) -> None:
    names = run_section("ANTs and ITK", scan)
    space = "MNI152NLin2009aSym"
    brain = read(file_of(umr.out_dir, scan, "dwi_mask", space=space)) > 0
    ours = read(file_of(umr.out_dir, scan, "fa", model="tensor", space=space))
    theirs = names["fa_in_mni"].numpy()
    # Both are linear; at the very border of the field of view ITK goes on for half a voxel.
    assert np.quantile(np.abs(theirs[brain] - ours[brain]), 0.999) < 1e-3


def test_ants_takes_a_chain_in_the_order_of_the_page(
    umr: AppRun, run_section: Any, data_dir: Path
) -> None:
    import ants

    chain = run_section("ANTs and ITK")["chain"]
    raw = data_dir / "ds-vendors/sub-umr/anat/sub-umr_T1w.nii.gz"
    template = load_template(2)
    fixed = ants.image_read(
        str(file_of(umr.out_dir, SERIES[0], "dwi_mask", space="MNI152NLin2009aSym"))
    )
    theirs = ants.apply_transforms(fixed, ants.image_read(str(raw)), chain).numpy()
    image = load_image(raw)
    to_t1w = compose(*(read_point_map(file) for file in chain))
    ours = resample_image(
        read_array(image), image.affine, template.grid, target2source=to_t1w, order=1
    )
    inside = template.brain_mask
    difference = np.abs(theirs[inside] - ours[inside]) / ours[inside].mean()
    assert np.quantile(difference, 0.999) < 1e-3


def test_ants_turns_the_raw_t1w_image_into_the_preprocessed_one(
    umr: AppRun, data_dir: Path
) -> None:
    """Direction and frame by an image, with no code of ours: the raw file is the one on disk."""
    import ants

    raw = ants.image_read(str(data_dir / "ds-vendors/sub-umr/anat/sub-umr_T1w.nii.gz"))
    scan = {"subject": "umr"}
    preprocessed = ants.image_read(str(file_of(umr.out_dir, scan, "t1w")))
    brain = read(file_of(umr.out_dir, scan, "t1w_mask")) > 0

    def similarity(source: str, target: str) -> float:
        ends = {"from_space": source, "to_space": target}
        file = file_of(umr.out_dir, scan, "anat_xfm", **ends)
        moved = ants.apply_transforms(preprocessed, raw, [str(file)]).numpy()
        return float(np.corrcoef(moved[brain], preprocessed.numpy()[brain])[0, 1])

    # Bias has been removed from the preprocessed image, and it is interpolated otherwise.
    assert similarity("T1w", "ACPC") > 0.9
    assert similarity("orig", "ACPC") == similarity("T1w", "ACPC")
    assert similarity("ACPC", "T1w") < 0.7


def test_every_transform_reads_alike_everywhere(umr: AppRun, run_section: Any) -> None:
    """In ANTs, nitransforms and here, there and back; its sidecar names its ends."""
    import ants
    from nitransforms import linear

    names = run_section("nitransforms")
    np.testing.assert_allclose(
        names["points_in_t1w"],
        apply_affine(read_affine(names["path"]), [[0, 0, 0], [30, -20, 15]]),
        atol=0.01,
    )
    found = sorted((umr.out_dir / "sub-umr").rglob("*_mode-image_xfm.txt"))
    assert len(found) == 9
    points = np.random.default_rng(3).uniform(-80, 80, (20, 3))
    for path in found:
        name = identify(path.relative_to(umr.out_dir))
        ours = read_point_map(path)(points)
        transform = ants.read_transform(str(path))
        moved = [ants.apply_ants_transform_to_point(transform, tuple(p)) for p in points * LPS]
        np.testing.assert_allclose(np.array(moved) * LPS, ours, atol=0.01)
        np.testing.assert_allclose(linear.load(path, fmt="itk").map(points), ours, atol=0.01)
        source, target = name.entities["from"], name.entities["to"]
        sidecar = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert set(sidecar["Spaces"]) == {source, target}
        assert sidecar["PointMapping"].startswith(f"A point of {target} is taken to ")
        back = path.with_name(
            path.name.replace(f"from-{source}_to-{target}", f"from-{target}_to-{source}")
        )
        if source != "orig":
            np.testing.assert_allclose(read_point_map(back)(ours), points, atol=0.01)


def test_pybids_opens_the_folder_with_its_metadata(umr: AppRun) -> None:
    config = ["bids", "derivatives", pybids_config()]
    layout = BIDSLayout(umr.out_dir, validate=False, config=config)
    (fa,) = layout.get(
        model="tensor", param="fa", space="ACPC", acquisition=None, extension=".nii.gz"
    )
    assert fa.get_metadata()["Units"] == "unitless"
    assert (
        nib.load(fa.path).shape
        == read(file_of(umr.out_dir, SERIES[0], "fa", model="tensor", space="ACPC")).shape
    )
    assert set(layout.get_acquisitions()) == {"rot"}


def test_every_block_of_the_page_is_run() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sections = [s for s in re.findall(r"^## (.*)$", text, re.M) if blocks(s)]
    assert sections == ["MRtrix3", "DIPY", "nibabel, nilearn", "ANTs and ITK", "nitransforms"]
    assert set(re.findall(r"^```(\w+)$", text, re.M)) == {"bash", "python", "console"}
