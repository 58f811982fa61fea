"""What tensor networks read: volumes as acquired, and their noise."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.gradient_files import read_gradients
from dmri_fm.normalise.noise import spline_noise_gain
from dmri_fm.normalise.transforms import write_affine
from dmri_fm.preprocess.denoise import foreground
from dmri_fm.qspace import choose_six
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm.tensor_networks.volumes import ChosenVolumes, choose_volumes
from dmri_fm_workflows.interfaces.denoise import DenoiseDwi
from dmri_fm_workflows.interfaces.models import PredictTensor
from dmri_fm_workflows.interfaces.motion import EstimateMotion, SkipMotion
from dmri_fm_workflows.interfaces.network_input import NOISE_DOUBT, MapNoise, ResampleChosen
from dmri_fm_workflows.interfaces.normalise import ResampleDwi
from dmri_fm_workflows.interfaces.preprocess import MergeRuns

#: Slice of one of the six directions that loses its signal.
LOST_SLICE = 6

GRADIENTS = ("bval_file", "bvec_file")


@pytest.fixture(scope="module")
def scan(data_dir: Path) -> Dwi:
    """Give the middle of a real scan, 16 directions, with a dropout in one of its best six."""
    stem = data_dir / "ds-vendors" / "sub-umr" / "dwi" / "sub-umr_dir-AP_dwi"
    whole = Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec", b_scaling="auto")
    data = whole.data[14:50, 14:50, 2:18].copy()
    data[:, :, LOST_SLICE, choose_six(whole.gtab).index[2]] *= 0.2
    affine = whole.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [14, 14, 2]
    return Dwi.from_arrays(data, affine, whole.gtab, mask=foreground(data))


def run(node, folder: Path, name: str):
    """Run an interface in a folder of its own; return its outputs."""
    (folder / name).mkdir()
    return node.run(cwd=str(folder / name)).outputs


def read_choice(path: str) -> ChosenVolumes:
    """Read the choice that the resampling wrote."""
    return ChosenVolumes.from_json(json.loads(Path(path).read_text()))


def preprocess(scan: Dwi, folder: Path, *, denoise: str, motion) -> SimpleNamespace:
    """Run the stages before the models, with a turn into ACPC; return their outputs."""
    stem = folder / "raw"
    scan.save(stem)
    raw = {"dwi_file": f"{stem}.nii.gz", "bval_file": f"{stem}.bval", "bvec_file": f"{stem}.bvec"}
    mask = str(save_image(scan.brain, scan.affine, folder / "mask.nii", dtype=np.uint8))
    denoised = run(DenoiseDwi(**raw, method=denoise), folder, "denoise").out_file
    merged = run(MergeRuns(
        dwi_files=[denoised], raw_files=[raw["dwi_file"]], bval_files=[raw["bval_file"]],
        bvec_files=[raw["bvec_file"]], phase_encodings=["j"], readouts_s=[0.05],
    ), folder, "merge")  # fmt: skip
    tables = {f: getattr(merged, f) for f in GRADIENTS}
    series = {"dwi_file": merged.dwi_file, **tables, "volumes_file": merged.volumes_file}
    if motion is EstimateMotion:
        reference = save_image(scan.mean_b0(), scan.affine, folder / "dwiref.nii")
        node = EstimateMotion(**series, mask_file=mask, dwiref_file=str(reference), sloppy=True)
    else:
        node = SkipMotion(**series)
    moved = run(node, folder, "motion")
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [4, -3, 6], degrees=True).as_matrix()
    xfm = str(write_affine(turn, folder / "to_acpc.txt"))
    placed = run(ResampleDwi(
        **series, motion_file=moved.motion_file, mask_file=mask, xfm_files=[xfm], grid="acpc",
    ), folder, "acpc")  # fmt: skip
    noise = run(MapNoise(**raw), folder, "noise")
    chosen = run(ResampleChosen(
        **(series | {"dwi_file": merged.raw_file}),
        motion_file=moved.motion_file,
        outliers_file=moved.outliers_file,
        xfm_file=xfm,
        acpc_bval_file=placed.bval_file,
        acpc_bvec_file=placed.bvec_file,
        acpc_mask_file=placed.mask_file,
        noise_files=[noise.noise_file],
        run_scales=merged.run_scales,
    ), folder, "chosen")  # fmt: skip
    return SimpleNamespace(placed=placed, noise=noise, chosen=chosen, moved=moved)


def test_noise_of_zero_filled_images_is_in_doubt(scan, tmp_path: Path) -> None:
    names = ("dwi_file", "bval_file", "bvec_file")
    files = scan.select(range(4)).save(tmp_path / "run")
    raw = dict(zip(names, map(str, files), strict=False))
    records = [
        MapNoise(**raw, kspace_extent=extent).run(cwd=tmp_path).outputs.record
        for extent in (0.5, 1.0, None)
    ]
    assert [NOISE_DOUBT in record for record in records] == [True, False, False]


@pytest.fixture(scope="module")
def made(scan, tmp_path_factory) -> SimpleNamespace:
    return preprocess(
        scan, tmp_path_factory.mktemp("scan"), denoise="mppca", motion=EstimateMotion
    )


def test_a_volume_with_a_dropout_is_not_among_the_six(scan, made) -> None:
    damaged = choose_six(scan.gtab).index[2]
    assert np.load(made.moved.outliers_file)[damaged, LOST_SLICE]
    chosen = read_choice(made.chosen.choice_file)
    assert damaged in chosen.excluded
    gtab = read_gradients(
        made.placed.bval_file,
        made.placed.bvec_file,
        affine=load_image(made.placed.mask_file).affine,
    )
    assert damaged in choose_volumes(gtab).six.index, "it would be, undamaged"
    assert not {*chosen.index} & {*chosen.excluded}
    (reason,) = chosen.reasons
    assert "condition number 3.0" in reason, "slightly worse than with the damaged volume"
    assert load_image(made.chosen.dwi_file).shape[3] == len(chosen.index)


def test_the_input_is_the_series_before_denoising(made) -> None:
    inside = read_array(load_image(made.placed.mask_file)) > 0
    index = read_choice(made.chosen.choice_file).index
    denoised = read_array(load_image(made.placed.dwi_file))[..., index][inside]
    given = read_array(load_image(made.chosen.dwi_file))[inside]
    noise = read_array(load_image(made.chosen.noise_file))[inside]
    removed = (given - denoised)[:, 1:].std()
    # MP-PCA takes off most of the noise of a weighted image, and no more than noise.
    assert 0.5 * np.median(noise) < removed < 1.2 * np.median(noise)
    assert np.corrcoef(given[:, 0], denoised[:, 0])[0, 1] > 0.99, "and nothing else differs"


def test_without_denoising_the_input_is_the_series(scan, tmp_path) -> None:
    made = preprocess(scan, tmp_path, denoise="none", motion=SkipMotion)
    index = read_choice(made.chosen.choice_file).index
    series = read_array(load_image(made.placed.dwi_file))[..., index]
    np.testing.assert_allclose(read_array(load_image(made.chosen.dwi_file)), series, atol=1e-3)
    # Nothing moves between volumes: the noise is that of the run, less what interpolation takes.
    inside = read_array(load_image(made.placed.mask_file)) > 0
    ratio = read_array(load_image(made.chosen.noise_file))[inside] / np.median(
        read_array(load_image(made.noise.noise_file))[scan.brain]
    )
    middle = spline_noise_gain(np.full(3, 0.5), 3)
    assert middle < np.median(ratio) < 1


def test_runs_keep_their_own_noise(tmp_path) -> None:
    """The second run is three times as loud, and has ten times the noise after scaling."""
    for name, level in (("a", 1.0), ("b", 30.0)):
        save_image(np.full((6, 6, 4), level), np.eye(4), tmp_path / f"{name}.nii")
    rows = ["run\tphase_encoding\treadout_s\toriginal_file"]
    rows += [f"{int(n > 3)}\tj\t0.05\tx.nii" for n in range(7)]
    (tmp_path / "volumes.tsv").write_text("\n".join(rows) + "\n")
    node = ResampleChosen(
        noise_files=[str(tmp_path / "a.nii"), str(tmp_path / "b.nii")],
        run_scales=[1.0, 1 / 3],
        volumes_file=str(tmp_path / "volumes.tsv"),
    )
    found = node._noise_of([1, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(found[0, 0, 0], [1, 1, 1, 10, 10, 10])


def test_the_maps_say_what_they_were_made_from(made, tmp_path) -> None:
    placed = made.placed
    done = PredictTensor(
        model="tensor-refiner",
        maps=["diffusivity", "fa"],
        dwi_file=placed.dwi_file,
        bval_file=placed.bval_file,
        bvec_file=placed.bvec_file,
        mask_file=placed.mask_file,
        chosen_file=made.chosen.dwi_file,
        noise_file=made.chosen.noise_file,
        noise_record=made.noise.record,
        choice_file=made.chosen.choice_file,
        smallest_brain_ml=9000.0,
        reasons=["the participant is too young"],
        base={"Input": "not denoised"},
    ).run(cwd=str(tmp_path)).outputs  # fmt: skip
    record = done.record
    assert record["NoiseSource"].startswith("MP-PCA")
    chosen = read_choice(made.chosen.choice_file)
    assert record["ExcludedVolumes"] == [*chosen.excluded]
    assert record["Volumes"] == [*chosen.six.index]
    assert record["Status"] == "experimental"
    assert "the participant is too young" in record["StatusReasons"]
    assert any("as an infant's is" in reason for reason in record["StatusReasons"])
    assert record["Input"] == "not denoised"
    inside = read_array(load_image(placed.mask_file)) > 0
    reference = read_array(load_image(placed.dwiref_file))[inside].mean()
    noise = np.median(read_array(load_image(made.chosen.noise_file))[inside]) / reference
    assert record["NoiseOverMeanB0"] == pytest.approx(noise, rel=0.1)
    assert 0.1 < np.median(read_array(load_image(done.fa_file))[inside]) < 0.5


def test_outliers_of_six_directions_are_not_excluded(data_dir, tmp_path) -> None:
    """The mean of the other directions predicts each: anisotropy looks like lost signal."""
    stem = data_dir / "ds-sim" / "sub-sim01" / "dwi" / "sub-sim01_dir-AP_dwi"
    whole = Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")
    seven = whole.select([0, *choose_six(whole.gtab).index])
    data = seven.data[10:70, 10:90, 20:76].copy()
    part = Dwi.from_arrays(data, whole.affine, seven.gtab, mask=foreground(data))
    made = preprocess(part, tmp_path, denoise="none", motion=EstimateMotion)
    flagged = np.flatnonzero(np.load(made.moved.outliers_file).any(axis=1))
    assert len(flagged) > 0, "nothing is lost, but slices are flagged"
    chosen = read_choice(made.chosen.choice_file)
    assert (chosen.excluded, chosen.doubtful) == ((), tuple(flagged))
    assert chosen.reasons == []
