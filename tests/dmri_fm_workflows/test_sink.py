"""The sink: names, sidecars, headers, and what happens when writing fails or repeats."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nipype.interfaces.base import isdefined

from dmri_fm.errors import ConfigError, OutputError
from dmri_fm.identity import about_model
from dmri_fm_workflows.outputs import load_catalogue, output_path
from dmri_fm_workflows.outputs.sidecars import image_sidecar

MNI = "MNI152NLin2009aSym"
SCAN = {"subject": "01", "session": "a", "acquisition": "b", "run": "01"}
RUNS = [
    f"/bids/sub-01/ses-a/dwi/sub-01_ses-a_acq-b_dir-{d}_run-01_dwi.nii.gz" for d in ("AP", "PA")
]
#: Every of but those of the group, and the page, which the report writes.
SUNK = [k for k in load_catalogue().types.values() if not k.is_group and k.suffix]


@pytest.fixture(scope="module")
def sink(tmp_path_factory):
    """Return the class, imported with the environment that the command line sets."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("NO_ET", "1")
        patch.setenv("TEMPLATEFLOW_HOME", str(tmp_path_factory.mktemp("templateflow")))
        from dmri_fm_workflows.interfaces.sink import DerivativesDataSink

        yield DerivativesDataSink


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def put(sink, tmp_path, out):
    """Return a function that sinks files and returns the outputs."""

    def run(of, files, *, work="work", **inputs):
        cwd = tmp_path / work
        cwd.mkdir(exist_ok=True)
        inputs = {"source_file": RUNS} | inputs
        node = sink(of, base_directory=str(out), in_file=files, **inputs)
        return node.run(cwd=str(cwd)).outputs

    return run


def _image(path: Path, *, shape=(4, 5, 6), dtype=np.float32, seed=0) -> str:
    data = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    nib.save(nib.Nifti1Image(data, np.diag([-2.0, 2, 2, 1])), path)
    return str(path)


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_map_with_metadata(put, out, tmp_path):
    # A point in the file's name must not be taken for an extension.
    file = _image(tmp_path / "fa_1.5mm.nii.gz")
    meta = image_sidecar("fa", model="tensor", space=MNI, sources=["bids:raw:sub-01/x"])
    found = put("fa", file, model="tensor", space=MNI, meta_dict=meta | {"Extra": np.float32(0.5)})
    expected = output_path(SCAN, "fa", model="tensor", space=MNI)
    assert found.out_file == str(out / expected)
    sidecar = json.loads(Path(found.out_meta).read_text())
    assert sidecar["Resolution"] == f"{MNI} grid with isotropic voxels of 2 mm"
    assert sidecar["Model"] == about_model("tensor")
    assert sidecar["Extra"] == 0.5
    assert list(sidecar) == sorted(sidecar)
    image = nib.load(found.out_file)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 4
    np.testing.assert_array_equal(image.get_fdata(), nib.load(file).get_fdata())
    assert _files(out) == sorted([str(expected), str(expected).replace(".nii.gz", ".json")])


def test_series_with_its_gradients(put, out, tmp_path):
    files = [_image(tmp_path / "d.nii.gz", shape=(2, 3, 4, 2))]
    for ending in ("bval", "bvec", "b"):
        (tmp_path / f"rotated.{ending}").write_text("0 1000\n")
        files.append(str(tmp_path / f"rotated.{ending}"))
    meta = {"SkullStripped": False, "RepetitionTime": 5.865}
    found = put("preproc_dwi", files, space="ACPC", meta_dict=meta)
    header = nib.load(found.out_file[0]).header
    assert float(header["pixdim"][4]) == pytest.approx(5.865)
    assert header.get_xyzt_units() == ("mm", "sec")
    assert [Path(f).suffixes[-1] for f in found.out_file] == [".gz", ".bval", ".bvec", ".b"]
    assert json.loads(Path(found.out_meta).read_text())["SkullStripped"] is False
    assert len(_files(out)) == 5


@pytest.mark.parametrize("of", SUNK, ids=lambda of: of.name)
def test_every_kind_lands_where_naming_says(put, out, tmp_path, of):
    ends = {"from": "dwiref", "to": "ACPC"} if of.name in ("dwi_xfm", "anat_xfm") else {}
    named = {"from_space": ends.get("from"), "to_space": ends.get("to")}
    for space, model in itertools.product(of.spaces or (None,), of.models):
        for extension in of.extensions:
            file = tmp_path / f"in{extension}"
            if extension == ".nii.gz":
                _image(file)
            else:
                file.write_text("content")
            where = {k: v for k, v in (("space", space), ("model", model)) if v}
            found = put(of.name, str(file), **where, **ends)
            expected = output_path(
                SCAN, of.name, model=model, space=space, extension=extension, **named
            )
            assert found.out_file == str(out / expected)


