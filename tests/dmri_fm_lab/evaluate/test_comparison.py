from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.errors import ConfigError, ImageError, LayoutError
from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate.baselines import (
    BASELINES,
    DIRECTION_ROWS,
    SERIES_ORACLES,
    WHOLE_SERIES,
    choose_protocol,
    denoise_series,
    fit_directions,
)
from dmri_fm_lab.evaluate.comparison import (
    METHOD_TITLES,
    MOST_TRUTH_SUBSETS,
    Request,
    compare_scan,
)
from dmri_fm_lab.evaluate.comparison_text import format_series
from dmri_fm_lab.evaluate.dataset_comparison import summarise_scanners
from dmri_fm_lab.evaluate.records import json_ready, write_json
from dmri_fm_lab.evaluate.reference import Reference, make_reference
from dmri_fm_lab.evaluate.regions import Regions, reference_regions
from dmri_fm_lab.evaluate.scores import interval_coverage, score
from dmri_fm_lab.evaluate.subsets import choose_subsets
from dmri_fm_lab.evaluate.truth import Truth, undistort
from dmri_fm_lab.evaluate.verdicts import TO_BEAT
from dmri_fm_lab.scans import Scan, find_scans
from dmri_fm_lab.simulate.anatomy import Fractions

REGIONS = {"tissue", "white", "grey"}


def test_titles_name_every_method() -> None:
    rows = {*BASELINES, *SERIES_ORACLES, *DIRECTION_ROWS, *WHOLE_SERIES}
    assert set(METHOD_TITLES) == rows | {"network", "gaussian-oracle"}


def test_the_command_writes_all_numbers(derivative, tmp_path, capsys) -> None:
    out = tmp_path / "out" / "scores.json"
    methods = [*TO_BEAT, "network", "mppca-all"]
    options = ["--subsets", "2", "--methods", *methods, "--json", str(out), "--replicates", "5"]
    options += ["--model", "tensor-refiner"]
    assert main(["evaluate", "tensor", str(derivative), *options]) == 0
    printed = capsys.readouterr().out
    assert "Simulated, sub-01, preprocessed, 2 x 2 x 2 mm, b = 1000" in printed
    assert "reference's noise, bootstrap" in printed
    assert str(out) in printed
    found = json.loads(out.read_text())
    assert len(found["networks"]["tensor-refiner"]["sha256"]) == 64
    assert printed.count("verdict, tensor-refiner, grey: ") == 2
    assert "Verdicts by scanner" in printed
    assert "Research only" in printed
    assert found["versions"]["dipy"]
    (series,) = found["series"]
    assert len(series["subsets"]) == 2
    for subset in series["subsets"]:
        assert not set(subset["weighted"]) & set(subset["reference_weighted"])
        assert not subset["shares_b0"]
        assert 2 < subset["network_snrs"]["tensor-refiner"] < 60
        doubts = subset["uncertainties"]["tensor-refiner"]["tissue"]
        assert set(doubts) == set(TO_BEAT)
        assert 0 <= subset["network_ood_fractions"]["tensor-refiner"] <= 1
        assert 0 < doubts["wls"]["fa"] < 0.1
        for method in ("wls", "gaussian", "tensor-refiner", "mppca-all"):
            assert set(subset["methods"][method]) == REGIONS
            row = subset["methods"][method]["tissue"]
            assert 0 < row["fa_rmse_corrected"] < row["fa_rmse"]
            assert 0 < row["md"] < 1e-3
            assert 0 < row["v1_deg"] < 90
        # All volumes, the reference's too: nearest of all.
        tensor = {m: subset["methods"][m]["tissue"]["tensor"] for m in subset["methods"]}
        assert min(tensor, key=tensor.get) == "mppca-all"
    mean = series["means"]["1000"]["methods"]["wls"]["tissue"]["fa"]
    assert mean == pytest.approx(
        np.mean([s["methods"]["wls"]["tissue"]["fa"] for s in series["subsets"]])
    )


def test_the_command_says_what_is_wrong(derivative, tmp_path, capsys) -> None:
    evaluate = ["evaluate", "tensor"]
    for arguments, problem in (
        ([str(tmp_path / "missing")], "folder is missing"),
        ([str(derivative), "--participant-label", "99"], "no corrected series of 99"),
        ([str(derivative), "--methods", "magic"], "method magic"),
        ([str(derivative), "--subsets", "0"], "0 subsets"),
        ([str(derivative), "--model", "drope"], "drope"),
        ([str(derivative), "--model", "tensor-refiner", "--replicates", "1"], "1 bootstrap"),
        ([str(derivative), "--weights", "none.safetensors"], "MODEL=FILE"),
        ([str(derivative), "--weights", "drope=none.safetensors"], "weights of drope"),
        (
            [
                *(str(derivative), "--model", "tensor-refiner"),
                *("--weights", f"tensor-refiner={tmp_path / 'none.safetensors'}"),
            ],
            "none.safetensors",
        ),
    ):
        assert main([*evaluate, *arguments]) == 1
        assert problem in capsys.readouterr().err


