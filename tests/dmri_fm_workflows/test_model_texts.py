"""Sidecars, methods text, citation files and page say the same of a model: its record."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.identity import ENCODERS, TENSOR_NETWORKS, UNLABELLED, identity
from dmri_fm_workflows.interfaces.report import PlotComparison
from dmri_fm_workflows.outputs import load_catalogue, output_path, publish_text
from dmri_fm_workflows.outputs.docs import outputs_page
from dmri_fm_workflows.outputs.methods import (
    Processed,
    describe_methods,
    find_processed,
    write_citations,
)
from dmri_fm_workflows.outputs.references import load_references, render_methods
from dmri_fm_workflows.outputs.root import write_root_files
from dmri_fm_workflows.outputs.sidecars import image_sidecar
from dmri_fm_workflows.report import summarise_run, write_participant_pages
from dmri_fm_workflows.report.participant import standard_figure

MNI = "MNI152NLin2009aSym"
SCAN = {"subject": "01"}
RUN = (*TENSOR_NETWORKS, *ENCODERS)


def _types(name: str):
    """Return the output types with a sidecar that a model writes."""
    return [t for t in load_catalogue().types.values() if t.has_sidecar and t.is_of(name)]


def _doi(key: str) -> str:
    return f"https://doi.org/{load_references()[key].doi}"


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, dict[str, str]]:
    """Return, by network, the four texts of an output folder where it alone ran."""
    found = {}
    for name in RUN:
        out = tmp_path_factory.mktemp(name)
        sidecars = {
            t.name: json.dumps(
                image_sidecar(t.name, model=name, space=t.spaces[-1] if t.spaces else None)
            )
            for t in _types(name)
        }
        write_root_files(out, source=out / "raw", source_name="x", environ={})
        of = next(t for t in _types(name) if not t.is_group)
        publish_text("", out / output_path(SCAN, of.name, model=name, space=of.spaces[-1]))
        figure = "features" if name in ENCODERS else "tensorvsnetwork"
        label = None if name in UNLABELLED else name
        publish_text("<svg/>", out / output_path(SCAN, f"figure_{figure}", model=label))
        series = out / output_path(SCAN, "preproc_dwi", space="ACPC", extension=".json")
        publish_text(json.dumps(image_sidecar("preproc_dwi", space="ACPC")), series)
        write_citations(out, find_processed(set((out / "sub-01").rglob("*"))), ["01"])
        (page,) = write_participant_pages(out, "01", dataset="x", run=summarise_run("", []))
        found[name] = {
            **{f"sidecar {of}": text for of, text in sidecars.items()},
            "methods": render_methods(describe_methods(Processed(models=("tensor", name))))["md"],
            **{
                p.name: p.read_text(encoding="utf-8")
                for p in [*sorted((out / "logs").iterdir()), out / "README.md"]
            },
            "page": " ".join(unescape(page.read_text(encoding="utf-8")).split()),
        }
    return found


@pytest.mark.parametrize("name", RUN)
def test_all_texts_name_the_model_and_its_works(texts, name: str) -> None:
    model, own = identity(name), texts[name]
    sidecars = {k: json.loads(t) for k, t in own.items() if k.startswith("sidecar ")}
    assert len(sidecars) >= (2 if set(model.outputs) == {"scan"} else 3)
    for sidecar in sidecars.values():
        assert sidecar["Model"]["Name"] == model.title
        assert sidecar["Model"]["Description"] == model.description
        assert {_doi(key) for key in model.citations} <= set(sidecar["References"])
    for where in ("methods", "CITATION.md", "CITATION.html", "page"):
        for key in model.citations:
            assert _doi(key) in own[where], f"{key} in {where}"
        assert "experimental" in own[where] or not model.is_experimental, where
    assert all(f"@article{{{key}," in own["CITATION.bib"] for key in model.citations)
    assert model.provenance in own["page"]
    assert model.title in own["page"]
    sentence = model.methods.partition("[")[0].strip()
    assert all(sentence in own[where] for where in ("methods", "CITATION.md", "page"))


def test_nothing_credits_the_refiner_s_maps_to_others(texts) -> None:
    for where, text in texts["tensor-refiner"].items():
        for word in ("Zheng", "zheng2025", "FITEE.2400766", "QCG", "qcg"):
            assert word not in text, where
    (row,) = [line for line in outputs_page().splitlines() if "tensorrefiner" in line]
    for of in load_catalogue().maps_of("tensor-refiner"):
        assert f"`param-{of.entities['param']}`" in row
    assert "`desc-std`" in row
    assert "Zheng" not in row


def test_the_encoder_s_paper_is_not_named_without_saying_what_differs(texts) -> None:
    named = {w: t for w, t in texts["drope"].items() if "Kung" in t or "2603.25977" in t}
    named.pop("CITATION.bib")
    assert len(named) >= 6
    for where, text in named.items():
        assert "smaller" in text, where
        assert "this software" in text, f"the pooling, in {where}"
        assert "Gaussian process" in text, f"the error of patches, in {where}"
    assert not any("Kung" in text for text in texts["tensor-refiner"].values())
    others = tuple(f"| `model-{identity(name).label}`" for name in RUN if name != "drope")
    rows = [r for r in outputs_page().splitlines() if "Kung" in r and not r.startswith(others)]
    assert len(rows) == 1
    assert "smaller" in rows[0]
    assert "Pooled tokens" in rows[0]


def test_the_figure_names_the_network_that_ran(tmp_path: Path) -> None:
    from dmri_fm.series import save_image

    rng = np.random.default_rng(0)
    files = {
        name: str(
            save_image(rng.uniform(0.1, 0.9, (6, 6, 4)), np.eye(4), tmp_path / f"{name}.nii")
        )
        for name in ("tensor", "network", "std", "ood")
    }
    mask = save_image(np.ones((6, 6, 4)), np.eye(4), tmp_path / "mask.nii", dtype=np.uint8)
    done = PlotComparison(
        **{f"{name}_file": path for name, path in files.items()},
        mask_file=str(mask),
        model="tensor-refiner",
        record={
            "Status": "primary for md alone",
            "StatusByMap": {"fa": {"Status": "experimental"}},
        },
    ).run(cwd=tmp_path)
    drawn = Path(done.outputs.out_file).read_text(encoding="utf-8")
    assert "Tensor refiner (experimental)" in drawn
    assert "QCG" not in drawn


def test_a_figure_without_a_label_is_captioned_by_its_model() -> None:
    (name,) = UNLABELLED
    assert standard_figure("features", "x.svg").title.split(": ")[1] == identity(name).title