def test_table_columns_are_described(put, tmp_path):
    (tmp_path / "c.tsv").write_text("trans_x\tbval\n0.1\t1000\n")
    found = put("confounds", str(tmp_path / "c.tsv"), meta_dict={"bval": {"Description": "own"}})
    sidecar = json.loads(Path(found.out_meta).read_text())
    assert sidecar["trans_x"]["Units"] == "mm"
    assert sidecar["bval"] == {"Description": "own"}


def test_elements_of_a_tensor_are_no_time(put, tmp_path):
    file = _image(tmp_path / "d.nii.gz", shape=(2, 3, 4, 6))
    found = put(
        "diffusivity", file, model="tensor", space="ACPC", meta_dict={"RepetitionTime": 5.865}
    )
    header = nib.load(found.out_file).header
    assert float(header["pixdim"][4]) == 1.0


def test_a_transform_has_a_sidecar(put, tmp_path):
    (tmp_path / "x.txt").write_text("#Insight Transform File V1.0\n")
    found = put("dwi_xfm", str(tmp_path / "x.txt"), **{"from": "dwiref", "to": "ACPC"})
    sidecar = json.loads(Path(found.out_meta).read_text())
    assert found.out_meta.endswith("_from-dwiref_to-ACPC_mode-image_xfm.json")
    assert list(sidecar["Spaces"]) == ["ACPC", "dwiref"]  # keys are sorted in files
    assert sidecar["Description"].startswith("From dwiref to ACPC.")


@pytest.mark.parametrize(
    ("ending", "format_", "frame"),
    [(".txt", "text", "LPS+"), (".mat", "binary", "LPS+"), (".h5", "HDF5", "LPS+")],
)
def test_transform_says_which_way_it_takes_points(put, tmp_path, ending, format_, frame):
    (tmp_path / f"x{ending}").write_text("content")
    ends = {"from": "T1w", "to": "ACPC"}
    found = put("anat_xfm", str(tmp_path / f"x{ending}"), **ends)
    sidecar = json.loads(Path(found.out_meta).read_text())
    assert sidecar["PointMapping"].startswith("A point of ACPC is taken to the point of T1w")
    assert list(sidecar["Spaces"]) == ["ACPC", "T1w"]
    assert format_ in sidecar["Format"]
    assert frame in sidecar["CoordinateSystem"]


def test_table_of_motion_is_in_another_frame_than_itk(put, tmp_path):
    (tmp_path / "m.tsv").write_text("volume\tm1_1\n0\t1\n")
    sidecar = json.loads(Path(put("hmc_xfm", str(tmp_path / "m.tsv")).out_meta).read_text())
    assert sidecar["CoordinateSystem"] == "mm along RAS+"
    assert sidecar["PointMapping"].startswith("A point of dwiref is taken to the point of orig")


def test_table_of_identities_maps_points_to_themselves(put, tmp_path):
    """After FSL's eddy the volumes lie on the reference already: the facts say so."""
    (tmp_path / "m.tsv").write_text("volume\tm1_1\n0\t1\n")
    facts = {"IdentityTransforms": True, "PointMapping": "Every point is taken to itself: eddy."}
    sidecar = json.loads(
        Path(put("hmc_xfm", str(tmp_path / "m.tsv"), meta_dict=facts).out_meta).read_text()
    )
    assert {key: sidecar[key] for key in facts} == facts
    assert sidecar["CoordinateSystem"] == "mm along RAS+"


def test_masks_are_bytes(put, tmp_path):
    found = put("dwi_mask", _image(tmp_path / "m.nii.gz"), space="ACPC")
    image = nib.load(found.out_file)
    assert image.get_data_dtype() == np.uint8
    assert int(image.header["sform_code"]) == 2


def test_plain_nifti_is_compressed(put, tmp_path):
    found = put("dwiref", _image(tmp_path / "r.nii"), space="ACPC")
    assert found.out_file.endswith("_dwiref.nii.gz")
    assert Path(found.out_file).read_bytes()[:2] == b"\x1f\x8b"


def test_entities_instead_of_files(put, tmp_path):
    (tmp_path / "c.tsv").write_text("a\n1\n")
    entities = {"subject": "02", "direction": "AP", "suffix": "dwi"}
    found = put("confounds", str(tmp_path / "c.tsv"), source_file=[], source_entities=entities)
    assert found.out_file.endswith("sub-02/dwi/sub-02_dir-AP_desc-confounds_timeseries.tsv")


