"""The page: what comes first, what is escaped, what is loaded."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm_workflows.report import (
    AnatomySection,
    Entry,
    Figure,
    ReportData,
    ReportWarning,
    RunError,
    RunSummary,
    SeriesSection,
    describe_series,
    quality_rows,
    render_report,
    standard_figure,
)
from dmri_fm_workflows.report.page import page_environment
from dmri_fm_workflows.report.participant import _captions

VOID = {"meta", "link", "img", "br", "hr", "input"}
NASTY = "<script>alert(\"x\")</script> & 'co'"

RUN = RunSummary(
    version="0.1.0",
    command="drope-bidsapp in out participant",
    config="[run]\n",
    software={"numpy": "2.3"},
    errors=(RunError("models", "failed"),),
)


class Reader(HTMLParser):
    """Collects tags and checks that they close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def figure_paths() -> tuple[Figure, ...]:
    return tuple(
        standard_figure(desc, f"sub-01/figures/sub-01_dir-AP_desc-{desc}_dwi.svg")
        for desc in ("samplingscheme", "sdc", "fa")
    )


def report() -> ReportData:
    series = tuple(
        SeriesSection(
            name=f"sub-01_dir-{name}",
            entries=(Entry("Grid", "64 x 64 x 20 voxels"), Entry("Denoising", f"mppca {name}")),
            figures=figure_paths(),
            quality=quality_rows({"mean_fd": 3.0, "snr_b0": float("nan")}),
        )
        for name in ("AP", "PA")
    )
    return ReportData(
        participant="01",
        dataset="A dataset",
        run=RUN,
        summary=(Entry("Sessions", "1"),),
        warnings=(
            ReportWarning("note", "a note"),
            ReportWarning("error", "an error", advice="do this"),
            ReportWarning("warning", "a warning", where="sub-01_dir-AP"),
        ),
        anatomy=(AnatomySection("Anatomy", (Entry("T1w", "1 mm"),), figure_paths()[:1]),),
        series=series,
        methods="# Tensor\n\nFitted by least squares [@basser1994; @basser1996], as before "
        "[@basser1994].",
    )


def test_warnings_stand_before_everything_else_most_serious_first() -> None:
    html = render_report(report())
    main = html[html.index("<main") :]
    places = [
        main.index(words)
        for words in (
            "an error",
            "a warning",
            "a note",
            'id="summary"',
            'id="anatomy-1"',
            'id="series-1-',
            'id="series-2-',
            'id="methods"',
            'id="software"',
            'id="errors"',
        )
    ]
    assert places == sorted(places)


def test_a_series_repeats_its_own_warnings() -> None:
    html = render_report(report())
    own = html[html.index('<h2 id="series-1-') : html.index('<h2 id="series-2-')]
    assert "a warning" in own
    assert "a note" not in own


def test_no_warning_and_no_error_are_said() -> None:
    html = render_report(
        ReportData(participant="01", dataset="d", run=RunSummary("1", "", "", {}))
    )
    assert "No warnings" in html
    assert "No step failed" in html
    Reader(html)


def test_names_are_escaped_everywhere() -> None:
    nasty = replace(
        report(),
        participant=NASTY,
        dataset=NASTY,
        run=RunSummary(NASTY, NASTY, NASTY, {NASTY: NASTY}, (RunError(NASTY, NASTY, NASTY),)),
        session=NASTY,
        summary=(Entry(NASTY, NASTY),),
        warnings=(ReportWarning("error", NASTY, NASTY, NASTY),),
        anatomy=(AnatomySection(NASTY, (Entry(NASTY, NASTY),)),),
        series=(
            SeriesSection(
                NASTY,
                (Entry(NASTY, NASTY),),
                (Figure(NASTY, f"a/{NASTY}.svg", NASTY, NASTY, NASTY, True),),
                quality_rows({NASTY: NASTY}),
                (Entry(NASTY, NASTY),),
            ),
        ),
        methods=NASTY,
    )
    html = render_report(nasty)
    reader = Reader(html)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html


def test_nothing_is_loaded_from_outside() -> None:
    reader = Reader(render_report(report()))
    for tag, attributes in reader.tags:
        for name in ("src", "data", "srcset", "poster", "action"):
            assert "//" not in (attributes.get(name) or "")
        if tag == "link":
            assert (attributes["href"] or "").startswith("data:")
        if tag == "a" and "//" in (attributes["href"] or ""):
            assert (attributes["href"] or "").startswith("https://doi.org/")
    for name in ("style.css", "script.js"):
        source, _, _ = page_environment().loader.get_source(page_environment(), name)
        assert "http" not in source
        assert "url(" not in source
        assert "@import" not in source


