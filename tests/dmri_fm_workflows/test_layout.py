"""The output folder as pybids, qsirecon and pyAFQ look through it.

The tree has one empty file for each output that the app's tables name. The queries are those of
qsirecon 1.1 (`data/io_spec.yaml`, `utils/bids.py`) and pyAFQ 2 (`api/group.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from bids import BIDSLayout
from bids.layout import Query

from dmri_fm_workflows.outputs import (
    identify,
    load_catalogue,
    output_path,
    publish_json,
    publish_text,
    pybids_config,
    sidecar_path,
    write_root_files,
)
from dmri_fm_workflows.outputs.naming import ENTITY_KEYS, SOURCE_ENTITIES
from dmri_fm_workflows.outputs.sidecars import describe_columns, image_sidecar
from dmri_fm_workflows.outputs.tsv import scan_columns
from dmri_fm_workflows.stages import outputs as tables
from dmri_fm_workflows.stages.templates import list_transforms
from dmri_fm_workflows.templates import TemplateFiles

MNI = "MNI152NLin2009aSym"

#: One participant, two series: the second one's name begins with that of the first.
ANATOMY = {"subject": "01"}
SERIES = ({"subject": "01"}, {"subject": "01", "acquisition": "rot", "direction": "PA"})

#: What `--output-spaces` adds, with `--normalisation syn`: qsirecon asks for this template.
TEMPLATE = TemplateFiles("MNI152NLin2009cAsym", "2", Path("tpl-x_T1w.nii.gz"), None)


def paths(output: tables.Output, scan: Mapping[str, str]) -> Iterator[str]:
    """Yield the paths of the files that a sink writes, the image first."""
    of = load_catalogue().output_type(output.type)
    ends = {f"{k}_space": v for k, v in output.entities.items()}
    endings = of.extensions[: len(output.fields)]
    if of.is_transform and {MNI, TEMPLATE.name} & {*output.entities.values()}:
        endings = (".h5",)
    for ending in endings:
        path = output_path(
            scan,
            output.type,
            model=output.model,
            space=output.space,
            extension=ending,
            **ends,
        )
        yield path.as_posix()


def write_tree(out: Path, scans: Sequence[Mapping[str, str]] = SERIES) -> None:
    """Write empty files, and sidecars with what pybids may take for an entity."""
    write_root_files(out, source=out.parent, source_name="Study", environ={})
    series = (
        *tables.HMC_OUTPUTS,
        *(o for o in tables.NORMALISE_OUTPUTS if MNI not in (o.ends or ())),
        *tables.QUALITY_OUTPUTS,
        *tables.map_outputs("tensor"),
    )
    anatomy = (
        *tables.anat_outputs(),
        *tables.TISSUE_OUTPUTS,
        *list_transforms("anat_xfm", [TEMPLATE]),
    )
    for scan, outputs in ((ANATOMY, anatomy), *((s, series) for s in scans)):
        for output in outputs:
            for name in paths(output, scan):
                publish_text("", out / name)
            of = load_catalogue().output_type(output.type)
            columns = [*scan_columns(scan), "bval"] if of.extensions[0] == ".tsv" else []
            if of.has_sidecar:
                content = image_sidecar(
                    of.name,
                    model=output.model,
                    space=output.space,
                    ends=output.ends,
                    columns=columns,
                )
                publish_json(content, out / sidecar_path(Path(name)))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw dataset that holds the outputs where pyAFQ looks for them."""
    root = tmp_path_factory.mktemp("study")
    (root / "dataset_description.json").write_text('{"Name": "Study", "BIDSVersion": "1.10.0"}')
    write_tree(root / "derivatives" / "drope-bidsapp")
    return root


@pytest.fixture(scope="module")
def out(study: Path) -> Path:
    return study / "derivatives" / "drope-bidsapp"


@pytest.fixture(scope="module")
def layout(out: Path) -> BIDSLayout:
    """What qsirecon opens."""
    return BIDSLayout(out, validate=False, config=["bids", "derivatives"])


@pytest.fixture(scope="module")
def our_layout(out: Path) -> BIDSLayout:
    return BIDSLayout(out, validate=False, config=["bids", "derivatives", pybids_config()])


def names(files: list[Any]) -> list[str]:
    return sorted(Path(f).name for f in files)


# pybids


def test_maps_are_found_by_model_and_param(our_layout: BIDSLayout) -> None:
    wanted = {"model": "tensor", "param": "fa", "extension": ".nii.gz"}
    found = our_layout.get(space="ACPC", acquisition=None, return_type="file", **wanted)
    expected = output_path(SERIES[0], "fa", model="tensor", space="ACPC").name
    assert names(found) == [expected]
    found = our_layout.get(space=MNI, res="2", acquisition="rot", return_type="file", **wanted)
    assert names(found) == [output_path(SERIES[1], "fa", model="tensor", space=MNI).name]
    params = {of.entities["param"] for of in load_catalogue().maps_of("tensor")}
    assert set(our_layout.get_params(model="tensor")) == params


def test_pybids_reads_every_name_as_it_is_meant(our_layout: BIDSLayout, out: Path) -> None:
    """Its entities are ours, but for those of numbers, which are padded or not."""
    short = {"resolution": "res"}
    n_files = 0
    for path, file in our_layout.files.items():
        if "sub-01" not in Path(path).parts:
            continue
        n_files += 1
        meant = identify(Path(path).relative_to(out))
        read = file.get_entities(metadata=False)
        expected = {short.get(k, k): v for k, v in meant.entities.items()}
        kept = {k: str(v) for k, v in read.items() if k in expected}
        assert kept == expected, path
        assert read["suffix"] == meant.type.suffix
        assert read["datatype"] == meant.type.datatype
    assert n_files > 40


