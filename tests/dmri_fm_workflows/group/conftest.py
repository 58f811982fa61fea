"""Synthetic output folders of many participants, with known numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dmri_fm_workflows.group import RegionSet
from dmri_fm_workflows.outputs import output_path, publish_text
from dmri_fm_workflows.outputs.tsv import format_table

MNI = "MNI152NLin2009aSym"
AFFINE = np.array([[2.0, 0, 0, -10], [0, 2, 0, -12], [0, 0, 2, -10], [0, 0, 0, 1]])
SHAPE = (10, 12, 10)


def _image(path: Path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), AFFINE), path)


class Outputs:
    """An output folder that grows by participants."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, scan, of, **options) -> Path:
        return self.root / output_path(scan, of, **options)

    def add_scan(self, scan, *, fa=0.4, fd=0.2, bmax=1000, cls=(0.5, -0.25, 1.0), weights="aa",
                 n_unknown=0, sdc="pepolar"):  # fmt: skip
        """Write the tables, maps and gradients of a scan.

        Pooled features are twice the class token; the last `n_unknown` of them are `n/a`.
        """
        pooled = [*(2 * v for v in cls[: len(cls) - n_unknown]), *[math.nan] * n_unknown]
        features = {
            f"{of}{i:03d}": v
            for of, values in (("cls", cls), ("pooled", pooled))
            for i, v in enumerate(values)
        }
        row = {"participant_id": "wrong", **features, "ood_score": 1.5, "max_bval": bmax,
               "weights_sha256": weights}  # fmt: skip
        publish_text(
            format_table([row], list(row), digits=9),
            self.path(scan, "features_scan", model="drope"),
        )
        quality = {"mean_fd": fd, "snr_b0": 20.0, "sdc_method": sdc, "note": "text"}
        publish_text(format_table([quality], list(quality)), self.path(scan, "image_qc"))
        mask = np.zeros(SHAPE)
        mask[:, :, :5] = 1
        _image(self.path(scan, "dwi_mask", space=MNI), mask)
        rng = np.random.default_rng(0)
        for model, of, centre in (
            ("tensor", "fa", fa),
            ("tensor", "md", 7e-4),
            ("tensorrefiner", "fa", fa + 0.1),
        ):
            noise = rng.normal(scale=0.01 * centre, size=SHAPE)
            _image(self.path(scan, of, model=model, space=MNI), (centre + noise) * mask)
        publish_text(f"0 {bmax} {bmax + 2}\n",
                     self.path(scan, "preproc_dwi", space="ACPC", extension=".bval"))  # fmt: skip

    def add_record(self, participant, run="20260101-000000_a", **changes):
        """Write the record of a run."""
        record = {
            "participant": participant,
            "status": "complete",
            "run_uuid": run,
            "version": "0.1.0",
            "command": "drope-bidsapp /bids /out participant",
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T01:00:00+00:00",
            "fingerprint": "ff",
            "outputs": {},
            "errors": [],
        } | changes
        path = self.root / participant / "log" / run / "provenance.json"
        publish_text(json.dumps(record), path)

    def add_participant(self, label, **options):
        """Write a complete participant with one scan."""
        self.add_scan({"subject": label, "direction": "AP"}, **options)
        self.add_record(f"sub-{label}")


@pytest.fixture(scope="session")
def make_outputs():
    """Return the builder of output folders."""
    return Outputs


@pytest.fixture
def outputs(tmp_path):
    (tmp_path / "out").mkdir()
    return Outputs(tmp_path / "out")


@pytest.fixture(scope="session")
def regions():
    """Left and right halves, the lower part white matter and the upper grey."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[:5, :, :5], labels[5:, :, :5] = 1, 2
    labels[:, :, 6:] = 3
    names = {1: "wm_left", 2: "wm_right", 3: "gm_top"}
    return RegionSet.from_table(labels, AFFINE, names=names, tissues={1: "wm", 2: "wm", 3: "gm"})
