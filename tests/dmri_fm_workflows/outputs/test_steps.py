"""Methods text and references name the methods that ran, and no others."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from dmri_fm.gradient_deviation import DEVIATION_KEY, UNCHANGED
from dmri_fm.normalise.coregistration import NO_COREGISTRATION
from dmri_fm.preprocess.denoise import NAME_ZERO_FILLED, name_denoiser, name_too_few
from dmri_fm.preprocess.mask import _name_methods, name_given_mask, name_mask
from dmri_fm.preprocess.motion import name_motion
from dmri_fm.preprocess.slice_replacement import REPLACEMENT
from dmri_fm.preprocess.susceptibility import PAIR_METHOD
from dmri_fm.tensor_networks.noise_map import name_noise_map
from dmri_fm_workflows.engines import DENOISE
from dmri_fm_workflows.interfaces import programs
from dmri_fm_workflows.outputs import load_catalogue
from dmri_fm_workflows.outputs.references import load_references
from dmri_fm_workflows.outputs.sidecars import image_sidecar
from dmri_fm_workflows.outputs.steps import (
    ANATOMY_STEPS,
    LEFT,
    SERIES_STEPS,
    TISSUE_STEPS,
    describe_steps,
    works_of,
)

#: Name of eddy as it runs unless told otherwise.
EDDY = programs.name_eddy({"repol": True})

CORRECTIONS = ("Denoising", "GibbsCorrection", "SDCMethod", "HMCMethod")
OTSU = f"median_otsu (DIPY {version('dipy')})"
T1W_MASK = f"deepbet {version('deepbet')}"
RIGID = "rigid, mutual information (ANTs)"
AFFINE = "affine (ANTs) to MNI152NLin2009aSym"
PLAIN = {
    "Denoising": name_denoiser("mppca", 30),
    "GibbsCorrection": DENOISE.load("mppca").name_unringing(unring=False),
    "SDCMethod": "none",
    "HMCMethod": name_motion(),
    "MaskMethod": OTSU,
    "NormalisationMethod": AFFINE,
}
FULL = {
    "Denoising": "MRtrix3 dwidenoise 3.0.3",
    "GibbsCorrection": "MRtrix3 mrdegibbs 3.0.3",
    "SDCMethod": programs.name_topup(),
    "HMCMethod": EDDY,
    "MaskMethod": name_mask("b0", has_anatomy=True),
    "CoregistrationMethod": RIGID,
    "NormalisationMethod": AFFINE,
}
#: Works that a run of PLAIN has nothing of.
FOREIGN = {
    "fisch2024",
    "andersson2003",
    "andersson2016",
    "kellner2016",
    "tournier2019",
    "fadnavis2020",
}


def _dois(*keys: str) -> set[str]:
    return {f"https://doi.org/{load_references()[key].doi}" for key in keys}


def test_text_and_references_credit_what_ran() -> None:
    plain, full = (" ".join(describe_steps([facts])) for facts in (PLAIN, FULL))
    refs = [
        set(image_sidecar("preproc_dwi", space="ACPC", extra=facts)["References"])
        for facts in (PLAIN, FULL)
    ]
    for key in FOREIGN:
        assert f"@{key}" not in plain
    assert not refs[0] & _dois(*FOREIGN)
    for key in ("veraart2016", "garyfallidis2014"):
        assert f"@{key}" in plain
        assert _dois(key) <= refs[0]
    for key in FOREIGN - {"fadnavis2020"}:
        assert f"@{key}" in full
        assert _dois(key) <= refs[1]
    assert "Gibbs ringing was not removed." in plain
    assert f"DIPY {version('dipy')}" in plain
    assert "interpolated once;" not in full
    assert "interpolated once more" in full


@pytest.mark.parametrize("kind", ["dwi_mask", "t1w_mask"])
def test_a_mask_cites_the_method_that_made_it(kind: str) -> None:
    threshold = image_sidecar(kind, space="ACPC", extra={"MaskMethod": OTSU})
    assert set(threshold["References"]) == _dois("garyfallidis2014")
    both = image_sidecar(kind, space="ACPC", extra={"MaskMethod": name_mask("b0")})
    assert set(both["References"]) == _dois("garyfallidis2014", "fisch2024")
    network = image_sidecar(kind, space="ACPC", extra={"MaskMethod": T1W_MASK})
    assert set(network["References"]) == _dois("fisch2024")


def test_transforms_cite_eddy_after_eddy_only() -> None:
    cited = {
        programs.name_eddy({}): ["andersson2016"],
        EDDY: ["andersson2016", "andersson2016b"],
        programs.name_eddy({"repol": True, "mporder": 6}): [
            "andersson2016", "andersson2016b", "andersson2017"
        ],
        programs.name_eddy({"estimate_move_by_susceptibility": True}): [
            "andersson2016", "andersson2018"
        ],
        name_motion(): [],
        f"{name_motion()}, {REPLACEMENT}": ["andersson2015"],
    }  # fmt: skip
    for method, keys in cited.items():
        sidecar = image_sidecar("hmc_xfm", extra={"HMCMethod": method})
        assert set(sidecar.get("References", [])) == _dois(*keys)
    assert "References" not in image_sidecar("dwiref", space="ACPC")


@pytest.mark.parametrize(
    ("key", "stated"),
    [
        *(("Denoising", name_denoiser(m, 30)) for m in ("none", "mppca", "patch2self")),
        ("Denoising", name_too_few(3)),
        ("Denoising", "MRtrix3 dwidenoise 3.0.3"),
        ("GibbsCorrection", DENOISE.load("mppca").name_unringing(unring=True)),
        ("GibbsCorrection", DENOISE.load("mppca").name_unringing(unring=False)),
        ("GibbsCorrection", "MRtrix3 mrdegibbs 3.0.3"),
        *(("NoiseMap", name_noise_map(n)) for n in (3, 30)),
        ("Denoising", NAME_ZERO_FILLED),
        ("NetworkInput", "not denoised, interpolated once into ACPC"),
        ("NetworkInput", f"interpolated by {EDDY} and again into ACPC"),
        *(("SDCMethod", name) for name in ("none", PAIR_METHOD, programs.name_topup())),
        ("SDCMethod", f"{PAIR_METHOD}, readout times unknown and taken to be equal"),
        *(
            ("HMCMethod", name)
            for name in ("none", name_motion(), f"{name_motion()}, {REPLACEMENT}", EDDY)
        ),
        *(("MaskMethod", name) for name in (OTSU, name_mask("b0"))),
        ("CoregistrationMethod", RIGID),
        ("CoregistrationMethod", NO_COREGISTRATION),
        (DEVIATION_KEY, UNCHANGED),
        *((key, f"{LEFT}: QSIPrep 1.0.1") for key in CORRECTIONS),
        ("MaskMethod", name_given_mask(Path("nodif_brain_mask.nii.gz"))),
        ("NormalisationMethod", "affine and SyN (ANTs) to MNI152NLin2009aSym"),
    ],
)
def test_every_method_that_the_app_states_has_a_record(key: str, stated: str) -> None:
    (sentence,) = describe_steps([{key: stated}])
    assert "The sidecars state" not in sentence
    assert sentence.endswith(".")
    assert sentence[0].isupper()
    assert "{" not in sentence


def test_no_step_that_was_switched_off_reads_as_done() -> None:
    off = dict.fromkeys(("Denoising", "GibbsCorrection", "SDCMethod", "HMCMethod"), "none")
    sentences = describe_steps([off])
    assert len(sentences) == 4
    assert all(" not " in sentence and "@" not in sentence for sentence in sentences)


def test_series_that_differ_are_counted() -> None:
    a, b, *_ = describe_steps([{"SDCMethod": "none"}, {"SDCMethod": PAIR_METHOD}])
    assert a == "Distortion by magnetic susceptibility was not corrected (1 of 2 series)."
    assert b.endswith("[@ruthotto2012], with a penalty of the field's Laplacian (1 of 2 series).")
    runs = describe_steps([{"Denoising": f"{name_denoiser('mppca', 30)}; {name_too_few(3)}"}])
    assert len(runs) == 2
    assert runs[0].startswith("Noise was removed by MP-PCA")
    assert "too few volumes" in runs[1]


def test_the_image_that_was_registered_to_the_template_is_named() -> None:
    alone = " ".join(describe_steps([PLAIN]))
    assert "The b=0 reference was registered to the ICBM 152 template" in alone
    anatomy = {"MaskMethod": T1W_MASK, "NormalisationMethod": AFFINE}
    both = " ".join(describe_steps([FULL], [anatomy]))
    assert "The b=0 reference was registered to the ICBM" not in both
    assert "The T1-weighted brain was registered to the ICBM 152 template" in both
    assert "The brain in the T1-weighted image was masked by deepbet" in both


@pytest.mark.parametrize(
    ("names", "cited"),
    [
        (["median_otsu"], ["garyfallidis2014"]),
        (["deepbet"], ["fisch2024"]),
        (["T1w"], []),
        (["median_otsu", "deepbet"], ["garyfallidis2014", "fisch2024"]),
        (["median_otsu", "T1w"], ["garyfallidis2014"]),
        (["median_otsu", "deepbet", "T1w"], ["garyfallidis2014", "fisch2024"]),
    ],
)
def test_every_combination_of_mask_methods_is_described(
    names: list[str], cited: list[str]
) -> None:
    method = _name_methods(names)
    (sentence,) = describe_steps([{"MaskMethod": method}])
    assert sentence.startswith(f"The brain in the b=0 reference was masked by {method}")
    assert re.findall(r"@(\w+)", sentence) == cited


def test_a_method_of_another_version_is_quoted_and_credits_nobody() -> None:
    (sentence,) = describe_steps([{"HMCMethod": "SHORELine"}])
    assert sentence == "The sidecars state HMCMethod: SHORELine."
    assert works_of(["HMCMethod"], {"HMCMethod": "SHORELine"}) == ()


def test_records_cite_known_works_and_types_name_known_steps() -> None:
    for steps in (SERIES_STEPS, ANATOMY_STEPS, TISSUE_STEPS):
        for methods in steps.values():
            assert {work for m in methods for work in m.works} <= set(load_references())
    named = {key for of in load_catalogue().types.values() for key in of.cited_steps}
    assert named == {*SERIES_STEPS, *TISSUE_STEPS, "AnatomySource", "LesionMaskFile"}
