"""Records of the encoders."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from dmri_fm.identities.base import Extraction, ModelIdentity

#: Architecture of all D-RoPE encoders.
_ARCHITECTURE = (
    "Transformer with rotary embedding of the diffusion space, pretrained as a masked "
    "autoencoder, on the signal over the mean b=0."
)

#: Outputs of all D-RoPE encoders.
_OUTPUTS = MappingProxyType(
    {
        "scan": (
            "One row, the features of the whole scan: the encoder's class token (cls); its patch "
            "tokens, pooled over patches and directions (pooled: first their mean, then their "
            "deviation between directions, n/a where there are too few); and its "
            "out-of-distribution score, where the weights hold statistics of training features."
        ),
        "patch": (
            "Features of every patch, patch tokens averaged over directions: tokens (N, D) "
            "float32, ijk (N, 3), xyz_mm (N, 3), valid (N,), error (N,) in S/S0 of measurements "
            "predicted from the others by a Gaussian process, without the encoder, grid_shape "
            "(3,), affine (4, 4)."
        ),
    }
)

#: What no publication of the encoder contains.
_OWN = (
    "Pooled tokens, features of patches (tokens averaged over directions) and the "
    "out-of-distribution score are this software's own. The error of "
    "patches is that of a Gaussian process (Andersson and Sotiropoulos 2015), not of the encoder."
)

#: Sentences of the methods text on features and errors.
_METHODS = (
    "Features of the scan are its class token, as published, and its patch tokens, pooled over "
    "patches and directions, which is this software's own. Errors of measurements in patches are "
    "those of a prediction from the other measurements by a Gaussian process [@andersson2015], "
    "without the encoder."
)

DROPE_PAPER = ModelIdentity(
    name="drope-paper",
    family="encoder",
    title="D-RoPE encoder as published",
    architecture=_ARCHITECTURE,
    provenance=(
        "Published method: Kung et al. 2026, written anew from the publication; it ships without "
        f"weights. {_OWN}"
    ),
    citations=("kung2026", "andersson2015"),
    methods=(
        "Features of the scan and of its patches came from a transformer with rotary embedding of "
        "the diffusion space, pretrained as a masked autoencoder [@kung2026], applied to the "
        f"signal divided by the mean b=0 image. {_METHODS} The features are experimental: no "
        "evaluation has compared the weights that ran with a baseline."
    ),
    url="https://doi.org/10.48550/arXiv.2603.25977",
    card="docs/model_cards/drope.md",
    is_experimental=True,
    has_ood=True,
    has_patches=True,
    extraction=Extraction("published", "random"),
    outputs=_OUTPUTS,
)

DROPE = replace(
    DROPE_PAPER,
    name="drope",
    title="D-RoPE encoder",
    provenance=(
        "Architecture and masked autoencoder of Kung et al. 2026, smaller, written anew from the "
        "publication: the packaged weights are those of 192 channels in 10 blocks, on a grid of "
        "2 mm, of patches (8 x 8 x 4 voxels) with brain alone, and a direction enters as "
        "b / 1000 times the product of its vector with itself, not by its angles. Data "
        "(simulation and a few real scans), initial weights and learning rate are this "
        f"software's own. {_OWN}"
    ),
    methods=(
        "Features of the scan and of its patches came from a transformer with rotary embedding of "
        "the diffusion space, pretrained as a masked autoencoder [@kung2026], applied to the "
        "signal divided by the mean b=0 image. The packaged weights are those of a smaller "
        "encoder than the published one: 192 channels, a grid of 2 mm, patches with brain alone, "
        "and directions encoded as b / 1000 times the product of the vector with itself; it was "
        "trained on simulation and a few real scans. "
        f"{_METHODS} The features are experimental."
    ),
    is_packaged=True,
    extraction=Extraction(),
)

SSDIFF_PAPER = ModelIdentity(
    name="ssdiff-paper",
    family="encoder",
    title="SSDiff encoder as published",
    architecture=(
        "Transformer with one token per diffusion volume, a linear map of all voxels of the "
        "brain with codes of b-value and direction, pretrained by predicting volumes of which "
        "three quarters of the voxels were set to zero."
    ),
    provenance=(
        "Published method: SSDiff (Gong et al. 2026), written anew from its description, on the "
        "brain of MNI152NLin2009aSym, which has another number of voxels; it ships without "
        "weights. The sensitivity map and the out-of-distribution score are this software's own."
    ),
    citations=("gong2026",),
    methods=(
        "Features of the scan came from SSDiff [@gong2026], a transformer with one token per "
        "diffusion volume, applied to the signal divided by the mean b=0 image. The features are "
        "experimental: no evaluation has compared the weights that ran with a baseline."
    ),
    url="https://doi.org/10.21203/rs.3.rs-8877816/v1",
    card="docs/model_cards/ssdiff.md",
    is_experimental=True,
    has_ood=True,
    has_sensitivity=True,
    extraction=Extraction(directions="all", reads_rotations=True),
    outputs=MappingProxyType(
        {
            "scan": (
                "One row, the features of the whole scan: the mean of the tokens of all volumes "
                "(pooled), the class token (cls), and its out-of-distribution score, where the "
                "weights hold statistics of training features."
            ),
            "sensitivity": (
                "Sensitivity of the pooled features: root of the sum over features of the squared "
                "derivative by S/S0 of a block of voxels, the same change in all volumes; 0 "
                "outside the brain. An estimate: SensitivityProbes is its number of random "
                "combinations of features, SensitivityRelativeError the standard error of a value "
                "over the value, median over blocks."
            ),
        }
    ),
)

SSDIFF = replace(
    SSDIFF_PAPER,
    name="ssdiff",
    title="SSDiff encoder, compact",
    provenance=(
        "Architecture and pretraining of SSDiff (Gong et al. 2026), smaller, written anew from "
        "their description: 128 channels in 7 blocks read means over 4 mm; a direction enters as "
        "the product of its vector with itself, not by the mean of its components; b=0 volumes "
        "are divided by, not read. The sensitivity map, the out-of-distribution score and the "
        "data of the packaged weights (simulation and a few real scans) are this software's own."
    ),
    methods=(
        "Features of the scan came from a smaller version of SSDiff [@gong2026], a transformer "
        "with one token per diffusion volume, applied to the signal divided by the mean b=0 image "
        "and averaged over blocks of 4 mm, and to the product of each gradient direction with "
        "itself. The packaged weights were trained on simulation and a few real scans. The "
        "features are experimental: no evaluation has compared the weights that ran with a "
        "baseline."
    ),
    is_packaged=True,
)

ARTEFACT_UNET = ModelIdentity(
    name="artefact-unet",
    family="encoder",
    title="Artefact-removal U-Net",
    architecture=(
        "Convolutional U-Net over the volumes of one shell, pretrained to remove artefacts that "
        "were added to them."
    ),
    provenance=(
        "Published method: Weninger et al. 2022, written anew from its description, at the "
        "published size and voxel size; it ships without weights. Features of the scan, which are "
        "those of the bridge, averaged over the brain, the out-of-distribution score, the 64 "
        "fixed directions and the distortion of each volume by its gradient are this software's "
        "own."
    ),
    citations=("weninger2022",),
    methods=(
        "Features of the scan are the mean over the brain of those of the bridge of a U-Net that "
        "was pretrained to remove artefacts [@weninger2022]; the signal of one shell, divided by "
        "the mean b=0 image, was brought to 64 fixed directions by spherical harmonics. "
        "The features are experimental: no evaluation has compared the weights that ran with a "
        "baseline."
    ),
    url="https://doi.org/10.1007/978-3-658-36932-3_32",
    card="docs/model_cards/artefact-unet.md",
    is_experimental=True,
    has_ood=True,
    extraction=Extraction(directions="shell"),
    outputs=MappingProxyType(
        {
            "scan": (
                "One row, the features of the whole scan: the mean over the brain of the bridge's "
                "features (pooled), and its out-of-distribution score, where the weights hold "
                "statistics of training features."
            ),
        }
    ),
)

#: In the order of texts.
RECORDS = (
    DROPE,
    DROPE_PAPER,
    SSDIFF,
    SSDIFF_PAPER,
    ARTEFACT_UNET,
    *(
        replace(DROPE_PAPER.ablation(f"drope-ablation{end}"), extraction=Extraction())
        for end in ("", "-plain")
    ),
)
