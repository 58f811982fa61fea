"""Direct sources of the outputs of a scan."""

from __future__ import annotations

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.outputs import load_catalogue, output_path
from dmri_fm_workflows.outputs.sources import OTHER, RAW, direct_sources

MNI = "MNI152NLin2009aSym"
SCAN = {"subject": "01", "acquisition": "b"}
ANAT = {"subject": "01"}
RAW_RUNS = ["bids:raw:sub-01/dwi/a.nii.gz", "bids:raw:sub-01/dwi/b.nii.gz"]


def _xfm(scan, of, source, target, extension=".txt"):
    return output_path(scan, of, from_space=source, to_space=target, extension=extension)


def _series(*, has_t1w):
    """Return what a run writes of a series, and of its anatomy."""
    paths = [
        *(
            output_path(SCAN, k, space=s)
            for k in ("preproc_dwi", "dwi_mask", "dwiref")
            for s in ("ACPC", MNI)
        ),
        _xfm(SCAN, "dwi_xfm", "dwiref", "ACPC"),
        _xfm(SCAN, "dwi_xfm", "ACPC", "dwiref"),
        output_path(SCAN, "hmc_xfm"),
        output_path(SCAN, "confounds"),
        *(
            output_path(SCAN, param, model=model, space="ACPC")
            for model in ("tensor", "tensorrefiner")
            for param in ("diffusivity", "fa")
        ),
    ]
    if has_t1w:
        anat = [output_path(ANAT, k) for k in ("t1w", "t1w_mask")]
        ends = (("T1w", "ACPC"), ("ACPC", "T1w"), ("ACPC", MNI), (MNI, "ACPC"))
        return (
            paths
            + anat
            + [
                _xfm(ANAT, "anat_xfm", *pair, extension=".h5" if MNI in pair else ".txt")
                for pair in ends
            ]
        )
    return [*paths, _xfm(SCAN, "dwi_xfm", "ACPC", MNI), _xfm(SCAN, "dwi_xfm", MNI, "ACPC")]


def _sources(path, *, has_t1w=True):
    found = direct_sources(path, raw=RAW_RUNS, written=_series(has_t1w=has_t1w))
    return [uri.rsplit("/", 1)[-1] for uri in found]


def test_a_scalar_comes_from_the_tensor_and_the_tensor_from_the_series() -> None:
    assert _sources(output_path(SCAN, "fa", model="tensor", space="ACPC")) == [
        "sub-01_acq-b_space-ACPC_model-tensor_param-diffusivity_dwimap.nii.gz"
    ]
    assert _sources(output_path(SCAN, "fa", model="tensorrefiner", space="ACPC")) == [
        "sub-01_acq-b_space-ACPC_model-tensorrefiner_param-diffusivity_dwimap.nii.gz"
    ]
    series = [
        "sub-01_acq-b_space-ACPC_desc-preproc_dwi.nii.gz",
        "sub-01_acq-b_space-ACPC_desc-brain_mask.nii.gz",
    ]
    for model, of in (
        ("tensor", "diffusivity"),
        ("tensor", "s0"),
        ("tensorrefiner", "fa_std"),
        ("tensorrefiner", "ood"),
    ):
        assert _sources(output_path(SCAN, of, model=model, space="ACPC")) == series


def test_the_quality_table_comes_from_the_maps_of_all_models() -> None:
    found = _sources(output_path(SCAN, "image_qc"))
    stem = "sub-01_acq-b_space-ACPC_model"
    assert [name for name in found if "model-" in name] == [
        f"{stem}-tensor_param-diffusivity_dwimap.nii.gz",
        f"{stem}-tensorrefiner_param-diffusivity_dwimap.nii.gz",
    ]


@pytest.mark.parametrize(
    ("has_t1w", "xfm"),
    [
        (True, f"sub-01_from-ACPC_to-{MNI}_mode-image_xfm.h5"),
        (False, f"sub-01_acq-b_from-ACPC_to-{MNI}_mode-image_xfm.txt"),
    ],
)
def test_a_map_in_the_template_comes_from_the_one_in_acpc(has_t1w, xfm) -> None:
    assert _sources(output_path(SCAN, "fa", model="tensor", space=MNI), has_t1w=has_t1w) == [
        "sub-01_acq-b_space-ACPC_model-tensor_param-fa_dwimap.nii.gz",
        f"sub-01_acq-b_space-{MNI}_res-2_desc-brain_mask.nii.gz",
        xfm,
    ]


def test_series_are_resampled_from_the_raw_runs_whatever_the_space() -> None:
    chain = [
        "a.nii.gz",
        "b.nii.gz",
        "sub-01_acq-b_from-orig_to-dwiref_mode-image_desc-eddy_xfm.tsv",
        "sub-01_acq-b_from-dwiref_to-ACPC_mode-image_xfm.txt",
    ]
    to_mni = f"sub-01_from-ACPC_to-{MNI}_mode-image_xfm.h5"
    for of in ("preproc_dwi", "dwi_mask"):
        assert _sources(output_path(SCAN, of, space="ACPC")) == chain
        assert _sources(output_path(SCAN, of, space=MNI)) == [*chain, to_mni]
    assert _sources(output_path(SCAN, "features_scan", model="drope")) == [*chain, to_mni]
    assert _sources(output_path(SCAN, "dwiref", space=MNI)) == [
        f"sub-01_acq-b_space-{MNI}_res-2_desc-preproc_dwi.nii.gz"
    ]


def test_both_directions_of_a_transform_have_the_same_sources() -> None:
    anatomy = ["sub-01_space-ACPC_desc-preproc_T1w.nii.gz",
               "sub-01_space-ACPC_desc-brain_mask.nii.gz"]  # fmt: skip
    for ends in (("ACPC", MNI), (MNI, "ACPC")):
        assert _sources(_xfm(ANAT, "anat_xfm", *ends)) == anatomy
        assert _sources(_xfm(SCAN, "dwi_xfm", *ends), has_t1w=False) == [
            "a.nii.gz", "b.nii.gz", "sub-01_acq-b_from-dwiref_to-ACPC_mode-image_xfm.txt",
        ]  # fmt: skip
    for ends in (("T1w", "ACPC"), ("ACPC", "T1w")):
        assert _sources(_xfm(ANAT, "anat_xfm", *ends)) == ["a.nii.gz", "b.nii.gz"]


def test_every_source_of_the_table_is_an_output_type() -> None:
    catalogue = load_catalogue()
    for of in catalogue.types.values():
        for place, listed in of.sources.items():
            known = {"", *of.spaces, *(" ".join(sorted(e)) for e in _pairs(catalogue))}
            known |= {OTHER} if of.in_templates else set()
            assert place in known, of.name
            for word in listed:
                name = word.split(" ")[0].format(type=of.name)
                assert name == RAW or name in catalogue.types, (of.name, word)
        if "Sources" in of.required:
            assert of.sources, of.name


def _pairs(catalogue):
    ends = [*catalogue.frames, *catalogue.spaces, OTHER]
    return [(a, b) for a in ends for b in ends]


def test_a_path_that_is_no_output_is_refused() -> None:
    with pytest.raises(ConfigError, match="no output has such a name"):
        direct_sources("sub-01/dwi/x.nii.gz", raw=[], written=[])
