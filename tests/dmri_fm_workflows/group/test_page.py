"""The group page: what it says, and that it needs nothing from outside."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_workflows.group import collect_tables, find_pages, render_group_page
from dmri_fm_workflows.group.charts import (
    OTHER_COLOUR,
    Panel,
    choose_colours,
    draw_panels,
    main_axes,
)
from dmri_fm_workflows.group.page import _page_of
from dmri_fm_workflows.group.writing import write_tables
from tests.dmri_fm_workflows.hostile_texts import NASTY, assert_harmless


class _Checker(HTMLParser):
    """Collect links, identifiers and unclosed elements."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr", "col"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.targets: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "data"):
                self.targets.append(value)
            elif name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


#: Site of each participant, as `participants.tsv` tells it.
GROUPS = {f"sub-{i:02d}": {"site": "A<"} for i in range(12)} | {
    "sub-moved": {"site": "B"},
    "sub-other": {"site": "B"},
}


@pytest.fixture(scope="module")
def cohort(make_outputs, tmp_path_factory):
    outputs = make_outputs(tmp_path_factory.mktemp("cohort"))
    rng = np.random.default_rng(3)
    for i in range(12):
        cls = rng.normal(size=6)
        outputs.add_participant(f"{i:02d}", fa=0.4 + 0.005 * rng.normal(), cls=cls,
                                fd=0.15 + 0.01 * (i % 5))  # fmt: skip
    outputs.add_participant("moved", fd=2.4, fa=0.2, cls=rng.normal(size=6))
    outputs.add_participant("other", bmax=2500, weights="bb", cls=rng.normal(size=6), sdc="none")
    outputs.add_record("sub-crashed", status="failed", errors=[{"message": "<b>bad</b> input"}])
    (outputs.root / "sub-00.html").write_text("page")
    return outputs


@pytest.fixture(scope="module")
def page(cohort, regions):
    tables = collect_tables(cohort.root, [regions])
    pages = find_pages(cohort.root, list(tables.status["participant_id"]))
    return render_group_page(tables, dataset="Study <1>", pages=pages, groups=GROUPS)


def test_page_is_well_formed_and_alone(page):
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    inside = [t for t in checker.targets if t.startswith("#")]
    assert {t[1:] for t in inside} <= set(checker.ids)
    outside = [t for t in checker.targets if re.match(r"https?:|//", t)]
    assert outside == []
    assert not re.search(r"url\(\s*['\"]?https?:", page)
    assert "@import" not in page


def test_page_says_what_matters(page):
    assert "1 of 15 participants failed: sub-crashed." in page
    assert "2 different networks" in page
    assert "largest b-value (1000, 2500 s/mm^2)" in page
    assert '<a href="../sub-00.html">sub-00</a>' in page
    assert "&lt;b&gt;bad&lt;/b&gt; input" in page
    assert "Study &lt;1&gt;" in page
    assert f"<footer>{RESEARCH_ONLY}" in page
    assert page.count("<svg") == 4
    headings = re.findall(r"<h3>([^<]+)</h3>", page[page.index('id="features"') :])
    assert headings[:2] == ["cls", "pooled"]


def test_mixed_distortion_correction_is_told_and_tabulated_by_site(page):
    assert "differ in the correction of susceptibility distortion (pepolar: 13, none: 1)" in page
    section = page[page.index('id="distortion"') : page.index('id="maps"')]
    assert re.findall(r"<td[^>]*>([^<]+)</td>", section) == [
        *("13", "1"),
        *("12", "12 (100.0%)", "0 (0.0%)"),
        *("2", "1 (50.0%)", "1 (50.0%)"),
    ]
    assert "A&lt;" in section


def test_texts_that_somebody_chose_to_do_harm_are_escaped(outputs, regions):
    error = {"scan": NASTY, "stage": NASTY, "message": NASTY}
    outputs.add_participant("01", weights=NASTY.split("\n")[0])
    outputs.add_record("sub-02", status="failed", version=NASTY, finished=NASTY, errors=[error],
                       scans=[NASTY])  # fmt: skip
    tables = collect_tables(outputs.root, [regions])
    assert_harmless(render_group_page(tables, dataset=NASTY, pages={}))
    write_tables(outputs.root, tables)
    for path in (outputs.root / "group").glob("*.tsv"):
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        assert len({line.count("\t") for line in lines}) == 1, "no text breaks a table"


def test_outliers_are_named(page):
    flagged = re.findall(r'<tr><th scope="row">([^<]+)</th><td>([^<]+)</td>', page)
    assert ("sub-moved_dir-AP", "mean_fd") in flagged
    assert ("sub-moved_dir-AP", "tensor_fa_median_wm") in flagged
    # The scan of the other protocol is compared with none of these.
    assert not any(scan.startswith("sub-other") for scan, _ in flagged)


