"""Sidecars: required keys, and what of the raw metadata is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import RESEARCH_ONLY, identity
from dmri_fm.model_metadata import nest_model
from dmri_fm.preprocess.pose import POSE_NAMES
from dmri_fm.preprocess.quality import series_quality, tensor_quality
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_workflows.outputs import docs, load_catalogue, sidecars
from dmri_fm_workflows.outputs.methods import Processed, describe_methods, find_processed
from dmri_fm_workflows.outputs.publish import to_json
from dmri_fm_workflows.outputs.references import load_references, render_methods
from dmri_fm_workflows.outputs.root import (
    dataset_description,
    read_container,
)
from dmri_fm_workflows.outputs.sidecars import (
    _column_table,
    carry_over,
    column_metadata,
    describe_columns,
    image_sidecar,
    missing_metadata,
)
from dmri_fm_workflows.outputs.sources import derivative_uri, raw_uri

MNI = "MNI152NLin2009aSym"
RAW = {
    "Manufacturer": "Siemens",
    "EchoTime": 0.068,
    "SliceTiming": [0, 1.8],
    "PhaseEncodingDirection": "j-",
    "TotalReadoutTime": 0.0476,
    "EffectiveEchoSpacing": 0.00067,
    "SliceThickness": 3,
    "ImageComments": "free text of a person",
    "SeriesDescription": "DWI_AP",
    "ImageOrientationPatientDICOM": [1, 0, 0, 0, 1, 0],
}


def test_stale_raw_metadata_are_dropped():
    kept = carry_over([RAW, RAW])
    assert kept == {"Manufacturer": "Siemens", "EchoTime": 0.068}
    assert carry_over([RAW, RAW | {"EchoTime": 0.07}]) == {"Manufacturer": "Siemens"}
    assert carry_over([RAW, {}]) == {}
    assert carry_over([]) == {}


def test_preprocessed_series():
    acpc = image_sidecar(
        "preproc_dwi",
        space="ACPC",
        sources=["bids:raw:a", "bids:raw:a"],
        spatial_reference="bids::sub-01/anat/sub-01_x_T1w.nii.gz",
        extra=carry_over([RAW]) | {"B0NormalizationScale": np.float32(812.5)},
    )
    assert "Resolution" not in acpc
    assert acpc["Sources"] == ["bids:raw:a"]
    assert acpc["SpatialReference"].startswith("bids::sub-01/anat")
    assert acpc["EchoTime"] == 0.068
    assert json.loads(json.dumps(acpc))["B0NormalizationScale"] == 812.5
    assert missing_metadata("preproc_dwi", acpc) == (
        "SkullStripped", "SDCMethod", "SDCReason", "HMCMethod", "Denoising", "GibbsCorrection",
        "GradientCheck",
    )  # fmt: skip
    mni = image_sidecar("preproc_dwi", space=MNI)
    assert urlsplit(mni["SpatialReference"]).scheme == "https"
    assert "2 mm" in mni["Resolution"]
    assert "determinant" in mni["BvecConvention"]
    assert "nonlinear" in mni["BvecConvention"]


def test_acpc_has_no_reference_of_its_own():
    # An image of the participant defines the space: whoever writes the file names it.
    assert "SpatialReference" not in image_sidecar("fa", model="tensor", space="ACPC")
    assert "SpatialReference" in missing_metadata("fa", image_sidecar("fa", model="tensor"))


def test_tensor_says_how_it_is_laid_out():
    found = image_sidecar("diffusivity", model="tensor", space="ACPC")
    assert found["Units"] == "mm^2/s"
    assert found["TensorElements"] == ["D11", "D12", "D13", "D22", "D23", "D33"]
    assert found["OrientationEncoding"] == {
        "Type": "tensor",
        "Reference": "xyz",
        "EncodingAxis": 3,
        "TensorRank": 2,
        "AntipodalSymmetry": True,
    }
    assert "Sources" not in found
    scalar = image_sidecar("fa", model="tensorrefiner", space=MNI, sources=["bids::x"])
    assert "OrientationEncoding" not in scalar
    assert scalar["ValidRange"] == [0.0, 1.0]
    assert set(scalar["Model"]) == {"Name", "Label", "Description", "Parameters", "Use"}
    assert scalar["Model"]["Label"] == "tensorrefiner"
    assert urlsplit(scalar["ParameterURL"]).path == "/10.1006/jmrb.1996.0086"


def test_what_the_steps_say_wins():
    found = image_sidecar(
        "fa", model="tensor", space=MNI, extra={"Model": {"Name": "x"}, "Units": "y"}
    )
    assert (found["Model"], found["Units"]) == ({"Name": "x"}, "y")


def test_masks_and_tables():
    assert image_sidecar("dwi_mask", space="ACPC")["Type"] == "Brain"
    table = image_sidecar("confounds", columns=["trans_x", "bval", "unheard_of"])
    assert table["trans_x"]["Units"] == "mm"
    assert table["bval"]["Units"] == "s/mm^2"
    assert "unheard_of" not in table
    features = image_sidecar(
        "features_scan",
        model="drope",
        columns=["participant_id", "cls000", "pooled000", "pooled001", "ood_score"],
    )
    assert {"participant_id", "cls[0-9]*", "pooled[0-9]*", "ood_score"} <= set(features)
    assert not {"cls000", "pooled000"} & set(features)
    assert "n/a" in features["pooled[0-9]*"]["Description"]


@pytest.mark.parametrize("of", ["features_scan", "features_patch", "group_features_scan"])
def test_features_are_for_research_only(of):
    assert image_sidecar(of, model="drope")["Model"]["Use"] == RESEARCH_ONLY


def test_the_error_of_patches_is_not_credited_to_the_encoder():
    column = image_sidecar("features_scan", model="drope", columns=["direction_error"])
    assert "Gaussian process" in column["direction_error"]["Description"]
    assert "not the encoder" in column["direction_error"]["Description"]
    patches = image_sidecar("features_patch", model="drope")
    assert "https://doi.org/10.1016/j.neuroimage.2015.07.067" in patches["References"]


def test_every_kind_has_a_sidecar_that_is_json():
    for of in load_catalogue().types.values():
        for space in of.spaces or (None,):
            ends = ("T1w", "ACPC") if of.is_transform and "from" not in of.entities else None
            for model in of.models:
                found = image_sidecar(of.name, model=model, space=space, ends=ends)
                assert found["Description"]
                json.dumps(to_json(found), allow_nan=False)
    with pytest.raises(ConfigError, match="does not exist in space"):
        image_sidecar("s0", model="tensor", space=MNI)
    with pytest.raises(ConfigError, match="fa_std of model 'qcg-dti-paper'"):
        image_sidecar("fa_std", model="qcg-dti-paper", space="ACPC")


def test_uris():
    assert raw_uri("/d/sub-1/dwi/x.nii.gz", "/d") == "bids:raw:sub-1/dwi/x.nii.gz"
    with pytest.raises(ConfigError, match="outside"):
        raw_uri("/other/x.nii.gz", "/d")
    with pytest.raises(ConfigError, match="absolute"):
        derivative_uri("/out/x.nii.gz")


def test_every_column_is_described_by_words_and_a_unit():
    # An unquoted comma in the table once made a key of the rest of the sentence.
    for pattern, entry in _column_table():
        assert set(entry) <= {"Description", "Units", "Levels"}, pattern
        assert all(isinstance(entry[key], str) and entry[key] for key in entry if key != "Levels")
        assert "Description" in entry, pattern
        levels = entry.get("Levels", {})
        assert all(isinstance(text, str) and text for text in levels.values()), pattern


def test_numbered_columns_are_described_once():
    names = ["volume", *(f"m{i}_{j}" for i in (1, 2, 3) for j in (1, 2, 3, 4)), "trans_x"]
    found = column_metadata(names)
    assert list(found) == ["volume", "m[0-9]*", "trans_x"]
    assert found["volume"] == {"Description": "Position in the series, from 0"}
    assert found["m[0-9]*"]["Description"].endswith("(columns m1_1 to m3_4)")
    features = column_metadata([f"cls{i:03d}" for i in range(384)])
    ((pattern, about),) = features.items()
    assert about["Description"].endswith("(columns cls000 to cls383)")
    assert fnmatchcase("cls383", pattern)
    # A description of one table does not leak into the next.
    assert column_metadata(["cls000"])[pattern]["Description"].endswith("(column cls000)")


def test_transform_says_what_its_ends_mean():
    found = image_sidecar("anat_xfm", ends=("T1w", "ACPC"), sources=["bids:raw:x"])
    assert found["Description"].startswith("From T1w to ACPC. ")
    assert "takes points of the second to points of the first" in found["Description"]
    assert list(found["Spaces"]) == ["T1w", "ACPC"]
    assert found["Spaces"]["T1w"] == "The T1-weighted image as acquired"
    template = image_sidecar("anat_xfm", ends=("ACPC", MNI), spatial_reference="bids::t1w.nii.gz")
    assert template["Spaces"]["ACPC"] == "bids::t1w.nii.gz"
    assert urlsplit(template["Spaces"][MNI]).scheme == "https"
    assert "SpatialReference" not in template
    motion = image_sidecar("hmc_xfm", sources=["bids:raw:x"])
    assert list(motion["Spaces"]) == ["orig", "dwiref"]
    with pytest.raises(ConfigError, match="end 'fsLR'"):
        image_sidecar("dwi_xfm", ends=("fsLR", "ACPC"))
    with pytest.raises(ConfigError, match="without ends"):
        image_sidecar("dwi_xfm")


def test_model_of_a_map_has_the_fields_of_the_draft():
    found = nest_model({"Version": "1", "Volumes": [0, 1], "Warnings": ["w"]})
    assert found == {
        "Warnings": ["w"],
        "Model": {"Version": "1", "Parameters": {"Volumes": [0, 1]}},
    }
    own = nest_model({"Seed": 0, "Model": {"Name": "x", "Parameters": {"Samples": 2}}})
    assert own == {"Model": {"Name": "x", "Parameters": {"Seed": 0, "Samples": 2}}}


def test_every_fit_names_its_method():
    n_maps = 0
    for of in load_catalogue().types.values():
        for label in of.models if of.suffix == "dwimap" else ():
            if identity(label).family == "encoder":
                continue
            model = image_sidecar(of.name, model=label, space="ACPC")["Model"]
            method = "wls" if label == "tensor" else "neural network"
            assert model["Parameters"] == {"FitMethod": method}
            n_maps += 1
    assert n_maps > 13
    assert "Parameters" not in image_sidecar("features_scan", model="drope", space=MNI)["Model"]


@pytest.mark.parametrize("source", [None, "https://forge.example/lab/drope"])
def test_what_made_a_file_is_named_with_its_code_where_it_is_known(monkeypatch, source, tmp_path):
    monkeypatch.setattr("dmri_fm_workflows.outputs.root.source_url", lambda: source)
    (by,) = image_sidecar("t1w")["GeneratedBy"]
    assert by["Name"] == "drope-bidsapp"
    assert by.get("CodeURL", "left out") == (source or "left out")
    dataset = dataset_description(tmp_path / "out", source=tmp_path, source_name="x")
    assert dataset["GeneratedBy"][0].get("CodeURL", "left out") == (source or "left out")


def test_every_measure_of_quality_is_described() -> None:
    gtab = GradientTable([0, *[1000] * 6], np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    brain = np.ones((4, 4, 4), dtype=bool)
    dwi = Dwi.from_arrays(np.ones((4, 4, 4, 7)), np.eye(4), gtab, mask=brain)
    row = series_quality(dwi, dwi, fd_mm=[], is_outlier=[]) | tensor_quality(None, brain)
    assert "cnr_b1000" in row
    assert describe_columns(list(row)).keys() == row.keys()


def test_first_fitting_pattern_describes_a_column():
    found = describe_columns(["eddy_outliers", "eddy_xy", "pooled123", "cnr_b1000"])
    assert found["eddy_outliers"]["Description"].startswith("Outlier")
    assert found["eddy_xy"]["Description"].startswith("Eddy-current")
    poses = describe_columns(POSE_NAMES)
    assert [poses[name]["Units"] for name in POSE_NAMES] == [
        *["mm"] * 3, *["rad"] * 3, *["mm/mm"] * 9,
    ]  # fmt: skip
    assert set(found) == {"eddy_outliers", "eddy_xy", "pooled123", "cnr_b1000"}


def test_references():
    known = load_references()
    types = load_catalogue().types.values()
    cited = {key for of in types for key in (*of.citations, of.parameter) if key is not None}
    assert cited <= set(known)
    assert known["basser1996"].label == "Basser and Pierpaoli 1996"
    assert all(r.doi.startswith("10.") for r in known.values())
    assert "and others" in known["yeh2019"].bibtex


@pytest.mark.parametrize("change", [{"citations": ("nobody1900",)}, {"parameter": "nobody1900"}])
def test_a_work_that_references_lack_is_told(change, monkeypatch):
    fa = replace(load_catalogue().output_type("fa"), **change)
    catalogue = replace(load_catalogue(), types={**load_catalogue().types, "fa": fa})
    for module in (docs, sidecars):
        monkeypatch.setattr(module, "load_catalogue", lambda: catalogue)
    with pytest.raises(ConfigError, match=r"nobody1900(.|\n)*define the work in references\.yaml"):
        image_sidecar("fa", model="tensor", space="ACPC")
    if "citations" in change:
        with pytest.raises(ConfigError, match="output fa cites nobody1900"):
            docs.outputs_page()


def test_a_map_that_tensor_maps_lack_is_told():
    maps = TensorMaps.from_tensor(
        np.zeros((1, 1, 1, 6)), np.ones((1, 1, 1)), affine=np.eye(4), model="tensor"
    )
    for of in load_catalogue().maps_of("tensor"):
        assert of.name == "s0" or of.find_in(maps) is not None
    for attribute in ("scalars.vr", "vr"):
        with pytest.raises(ConfigError, match=f"TensorMaps has no `{attribute}`"):
            replace(load_catalogue().output_type("fa"), attribute=attribute).find_in(maps)


def test_methods_in_four_formats():
    found = render_methods("# A & B\n\nDone with 5% of x_y [@yeh2019; @basser1994].\n\n<Last>")
    assert "(Yeh et al. 2019; Basser et al. 1994)" in found["md"]
    assert "\\citep{yeh2019,basser1994}" in found["tex"]
    assert "5\\^{}3" in render_methods("patches of 5^3")["tex"]
    assert "\\section*{A \\& B}" in found["tex"]
    assert "5\\% of x\\_y" in found["tex"]
    assert "&lt;Last&gt;" in found["html"]
    assert "https://doi.org/10.1006/jmrb.1994.1037" in found["html"]
    assert found["bib"].count("@article{") == 2
    with pytest.raises(ConfigError, match="nobody1900"):
        render_methods("[@nobody1900]")
    ran = Processed(models=("tensor", "tensor-refiner", "drope"))
    whole = render_methods(describe_methods(ran))["md"]
    assert "@" not in whole
    assert "tensor refiner" in whole
    assert "rotary" in whole
    plain = render_methods(describe_methods(Processed()))["md"]
    assert "tensor refiner" not in plain
    assert "rotary" not in plain
    assert "{%" not in plain


def test_only_stages_that_ran_are_in_the_methods_text(tmp_path):
    sidecar = tmp_path / "sub-01_space-ACPC_desc-preproc_dwi.json"
    sidecar.write_text('{"SDCMethod": "none"}')
    table = tmp_path / "sub-01_desc-image_qc.tsv"
    without, with_table = (
        describe_methods(find_processed(paths)) for paths in ([sidecar], [sidecar, table])
    )
    assert "framewise displacement" not in without
    assert "framewise displacement" in with_table
    assert "intensity bias" not in with_table
    sidecar.write_text('{"MaskMethod": "deepbet 1.0.2"}')
    assert "intensity bias" in describe_methods(find_processed([sidecar]))


def test_dataset_description(tmp_path):
    raw = tmp_path / "raw"
    inside = dataset_description(
        raw / "derivatives" / "drope",
        source=raw,
        source_name="Study",
        source_description={"License": "CC0", "DatasetDOI": "doi:10.1/x"},
        container=read_container({"DROPE_CONTAINER": "docker:drope-bidsapp:0.1.0"}),
    )
    assert inside["DatasetLinks"] == {"raw": "../.."}
    assert inside["DatasetType"] == "derivative"
    assert inside["BIDSVersion"] == "1.11.1"
    assert inside["GeneratedBy"][0]["Container"]["Type"] == "docker"
    assert inside["License"] == "CC0"
    outside = dataset_description(tmp_path / "out", source=raw, source_name="Study")
    assert outside["DatasetLinks"]["raw"] == raw.as_uri()
    assert len(outside["SourceDatasets"]) == 1
    given = dataset_description(
        tmp_path / "out", source=raw, source_name="Study", anatomy=tmp_path / "fmriprep"
    )
    link = (tmp_path / "fmriprep").as_uri()
    assert given["DatasetLinks"] == {"raw": raw.as_uri(), "anatomy": link}
    assert given["SourceDatasets"] == [{"URL": raw.as_uri()}, {"URL": link}]
    assert "Container" not in outside["GeneratedBy"][0]
    assert read_container({}) is None
    with pytest.raises(ConfigError, match="DROPE_CONTAINER"):
        read_container({"DROPE_CONTAINER": "yes"})
