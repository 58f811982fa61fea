"""What is found in a dataset, and what is said about what cannot be used."""

from __future__ import annotations

import json
import pickle
import shutil
import time

import nibabel as nib
import numpy as np
import pytest

from dmri_fm.distortion import ASSUMED_READOUT_S
from dmri_fm.errors import ConfigError, ImageError, InputError, LayoutError
from dmri_fm_workflows.bids import read_dataset, read_filter_file


def found(dataset) -> dict[tuple[str, str | None], list[str]]:
    return {
        (p.label, s.label): [series.name for series in s.series]
        for p in dataset.participants
        for s in p.sessions
    }


def test_participants_and_sessions(maker) -> None:
    for label in ("02", "01"):
        for session in ("b", "a"):
            maker.dwi(f"sub-{label}_ses-{session}_dwi", metadata=maker.AP)
    maker.dwi("sub-03_dwi", metadata=maker.AP)
    maker.image("sub-04_T1w.nii.gz")
    dataset = read_dataset(maker.root)
    assert found(dataset) == {
        (label, session): [f"sub-{label}_ses-{session}"]
        for label in ("01", "02")
        for session in "ab"
    } | {("03", None): ["sub-03"]}
    assert dataset.name == "Test"
    assert dataset.problems == ()
    only = read_dataset(maker.root, participant_labels=["sub-02"], session_labels=["ses-a"])
    assert found(only) == {("02", "a"): ["sub-02_ses-a"]}


