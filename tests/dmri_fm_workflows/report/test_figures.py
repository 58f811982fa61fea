"""Figures: valid files, right sides, right colours, no surprise on odd input."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from dmri_fm.errors import ConfigError, ImageError, OutputError
from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi, save_image
from dmri_fm_workflows.interfaces.report import PlotRemoval
from dmri_fm_workflows.report import figures
from dmri_fm_workflows.report.features import (
    PatchTokens,
    _lay_out,
    principal_colours,
    token_grid,
)

AFFINE = np.array([[3.0, 0, 0, -50], [0, 3, 0, -60], [0, 0, 4, -40], [0, 0, 0, 1]])
SHAPE = (32, 40, 24)
SVG = "{http://www.w3.org/2000/svg}"


def head() -> tuple[np.ndarray, np.ndarray]:
    """Return an ellipsoid with three tissues, and its mask, in RAS order."""
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0) - (np.array(SHAPE) - 1) / 2
    radius = np.linalg.norm(grid / (0.42 * np.array(SHAPE)), axis=-1)
    image = 100.0 * (radius < 1) + 60 * (radius < 0.8) + 60 * (radius < 0.5)
    return image.astype(np.float32), radius < 1


def mirrored(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Store a RAS volume as LAS."""
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = data.shape[0] - 1
    return data[::-1], AFFINE @ flip


