"""The participant's page in Chromium: what it loads, its sliders, ratings, print and narrow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dmri_fm_workflows.outputs import output_path, publish_text
from dmri_fm_workflows.report import figures, summarise_run, write_participant_pages
from tests.browser import Browser, Page
from tests.dmri_fm_workflows.page_ratings import rate, save_ratings

SCAN = {"subject": "01"}


def wipes(page: Page) -> bool:
    """Tell whether keys change the picture of the first pair, one stop behind its heading."""
    page.run("""(() => {
      const heading = document.querySelector("object").closest("figure").querySelector("h3");
      heading.scrollIntoView();
      heading.tabIndex = -1;
      heading.focus();
    })()""")
    page.press("Tab")
    at_rest = page.shoot()
    page.press("ArrowRight", times=50)
    moved = page.shoot()
    page.press("Enter")
    return moved != at_rest == page.shoot()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with one series, one figure that stands still and two that do not."""
    out = tmp_path_factory.mktemp("report") / "out"
    sidecar = out / output_path(SCAN, "preproc_dwi", space="ACPC", extension=".json")
    publish_text(json.dumps({"HMCMethod": "none", "Warnings": ["something odd"]}), sidecar)
    publish_text("mean_fd\tlongest_name_of_a_measure_that_there_is\n0.2\t1\n",
                 out / output_path(SCAN, "image_qc"))  # fmt: skip
    publish_text("{}", out / output_path(SCAN, "image_qc", extension=".json"))
    axes = np.indices((24, 24, 24)) - 11.5
    ball = (np.linalg.norm(axes, axis=0) < 9).astype(np.float32)
    affine = np.diag([6.0, 6, 6, 1])
    for label, draw in {
        "dwiref": lambda path: figures.plot_mask(ball, ball, affine, path),
        "sdc": lambda path: figures.plot_before_after(0.3 * ball, ball, affine, path),
        "denoising": lambda path: figures.plot_removal(
            {"b = 0": (ball, 0.9 * ball), "b = 9": (ball, 0.5 * ball)}, affine, path
        ),
    }.items():
        draw(out / output_path(SCAN, f"figure_{label}"))
    write_participant_pages(out, "01", dataset="x", run=summarise_run("", []))
    return out


@pytest.fixture(scope="module")
def page(browser: Browser, out: Path) -> Page:
    return browser.open(out / "sub-01.html", prefers_reduced_motion="reduce")


def test_it_asks_for_its_figures_alone_and_the_console_is_silent(page: Page, out: Path) -> None:
    assert page.complaints == []
    asked = {address for address in page.requests if not address.startswith("data:")}
    figures = (out / "sub-01" / "figures").glob("*.svg")
    assert asked == {path.as_uri() for path in (out / "sub-01.html", *figures)}


@pytest.mark.parametrize("label", ["sdc", "denoising"])
def test_keys_wipe_the_image_before_over_the_one_after(
    browser: Browser, out: Path, label: str
) -> None:
    figure = browser.open(out / output_path(SCAN, f"figure_{label}"), width=1100)

    def state() -> tuple[int, float, bool]:
        return tuple(figure.run(
            "[+document.querySelector('input').value, "
            "+document.querySelector('#wipe rect').getAttribute('width'), "
            "document.documentElement.classList.contains('held')]"
        ))  # fmt: skip

    width = figure.run("document.documentElement.viewBox.baseVal.width")
    figure.press("Tab")
    assert state() == (0, width, False)
    at_rest = figure.shoot()
    figure.press("ArrowRight", times=25)
    assert state() == (25, pytest.approx(0.25 * width), True)
    assert figure.shoot() != at_rest
    figure.press("Enter")
    assert state() == (0, width, False)
    figure.press("Enter")
    assert state() == (100, width, True)
    assert figure.complaints == []


def test_the_slider_of_a_figure_works_inside_the_page(page: Page) -> None:
    assert wipes(page)


def test_a_rating_is_saved_and_kept(browser: Browser, out: Path) -> None:
    page = browser.open(out / "sub-01.html")
    page.run("document.querySelector('#ratings input').value = 'me'")
    rate(page, "sub-01", "poor")
    head, row = save_ratings(page).splitlines()
    assert head.split("\t") == ["scan_id", "rating", "comment", "rater", "rated"]
    assert row.split("\t")[:4] == ["sub-01", "poor", "a b", "me"]
    again = browser.open(out / "sub-01.html")
    assert again.run("document.querySelector('[data-scan] select').value") == "poor"
    rate(again, "sub-01", "")
    again.run("document.querySelector('[data-scan] input').value = ''")


def test_in_print_both_images_of_a_pair_are_shown(browser: Browser, out: Path) -> None:
    page = browser.open(out / "sub-01.html", prefers_color_scheme="dark")
    page.emulate("print", prefers_color_scheme="dark")
    shown = "getComputedStyle({}).display !== 'none'"
    pairs = page.run(
        "[...document.querySelectorAll('img.before')].map(image => [image.naturalWidth > 0, "
        f"{shown.format('image')}, image.src.split('/').pop()])"
    )
    assert [tuple(pair) for pair in pairs] == [
        (True, True, f"sub-01_desc-{label}_dwi.svg#before") for label in ("denoising", "sdc")
    ]
    for hidden in ("nav", "#ratings", "[data-scan]"):
        assert not page.run(shown.format(f"document.querySelector('{hidden}')"))
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.print_pdf().startswith(b"%PDF")
    upper = browser.open(out / "sub-01" / "figures" / "sub-01_desc-sdc_dwi.svg#before")
    assert upper.run("getComputedStyle(document.querySelector('.upper')).opacity") == "1"


def test_it_fits_a_narrow_window_and_a_dark_one(browser: Browser, out: Path) -> None:
    narrow = browser.open(out / "sub-01.html", width=420)
    assert narrow.run("document.documentElement.scrollWidth") == 420
    dark = browser.open(out / "sub-01.html", prefers_color_scheme="dark")
    ink, paper = (
        sum(map(int, dark.run(f"getComputedStyle(document.body).{of}")[4:-1].split(",")))
        for of in ("color", "backgroundColor")
    )
    assert ink - paper > 450


def test_a_self_contained_page_needs_no_other_file(
    browser: Browser, out: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "out"
    shutil.copytree(out, whole)
    run = summarise_run("", [])
    (written,) = write_participant_pages(whole, "01", dataset="x", run=run, is_self_contained=True)
    alone = tmp_path / "mail" / "sub-01.html"
    alone.parent.mkdir()
    shutil.copy(written, alone)
    shutil.rmtree(whole)
    page = browser.open(alone, prefers_reduced_motion="reduce")
    assert page.complaints == []
    assert [a for a in page.requests if not a.startswith("data:")] == [alone.as_uri()]
    assert page.run("[...document.images].every(image => image.naturalWidth > 0)")
    assert wipes(page)