def test_oracles_see_the_whole_series(noisy) -> None:
    scan = Scan("sub-01", "01", "Simulated", noisy[0], "raw")
    record = compare_scan(
        scan, Request(("wls", "mppca", "mppca-series"), n_subsets=1, n_replicates=4)
    )
    rows = record["subsets"][0]["methods"]
    # Of the tensor: noise has raised the reference's FA as it has raised that of least squares.
    assert rows["mppca-series"]["tissue"]["tensor"] < rows["wls"]["tissue"]["tensor"]
    assert rows["wls"]["tissue"]["fa_bias_corrected"] > rows["wls"]["tissue"]["fa_bias"]
    assert "oracle" in format_series(json_ready(record))


def test_a_series_of_few_directions_is_reported(noisy) -> None:
    scan = Scan("sub-01", "01", "Simulated", noisy[0].select(range(9)), "raw")
    record = compare_scan(scan, Request(("wls",)))
    assert record["subsets"] == []
    assert "too few directions" in format_series(record)
    assert "net was TRAINED on this brain" in format_series({**record, "trained_on": ["net"]})


def test_smaller_protocols_are_denoised_by_themselves(noisy) -> None:
    dwi, truth, tissue = noisy
    volumes = choose_protocol(dwi.gtab, 12)
    assert int(dwi.gtab.is_b0[volumes].sum()) == 1
    assert len(volumes) == 13
    (name, maps), *others = fit_directions(dwi).items()
    assert name == "mppca-12"
    assert not others, "the series has fourteen directions"
    six = fit_tensor(dwi.select(choose_protocol(dwi.gtab, 6)))
    errors = [np.abs(m.diffusivity - truth.diffusivity)[tissue].mean() for m in (maps, six)]
    assert errors[0] < errors[1]


def test_the_scanner_is_the_unit() -> None:
    def series(name: str, fa: float) -> dict:
        means = {
            "n_voxels": {"white": 10},
            "network_snrs": {"net": 20.0},
            "floor": {"white": {}},
            "methods": {"wls": {"white": {"fa": fa}}},
            "uncertainties": {"net": {"white": {"wls": {"fa": fa}}}},
        }
        return {
            "name": name, "scanner": "S", "is_truth": False, "trained_on": [],
            "titles": {"wls": "WLS"}, "means": {"995": means, "2000": means},
        }  # fmt: skip

    first, second = summarise_scanners([series("a", 0.1), series("b", 0.3)])
    assert (first["bval"], second["bval"]) == (1000, 2000)
    assert first["series"] == ["a", "b"]
    assert first["methods"]["wls"]["white"]["fa"] == pytest.approx(0.2)
    assert first["uncertainties"]["net"]["white"]["wls"]["fa"] == pytest.approx(0.2)


def test_the_reference_ignores_the_volumes_of_the_test(noisy) -> None:
    """The reference depends on its own volumes alone."""
    dwi = noisy[0]
    subset = choose_subsets(dwi.gtab, n_subsets=1)[0]
    rng = np.random.default_rng(0)
    before = make_reference(dwi, subset, brain=dwi.mask, rng=rng, n_replicates=2)
    data = dwi.data.copy()
    data[..., list(subset.volumes)] = 1.0
    changed = type(dwi).from_arrays(data, dwi.affine, dwi.gtab, mask=dwi.mask)
    after = make_reference(changed, subset, brain=dwi.mask, rng=rng, n_replicates=2)
    np.testing.assert_array_equal(before.maps.diffusivity, after.maps.diffusivity)
    np.testing.assert_array_equal(before.regions.white, after.regions.white)


def test_regions_exclude_margin_and_csf(noisy) -> None:
    dwi, truth, _ = noisy
    regions = reference_regions(truth, dwi.mask)
    assert not regions.tissue[[0, 1, -1, -2]].any()
    assert truth.md[regions.tissue].max() < 1.5e-3
    assert not (regions.white & regions.grey).any()
    assert truth.fa[regions.white].mean() > truth.fa[regions.grey].mean()
    with pytest.raises(ImageError, match="no tissue"):
        reference_regions(truth, np.zeros(dwi.shape[:3], dtype=bool))