def gradients(n: int = 12) -> GradientTable:
    rng = np.random.default_rng(1)
    bvecs = rng.normal(size=(2 * n + 1, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    return GradientTable(np.r_[0, np.full(n, 1000), np.full(n, 2000)], bvecs)


def draw_mask(image, mask, affine, out):
    return figures.plot_mask(image, mask, affine, out)


def draw_before_after(image, mask, affine, out):
    return figures.plot_before_after(0.5 * image, image, affine, out, contours={"brain": mask})


def draw_registration(image, mask, affine, out):
    return figures.plot_registration(image, image, affine, out, mask=mask)


def draw_removal(image, mask, affine, out):
    return figures.plot_removal(
        {"b = 0": (1.1 * image, image), "b = 9": (image, image)}, affine, out, mask=mask
    )


def draw_bias(image, mask, affine, out):
    field = np.ones(image.shape)
    field[..., :12] = 1.5
    return figures.plot_bias(image, field, affine, out, mask=mask)


def draw_colour_fa(image, mask, affine, out):
    v1 = np.zeros((*image.shape, 3))
    v1[..., 0] = 1
    return figures.plot_colour_fa(image / 250, v1, affine, out, mask=mask)


def draw_comparison(image, mask, affine, out):
    return figures.plot_scalar_comparison(image / 250, image / 300, mask, affine, out)


VOLUME_FIGURES = [
    draw_mask,
    draw_before_after,
    draw_registration,
    draw_removal,
    draw_bias,
    draw_colour_fa,
    draw_comparison,
]


@pytest.mark.parametrize("draw", VOLUME_FIGURES)
def test_same_picture_for_las_and_ras_storage_with_left_on_the_left(
    draw: Callable[..., Path], tmp_path: Path, pictures
) -> None:
    image, mask = head()
    image[4:8, 18:22, 8:16] = 250  # a bright mark on the left
    first = draw(image, mask, AFFINE, tmp_path / "ras.svg")
    las_image, las_affine = mirrored(image)
    second = draw(las_image, mirrored(mask)[0], las_affine, tmp_path / "las.svg")
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text(encoding="utf-8")
    assert figures.CONVENTION in text
    axial = pictures(first)[0].astype(float)
    axial = axial.max(axis=-1) if axial.ndim == 3 else axial
    n_tiles = text.count(">z = ") // max(text.count(">L<") // (1 if ">y = " not in text else 2), 1)
    assert n_tiles >= 5
    tile = np.array_split(axial, n_tiles, axis=1)[n_tiles // 2]
    _, columns = np.nonzero(tile >= 0.97 * tile.max())
    assert columns.mean() < tile.shape[1] / 2
    left = [float(x) for x in re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>L</text>', text)]
    assert left
    assert max(left) < 10


@pytest.mark.parametrize("draw", VOLUME_FIGURES)
def test_odd_volumes_are_drawn(draw: Callable[..., Path], tmp_path: Path, pictures) -> None:
    image, mask = head()
    pictures(draw(np.zeros_like(image), np.zeros_like(mask), AFFINE, tmp_path / "empty.svg"))
    thin = (slice(None), slice(None), slice(11, 13))
    pictures(draw(image[thin], mask[thin], AFFINE, tmp_path / "thin.svg"))
    image[3, 3, 3] = np.nan
    pictures(draw(image, mask, AFFINE, tmp_path / "nan.svg"))


def test_arguments_are_not_changed(tmp_path: Path) -> None:
    image, mask = head()
    before = image.copy()
    for draw in VOLUME_FIGURES:
        draw(image, mask, AFFINE, tmp_path / "figure.svg")
    np.testing.assert_array_equal(image, before)


def test_grids_that_differ_are_refused(tmp_path: Path) -> None:
    image, mask = head()
    out = tmp_path / "figure.svg"
    with pytest.raises(ImageError, match="contour"):
        figures.plot_mask(image, mask[1:], AFFINE, out)
    with pytest.raises(ImageError, match="before"):
        figures.plot_before_after(image[1:], image, AFFINE, out)
    with pytest.raises(ImageError, match="FA"):
        figures.plot_colour_fa(image, np.zeros(SHAPE), AFFINE, out, mask=mask)
    with pytest.raises(ImageError, match="mask"):
        figures.plot_scalar_comparison(image, image, mask[1:], AFFINE, out)
    assert not out.exists()


def test_other_endings_and_closed_folders_are_refused(tmp_path: Path) -> None:
    image, mask = head()
    with pytest.raises(ConfigError, match=r"\.png"):
        figures.plot_mask(image, mask, AFFINE, tmp_path / "figure.png")
    with pytest.raises(ConfigError, match=r"\.png"):
        figures.plot_sampling_scheme(gradients(), tmp_path / "figure.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        figures.plot_mask(image, mask, AFFINE, tmp_path / "file" / "figure.svg")
    with pytest.raises(OutputError, match="cannot be written"):
        figures.plot_sampling_scheme(gradients(), tmp_path / "file" / "figure.svg")


def test_before_and_after_are_two_layers_of_one_file(tmp_path: Path, pictures) -> None:
    image, mask = head()
    path = figures.plot_before_after(
        0.5 * image, image, AFFINE, tmp_path / "sdc.svg", mask=mask, labels=("raw <1>", "fixed")
    )
    root = ElementTree.parse(path).getroot()
    lower, upper = root.findall(f"{SVG}g")
    assert (lower.get("class"), upper.get("class")) == ("lower", "upper")
    assert next(t.text for t in upper.iter(f"{SVG}text")) == "RAW <1>"
    shown = pictures(path)
    n = len(shown) // 2
    # One window for both, so the darker image looks darker.
    assert shown[n].mean() < 0.7 * shown[0].mean()
    text = path.read_text(encoding="utf-8")
    assert "svg:hover .upper" in text
    assert "prefers-reduced-motion" in text


def test_what_was_removed_is_shown_in_volumes_of_lowest_and_highest_b_of_all_runs(
    tmp_path: Path, pictures
) -> None:
    image, mask = head()
    mask_file = save_image(mask.astype(np.uint8), AFFINE, tmp_path / "mask.nii.gz")
    files: dict[str, list[str]] = {"before_files": [], "after_files": [], "bval_files": []}
    for run, bvals in enumerate([[1000, 3000], [0, 700, 5]]):
        series = image[..., None] * (1 + run + np.arange(len(bvals)))
        for name, data in {"before": series, "after": 0.9 * series}.items():
            path = save_image(data, AFFINE, tmp_path / f"{name}{run}.nii.gz")
            files[f"{name}_files"].append(str(path))
        np.savetxt(tmp_path / f"bval{run}", [bvals], fmt="%d")
        files["bval_files"].append(str(tmp_path / f"bval{run}"))
    plot = PlotRemoval(**files, mask_file=str(mask_file), title="Gibbs ringing")
    path = Path(plot.run(cwd=str(tmp_path)).outputs.out_file)
    text = path.read_text(encoding="utf-8")
    assert "volume 1," not in text
    assert ">Gibbs ringing<" in text
    names = [text.index(f">{words}") for words in ("volume 3, b = 0", "volume 2, b = 3000")]
    assert names == sorted(names)
    assert len(pictures(path)) == 6
    assert text.count('class="lower"') == text.count('class="upper"') == 1
    assert 'type="range"' in text
    # Both volumes are twice the image, 220 at most, and lose a tenth.
    assert [float(x) for x in re.findall(r"± ([\d.]+)<", text)] == [44.0, 44.0]


def test_a_receive_field_is_divided_out_between_the_layers(tmp_path: Path, pictures) -> None:
    _, mask = head()
    field = np.exp(np.linspace(-0.3, 0.3, SHAPE[0]))[:, None, None] * np.ones(SHAPE)
    path = figures.plot_bias(100.0 * mask * field, field, AFFINE, tmp_path / "b.svg", mask=mask)
    text = path.read_text(encoding="utf-8")
    upper, lower = text.index('class="upper"'), text.index('class="lower"')
    assert lower < upper
    shown = [p.astype(float) for p in pictures(path)]
    colour_bar, after, before = shown[0], shown[1], shown[4]
    assert colour_bar.shape[:2] == (1, 256)
    tiles = [np.array_split(p, text.count(">z = ") // 3, axis=1)[3] for p in (after, before)]
    # Where the brain is, the image is of one level after, and brighter on the right before.
    assert np.ptp(tiles[0][tiles[0] > 20]) == 0
    left, right = (np.median(half[half > 20]) for half in np.array_split(tiles[1], 2, axis=1))
    assert right > 1.1 * left
    ends = [float(x) for x in re.findall(r">(\d\.\d\d)</text>", text)]
    assert ends[0] * ends[1] == pytest.approx(1, abs=0.01)


ONES = {"cls": np.ones(4)}


def tokens(n_features: int = 24) -> dict[str, np.ndarray]:
    shape = (12, 14, 12)
    ijk = np.indices(shape).reshape(3, -1).T
    xyz = (ijk * 16 + 7.5) - [96, 130, 70]
    valid = np.linalg.norm((xyz - [0, -20, 15]) / [70, 85, 62], axis=1) < 1
    rng = np.random.default_rng(0)
    values = (xyz / 50) @ rng.normal(size=(3, n_features)) + rng.normal(
        0, 0.1, (len(ijk), n_features)
    )
    return {"ijk": ijk, "xyz_mm": xyz, "valid": valid, "tokens": values, "shape": np.array(shape)}


@pytest.mark.parametrize("percentile", [None, 12.0, 99.0, np.nan])
def test_features(percentile: float | None, tmp_path: Path, pictures) -> None:
    t = tokens()
    values = np.random.default_rng(0).normal(size=(2, 100))
    vectors = {"cls": values[0], "pooled": np.append(values, [np.nan] * 100)}
    path = figures.plot_features(
        vectors,
        PatchTokens(t["tokens"], t["ijk"], tuple(t["shape"]), t["xyz_mm"], t["valid"]),
        tmp_path / "features.svg",
        ood_percentile=percentile,
        ood_score=1.5,
    )
    assert pictures(path)
    text = path.read_text(encoding="utf-8")
    assert "cls: 100 numbers; pooled: 300 numbers, 100 of them n/a" in text


def test_features_are_laid_out_by_type() -> None:
    lines, labels = _lay_out({"cls": np.arange(100.0), "pooled": np.full(3, 7.0)})
    assert labels == ["cls 0", "cls 96", "pooled 0"]
    assert lines.shape == (3, 96)
    np.testing.assert_array_equal(lines[:2].ravel()[:100], np.arange(100))
    assert np.isnan(lines[1, 4:]).all()
    np.testing.assert_array_equal(lines[2, :3], 7)


def test_features_show_patches_on_their_side(tmp_path: Path, pictures) -> None:
    t = tokens(1)
    length = np.where(t["xyz_mm"][:, 0] < -40, 9.0, 1.0)[:, None]
    path = figures.plot_features(
        ONES,
        PatchTokens(length, t["ijk"], tuple(t["shape"]), t["xyz_mm"]),
        tmp_path / "features.svg",
    )
    rgb = [p for p in pictures(path) if p.ndim == 3 and p.shape[2] == 3 and p.shape[0] > 20][-1]
    n_tiles = path.read_text().count(">z = ") // 2
    tile = np.array_split(rgb.astype(float), n_tiles, axis=1)[2]
    bright = tile[..., 0] > 200  # viridis: yellow is long
    assert bright.any()
    assert np.nonzero(bright)[1].mean() < tile.shape[1] / 2


def test_features_show_errors_where_they_are_known(tmp_path: Path, pictures) -> None:
    t = tokens(1)
    right = t["xyz_mm"][:, 0] > 40
    patches = PatchTokens(
        t["tokens"],
        t["ijk"],
        tuple(t["shape"]),
        t["xyz_mm"],
        error=np.where(right, 0.2, 0.05),
    )
    path = figures.plot_features(ONES, patches, tmp_path / "features.svg")
    assert "Error of measurements predicted" in path.read_text()
    rgb = [p for p in pictures(path) if p.ndim == 3 and p.shape[2] == 3 and p.shape[0] > 20][-1]
    tile = np.array_split(rgb.astype(float), path.read_text().count(">z = ") // 3, axis=1)[2]
    bright = tile[..., 0] > 200
    assert bright.any()
    assert np.nonzero(bright)[1].mean() > tile.shape[1] / 2
    unknown = replace(patches, error=np.full(len(right), np.nan))
    path = figures.plot_features(ONES, unknown, tmp_path / "features.svg")
    assert "Error of measurements predicted" not in path.read_text()


def test_features_of_few_or_odd_tokens(tmp_path: Path) -> None:
    out = tmp_path / "features.svg"
    one = PatchTokens(np.zeros((1, 3)), [[0, 0, 0]], (1, 1, 1))
    figures.plot_features({"cls": np.zeros(3)}, one, out)
    figures.plot_features({"pooled": np.full(3, np.nan)}, one, out)
    bad, line = np.full((4, 3), np.nan), [[i, 0, 0] for i in range(4)]
    figures.plot_features(ONES, PatchTokens(bad, line, (4, 1, 1)), out)
    with pytest.raises(ImageError, match="tokens"):
        figures.plot_features(ONES, PatchTokens(bad, [[0, 0, 0]], (4, 1, 1)), out)
    with pytest.raises(ImageError, match="inside the grid"):
        figures.plot_features(ONES, replace(one, ijk=[[5, 0, 0]], grid_shape=(4, 1, 1)), out)
    with pytest.raises(ImageError, match="centres"):
        figures.plot_features(ONES, replace(one, xyz_mm=np.zeros((2, 3))), out)


def test_token_grid_of_patches_and_of_voxels_agree() -> None:
    ijk = tokens()["ijk"]
    index, shape = token_grid(ijk, (12, 14, 12))
    np.testing.assert_array_equal(index, ijk)
    assert shape == (12, 14, 12)
    index, shape = token_grid(ijk * [8, 8, 4], (96, 112, 48))
    np.testing.assert_array_equal(index, ijk)
    assert shape == (12, 14, 12)


def test_principal_colours_follow_the_largest_components() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(500, 3)) * [9, 3, 1]
    basis = np.linalg.qr(rng.normal(size=(10, 10)))[0][:3]
    colours, explained = principal_colours(scores @ basis)
    expected = np.array([81, 9, 1]) / 91
    np.testing.assert_allclose(explained, expected, atol=0.05)  # sampling error of 500 draws
    for column in range(3):
        correlation = np.corrcoef(colours[:, column], scores[:, column])[0, 1]
        assert abs(correlation) > 0.9
    flat, nothing = principal_colours(np.ones((5, 4)))
    assert not nothing.any()
    assert len(np.unique(flat)) == 1


@pytest.mark.realdata
def test_figures_of_a_real_scan_are_quick_and_small(
    data_dir: Path, tmp_path: Path, pictures
) -> None:
    folder = data_dir / "ds-vendors" / "sub-trio" / "dwi"
    stem = "sub-trio_dir-AP_dwi"
    dwi = Dwi.from_files(*(folder / f"{stem}.{e}" for e in ("nii.gz", "bval", "bvec")))
    data, affine, n = dwi.data, dwi.affine, dwi.shape[3]
    b0 = dwi.mean_b0()
    mask = figures_mask(b0)
    fa = np.clip(data[..., 5] / (b0 + 1), 0, 1)
    v1 = np.broadcast_to([1.0, 0, 0], (*b0.shape, 3))
    flat = np.zeros((n, dwi.shape[2]), dtype=bool)
    drawings: dict[str, Callable[[Path], Path]] = {
        "scheme": lambda out: figures.plot_sampling_scheme(dwi.gtab, out),
        "mask": lambda out: figures.plot_mask(b0, mask, affine, out),
        "sdc": lambda out: figures.plot_before_after(
            b0, b0, affine, out, contours={"brain": mask}
        ),
        "coreg": lambda out: figures.plot_registration(b0, b0, affine, out, mask=mask),
        "denoising": lambda out: figures.plot_removal({"b=0": (data[..., 3], b0)}, affine, out),
        "fa": lambda out: figures.plot_colour_fa(fa, v1, affine, out, mask=mask),
        "compare": lambda out: figures.plot_scalar_comparison(fa, fa**1.1, mask, affine, out),
        "carpet": lambda out: figures.plot_carpet(
            data, mask, np.zeros(n), np.zeros((n, 6)), flat, out, bvals=dwi.gtab.bvals
        ),
    }
    for name, draw in drawings.items():
        start = time.process_time()
        path = draw(tmp_path / f"{name}.svg")
        # Measured 0.02 to 0.5 s; the bound is the promise, with room for a busy machine.
        assert time.process_time() - start < 2.0, name
        assert path.stat().st_size < 800_000, name
        pictures(path)


def figures_mask(image: np.ndarray) -> np.ndarray:
    """Return a mask that is good enough to draw."""
    return np.asarray(image > 0.2 * np.percentile(image, 99))