def test_dataset_survives_pickling(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.image("sub-01_T1w.nii.gz")
    dataset = pickle.loads(pickle.dumps(read_dataset(maker.root)))
    assert found(dataset) == {("01", None): ["sub-01"]}


def test_run_loads_its_series(maker) -> None:
    maker.dwi("sub-01_dwi", bvals=[5, 1000, 1000], metadata=maker.AP)
    run = read_dataset(maker.root).participants[0].sessions[0].series[0].runs[0]
    dwi = run.load()
    assert dwi.data.shape == run.shape == (6, 6, 4, 3)
    assert dwi.gtab.is_b0.tolist() == [True, False, False]


def test_only_measured_magnitude_is_taken(maker) -> None:
    maker.dwi("sub-01_part-mag_dwi", metadata=maker.AP)
    maker.dwi("sub-01_part-phase_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-ADC_dwi", metadata=maker.AP)
    maker.dwi("sub-01_rec-TRACEW_dwi", metadata=maker.AP)
    maker.dwi("sub-01_rec-x_dwi", metadata={"ImageType": ["DERIVED", "DIFFUSION", "FA"]})
    maker.image("sub-01_acq-mean_dwi.nii.gz")
    maker.json("sub-01_acq-mean_dwi.json", {"ImageType": ["DERIVED", "SECONDARY"]})
    for suffix in ("FA", "ADC", "TRACEW", "colFA"):
        maker.image(f"sub-01_{suffix}.nii.gz")
    sbref = maker.image("sub-01_part-mag_sbref.nii.gz")
    dataset = read_dataset(maker.root)
    assert dataset.problems == ()
    assert found(dataset) == {("01", None): ["sub-01_part-mag"]}
    assert dataset.participants[0].sessions[0].series[0].runs[0].sbref == sbref


def test_derived_signal_is_taken_and_said_so(maker) -> None:
    metadata = {**maker.AP, "ImageType": ["DERIVED", "PRIMARY", "M", "DIS2D"]}
    maker.dwi("sub-01_dwi", metadata=metadata)
    (series,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert "DERIVED" in series.warnings[0]


def test_derivatives_and_source_folders_are_not_looked_at(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    for folder in ("derivatives/x", "sourcedata", "code"):
        shutil.copytree(maker.root / "sub-01", maker.root / folder / "sub-01")
    assert len(read_dataset(maker.root).participants[0].sessions[0].series[0].runs) == 1


def test_same_scan_twice_is_an_error_and_the_compressed_one_is_used(maker) -> None:
    path = maker.dwi("sub-01_dwi", metadata=maker.AP)
    nib.save(nib.load(path), path.with_suffix(""))
    dataset = read_dataset(maker.root)
    assert [p.path for p in dataset.problems] == [path.with_suffix("")]
    assert dataset.participants[0].sessions[0].series[0].runs[0].path == path
    assert len(dataset.participants[0].sessions[0].series[0].runs) == 1


# T1-weighted images


def t1w_names(dataset, *, session: int = 0) -> list[str]:
    return [path.name for path in dataset.participants[0].sessions[session].t1w]


def test_t1w_of_the_session_then_above_then_another(maker) -> None:
    for session in "ab":
        maker.dwi(f"sub-01_ses-{session}_dwi", metadata=maker.AP)
    maker.image("sub-01_ses-a_T1w.nii.gz")
    dataset = read_dataset(maker.root)
    assert t1w_names(dataset) == t1w_names(dataset, session=1) == ["sub-01_ses-a_T1w.nii.gz"]
    assert dataset.participants[0].sessions[0].warnings == ()
    (warning,) = dataset.participants[0].sessions[1].warnings
    assert "sub-01_ses-a_T1w.nii.gz is used" in warning
    only = read_dataset(maker.root, session_labels=["b"])
    assert t1w_names(only) == ["sub-01_ses-a_T1w.nii.gz"]
    maker.image("sub-01_T1w.nii.gz")
    assert t1w_names(read_dataset(maker.root), session=1) == ["sub-01_T1w.nii.gz"]


def test_t1w_order_is_normalised_then_fine_then_by_name(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.image("sub-01_acq-b_T1w.nii.gz")
    maker.image("sub-01_acq-a_T1w.nii.gz")
    maker.image("sub-01_acq-fine_T1w.nii.gz", affine=np.diag([1.0, 1, 1, 1]))
    maker.image("sub-01_rec-norm_T1w.nii.gz")
    maker.json("sub-01_rec-norm_T1w.json", {"ImageType": ["ORIGINAL", "M", "NORM"]})
    assert [n.split("_")[1] for n in t1w_names(read_dataset(maker.root))] == [
        "rec-norm",
        "acq-fine",
        "acq-a",
        "acq-b",
    ]


@pytest.mark.parametrize("kind", ["zero bytes", "4-D", "truncated"])
def test_unusable_t1w_is_an_error_and_the_diffusion_goes_on(maker, kind) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    path = maker.image("sub-01_T1w.nii.gz", shape=(6, 6, 4, 2) if kind == "4-D" else (6, 6, 4))
    if kind == "zero bytes":
        path.write_bytes(b"")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    dataset = read_dataset(maker.root)
    (problem,) = dataset.problems
    assert isinstance(problem.error, ImageError)
    assert (problem.participant, problem.path) == ("01", path)
    assert t1w_names(dataset) == []


def test_phase_encoding_of_another_type_is_an_unknown_one(maker) -> None:
    maker.dwi("sub-01_dwi", metadata={**maker.AP, "PhaseEncodingDirection": ["j"]})
    (series,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert series.runs[0].phase_encoding is None


# Filters


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"acquisition": "a"}, ["sub-01_acq-a_run-01"]),
        ({"acquisition": ["a", "b"], "run": 1}, ["sub-01_acq-a_run-01"]),
        ({"acquisition": None}, ["sub-01"]),
        ({"acquisition": "Query.NONE"}, ["sub-01"]),
        ({"acquisition": "*"}, ["sub-01_acq-a_run-01", "sub-01_acq-b_run-02"]),
        ({"run": "02"}, ["sub-01_acq-b_run-02"]),
        ({"datatype": "dwi", "suffix": "dwi", "run": None}, ["sub-01"]),
        ({"MultibandAccelerationFactor": 3}, ["sub-01_acq-b_run-02"]),
    ],
)
def test_filters_choose_diffusion_scans(maker, query, names) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-a_run-01_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-b_run-02_dwi", metadata={**maker.AP, "MultibandAccelerationFactor": 3})
    assert found(read_dataset(maker.root, filters={"dwi": query}))["01", None] == names


def test_filters_choose_t1w_and_fmap(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    for acq in "ab":
        maker.image(f"sub-01_acq-{acq}_T1w.nii.gz")
        maker.image(f"sub-01_acq-{acq}_dir-PA_epi.nii.gz")
        metadata = {**maker.PA, "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}
        maker.json(f"sub-01_acq-{acq}_dir-PA_epi.json", metadata)
    query = {"acquisition": "b"}
    dataset = read_dataset(maker.root, filters={"t1w": query, "fmap": query, "bold": {}})
    assert t1w_names(dataset) == ["sub-01_acq-b_T1w.nii.gz"]
    (series,) = dataset.participants[0].sessions[0].series
    assert [image.entities["acquisition"] for image in series.reverse] == ["b"]


def test_filter_file(tmp_path) -> None:
    path = tmp_path / "filter.json"
    path.write_text('{"dwi": {"acquisition": "x"}, "bold": {"task": "rest"}}')
    assert read_filter_file(path)["dwi"] == {"acquisition": "x"}


@pytest.mark.parametrize("text", ["", "[1]", '{"dwi": 3}', '{"DWI": {}}', '{"dwi": ["x"]}'])
def test_bad_filter_file_is_named(tmp_path, text) -> None:
    path = tmp_path / "filter.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_filter_file(path)
    assert caught.value.path == path
    assert caught.value.expected


def test_missing_filter_file_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_filter_file(tmp_path / "none.json")


# The dataset as a whole


def test_missing_folder(tmp_path) -> None:
    with pytest.raises(LayoutError, match="folder is missing"):
        read_dataset(tmp_path / "none")


@pytest.mark.parametrize("text", [None, "", "[]"])
def test_description_missing_or_broken(maker, text) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    path = maker.root / "dataset_description.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(LayoutError) as caught:
        read_dataset(maker.root)
    assert caught.value.path == path
    assert caught.value.expected


def test_no_participant_folder(maker) -> None:
    with pytest.raises(LayoutError, match=r"no sub-\* folder"):
        read_dataset(maker.root)


def test_no_diffusion_scan_at_all(maker) -> None:
    maker.image("sub-01_T1w.nii.gz")
    with pytest.raises(LayoutError, match="no diffusion scan") as caught:
        read_dataset(maker.root)
    assert "_dwi.nii.gz" in str(caught.value)


def test_filter_that_leaves_nothing_is_named(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    with pytest.raises(LayoutError, match='"acquisition": "zz"'):
        read_dataset(maker.root, filters={"dwi": {"acquisition": "zz"}})


def test_unknown_session_lists_the_known(maker) -> None:
    maker.dwi("sub-01_ses-one_dwi", metadata=maker.AP)
    with pytest.raises(LayoutError, match="sessions there: one"):
        read_dataset(maker.root, session_labels=["two"])


@pytest.mark.parametrize("wanted", [["99"], ["01", "sub-99"], []])
def test_unknown_participant_lists_the_known(maker, wanted) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.dwi("sub-02_dwi", metadata=maker.AP)
    with pytest.raises(LayoutError, match="some of 01, 02"):
        read_dataset(maker.root, participant_labels=wanted)


def test_participant_without_diffusion_is_a_problem_only_if_asked_for(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.image("sub-02_T1w.nii.gz")
    assert read_dataset(maker.root).problems == ()
    dataset = read_dataset(maker.root, participant_labels=["01", "02"])
    assert [(p.participant, p.path) for p in dataset.problems] == [("02", maker.root / "sub-02")]
    assert [p.label for p in dataset.participants] == ["01"]


def test_nothing_but_problems_is_still_a_dataset(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP).write_bytes(b"")
    dataset = read_dataset(maker.root)
    assert dataset.participants == ()
    assert len(dataset.problems) == 1


# One bad scan, and others that go on


def spoil_image(change):
    def spoil(maker):
        path = maker.path("sub-02_dwi.nii.gz")
        change(path)
        return path

    return spoil


def spoil_text(name, text):
    def spoil(maker):
        path = maker.path(name)
        path.write_text(text)
        return path

    return spoil


def remove(name):
    def spoil(maker):
        path = maker.path(name)
        path.unlink()
        return path

    return spoil


def replace_image(shape):
    return lambda maker: maker.image("sub-02_dwi.nii.gz", shape=shape)


def disagreeing_forms(path):
    image = nib.load(path)
    image.set_sform(np.diag([2.0, 2, 2, 1]), code=1)
    nib.save(image, path)


def dangling_link(path):
    path.unlink()
    path.symlink_to("../../.git/annex/objects/none")


SEVEN = " ".join(["0"] + ["1000"] * 6)
UNIT = ["0 1 1 1 1 1 1", "0 0 0 0 0 0 0", "0 0 0 0 0 0 0"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(remove("sub-02_dwi.bval"), ["missing", "b-values"], id="no bval"),
        pytest.param(remove("sub-02_dwi.bvec"), ["missing", "b-vectors"], id="no bvec"),
        pytest.param(spoil_text("sub-02_dwi.bval", ""), ["empty"], id="empty bval"),
        pytest.param(spoil_text("sub-02_dwi.bvec", " \n"), ["empty"], id="empty bvec"),
        pytest.param(
            spoil_text("sub-02_dwi.bval", "0 1000 1000"),
            ["3 b-values", "7 volumes"],
            id="bval count",
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bvec", "1 0\n0 1\n0 0"),
            ["3 rows of 2", "7 volumes"],
            id="bvec count",
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bvec", "1 0 0\n" * 7), ["transposed"], id="transposed bvec"
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bvec", "\n".join(UNIT).replace("1", "30")),
            ["length 30"],
            id="unnormalised bvec",
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bvec", "\n".join(UNIT).replace("1", "nan")),
            ["6 volumes", "direction"],
            id="NaN bvec",
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bval", "0 1 1 1 1 1 1"), ["s/mm^2", "1000"], id="ms/um^2"
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bval", SEVEN.replace("1000", "1e9")),
            ["s/mm^2", "1e6"],
            id="s/m^2",
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bval", "0 x 1 1 1 1 1"), ["not a number"], id="bval words"
        ),
        pytest.param(spoil_text("sub-02_dwi.json", "{"), ["JSON"], id="broken sidecar"),
        pytest.param(replace_image((6, 6, 4)), ["3 dimensions", "4 dimensions"], id="3-D"),
        pytest.param(replace_image((6, 6, 4, 7, 2)), ["5 dimensions"], id="5-D"),
        pytest.param(spoil_image(lambda p: p.write_bytes(b"")), ["zero bytes"], id="zero bytes"),
        pytest.param(
            spoil_image(lambda p: p.write_bytes(p.read_bytes()[:40])),
            ["cannot be opened"],
            id="truncated header",
        ),
        pytest.param(
            spoil_image(lambda p: p.write_bytes(b"no image" * 99)),
            ["cannot be opened"],
            id="no image",
        ),
        pytest.param(spoil_image(disagreeing_forms), ["qform and sform disagree"], id="forms"),
        pytest.param(spoil_image(dangling_link), ["datalad get"], id="dangling link"),
    ],
)
def test_bad_scan_is_named_and_the_others_go_on(maker, spoil, words) -> None:
    for label in ("01", "02", "03"):
        maker.dwi(f"sub-{label}_dwi", metadata=maker.AP)
    path = spoil(maker)
    dataset = read_dataset(maker.root)
    assert [p.label for p in dataset.participants] == ["01", "03"]
    (problem,) = dataset.problems
    assert (problem.participant, problem.path) == ("02", path)
    assert isinstance(problem.error, InputError)
    assert problem.error.expected
    assert problem.error.advice
    for word in [str(path), *words]:
        assert word in str(problem.error)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, ["no JSON sidecar"]),
        ({"TotalReadoutTime": 0.05}, ["PhaseEncodingDirection is missing"]),
        ({"PhaseEncodingDirection": "AP"}, ["'AP'", "i, i-, j"]),
        (
            {"PhaseEncodingDirection": "j"},
            [
                "TotalReadoutTime is missing, so a readout time is assumed",
                f"or {ASSUMED_READOUT_S} s",
                "not on the number; the field in Hz scales with it",
            ],
        ),
        ({"PhaseEncodingDirection": "j", "TotalReadoutTime": 50}, ["50", "no time in seconds"]),
    ],
)
def test_missing_metadata_is_accepted_and_said_so(maker, metadata, words) -> None:
    maker.dwi("sub-01_dwi", metadata=metadata)
    dataset = read_dataset(maker.root)
    assert dataset.problems == ()
    (series,) = dataset.participants[0].sessions[0].series
    (warning,) = series.warnings
    for word in ["sub-01_dwi.nii.gz", *words]:
        assert word in warning
    assert series.blip_pair is None


@pytest.mark.parametrize("vector", ["nan", "0", "0.3"])
def test_vector_of_a_b0_volume_does_not_matter(maker, vector) -> None:
    maker.dwi("sub-01_dwi", bvals=[8, *[1000] * 6], metadata=maker.AP)
    path = maker.path("sub-01_dwi.bvec")
    bvecs = np.loadtxt(path)
    bvecs[:, 0] = float(vector)
    np.savetxt(path, bvecs)
    run = read_dataset(maker.root).participants[0].sessions[0].series[0].runs[0]
    assert run.has_b0
    assert run.load().gtab.bvecs_ras[0].tolist() == [0, 0, 0]


def test_missing_orientation_is_said_so(maker) -> None:
    path = maker.dwi("sub-01_dwi", metadata=maker.AP)
    image = nib.load(path)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, path)
    (series,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert "qform_code and sform_code are 0" in series.warnings[0]


# Large datasets


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """One real participant and 999 copies of its names."""
    root = tmp_path_factory.mktemp("large")
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "Large", "BIDSVersion": "1.10.0"})
    )
    image = nib.Nifti1Image(np.ones((4, 4, 4, 2), np.int16), np.eye(4))
    nib.save(image, root / "image.nii.gz")
    content = (root / "image.nii.gz").read_bytes()
    (root / "image.nii.gz").unlink()
    for number in range(1000):
        for session in "ab":
            folder = root / f"sub-{number:04d}" / f"ses-{session}" / "dwi"
            folder.mkdir(parents=True)
            stem = f"sub-{number:04d}_ses-{session}_dwi"
            (folder / f"{stem}.nii.gz").write_bytes(content)
            (folder / f"{stem}.bval").write_text("0 1000")
            (folder / f"{stem}.bvec").write_text("0 1\n0 0\n0 0")
            (folder / f"{stem}.json").write_text("{}")
    return root


