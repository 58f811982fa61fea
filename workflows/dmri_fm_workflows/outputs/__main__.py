"""Write the page of outputs: `python -m dmri_fm_workflows.outputs docs/outputs.md`."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_workflows.outputs.docs import outputs_page
from dmri_fm_workflows.outputs.publish import publish_text


def main() -> None:
    """Write the page to the path given."""
    parser = argparse.ArgumentParser(description="Write the page of outputs from maps.yaml.")
    parser.add_argument("path", type=Path, help="e.g. docs/outputs.md")
    target = parser.parse_args().path
    changed = publish_text(outputs_page(), target)
    print(f"{target}: {'written' if changed else 'already current'}")


if __name__ == "__main__":
    main()
