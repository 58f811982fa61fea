from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.errors import LayoutError
from dmri_fm.normalise.transforms import write_affine
from dmri_fm.preprocess.eddy_translation import EddyTranslation
from dmri_fm.preprocess.motion import MotionEstimate
from dmri_fm.preprocess.motion_table import write_motion_tsv
from dmri_fm.series import Dwi, save_image
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.app_outputs import AppOutput, cut_to_seven, with_intervals
from dmri_fm_lab.evaluate.bootstrap import model_noise
from dmri_fm_lab.scans import find_scans
from dmri_fm_workflows.bids import read_dataset


def test_the_truth_follows_the_apps_transforms(raw, noisy, tmp_path) -> None:
    """ACPC is the truth's grid, turned: reference and first volume each take a part of it."""
    dwi, truth, _ = noisy
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    back = np.linalg.inv(turn)
    shift = np.eye(4)
    shift[:3, 3] = [3.0, -1.0, 2.0]
    # A point x of ACPC is at turn x of the reference, and that at shift turn x of the volume.
    acpc = np.linalg.inv(shift @ turn) @ truth.affine
    out = tmp_path / "out"
    stem = out / "sub-01" / "dwi" / "sub-01"
    corrected = Dwi.from_arrays(dwi.data, acpc, dwi.gtab.rotated(back[:3, :3]), mask=dwi.mask)
    corrected.save(stem.with_name("sub-01_space-ACPC_desc-preproc_dwi"))
    save_image(dwi.mask, acpc, stem.with_name("sub-01_space-ACPC_desc-brain_mask.nii.gz"))
    (out / "dataset_description.json").write_text(json.dumps({"DatasetType": "derivative"}))
    write_affine(turn, f"{stem}_from-dwiref_to-ACPC_mode-image_xfm.txt")
    n = len(dwi.gtab)
    motion = MotionEstimate(
        xfms=np.stack([shift, *[np.eye(4)] * (n - 1)]),
        is_outlier=np.zeros((n, 0), dtype=bool),
        parameters=np.zeros((n, 15)),
        fd_mm=np.zeros(n),
        method="none",
        eddy=EddyTranslation.unknown(n, "test"),
    )
    write_motion_tsv(motion, f"{stem}_from-orig_to-dwiref_mode-image_desc-eddy_xfm.tsv")
    found = AppOutput.read(out, raw, "01")
    # Voxels of ACPC lie on voxels of the truth: nothing is interpolated.
    maps = found.truth.maps
    inside = maps.mask & truth.mask
    assert inside.mean() > 0.2
    np.testing.assert_allclose(maps.fa[inside], truth.fa[inside], atol=2e-3)
    turned = truth.v1[inside] @ back[:3, :3].T
    sure = truth.fa[inside] > 0.2
    assert np.abs((maps.v1[inside] * turned).sum(axis=1))[sure].min() > 0.99
    with pytest.raises(LayoutError, match="no truth"):
        AppOutput.read(out, out, "01")


def test_a_cut_dataset_has_seven_volumes(raw, tmp_path, noisy) -> None:
    cut = cut_to_seven(raw, tmp_path / "seven", ["01"])
    (whole,), (seven,) = (list(find_scans(root)) for root in (raw, cut))
    assert len(seven.dwi.gtab) == 7
    assert seven.dwi.gtab.is_b0.tolist() == [True] + [False] * 6
    assert seven.dwi.gtab.count_directions() == 6
    assert seven.encoding == whole.encoding
    # The volumes are those of the series, with their own directions.
    for n in range(7):
        same = [k for k in range(len(whole.dwi.gtab))
                if np.array_equal(whole.dwi.data[..., k], seven.dwi.data[..., n])]  # fmt: skip
        assert len(same) == 1
        np.testing.assert_allclose(
            whole.dwi.gtab.bvecs_ras[same[0]], seven.dwi.gtab.bvecs_ras[n], atol=1e-4
        )


def test_reversed_images_correct_a_cut_scan_and_do_not_join_it(raw, tmp_path, noisy) -> None:
    reverse = raw / "sub-01" / "dwi" / "sub-01_dir-PA_dwi"
    noisy[0].select([0, 1]).save(reverse)
    reverse.with_suffix(".json").write_text(
        json.dumps({"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05})
    )
    cut = cut_to_seven(raw, tmp_path / "seven", ["01"])
    (participant,) = read_dataset(cut).participants
    (series,) = participant.sessions[0].series
    assert series.n_volumes == 7
    assert series.outside_image.path.name == "sub-01_dir-PA_epi.nii.gz"
    assert series.pair_reason == "linked by IntendedFor"
    assert [p.name for p in (cut / "sub-01").rglob("*PA*bv*")] == []


def test_intervals_are_the_bootstraps(noisy) -> None:
    dwi, truth, tissue = noisy
    noise = model_noise(dwi, mask=tissue, sigma=5.0, rng=np.random.default_rng(0), n_replicates=3)
    maps = with_intervals(truth, noise, tissue)
    assert isinstance(maps, TensorMaps)
    np.testing.assert_allclose(maps.std["md"][tissue], np.sqrt(noise.variance["md"]), rtol=1e-5)
    assert not maps.std["fa"][~tissue].any()
