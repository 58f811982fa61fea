"""The viewer: volumes that hold what the files do, drawn in Chromium without any other file."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import time
from base64 import b64decode
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from dmri_fm.series import save_image
from dmri_fm_workflows.outputs import output_path, publish_text
from dmri_fm_workflows.report import summarise_run, write_participant_pages
from tests.browser import Browser

SCAN = {"subject": "01", "direction": "AP"}
SHAPE = (20, 24, 16)
AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -40], [0, 0, 4, -20], [0, 0, 0, 1]])

#: sha256 of dist/niivue.umd.js in @niivue/niivue 0.69.0.
NIIVUE = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"

BRAIN = np.zeros(SHAPE, dtype=bool)
BRAIN[5:15, 6:18, 4:12] = True

#: Ramps along the first and the second axis.
FA = (np.arange(20)[:, None, None] / 30 * np.ones(SHAPE) * BRAIN).astype(np.float32)
FIELD = ((np.arange(24)[None, :, None] - 11.5) * np.ones(SHAPE) * BRAIN).astype(np.float32)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with a series whose maps are ramps, and its viewer."""
    out = tmp_path_factory.mktemp("viewer") / "out"

    def save(of: str, data: np.ndarray, **options: Any) -> None:
        path = out / output_path(SCAN, of, space="ACPC", **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(data, AFFINE, path)

    publish_text("{}", out / output_path(SCAN, "preproc_dwi", space="ACPC", extension=".json"))
    save("dwi_mask", BRAIN.astype(np.uint8))
    save("dwiref", np.linspace(0, 500, BRAIN.size).reshape(SHAPE).astype(np.float32))
    save("fa", FA, model="tensor")
    tensor = np.zeros((*SHAPE, 6), dtype=np.float32)
    tensor[BRAIN] = [1.7e-3, 0, 0, 0.2e-3, 0, 0.2e-3]  # left to right
    save("diffusivity", tensor, model="tensor")
    save("cnr", np.stack([BRAIN * 1.5, BRAIN * 2.5], axis=3).astype(np.float32))
    publish_text(
        json.dumps({"Shells": [700.0, 2000.0]}),
        out / output_path(SCAN, "cnr", space="ACPC", extension=".json"),
    )
    save("fieldmap", FIELD)
    write(out)
    return out


def write(out: Path, *, has_viewer: bool = True, **options: Any) -> tuple[Path, ...]:
    run = summarise_run("", [])
    return write_participant_pages(
        out, "01", dataset="x", run=run, has_viewer=has_viewer, **options
    )


def volumes(out: Path) -> dict[str, tuple[dict[str, Any], nib.Nifti1Image]]:
    """Return the volumes of the viewer by title, read by nibabel."""
    text = (out / output_path(SCAN, "viewer")).read_text(encoding="utf-8")
    found = re.search(r'id="volumes">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return {
        v["title"]: (
            v,
            nib.Nifti1Image.from_bytes(gzip.decompress(b64decode(v.pop("content")))),
        )
        for v in json.loads(found[1])
    }


def test_the_script_is_what_niivue_published() -> None:
    folder = files("dmri_fm_workflows.report").joinpath("niivue")
    assert hashlib.sha256(folder.joinpath("niivue.umd.js").read_bytes()).hexdigest() == NIIVUE
    licences = folder.joinpath("LICENSE.txt").read_text(encoding="utf-8")
    assert "Copyright (c) 2021, Niivue" in licences
    assert "0.69.0" in licences


@pytest.mark.parametrize(("title", "data"), [("FA, tensor fit", FA), ("Distortion field", FIELD)])
def test_maps_hold_what_the_files_do(out: Path, title: str, data: np.ndarray) -> None:
    about, image = volumes(out)[title]
    codes = np.asarray(image.dataobj.get_unscaled())
    values = np.asarray(image.dataobj)
    step = (about["high"] - about["low"]) / 254
    for ijk in np.argwhere(np.ones(image.shape)):
        at = tuple(np.rint(np.linalg.inv(AFFINE) @ image.affine @ [*ijk, 1])[:3].astype(int))
        assert bool(codes[tuple(ijk)]) == BRAIN[at]
        if BRAIN[at]:
            kept = np.clip(data[at], about["low"], about["high"])
            assert values[tuple(ijk)] == pytest.approx(kept, abs=0.51 * step)
    # All of the brain, and a rim of 12 mm around it.
    assert (codes > 0).sum() == BRAIN.sum()
    assert image.shape == (10 + 8, 12 + 8, 8 + 6)


def test_every_map_has_its_name_range_and_colours(out: Path) -> None:
    found = {title: about for title, (about, _) in volumes(out).items()}
    assert list(found) == [
        "b=0 reference", "Main direction of diffusion", "FA, tensor fit", "CNR, b = 700",
        "CNR, b = 2000", "Distortion field",
    ]  # fmt: skip
    assert found["Distortion field"]["low"] == -found["Distortion field"]["high"]
    assert found["Distortion field"]["units"] == "Hz"
    assert found["CNR, b = 2000"]["high"] == 2.5
    main = np.asarray(volumes(out)["Main direction of diffusion"][1].dataobj)
    assert main["R"].max() == 255
    assert main["G"].max() == main["B"].max() == 0


@pytest.mark.parametrize("shells", ["</script><b>", ["</script>", 1], [700.0], None])
def test_a_sidecar_that_is_odd_gives_no_names(out: Path, shells: Any) -> None:
    sidecar = out / output_path(SCAN, "cnr", space="ACPC", extension=".json")
    before = sidecar.read_text(encoding="utf-8")
    publish_text(json.dumps({"Shells": shells}), sidecar)
    write(out)
    assert {"CNR, shell 1", "CNR, shell 2"} < set(volumes(out))
    publish_text(before, sidecar)
    write(out)


def test_the_page_links_to_it_until_a_run_without_it(out: Path) -> None:
    page, viewer = write(out)
    link = 'href="sub-01/figures/sub-01_dir-AP_desc-viewer_dwi.html"'
    assert link in page.read_text(encoding="utf-8")
    before = viewer.read_bytes()
    (page, _) = write(out, level="subject")
    assert "../" + link.removeprefix('href="') in page.read_text(encoding="utf-8")
    assert viewer.read_bytes() == before
    (page, _) = write(out, is_self_contained=True)
    assert "desc-viewer" not in page.read_text(encoding="utf-8")
    (page,) = write(out, has_viewer=False)
    assert not viewer.exists()
    assert "desc-viewer" not in page.read_text(encoding="utf-8")
    assert write(out)[1] == viewer


def test_it_draws_from_a_disk_and_tells_values_at_the_crosshair(
    browser: Browser, out: Path
) -> None:
    viewer = out / output_path(SCAN, "viewer")
    page = browser.open(viewer, width=1000)
    deadline = time.monotonic() + 60
    while not page.run("document.documentElement.dataset.shown || ''"):
        assert time.monotonic() < deadline, page.run("document.body.innerText")
        time.sleep(0.2)
    assert page.run("document.documentElement.dataset.shown") == "b=0 reference + FA, tensor fit"

    def read() -> tuple[float, float]:
        """Return x and FA at the crosshair."""
        words = page.run("document.getElementById('place').textContent")
        found = re.search(r"x = (-?[\d.]+), .*FA, tensor fit: ([\d.]+)$", words)
        assert found is not None, words
        return float(found[1]), float(found[2])

    page.run("document.getElementById('slices').focus()")
    page.press("ArrowRight")  # onto the centre of a voxel
    x, fa = read()
    page.press("ArrowRight", times=2)
    # Two voxels to the right are two columns back in the file.
    moved_x, moved_fa = read()
    assert moved_x - x == pytest.approx(6, abs=0.2)
    assert moved_fa - fa == pytest.approx(-2 / 30, abs=0.01)
    page.run("""(() => {
      const map = document.getElementById("map");
      map.value = [...map.options].find(option => option.text === "Distortion field").value;
      map.dispatchEvent(new Event("change"));
    })()""")
    while "Distortion field" not in page.run("document.getElementById('place').textContent"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert page.run("document.getElementById('place').textContent").endswith(" Hz")
    asked = {address for address in page.requests if not address.startswith(("data:", "blob:"))}
    assert asked == {viewer.as_uri()}
    # A software renderer is slow, and says so.
    complaints = [c for c in page.complaints if c.get("entry", {}).get("source") != "rendering"]
    assert complaints == []
    narrow = browser.open(viewer, width=420)
    assert narrow.run("document.documentElement.scrollWidth") == 420
