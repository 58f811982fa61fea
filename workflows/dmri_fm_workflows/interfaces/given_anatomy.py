"""Interfaces that take the anatomy of another pipeline's derivatives."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from dmri_fm.errors import ImageError
from dmri_fm.normalise.given_anatomy import SAME_HEAD, join_transforms, locate_head
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.transforms import read_affine, read_point_map
from dmri_fm_workflows.interfaces.normalise import (
    TemplateInputSpec,
    TemplateOutputSpec,
    open_image,
    write_registration,
)
from dmri_fm_workflows.interfaces.transform_files import write_affine_pair


class _LocateInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="prepared T1w image")
    mask_file = File(exists=True, mandatory=True, desc="its brain mask")
    acquired_file = File(exists=True, mandatory=True, desc="T1w image as acquired")
    to_acpc_file = File(exists=True, mandatory=True, desc="prepared image into ACPC")


class _LocateOutputSpec(TraitedSpec):
    to_acpc_file = File(exists=True, desc="transform that resamples the acquired image into ACPC")
    from_acpc_file = File(exists=True, desc="its inverse")
    record = traits.Dict(desc="agreement of the two images, for the sidecar")


class LocateHead(SimpleInterface):
    """Find a prepared T1w image in the one as acquired; refuse another head."""

    input_spec = _LocateInputSpec
    output_spec = _LocateOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        prepared, acquired = open_image(self.inputs.in_file), open_image(self.inputs.acquired_file)
        found = locate_head(prepared, acquired, open_image(self.inputs.mask_file))
        if not found.is_same_head:
            raise ImageError(
                f"its brain does not look like that of {Path(self.inputs.acquired_file).name}: "
                f"the correlation is {found.correlation:.2f} where they fit best",
                path=self.inputs.in_file,
                expected=f"the same head, with a correlation of {SAME_HEAD:g} or more",
                advice="find out whose image the derivatives hold; to process the raw T1w image, "
                "leave --derivatives out",
            )
        acpc2prepared = read_affine(self.inputs.to_acpc_file)
        self._results |= write_affine_pair(found.xfm @ acpc2prepared, Path(runtime.cwd))
        self._results["record"] = {"AnatomyCorrelation": round(found.correlation, 4)}
        return runtime


class _TakeInputSpec(TemplateInputSpec):
    to_acpc_file = File(exists=True, mandatory=True, desc="prepared image into ACPC")
    to_template_file = File(exists=True, mandatory=True, desc="prepared image into the template")
    from_template_file = File(exists=True, mandatory=True, desc="its inverse")
    method = traits.Enum("affine", "syn", mandatory=True, desc="sort of these transforms")
    title = traits.Str(mandatory=True, desc="their name for the sidecar")


class TakeTemplate(SimpleInterface):
    """Take the transforms of a prepared T1w image to the template for its brain in ACPC."""

    input_spec = _TakeInputSpec
    output_spec = TemplateOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        brain, mask = open_image(self.inputs.brain_file), open_image(self.inputs.mask_file)
        joined = join_transforms(
            read_point_map(self.inputs.to_template_file),
            read_point_map(self.inputs.from_template_file),
            acpc2image_xfm=read_affine(self.inputs.to_acpc_file),
            brain=brain,
            template=load_template(2),
            is_warp=self.inputs.method == "syn",
        )
        self._results |= write_registration(
            joined, brain, mask, Path(runtime.cwd), name=self.inputs.title
        )
        return runtime