def test_configuration_holds_what_pybids_lacks_and_no_more() -> None:
    ours = {e["name"] for e in json.loads(pybids_config().read_text())["entities"]}
    known = builtin_entities()
    assert not ours & known
    assert set(ENTITY_KEYS) - {"resolution"} <= ours | known


def builtin_entities() -> set[str]:
    """Return the entities of pybids' own configurations."""
    folder = files("bids").joinpath("layout", "config")
    return {
        entity["name"]
        for name in ("bids", "derivatives")
        for entity in json.loads(folder.joinpath(f"{name}.json").read_text())["entities"]
    }


def test_no_column_is_described_under_the_name_of_an_entity() -> None:
    """From a sidecar pybids takes it for the entity, and refuses to open the dataset."""
    assert describe_columns([*SOURCE_ENTITIES, "bval"]).keys() == {"bval"}


# qsirecon

NIFTI = ["nii", "nii.gz"]
IN_ANAT = {"datatype": "anat", "space": [Query.NONE, "ACPC"], "extension": NIFTI}
TRANSFORM = {"datatype": "anat", "mode": "image", "suffix": "xfm"}


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(IN_ANAT | {"desc": "preproc", "suffix": ["T1w", "T2w"]}, id="acpc_preproc"),
        pytest.param(IN_ANAT | {"desc": "brain", "suffix": "mask"}, id="acpc_brain_mask"),
        pytest.param(IN_ANAT | {"desc": None, "suffix": "dseg"}, id="acpc_seg"),
        *(
            pytest.param(
                IN_ANAT | {"label": tissue, "suffix": "probseg"},
                id=f"acpc_{tissue.lower()}_probseg",
            )
            for tissue in ("CSF", "GM", "WM")
        ),
        pytest.param(
            TRANSFORM | {"from": "orig", "to": ["T1w", "T2w", "ACPC"], "extension": ".txt"},
            id="orig_to_acpc_xfm",
        ),
        pytest.param(
            TRANSFORM | {"from": "MNI152NLin2009cAsym", "to": ["T1w", "ACPC"], "extension": ".h5"},
            id="template_to_acpc_xfm",
        ),
        pytest.param(
            TRANSFORM | {"from": ["T1w", "ACPC"], "to": "MNI152NLin2009cAsym", "extension": ".h5"},
            id="acpc_to_template_xfm",
        ),
    ],
)
def test_qsirecon_finds_one_of_each(layout: BIDSLayout, query: dict[str, Any]) -> None:
    """It takes a single file, and stops at two."""
    found = layout.get(subject="01", session=Query.NONE, return_type="file", **query)
    assert len(found) == 1


def test_qsirecon_finds_each_series_once_with_its_gradients(layout: BIDSLayout) -> None:
    found = layout.get(
        suffix="dwi", session=Query.OPTIONAL, space=["T1w", "ACPC"], extension=NIFTI
    )
    expected = [output_path(scan, "preproc_dwi", space="ACPC").name for scan in SERIES]
    assert names(found) == sorted(expected)
    for file in found:
        for ending in (".bval", ".bvec", ".b"):
            assert Path(file.path.replace(".nii.gz", ending)).exists()


# pyAFQ


@pytest.fixture(scope="module")
def pyafq_layout(study: Path) -> BIDSLayout:
    return BIDSLayout(study, derivatives=True)


def files_for_pyafq(layout: BIDSLayout, **filters: Any) -> list[str]:
    """Return the names of the series, b-values and b-vectors that `GroupAFQ` would take."""
    query = {
        "subject": "01",
        "session": None,
        "return_type": "filename",
        "scope": "drope-bidsapp",
        "extension": "nii.gz",
        "suffix": "dwi",
    }
    first = layout.get(**query | filters)[0]
    filters.pop("suffix", None)
    three = first, layout.get_bval(first, **filters), layout.get_bvec(first, **filters)
    return [Path(file).name for file in three]


def files_of(scan: Mapping[str, str]) -> list[str]:
    endings = (".nii.gz", ".bval", ".bvec")
    return [output_path(scan, "preproc_dwi", space="ACPC", extension=e).name for e in endings]


@pytest.mark.parametrize(
    ("entities", "scan"),
    [
        ({"acquisition": None, "direction": None}, SERIES[0]),
        ({"acquisition": "rot"}, SERIES[1]),
    ],
)
def test_pyafq_finds_one_of_several_series(
    pyafq_layout: BIDSLayout, entities: dict[str, Any], scan: dict[str, str]
) -> None:
    """All entities that tell them apart are needed, or pybids 0.22 may mix their gradients."""
    found = files_for_pyafq(pyafq_layout, suffix="dwi", space="ACPC", **entities)
    assert found == files_of(scan)


def test_pyafq_finds_the_only_series_by_its_space(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    write_tree(tmp_path / "derivatives" / "drope-bidsapp", SERIES[:1])
    layout = BIDSLayout(tmp_path, derivatives=True)
    assert files_for_pyafq(layout, suffix="dwi", space="ACPC") == files_of(SERIES[0])
