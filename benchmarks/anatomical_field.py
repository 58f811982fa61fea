"""How far is the distortion field from the T1w image (`--sdc syn`) from a measured or true one?

    python benchmarks/anatomical_field.py BIDS/sub-prisma SIMULATED/sub-01 ...

Each participant has a T1w image and two diffusion runs of opposite phase encoding, `dir-AP` and
`dir-PA`; the estimate sees the first b=0 volume of AP alone. It is compared with the true field of
a simulated participant, else with that of the pair: root mean square difference in the brain, with
and without the difference of the medians, which a movement of the head along phase encoding is as
well; and the correlation of the two corrected images, of which the estimate sees one. `none` is no
correction.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from fieldmaps import correlation, read_b0, register_t1w

from dmri_fm.distortion import DistortionField, correct_image
from dmri_fm.preprocess.anatomical_field import estimate_anatomical_field
from dmri_fm.preprocess.dwiref import correct_bias
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.preprocess.susceptibility import B0Image, estimate_pair_field
from dmri_fm.series import load_image, read_array
from dmri_fm_lab.markdown_tables import markdown


def score(participant: Path) -> list[list[str]]:
    """Return the lines of one participant."""
    up, down = (
        read_b0(next((participant / "dwi").glob(f"*dir-{d}_dwi.nii.gz")))[0] for d in ("AP", "PA")
    )
    truth = participant.parent / "derivatives" / "truth" / participant.name
    path = next(truth.glob("**/*_desc-truth_fieldmap.nii.gz"), None)
    if path is None:
        reference = estimate_pair_field(up, down).field
    else:
        reference = DistortionField(read_array(load_image(path), path=path), up.affine)
    at_rest = correct_image(up.data, up.affine, field=reference, encoding=up.encoding)
    brain = brain_mask(at_rest, up.affine, contrast="b0").mask
    even = B0Image(correct_bias(up.data, up.affine), up.affine, up.encoding)
    own = brain_mask(even.data, even.affine, contrast="b0").mask
    path_t1w = next((participant / "anat").glob("*_T1w.nii.gz"))
    t1w, affine, xfm = register_t1w(path_t1w, even.data * own, even.affine)
    found = estimate_anatomical_field(even, own, t1w, t1w_affine=affine, xfm=xfm)
    lines = []
    for title, hz in (("none", np.zeros_like(reference.hz)), ("syn", found.field.hz)):
        off = (hz - reference.hz)[brain]
        one, other = (
            correct_image(
                b0.data, b0.affine, field=DistortionField(hz, up.affine), encoding=b0.encoding
            )
            for b0 in (up, down)
        )
        rms = (np.sqrt(np.mean(x**2)) for x in (off, off - np.median(off)))
        lines.append(
            [participant.name, "pair" if path is None else "truth", title]
            + [f"{x:.1f}" for x in rms]
            + [f"{correlation(one, other, brain):.3f}"]
        )
    for line, jacobian in zip(lines, ("-", f"{found.smallest_jacobian:.2f}"), strict=True):
        line.append(jacobian)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("participants", type=Path, nargs="+")
    titles = [
        *("participant", "reference", "correction", "rms difference (Hz)", "less the median (Hz)"),
        *("correlation of AP and PA", "smallest Jacobian"),
    ]
    lines = [line for folder in parser.parse_args().participants for line in score(folder)]
    print(markdown([titles, *lines]))


if __name__ == "__main__":
    main()
