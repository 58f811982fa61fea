"""Write requirements-cuda.lock: what PyTorch's build for CUDA needs beside requirements.lock.

    python .ci/cuda_lock.py REPORT

REPORT is what `pip install --dry-run --ignore-installed --report` says of that build.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def main(report: Path) -> None:
    """Write the file from a report of pip."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition("==") for line in lines if not line.startswith("#")]
    known = {canonicalize_name(name) for name, _, _ in pinned}
    (torch,) = ("".join(pin) for pin in pinned if pin[0] == "torch")
    found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    more = sorted(
        f"{name}=={item['version']}"
        for item in found
        if (name := canonicalize_name(item["name"])) not in known
    )
    head = f"# What the build of {torch} for CUDA needs beside requirements.lock. By: make lock"
    (ROOT / "requirements-cuda.lock").write_text("\n".join([head, *more]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
