"""Records of the encoders."""

from __future__ import annotations

from types import MappingProxyType

from dmri_fm.identities.base import ModelIdentity

#: Arrays of the file of patch features.
_PATCH_ARRAYS = (
    "tokens (N, D) float32, ijk (N, 3), xyz_mm (N, 3), valid (N,), error (N,) of masked "
    "directions in S/S0, grid_shape (3,), affine (4, 4)"
)

DROPE_PAPER = ModelIdentity(
    name="drope-paper",
    family="encoder",
    title="D-RoPE encoder as published",
    architecture=(
        "Transformer with rotary embedding of the diffusion space, pretrained as a masked "
        "autoencoder, on the signal over the mean b=0; the features of a scan are its class token."
    ),
    provenance=(
        "Published method: Kung et al. 2026, written anew from the publication; it ships without "
        "weights."
    ),
    citations=("kung2026",),
    methods=(
        "Features of the scan, the class token, and of its patches came from a transformer with "
        "rotary embedding of the diffusion space [@kung2026], applied to the signal divided by "
        "the mean b=0 image. They are experimental: no evaluation has compared the weights that "
        "ran with a baseline."
    ),
    url="https://doi.org/10.48550/arXiv.2603.25977",
    card="docs/model_cards/drope.md",
    is_experimental=True,
    features="cls",
    has_ood=True,
    outputs=MappingProxyType(
        {
            "cls": (
                "One row, the features of the whole scan: the encoder's class token, and its "
                "out-of-distribution score where the weights hold statistics of training features."
            ),
            "patch": (
                f"Features of every patch, patch tokens averaged over directions: {_PATCH_ARRAYS}."
            ),
        }
    ),
)

DROPE = ModelIdentity(
    name="drope",
    family="encoder",
    title="D-RoPE encoder",
    architecture=(
        "Transformer with rotary embedding of the diffusion space, pretrained as a masked "
        "autoencoder, on the signal over the mean b=0."
    ),
    provenance=(
        "Method of Kung et al. 2026. The packaged weights differ from it: they are those of a "
        "smaller encoder on a grid of 2 mm, a direction enters as the product of its vector with "
        "itself, and the class token of the publication is not used: the features of a scan are "
        "its pooled patch tokens, mapped by a Wiener filter that was fitted to simulated "
        "test-retest scans."
    ),
    citations=("kung2026",),
    methods=(
        "Features of the scan and of its patches came from a transformer with rotary embedding of "
        "the diffusion space [@kung2026], applied to the signal divided by the mean b=0 image. "
        "With the packaged weights, the class token of that publication is not used: the features "
        "of the scan are its pooled patch tokens, mapped by a Wiener filter that was fitted to "
        "simulated test-retest scans. They are experimental."
    ),
    url="https://doi.org/10.48550/arXiv.2603.25977",
    card="docs/model_cards/drope.md",
    is_experimental=True,
    is_packaged=True,
    features="pooled",
    has_ood=True,
    outputs=MappingProxyType(
        {
            "pooled": (
                "One row, the features of the whole scan: the encoder's patch tokens, pooled over "
                "the scan and, by the packaged weights, mapped by a Wiener filter (the class "
                "token is not used), and its out-of-distribution score."
            ),
            "patch": (
                "Features of every patch, patch tokens averaged over directions (the class token "
                f"is not used): {_PATCH_ARRAYS}."
            ),
        }
    ),
)

#: In the order of texts.
RECORDS = (
    DROPE,
    DROPE_PAPER,
    *(DROPE_PAPER.ablation(f"drope-ablation{end}") for end in ("", "-plain")),
)