def test_one_of_a_thousand_participants_is_read_quickly(thousand) -> None:
    start = time.perf_counter()
    dataset = read_dataset(thousand, participant_labels=["0500"])
    # Measured 0.4 s; a full index takes 6 s, with metadata several times that.
    assert time.perf_counter() - start < 4
    assert found(dataset) == {("0500", s): [f"sub-0500_ses-{s}"] for s in "ab"}


def test_label_that_begins_like_another_is_not_mixed_up(maker) -> None:
    for label in ("01", "011", "0"):
        maker.dwi(f"sub-{label}_dwi", metadata=maker.AP)
    dataset = read_dataset(maker.root, participant_labels=["01"])
    assert [p.label for p in dataset.participants] == ["01"]


def test_reverse_image_with_gradient_files_has_its_own_b0s(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    metadata = {**maker.PA, "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}
    maker.json("sub-01_dir-PA_epi.json", metadata)
    maker.image("sub-01_dir-PA_epi.nii.gz", shape=(6, 6, 4, 3))
    (plain,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert plain.reverse[0].bval is None
    maker.gradients("sub-01_dir-PA_epi", [1000, 0, 1000])
    (series,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert series.blip_pair is not None
    assert series.blip_pair[1].bval is not None
    maker.gradients("sub-01_dir-PA_epi", [1000, 1000, 1000])
    (useless,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert useless.blip_pair is None


@pytest.mark.parametrize(
    ("place", "target", "word"),
    [
        ("sub-01/dwi", "/mnt/nowhere/dwi", "mount the folder"),
        ("sub-01/ses-2", ".git/annex/objects/x", "datalad get"),
        ("sub-01/ses-1/fmap", "/mnt/nowhere/fmap", "mount the folder"),
        ("sub-01/ses-2", "ses-2", "mount the folder"),  # a link to itself
    ],
)
def test_folder_link_that_leads_nowhere_is_a_problem(maker, place, target, word) -> None:
    maker.dwi("sub-01_ses-1_dwi", metadata=maker.AP)
    link = maker.root / place
    link.symlink_to(target)
    dataset = read_dataset(maker.root)
    assert [p.label for p in dataset.participants] == ["01"]
    assert [(p.participant, p.path) for p in dataset.problems] == [("01", link)]
    assert word in str(dataset.problems[0].error)


def test_folder_link_of_a_session_not_asked_for_is_no_problem(maker) -> None:
    maker.dwi("sub-01_ses-1_dwi", metadata=maker.AP)
    (maker.root / "sub-01" / "ses-2").symlink_to("/mnt/nowhere")
    assert not read_dataset(maker.root, session_labels=["1"]).problems
    assert len(read_dataset(maker.root, session_labels=["2", "1"]).problems) == 1


@pytest.mark.parametrize(("modules", "name"), [("sub-01", "ses-2"), ("", "sub-01/ses-2")])
def test_empty_session_subdataset_is_a_problem(maker, modules, name) -> None:
    maker.dwi("sub-01_ses-1_dwi", metadata=maker.AP)
    (maker.root / "sub-01" / "ses-2").mkdir()
    text = f'[submodule "s"]\n\tpath = {name}\n\turl = ./x\n'
    (maker.root / modules / ".gitmodules").write_text(text)
    (problem,) = read_dataset(maker.root).problems
    assert problem.path == maker.root / "sub-01" / "ses-2"
    assert f"datalad get {name}" in str(problem.error)
