"""The group page in Chromium: sorting, points that lead to participants, ratings, narrow."""

from __future__ import annotations

import shutil

import pytest

from dmri_fm_workflows.run_group import run_group
from tests.dmri_fm_workflows.page_ratings import rate, save_ratings

#: Where the points of a chart are in the window, with name and link of their scans.
POINTS = """(() => {
  const chart = document.querySelector(".chart"), data = JSON.parse(chart.dataset.points);
  chart.scrollIntoView();
  const place = chart.querySelector("svg").getScreenCTM();
  return data.panels[0].points.map(p => {
    const at = new DOMPoint(p[0], p[1]).matrixTransform(place);
    return [at.x, at.y, data.names[p[2]], p[3], data.links[p[2]]];
  });
})()"""

SCANS = "[...document.querySelectorAll('[data-scan]')].map(cell => cell.dataset.scan)"


@pytest.fixture(scope="module")
def out(make_outputs, tmp_path_factory):
    outputs = make_outputs(tmp_path_factory.mktemp("group") / "out")
    outputs.root.mkdir()
    bids = outputs.root.parent / "bids"
    bids.mkdir()
    rows = ["participant_id\tsite"]
    for i, fd in enumerate((0.5, 0.1, 10.0, float("nan"))):
        outputs.add_participant(f"{i}", fd=fd, cls=[float(i), 1.0, 0.1 * i])
        (outputs.root / f"sub-{i}.html").write_text(f"<!DOCTYPE html><title>page {i}</title>")
        rows.append(f"sub-{i}\t{'AB'[i % 2]}")
    (bids / "participants.tsv").write_text("\n".join(rows) + "\n")
    assert run_group(outputs.root, bids_dir=bids) == 0
    return outputs.root


def open_page(browser, out, **options):
    return browser.open(out / "group" / "report.html", prefers_reduced_motion="reduce", **options)


@pytest.fixture(scope="module")
def page(browser, out):
    return open_page(browser, out)


def test_it_asks_for_nothing_and_the_console_is_silent(page, out):
    assert page.complaints == []
    assert page.requests == [(out / "group" / "report.html").as_uri()]


def test_columns_are_sorted_by_keys_as_numbers_with_gaps_last(page):
    heading = "[...document.querySelectorAll('#quality ~ details th')]" \
        ".find(h => h.innerText.startsWith('mean_fd'))"  # fmt: skip
    page.run(f"{heading}.querySelector('button').focus()")
    page.press("Enter")
    assert page.run(SCANS) == [f"sub-{i}_dir-AP" for i in (1, 0, 2, 3)]
    assert page.run(f"{heading}.getAttribute('aria-sort')") == "ascending"
    page.press("Enter")
    assert page.run(SCANS) == [f"sub-{i}_dir-AP" for i in (2, 0, 1, 3)]
    assert page.run(f"{heading}.getAttribute('aria-sort')") == "descending"


def test_a_point_names_its_scan_and_opens_its_page_wherever_the_folder_is(browser, out, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(out, moved)
    page = open_page(browser, moved)
    points = page.run(POINTS)
    assert [name for _, _, name, _, _ in points] == [f"sub-{i}_dir-AP" for i in range(3)]
    x, y, name, value, link = points[2]
    assert (value, link) == (10, "../sub-2.html")
    page.move(x + 2, y)
    tip = page.run("document.querySelector('.tip').innerText")
    assert tip.split("\n")[0] == name
    assert "mean_fd: 10" in tip
    # The scan is marked in the panel of every measure.
    assert page.run("document.querySelector('.ring').getAttribute('d').split('M').length - 1") == 2
    page.move(1, 1)
    assert page.run("document.querySelector('.tip').hidden")
    page.click(x, y)
    page.wait_for_load()
    assert page.address == (moved / "sub-2.html").as_uri()
    assert page.run("document.title") == "page 2"


def test_sites_have_colours_and_a_legend(page):
    svg = page.run("document.querySelector('.chart svg').outerHTML")
    for colour in ("#0072b2", "#009e73"):
        assert colour in svg
    assert "Colours are sites" in page.run(
        "document.querySelector('#quality').parentNode.innerText"
    )


def test_ratings_are_one_for_each_scan_of_the_table(page):
    assert page.run("document.querySelectorAll('td.rating select').length") == 4
    assert page.run("document.querySelector('#ratings output').innerText") == "0"


def test_what_the_page_saves_is_read_back(browser, out, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(out, moved)
    page = open_page(browser, moved)
    page.run("document.querySelector('#ratings input').value = 'Anna'")
    rate(page, "sub-2_dir-AP", "poor")
    saved = tmp_path / "ratings (1).tsv"
    saved.write_text(save_ratings(page))
    assert run_group(moved, ratings=[saved]) == 0
    again = open_page(browser, moved)
    cells = again.run(
        "[...document.querySelector('[data-scan=\"sub-2_dir-AP\"]').parentNode.cells]"
        ".map(cell => cell.innerText)"
    )
    assert cells[2:5] == ["poor", "Anna", "Anna: a b"]
    assert "1 (1 poor)" in again.run("document.querySelector('#summary').parentNode.innerText")
    # What the browser keeps is there too, and no chart has come of the columns.
    assert again.run("document.querySelectorAll('[data-scan] select')[2].value") == "poor"
    titles = again.run("JSON.parse(document.querySelector('.chart').dataset.points).panels"
                       ".map(panel => panel.label)")  # fmt: skip
    assert titles == ["mean_fd", "snr_b0"]


def test_it_fits_a_narrow_window_and_prints_without_what_needs_a_pointer(browser, out):
    narrow = open_page(browser, out, width=420)
    assert narrow.run("document.documentElement.scrollWidth") == 420
    narrow.emulate("print")
    for hidden in ("nav", "td.rating", "th.rating", "#ratings"):
        assert (
            narrow.run(f"getComputedStyle(document.querySelector('{hidden}')).display") == "none"
        )