def test_intervals_of_the_right_width_hold_nine_of_ten(noisy) -> None:
    _, truth, tissue = noisy
    rng = np.random.default_rng(0)
    error = rng.normal(0, 0.05, truth.fa.shape).astype(np.float32)
    std = {"fa": np.full(truth.fa.shape, 0.05, dtype=np.float32)}
    estimate = replace(truth, scalars={**truth.scalars, "fa": truth.fa + error}, std=std)
    reference = Reference(truth, Regions(tissue, tissue, tissue), None, None, is_truth=True)
    row = interval_coverage(estimate, reference, tissue)
    assert row["fa_coverage"] == pytest.approx(0.9, abs=0.02)
    assert row["fa_coverage_fa0.1-0.2"] == pytest.approx(0.9, abs=0.06)
    assert "md_coverage" not in row
    assert interval_coverage(truth, reference, tissue) == {}


def test_intervals_allow_for_the_references_noise(noisy) -> None:
    """An exact estimate without deviation is held as often as the reference's own noise says."""
    dwi, truth, _ = noisy
    subset = choose_subsets(dwi.gtab, n_subsets=1)[0]
    reference = make_reference(dwi, subset, brain=dwi.mask, rng=np.random.default_rng(0))
    nothing = np.zeros(truth.fa.shape, dtype=np.float32)
    row = score(replace(truth, std={"md": nothing}), reference)["tissue"]
    # Rician bias and few residuals keep it from being exact.
    assert 0.75 < row["md_coverage"] < 0.97


def test_equal_maps_score_zero(noisy) -> None:
    dwi, _, tissue = noisy
    maps = fit_tensor(dwi)
    reference = Reference(maps, Regions(tissue, tissue, tissue), None, None, is_truth=True)
    row = score(maps, reference)["tissue"]
    assert all(value == pytest.approx(0, abs=1e-6) for value in row.values())


def test_requests_are_checked() -> None:
    with pytest.raises(ConfigError, match="no method"):
        Request(methods=())
    with pytest.raises(ConfigError, match="replicates"):
        Request(n_replicates=1)


def test_a_folder_without_series_is_refused(tmp_path) -> None:
    (tmp_path / "dataset_description.json").write_text('{"DatasetType": "derivative"}')
    with pytest.raises(LayoutError, match="no corrected series"):
        next(iter(find_scans(tmp_path)))


def test_a_file_in_the_way_is_said(tmp_path) -> None:
    from dmri_fm.errors import OutputError

    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_json({}, tmp_path / "file" / "out.json")


@pytest.mark.slow
@pytest.mark.realdata
def test_a_real_series_is_compared(data_dir, tmp_path) -> None:
    out = tmp_path / "scores.json"
    options = ["--participant-label", "umr", "--subsets", "1", "--methods", "wls"]
    root = str(data_dir / "ds-vendors")
    assert main(["evaluate", "tensor", root, *options, "--json", str(out)]) == 0
    series = json.loads(out.read_text())["series"]
    assert {s["name"] for s in series} >= {"sub-umr_dir-PA", "sub-umr_acq-rot_dir-PA"}
    for record in series:
        assert record["scanner"] == "UIH uMR 770"
        (subset,) = record["subsets"]
        assert subset["condition_number"] == pytest.approx(2.71, abs=0.01)
        assert subset["shares_b0"]
        assert subset["n_voxels"]["tissue"] > 8_000
        assert subset["methods"]["wls"]["tissue"]["fa"] < 0.06


def test_denoising_precedes_the_interpolation_of_undistortion(noisy) -> None:
    """Half a voxel of distortion: every volume is interpolated, and none before MP-PCA."""
    dwi, maps, tissue = noisy
    field = DistortionField(np.full(maps.mask.shape, 20.0, np.float32), maps.affine)
    none = np.zeros(maps.mask.shape, np.float32)
    fractions = Fractions.of(tissue.astype(np.float32), none, none, none, none)
    truth = Truth(maps, fractions, field, has_tensor=True, is_moving=False)
    encoding = PhaseEncoding("j", 0.025)
    scan = Scan("sub-01", "01", "Simulated", replace(dwi, mask=None), "raw", encoding)
    request = Request(("wls", "mppca", "mppca-series", "mppca-12"), n_subsets=3)
    record = compare_scan(scan, request, truth=truth)
    assert len(record["subsets"]) == MOST_TRUTH_SUBSETS
    subset = record["subsets"][0]
    seven = [subset["b0"], *subset["weighted"]]

    def error_of(series) -> float:
        fit = fit_tensor(undistort(series, truth, encoding), shell="all")
        return score(fit, truth.reference())["tissue"]["fa"]

    expected = {
        "wls": error_of(scan.dwi.select(seven)),
        "mppca": error_of(denoise_series(scan.dwi.select(seven), method="mppca")),
        "mppca-series": error_of(denoise_series(scan.dwi, method="mppca").select(seven)),
        "mppca-12": error_of(
            denoise_series(scan.dwi.select(choose_protocol(dwi.gtab, 12)), method="mppca")
        ),
    }
    found = {name: rows["tissue"]["fa"] for name, rows in subset["methods"].items()}
    assert found == pytest.approx(expected, rel=1e-5)
