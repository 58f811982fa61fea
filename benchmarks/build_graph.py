"""How long it takes to read a dataset of 1,000 participants and build the graph of one.

Usage: python benchmarks/build_graph.py

The dataset is a skeleton of two sessions each, with real headers and gradient files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dmri_fm.series import save_image

N_PARTICIPANTS = 1000


def write_skeleton(root: Path) -> None:
    """Write the dataset; images are hard links to one small file."""
    root.mkdir(parents=True)
    description = {"Name": "skeleton", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    n = 13
    image = save_image(np.ones((8, 8, 8, n)), np.diag([-3.0, 3, 3, 1]), root / ".dwi.nii.gz")
    angle = np.linspace(0, np.pi, n - 1, endpoint=False)
    z = np.linspace(-0.9, 0.9, n - 1)
    r = np.sqrt(1 - z**2)
    bvecs = np.hstack([np.zeros((3, 1)), [r * np.cos(3 * angle), r * np.sin(3 * angle), z]])
    for number in range(N_PARTICIPANTS):
        for session in ("a", "b"):
            folder = root / f"sub-{number:04d}" / f"ses-{session}" / "dwi"
            folder.mkdir(parents=True)
            for direction, code in (("AP", "j-"), ("PA", "j")):
                stem = folder / f"sub-{number:04d}_ses-{session}_dir-{direction}_dwi"
                Path(f"{stem}.nii.gz").hardlink_to(image)
                np.savetxt(f"{stem}.bvec", bvecs, fmt="%.6f")
                np.savetxt(f"{stem}.bval", [[0] + [1000] * (n - 1)], fmt="%d")
                sidecar = {"PhaseEncodingDirection": code, "TotalReadoutTime": 0.05}
                Path(f"{stem}.json").write_text(json.dumps(sidecar))


def main() -> int:
    """Build the skeleton, then time a dry run with one label."""
    with tempfile.TemporaryDirectory() as folder:
        write_skeleton(Path(folder) / "bids")
        command = [sys.executable, "-m", "dmri_fm_workflows", f"{folder}/bids", f"{folder}/out",
                   "participant", "--participant-label", "0500", "--dry-run"]  # fmt: skip
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - start
    print(done.stdout + done.stderr)
    print(f"{N_PARTICIPANTS} participants, one asked for: {seconds:.1f} s, imports included")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
