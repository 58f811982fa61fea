"""Seconds and peak memory of the group level over many participants.

Usage: python benchmarks/group_tables.py [PARTICIPANTS] [--maps N] [--columns K]

Writes derivatives of made-up participants (tables of features of K columns, of quality, records
of runs) into a temporary folder and runs `drope-bidsapp OUT group` over them. The first N
participants also have the tensor fit's four maps in template space: reading these is what the
time of a real cohort goes into, so it is printed per scan.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from dmri_fm.normalise.template import load_regions, load_template
from dmri_fm_workflows.group.exclusion import Exclusions
from dmri_fm_workflows.group.regional import Summary
from dmri_fm_workflows.group.scalars import ScanScalars, lay_out_long
from dmri_fm_workflows.group.writing import table_parquet, table_text
from dmri_fm_workflows.outputs import output_path
from dmri_fm_workflows.outputs.tsv import format_table
from dmri_fm_workflows.run_group import run_group

SPACE = "MNI152NLin2009aSym"
QUALITY = ("raw_neighbor_corr", "preproc_neighbor_corr", "mean_fd", "max_fd", "snr_b0",
           "cnr_b1000", "mask_volume_ml", "registration_dice")  # fmt: skip


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_participant(out: Path, label: str, rng: np.random.Generator, n_columns: int) -> None:
    """Write tables and the record of a participant."""
    scan = {"subject": label, "direction": "AP"}
    values = rng.normal(size=n_columns).astype(np.float32)
    features = {f"cls{i:03d}": float(v) for i, v in enumerate(values)}
    features |= {"max_bval": 1000.0, "weights_sha256": "ab" * 32}
    text = format_table([features], list(features), digits=9)
    write(out / output_path(scan, "features_scan", model="drope"), text)
    quality = dict(zip(QUALITY, rng.random(len(QUALITY)).tolist(), strict=True))
    write(out / output_path(scan, "image_qc"), format_table([quality], list(quality)))
    record = {"status": "complete", "finished": "2026-01-01T00:00:00+00:00", "outputs": {}}
    write(out / f"sub-{label}" / "log" / "a" / "provenance.json", json.dumps(record))


def write_maps(out: Path, label: str, rng: np.random.Generator) -> None:
    """Write the mask and four maps of a participant on the template's grid."""
    template = load_template(2)
    scan = {"subject": label, "direction": "AP"}
    images = {"dwi_mask": template.brain_mask.astype(np.uint8)}
    images |= {
        name: (template.brain_mask * rng.normal(0.5, 0.1, template.grid.shape)).astype(np.float32)
        for name in ("fa", "md", "ad", "rd")
    }
    for name, data in images.items():
        model = None if name == "dwi_mask" else "tensor"
        path = out / output_path(scan, name, model=model, space=SPACE)
        nib.save(nib.Nifti1Image(data, template.grid.affine), path)


def timed_group(out: Path) -> float:
    """Return the CPU-seconds of a run of the group level."""
    start = time.process_time()
    run_group(out, qc_exclude=["mean_fd > 0.9"])
    return time.process_time() - start


def timed_long(n_scans: int, rng: np.random.Generator) -> tuple[int, float]:
    """Return rows and CPU-seconds of the long table of scans with four maps, written twice."""
    names = [region.name for region in load_regions().table]
    n = len(names)
    scans = []
    for i in range(n_scans):
        cells = {"scan_id": f"sub-{i:06d}", "participant_id": f"sub-{i:06d}", "session_id": "n/a"}
        maps = {
            f"tensor_{name}": Summary(rng.random((n, 3)), np.full(n, 500), np.ones(n))
            for name in ("fa", "md", "ad", "rd")
        }
        scans.append(ScanScalars(cells, maps))
    start = time.process_time()
    table = Exclusions().mark(lay_out_long(scans, names))
    for piece in (*table_text(table), table_parquet(table, None)):
        assert piece
    return len(table), time.process_time() - start


def main() -> None:
    """Write the derivatives, run the group level, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("participants", type=int, nargs="?", default=1000)
    parser.add_argument("--maps", type=int, default=10, help="participants with maps")
    parser.add_argument("--columns", type=int, default=400, help="columns of features")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        labels = [f"{i:06d}" for i in range(options.participants)]
        for label in labels:
            write_participant(out, label, rng, options.columns)
        print(
            f"{options.participants} participants x {options.columns} columns: "
            f"{timed_group(out):.0f} CPU-seconds"
        )
        if options.maps:
            for label in labels[: options.maps]:
                write_maps(out, label, rng)
            first, again = timed_group(out), timed_group(out)
            each = (first - again) / options.maps
            print(f"four maps of a scan: {each:.2f} CPU-seconds, once")
        n_rows, seconds = timed_long(options.participants, rng)
        print(f"long table of {n_rows} rows: {seconds:.0f} CPU-seconds")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"peak memory: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
