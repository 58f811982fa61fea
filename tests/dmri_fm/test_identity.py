"""The record of every model: names, labels, whose method."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.identity import (
    DEFAULT_MODELS,
    ENCODERS,
    IDENTITIES,
    TENSOR_NETWORKS,
    about_model,
    describe_models,
    identity,
)

ROOT = Path(__file__).parents[2]


def test_every_registered_model_has_a_record():
    from dmri_fm.registry import MODELS, find_model

    assert set(MODELS) == set(IDENTITIES) - {"tensor"}
    with pytest.raises(ConfigError, match="resnet"):
        find_model("resnet")
    assert all(name in MODELS for name in DEFAULT_MODELS)


def test_families_and_outputs():
    assert {"qcg-dti", "tensor-refiner", "qcg-dti-paper"} <= set(TENSOR_NETWORKS)
    assert {"drope", "drope-paper"} <= set(ENCODERS)
    assert not any("ablation" in name for name in (*TENSOR_NETWORKS, *ENCODERS))
    assert set(DEFAULT_MODELS) < {m.name for m in IDENTITIES.values() if m.is_packaged}
    weights = ROOT / "dmri_fm" / "data" / "weights"
    for model in IDENTITIES.values():
        assert model.is_packaged == (weights / f"{model.name}.safetensors").exists(), model.name
        named = {
            *(["intervals"] if model.has_intervals else []),
            *(["ood"] if model.has_ood and model.family == "tensor network" else []),
            *(["scan"] if model.family == "encoder" else []),
            *(["patch"] if model.has_patches else []),
            *(["sensitivity"] if model.has_sensitivity else []),
        }
        assert set(model.outputs) == named, model.name


def test_methods_of_tensor_networks_leave_the_status_to_sidecars():
    """A lab may write a gate into any weights: no text says that nobody has compared them."""
    for name in TENSOR_NETWORKS:
        assert "experimental unless their sidecars say primary" in identity(name).methods, name


def test_labels_are_those_of_bids_and_lead_back():
    labels = {model.label for model in IDENTITIES.values()}
    assert len(labels) == len(IDENTITIES)
    assert all(label.isalnum() and label.islower() for label in labels)
    for model in IDENTITIES.values():
        assert identity(model.label) is identity(model.name) is model
    with pytest.raises(ConfigError, match="unknown model"):
        identity("nobody")


def test_the_refiner_is_nobody_else_s_and_drope_says_what_differs():
    refiner, drope = identity("tensor-refiner"), identity("drope")
    texts = [refiner.title, refiner.description, refiner.methods, *refiner.outputs.values()]
    assert not any(word in text for text in texts for word in ("Zheng", "QCG"))
    assert "zheng2025" not in refiner.citations
    for text in (drope.description, drope.methods):
        assert "smaller" in text
        assert "product of" in text, "how a direction enters"
        assert "this software's own" in text, "the pooling"
    for encoder in map(identity, ENCODERS):
        if encoder.has_patches:
            for text in (encoder.description, encoder.methods, encoder.outputs["patch"]):
                assert "Gaussian process" in text, "the errors of patches are not the encoder's"
        has_token = encoder.name != "artefact-unet"
        assert ("class token" in encoder.outputs["scan"]) == has_token


def test_ssdiff_says_what_differs():
    published, compact = identity("ssdiff-paper"), identity("ssdiff")
    for model in (published, compact):
        assert model.citations == ("gong2026",)
        assert "this software's own" in model.provenance, "sensitivity and score"
    assert "without weights" in published.provenance
    for text in (compact.description, compact.methods):
        assert "smaller" in text
        assert "4 mm" in text, "blocks of voxels"
        assert "product of" in text, "how a direction enters"


def test_the_unet_says_what_is_not_published():
    unet = identity("artefact-unet")
    assert (unet.label, unet.citations) == ("artefactunet", ("weninger2022",))
    own = unet.provenance.partition("without weights.")[2]
    assert "this software's own" in own
    assert all(word in own for word in ("bridge", "score", "fixed directions", "gradient"))
    for text in (unet.methods, unet.provenance):
        assert "64 fixed directions" in text


def test_the_published_qcg_dti_cites_its_paper():
    assert identity("qcg-dti-paper").citations == ("zheng2025",)


def test_titles_are_told_apart_and_name_a_network_once():
    titles = [model.title for model in IDENTITIES.values()]
    assert len(set(titles)) == len(titles)
    assert identity("qcg-dti-ablation-no-qcf").title == "QCG-DTI, smaller, ablation no qcf"
    assert identity("drope-ablation").title == "D-RoPE encoder as published, ablation"


def test_what_is_experimental_says_so_in_the_methods_text():
    for name in ("tensor", *TENSOR_NETWORKS, *ENCODERS):
        model = identity(name)
        assert model.is_experimental == ("experimental" in model.methods)
        if model.family == "tensor network" and model.is_packaged:
            assert "experimental unless their sidecars say primary" in model.methods


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"family": "tensor network"}, "has_patches or has_sensitivity of the family"),
        ({"has_patches": False}, r"outputs \['patch', 'scan'\]"),
        ({"has_intervals": True}, "has_intervals or has_ood of the family 'encoder'"),
        ({"outputs": {"scan": "One row."}}, r"outputs \['scan'\]"),
        ({"outputs": {"cls": "One row.", "patch": "Tokens."}}, r"outputs \['cls', 'patch'\]"),
        ({"citations": ("kung2026", "fick2019")}, r"without citation of \['fick2019'\]"),
        ({"is_experimental": False}, "is_experimental is False, the methods text differs"),
        ({"methods": "Of [@kung2026] and [@andersson2015]."}, "is_experimental is True"),
        ({"name": "a_b"}, "name that makes no label of BIDS"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes, problem):
    with pytest.raises(ConfigError, match=problem):
        replace(identity("drope"), **changes)


def test_a_network_names_the_outputs_that_its_flags_state():
    bare = identity("qcg-dti-paper")
    for flags in ({"has_ood": True}, {"has_intervals": True}):
        with pytest.raises(ConfigError, match=r"outputs \[\]"):
            replace(bare, **flags)
    one = replace(bare, has_ood=True, outputs={"ood": "Percentile."})
    assert (one.has_ood, one.has_intervals) == (True, False)
    with pytest.raises(ConfigError, match="of the family 'tensor fit'"):
        replace(identity("tensor"), has_ood=True, outputs={"ood": "Percentile."})


def test_an_unknown_name_says_where_records_are():
    with pytest.raises(ConfigError, match=r"dmri_fm/identities/"):
        identity("nobody")
    for module in ("encoders", "tensors"):
        assert (ROOT / "dmri_fm" / "identities" / f"{module}.py").is_file()


def test_cards_exist():
    for model in IDENTITIES.values():
        assert (ROOT / model.card).exists()
        # A variant shares the card of its network.
        names = {
            model.name,
            *model.name.rsplit("-ablation")[:1],
            model.name.removesuffix("-paper"),
        }
        assert not model.card or any(n in (ROOT / model.card).read_text() for n in names)


def test_methods_name_what_ran_alone():
    text = describe_models(["tensor", "tensorrefiner"])
    assert text.startswith("The diffusion tensor [@basser1994]")
    assert "rotary" not in text
    assert describe_models([]) == ""
    assert about_model("tensor-refiner")["Label"] == "tensorrefiner"
    assert about_model("drope")["URL"].endswith("2603.25977")


def test_what_is_experimental_is_for_research_only():
    for model in IDENTITIES.values():
        expected = (
            "Research only: not for diagnosis or treatment." if model.is_experimental else None
        )
        assert about_model(model.name).get("Use") == expected, model.name


@pytest.mark.parametrize("source", [None, "https://forge.example/lab/drope/"])
def test_a_model_without_a_publication_has_the_address_of_its_card(monkeypatch, source):
    monkeypatch.setattr("dmri_fm.identity.source_url", lambda: source)
    expected = {
        None: None,
        "https://forge.example/lab/drope/": (
            "https://forge.example/lab/drope/blob/HEAD/docs/model_cards/tensor-refiner.md"
        ),
    }
    assert about_model("tensor-refiner").get("URL") == expected[source]
    assert about_model("tensor")["URL"] == identity("tensor").url


def test_names_do_not_wait_for_torch():
    code = "import sys, dmri_fm_workflows.outputs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