def test_same_tables_same_bytes(cohort, regions, page):
    tables = collect_tables(cohort.root, [regions])
    pages = find_pages(cohort.root, list(tables.status["participant_id"]))
    assert render_group_page(tables, dataset="Study <1>", pages=pages, groups=GROUPS) == page


def test_features_that_a_scan_lacks_leave_the_chart_and_not_the_scan(outputs, regions):
    rng = np.random.default_rng(0)
    for i in range(4):
        outputs.add_participant(f"{i}", cls=rng.normal(size=4), n_unknown=2 if i == 0 else 0)
    page = render_group_page(collect_tables(outputs.root, [regions]), dataset="x")
    section = page[page.index('id="features"') : page.index('id="files"')]
    charts = section.split("<h3>")[1:]
    assert [chart.partition("<")[0] for chart in charts] == ["cls", "pooled"]
    for chart in charts:
        assert all(f"sub-{i}_dir-AP" in chart for i in range(4))


def test_features_that_no_scan_has_are_not_drawn(outputs, regions):
    for i in range(4):
        outputs.add_participant(f"{i}", cls=[float(i), 1.0], n_unknown=2)
    page = render_group_page(collect_tables(outputs.root, [regions]), dataset="x")
    section = page[page.index('id="features"') : page.index('id="files"')]
    assert re.findall(r"<h3>([^<]+)</h3>", section) == ["cls"]


def test_page_of_one_participant_without_anything(outputs, regions):
    (outputs.root / "sub-01").mkdir()
    page = render_group_page(collect_tables(outputs.root, [regions]), dataset="x")
    assert "No image quality tables were found." in page
    assert "No scalar maps in template space were found." in page
    assert "<svg" not in page


def test_main_axes_find_the_direction_of_the_spread():
    rng = np.random.default_rng(0)
    data = np.outer(rng.normal(size=40), [3.0, 4.0, 0]) + 1e-3 * rng.normal(size=(40, 3))
    scores, explained = main_axes(data)
    assert explained[0] > 0.999
    projected = (data - data.mean(axis=0)) @ np.array([0.6, 0.8, 0])
    # The noise is a thousandth of the spread.
    np.testing.assert_allclose(scores[:, 0], projected, atol=0.02)
    again, _ = main_axes(data[::-1])
    np.testing.assert_allclose(again[::-1], scores, atol=1e-9)


def test_many_points_and_none():
    assert draw_panels([]).svg == ""
    values = np.random.default_rng(0).normal(size=2000)
    values[7] = np.nan
    names, nothing = [f"s{i}" for i in range(2000)], [""] * 2000
    chart = draw_panels([Panel("x", "mm", values, nothing, nothing, frozenset({3}), names)])
    assert len(chart.svg) < 200_000
    (panel,) = chart.panels
    assert (panel["label"], panel["unit"]) == ("x", "mm")
    x, y, scans, texts = zip(*panel["points"], strict=True)
    assert list(scans) == [i for i in range(2000) if i != 7]
    assert texts[0] == pytest.approx(values[0], rel=1e-3)  # four digits
    # Places in the drawing, whose y axis points down, are a line of the values.
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', chart.svg).groups())
    assert 0 < min(x) < max(x) < width
    assert 0 < min(y) < max(y) < height
    assert np.corrcoef(np.delete(values, 7), y)[0, 1] < -0.9999
    empty = Panel("x", "", np.full(2, np.nan), ["", ""], ["", ""], frozenset(), ["a", "b"])
    assert draw_panels([empty]).svg.startswith("<svg")
    assert draw_panels([empty]).panels[0]["points"] == []


def test_more_sites_than_colours_share_one():
    sites = [f"s{i % 4}" for i in range(40)] + [f"rare{i}" for i in range(9)]
    colours = choose_colours(sites)
    assert set(colours) == set(sites)
    rare = [c for site, c in colours.items() if site.startswith("rare")]
    assert rare.count(OTHER_COLOUR) == 8
    frequent = {colours[f"s{i}"] for i in range(4)}
    assert len(frequent) == 4
    assert OTHER_COLOUR not in frequent


def test_pages_of_sessions_are_found(tmp_path):
    for name in (
        "sub-01/ses-a/sub-01_ses-a.html",
        "sub-01/ses-b/sub-01_ses-b.html",
        "sub-02.html",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    pages = find_pages(tmp_path, ["sub-01", "sub-02", "sub-03"])
    assert _page_of("sub-01_ses-b_dir-AP", pages) == "../sub-01/ses-b/sub-01_ses-b.html"
    assert (
        _page_of("sub-01_ses-c", pages) == pages["sub-01"] == "../sub-01/ses-a/sub-01_ses-a.html"
    )
    assert _page_of("sub-02_dir-AP", pages) == "../sub-02.html"
    assert _page_of("sub-03", pages) == ""
