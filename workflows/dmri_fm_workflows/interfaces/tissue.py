"""Interfaces of the tissue stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    InputMultiObject,
    SimpleInterface,
    Str,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import Image3D, resample_image
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.tissue import TISSUES, name_tissue_method, segment_tissue, warp_priors
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.series import save_image
from dmri_fm_workflows.interfaces.normalise import open_image

#: Fields of the probabilities, in the order of the tissues.
PROBABILITY_FIELDS = tuple(f"{tissue.lower()}_file" for tissue in TISSUES)


class _SegmentInputSpec(BaseInterfaceInputSpec):
    brain_file = File(exists=True, mandatory=True, desc="T1w brain in ACPC")
    mask_file = File(exists=True, mandatory=True, desc="its mask")
    from_mni_file = File(exists=True, mandatory=True, desc="transform of the template into ACPC")
    sloppy = traits.Bool(False, usedefault=True, desc="one iteration")


class TissueOutputSpec(TraitedSpec):
    """Tissue in ACPC."""

    dseg_file = File(exists=True, desc="labels: 1 grey matter, 2 white matter, 3 fluid")
    gm_file = File(exists=True, desc="probability of grey matter")
    wm_file = File(exists=True, desc="probability of white matter")
    csf_file = File(exists=True, desc="probability of cerebrospinal fluid")
    record = traits.Dict(desc="method, for the sidecars")


def write_tissue(
    labels: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    affine: NDArray[np.float64],
    folder: Path,
) -> dict[str, str]:
    """Write labels and probabilities; return their paths by field."""
    files = {"dseg_file": save_image(labels, affine, folder / "dseg.nii.gz", dtype=np.uint8)}
    for k, field in enumerate(PROBABILITY_FIELDS):
        files[field] = save_image(probabilities[..., k], affine, folder / f"{field[:-5]}.nii.gz")
    return {field: str(path) for field, path in files.items()}


class SegmentTissue(SimpleInterface):
    """Segment the tissue of a T1w brain, with the template's probabilities as priors."""

    input_spec = _SegmentInputSpec
    output_spec = TissueOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        brain, mask = open_image(self.inputs.brain_file), open_image(self.inputs.mask_file)
        priors = warp_priors(
            load_template(2), mask, image2template=read_point_map(self.inputs.from_mni_file)
        )
        found = segment_tissue(brain, mask, priors, is_coarse=self.inputs.sloppy)
        self._results |= write_tissue(
            found.labels, found.probabilities, brain.affine, Path(runtime.cwd)
        )
        self._results["record"] = {"TissueMethod": name_tissue_method()}
        return runtime


class _TakeInputSpec(BaseInterfaceInputSpec):
    dseg_file = File(exists=True, mandatory=True, desc="labels of BIDS")
    probability_files = InputMultiObject(
        File(exists=True), mandatory=True, desc="probabilities, in the order of the tissues"
    )
    xfm_file = File(exists=True, mandatory=True, desc="transform of the images into ACPC")
    mask_file = File(exists=True, mandatory=True, desc="brain mask in ACPC, gives the grid")
    title = Str(mandatory=True, desc="method, for the sidecars")
    sources = traits.List(Str, mandatory=True, desc="URIs of the files, the labels first")


class TakeTissue(SimpleInterface):
    """Bring the tissue segmentation of a prepared T1w image into ACPC."""

    input_spec = _TakeInputSpec
    output_spec = TissueOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        mask, to_image = open_image(self.inputs.mask_file), read_point_map(self.inputs.xfm_file)
        labels = open_image(self.inputs.dseg_file)
        if unknown := sorted(set(np.unique(labels.data)) - set(range(len(TISSUES) + 1))):
            raise ImageError(
                f"labels of another scheme, such as {unknown[0]:g}",
                path=self.inputs.dseg_file,
                expected="0 to 3: background, grey matter, white matter, cerebrospinal fluid",
                advice="move it away, with its probabilities: the tissue is segmented here then",
            )

        def bring(image: Image3D, order: int) -> NDArray[np.float32]:
            return resample_image(
                image.data, image.affine, mask.grid, target2source=to_image, order=order
            )

        shares = [bring(open_image(p), 1) for p in self.inputs.probability_files]
        self._results |= write_tissue(
            np.asarray(bring(labels, 0).round(), dtype=np.uint8),
            np.stack(shares, axis=-1),
            mask.affine,
            Path(runtime.cwd),
        )
        self._results["record"] = {
            "TissueMethod": self.inputs.title,
            "Sources": list(self.inputs.sources),
        }
        return runtime