def test_links_inside_the_page_lead_somewhere_and_ids_are_unique() -> None:
    reader = Reader(render_report(report()))
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [
        (a["href"] or "")[1:]
        for tag, a in reader.tags
        if tag == "a" and (a["href"] or "").startswith("#")
    ]
    assert targets
    assert set(targets) <= set(ids)
    named = [a["aria-labelledby"] for _, a in reader.tags if "aria-labelledby" in a]
    assert set(named) <= set(ids)
    copied = [a["data-copy"] for _, a in reader.tags if "data-copy" in a]
    assert set(copied) <= set(ids)


def test_every_picture_has_words_and_interactive_ones_are_objects() -> None:
    reader = Reader(render_report(report()))
    images = [a for tag, a in reader.tags if tag == "img"]
    objects = [a for tag, a in reader.tags if tag == "object"]
    assert len([a for a in images if "src" in a]) == 5
    assert all(a["alt"] for a in images)
    assert len(objects) == 2
    assert all(a["aria-label"] and "sdc" in (a["data"] or "") for a in objects)


def test_the_convention_is_stated() -> None:
    assert "the left of the picture is the left of the body" in render_report(report())


def test_the_same_content_gives_the_same_bytes() -> None:
    assert render_report(report()) == render_report(report())


def test_series_are_columns_of_one_table() -> None:
    first, second = report().series
    second = replace(second, entries=(Entry("Denoising", "none"), Entry("Models", "tensor")))
    html = render_report(replace(report(), series=(first, second)))
    line = html[html.index('<th scope="row">Denoising</th>') :]
    assert line.startswith('<th scope="row">Denoising</th><td>mppca AP</td><td>none</td>')
    assert '<th scope="row">Models</th><td></td><td>tensor</td>' in html


def test_methods_number_their_citations_and_list_the_works_once() -> None:
    html = render_report(report())
    assert html.count('id="ref-1"') == 1
    assert html.count('id="ref-2"') == 1
    assert 'id="ref-3"' not in html
    assert html.count('href="#ref-1"') == 2
    assert 'href="https://doi.org/10.1006/jmrb.1994.1037"' in html
    assert "@article{basser1994" in html
    with pytest.raises(ConfigError, match="nobody2099"):
        render_report(replace(report(), methods="As in [@nobody2099]."))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.svg", "https://example.org/x.svg", "javascript:alert(1)", ""]
)
def test_figures_stay_inside_the_folder_of_the_page(path: str) -> None:
    with pytest.raises(ConfigError, match="figure"):
        Figure("title", path, "caption")


def test_names_with_odd_characters_become_sound_links() -> None:
    figure = Figure("t", "sub-01/figures/a b#c%.svg", "c")
    html = render_report(replace(report(), series=(SeriesSection("s", figures=(figure,)),)))
    assert 'src="sub-01/figures/a%20b%23c%25.svg"' in html


def test_unknown_levels_and_figures_are_refused() -> None:
    with pytest.raises(ConfigError, match="fatal"):
        ReportWarning("fatal", "x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing"):
        standard_figure("nothing", "a.svg")


def test_every_standard_figure_says_what_to_look_for() -> None:
    for desc in _captions():
        figure = standard_figure(desc, "a.svg")
        assert figure.title
        assert figure.look_for
        assert figure.alt
        assert figure.caption


def test_describe_series_states_oblique_storage() -> None:
    angle = np.deg2rad(15)
    affine = np.eye(4)
    affine[1:3, 1:3] = 2 * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    affine[0, 0] = -2
    gtab = GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]])
    entries = {e.label: e.value for e in describe_series((4, 5, 6, 2), affine, gtab)}
    assert entries["Stored as"] == "LAS, oblique by 15°"
    assert entries["Voxel size"] == "2 x 2 x 2 mm"


def test_quality_rows_write_missing_values_and_flag_odd_ones() -> None:
    rows = {
        r.name: r
        for r in quality_rows(
            {
                "mean_fd": np.float32(2.0),
                "snr_b0": float("nan"),
                "cnr_b1000": None,
                "n_bad_slices": 3,
                "ood_percentile": 50.0,
            }
        )
    }
    assert rows["mean_fd"].is_flagged
    assert rows["mean_fd"].value == "2"
    assert rows["snr_b0"].value == rows["cnr_b1000"].value == "n/a"
    assert rows["n_bad_slices"].value == "3"
    assert not rows["ood_percentile"].is_flagged
