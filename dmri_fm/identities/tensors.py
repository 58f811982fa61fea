"""Records of the models that give a diffusion tensor: the tensor fit and the networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from dmri_fm.identities.base import ModelIdentity


def _own_outputs(network: str) -> Mapping[str, str]:
    """Return the descriptions of a network's intervals and out-of-distribution map."""
    return MappingProxyType(
        {
            "intervals": (
                f"Standard deviation of the {network}'s error, as the network itself predicts "
                "it; the packaged weights are calibrated on simulation so that nine errors in ten "
                "are below 1.645 times this; 0 outside the brain."
            ),
            "ood": (
                "Out-of-distribution percentile of a voxel's surroundings: Mahalanobis distance "
                f"of the {network}'s coarse features from those of its training data, as the "
                "share of held-out training data (simulated for the packaged weights) that lie "
                "nearer, percent; 0 outside the brain."
            ),
        }
    )


TENSOR = ModelIdentity(
    name="tensor",
    family="tensor fit",
    title="Diffusion tensor",
    architecture=(
        "Diffusion tensor, fitted to the logarithm of the signal by weighted least squares."
    ),
    provenance="Published method: model of Basser et al. 1994, fitted as by Chung et al. 2006.",
    citations=("basser1994", "chung2006"),
    methods=(
        "The diffusion tensor [@basser1994] was fitted by weighted least squares [@chung2006], "
        "and scalar maps were derived from its eigenvalues [@basser1996]."
    ),
    url="https://doi.org/10.1006/jmrb.1994.1037",
    fit_method="wls",
)

REFINER = ModelIdentity(
    name="tensor-refiner",
    family="tensor network",
    title="Tensor refiner",
    architecture=(
        "Convolutional network that refines a least-squares diffusion tensor: it weighs the "
        "neighbours over which the b=0 image and those of six directions are averaged before the "
        "tensor is fitted, and corrects the fitted tensor."
    ),
    provenance="This software's own network; it follows no published architecture.",
    citations=("basser1994", "mildenhall2018"),
    methods=(
        "The tensor refiner, a network of this software that follows no published architecture, "
        "estimated the diffusion tensor from the mean b=0 and six directions: it averages the "
        "images over neighbours that it weighs itself (as kernel prediction does) "
        "[@mildenhall2018], fits the tensor [@basser1994] and corrects it. Its maps are "
        "experimental unless their sidecars say primary. Standard deviations of its FA and MD, "
        "and the out-of-distribution map, are this software's own; those of the packaged weights "
        "are calibrated on simulation."
    ),
    fit_method="neural network",
    card="docs/model_cards/tensor-refiner.md",
    is_experimental=True,
    is_packaged=True,
    has_intervals=True,
    has_ood=True,
    outputs=_own_outputs("tensor refiner"),
)

QCG_DTI = ModelIdentity(
    name="qcg-dti",
    family="tensor network",
    title="QCG-DTI, smaller",
    architecture=(
        "Convolutional network that is guided by q-space coordinates and estimates the diffusion "
        "tensor from the mean b=0 and six directions: the published architecture, smaller, which "
        "corrects the least-squares tensor of the same images."
    ),
    provenance=(
        "Published method: Zheng et al. 2025, written anew from the publication. This software's "
        "own: it starts from the least-squares tensor and is told noise and the inverse design "
        "matrix, has another q-space coordinate, pools it over a window, scales features by "
        "1 + alpha, averages images in place of concatenating them, gives intervals, and was "
        "trained on simulation and real scans of other scanners than the published ones."
    ),
    citations=("zheng2025", "basser1994"),
    methods=(
        "A smaller network of the QCG-DTI architecture [@zheng2025], trained by this software, "
        "estimated the diffusion tensor from the mean b=0 and six directions, starting from "
        "the least-squares tensor [@basser1994] of the same images. Its maps are experimental "
        "unless their sidecars say primary. Standard deviations of its FA and MD, and the "
        "out-of-distribution map, are this software's own; those of the packaged weights are "
        "calibrated on simulation."
    ),
    url="https://doi.org/10.1631/FITEE.2400766",
    fit_method="neural network",
    card="docs/model_cards/qcg-dti.md",
    is_experimental=True,
    is_packaged=True,
    has_intervals=True,
    has_ood=True,
    outputs=_own_outputs("QCG-DTI network"),
)

QCG_DTI_PAPER = ModelIdentity(
    name="qcg-dti-paper",
    family="tensor network",
    title="QCG-DTI",
    architecture=(
        "Convolutional network that is guided by q-space coordinates and estimates the diffusion "
        "tensor from the mean b=0 and six directions."
    ),
    provenance=(
        "Published method: Zheng et al. 2025, written anew from the publication; it ships without "
        "weights. This software's own: features are scaled by 1 + alpha and pooled over a window, "
        "residual branches start small, and blocks overlap."
    ),
    citations=("zheng2025",),
    methods=(
        "The QCG-DTI network [@zheng2025], written anew from the publication with small "
        "changes, estimated the diffusion tensor from the mean b=0 and six directions. Its maps "
        "are experimental unless their sidecars say primary."
    ),
    url="https://doi.org/10.1631/FITEE.2400766",
    fit_method="neural network",
    card="docs/model_cards/qcg-dti.md",
    is_experimental=True,
)

#: Ablations have no packaged weights and so no calibration of their own.
_BARE = replace(
    QCG_DTI, is_packaged=False, has_intervals=False, has_ood=False, outputs=MappingProxyType({})
)

#: In the order of texts.
RECORDS = (
    TENSOR,
    QCG_DTI,
    QCG_DTI_PAPER,
    REFINER,
    *(
        _BARE.ablation(f"qcg-dti-ablation-{row}")
        for row in ("whole", "no-qcf", "no-strategy", "no-mrd", "baseline")
    ),
)