def test_derivative_as_source_passes_on_its_scan_only(put, tmp_path):
    (tmp_path / "c.tsv").write_text("a\n1\n")
    source = ["/d/sub-02/dwi/sub-02_acq-x_space-T1w_desc-preproc_dwi.nii.gz"]
    found = put("confounds", str(tmp_path / "c.tsv"), source_file=source)
    assert found.out_file.endswith("sub-02/dwi/sub-02_acq-x_desc-confounds_timeseries.tsv")


def test_second_run_touches_nothing(put, out, tmp_path):
    file = _image(tmp_path / "r.nii.gz")
    put("dwiref", file, space="ACPC", meta_dict={"a": 1})
    for path in out.rglob("*.*"):
        os.utime(path, (1, 1))
    put("dwiref", file, space="ACPC", meta_dict={"a": 1}, work="again")
    assert {p.stat().st_mtime for p in out.rglob("*.*") if p.is_file()} == {1}
    put("dwiref", _image(tmp_path / "r2.nii.gz", seed=1), space="ACPC", meta_dict={"a": 1})
    times = {p.suffix: p.stat().st_mtime for p in out.rglob("*.*") if p.is_file()}
    assert times[".gz"] > 1
    assert times[".json"] == 1


def test_write_failure_names_the_file_and_leaves_nothing(put, out, tmp_path):
    (out / "sub-01" / "ses-a").mkdir(parents=True)
    (out / "sub-01" / "ses-a" / "dwi").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        put("dwiref", _image(tmp_path / "r.nii.gz"), space="ACPC")
    assert _files(out) == ["sub-01/ses-a/dwi"]
    assert not list((tmp_path / "work").glob(".*part"))


@pytest.mark.parametrize("ending", [".bval", ".bvec", ".b", ".json"])
def test_no_member_of_a_group_stays_without_the_others(put, out, tmp_path, ending):
    image = _image(tmp_path / "dwi.nii.gz", shape=(4, 5, 6, 2))
    (tmp_path / "dwi.bval").write_text("0 1000\n")
    (tmp_path / "dwi.bvec").write_text("0 1\n0 0\n0 0\n")
    (tmp_path / "dwi.b").write_text("0 0 0 0\n1 0 0 1000\n")
    files = [image, *(str(tmp_path / f"dwi.{e}") for e in ("bval", "bvec", "b"))]
    put("preproc_dwi", files, space="ACPC")
    whole = _files(out)
    assert len(whole) == 5
    (member,) = (p for p in whole if p.endswith(ending))
    (out / member).unlink()
    (out / member).mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        put("preproc_dwi", files, space="ACPC")
    assert _files(out) == []


def test_source_is_kept(put, tmp_path):
    (tmp_path / "c.tsv").write_text("a\n1\n")
    put("confounds", str(tmp_path / "c.tsv"))
    assert (tmp_path / "c.tsv").read_text() == "a\n1\n"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"space": "T1w", "model": "tensor"}, "no output has such a name"),
        ({"space": "ACPC", "model": "tensor", "param": "zz"}, "no output has such a name"),
        ({"space": "ACPC", "model": "tensor", "source_file": []}, "neither source_file"),
        ({"space": "ACPC"}, "no output has such a name"),
    ],
)
def test_wrong_requests(put, out, tmp_path, inputs, message):
    with pytest.raises(ConfigError, match=message):
        put("fa", _image(tmp_path / "f.nii.gz"), **inputs)
    assert not out.exists() or _files(out) == []


def test_unknown_extension(put, tmp_path):
    (tmp_path / "c.xyz").write_text("")
    with pytest.raises(ConfigError, match="extension"):
        put("confounds", str(tmp_path / "c.xyz"))


def test_travels_to_another_process(sink, tmp_path):
    node = sink("fa_std", model="tensorrefiner", base_directory=str(tmp_path), Note="kept")
    again = pickle.loads(pickle.dumps(node))
    assert again.inputs.param == "fa"
    assert again._metadata == {"Note": "kept"}


def test_without_a_file_an_optional_output_is_not_written(put, sink, tmp_path, out) -> None:
    done = put("fixed_bvec", [], is_optional=True)
    assert not isdefined(done.out_file)
    assert not out.exists()
    with pytest.raises(ConfigError, match="got no file"):
        put("fixed_bvec", [])
    table = tmp_path / "fixed.bvec"
    table.write_text("1\n0\n0\n")
    written = put("fixed_bvec", [str(table)], is_optional=True).out_file
    assert Path(written).name == "sub-01_ses-a_acq-b_run-01_desc-fibrecheck_dwi.bvec"
    assert json.loads(Path(written).with_suffix(".json").read_text())["Description"]
