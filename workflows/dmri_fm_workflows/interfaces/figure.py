"""Base of the interfaces that draw a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import Bunch, File, SimpleInterface, TraitedSpec

from dmri_fm.series import load_image, read_array


def open_array(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels and the affine of an image."""
    image = load_image(path)
    return read_array(image, path=path), np.asarray(image.affine)


def open_mask(path: str) -> np.ndarray:
    return open_array(path)[0] > 0


class FigureOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="the figure, SVG")


class Figure(SimpleInterface):
    """An interface that draws one figure, `figure.svg`."""

    output_spec = FigureOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        out = Path(runtime.cwd) / "figure.svg"
        self._draw(out)
        self._results["out_file"] = str(out)
        return runtime

    def _draw(self, out: Path) -> None:
        """Load the inputs and draw the figure into a file."""
        raise NotImplementedError
