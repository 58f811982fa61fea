"""What each model is and whose method it is: the one place that names, sidecars and texts read.

The command line, file names, sidecars, methods text and report take a model's name, architecture
and citations from here, so that none of them can say what another does not. Importing this
module does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm.project import source_url

__all__ = [
    "APP_MODELS",
    "IDENTITIES",
    "RETIRED_NAMES",
    "ModelIdentity",
    "about_model",
    "describe_models",
    "explain_retired",
    "identity",
    "label_of",
]


@dataclass(frozen=True)
class ModelIdentity:
    """A model as texts and metadata name it.

    Attributes
    ----------
    name
        Name in the registry, and of `--models`.
    title
        As headings and legends write it.
    architecture
        What it computes and how, in a sentence or two.
    provenance
        Whose method it is, and what differs from the publication.
    citations
        Works that the method rests on, keys of `references.yaml`; the first is the method's own
        publication where it has one.
    methods
        What the methods text says of a run of it, with citations as `[@key]`.
    url
        Address of the method's description; empty where there is none.
    fit_method
        How the parameters of a voxel are found, in the words of BEP016 (`wls`) where it has one;
        empty for encoders. It is `Model.Parameters.FitMethod` of sidecars.
    card
        Its model card, relative to the repository; empty where there is none. The address of the
        card is that of a model without a publication.
    is_experimental
        Whether its outputs are experimental: no evaluation has found the packaged weights better
        than a baseline.
    outputs
        What its outputs are that need words: `intervals`, `unfamiliarity`, `pooled`, `patch`.
    """

    name: str
    title: str
    architecture: str
    provenance: str
    citations: tuple[str, ...]
    methods: str
    url: str = ""
    fit_method: str = ""
    card: str = ""
    is_experimental: bool = False
    outputs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def label(self) -> str:
        """Value of the `model` entity of file names: the name without what BIDS has no place for.

        Examples
        --------
        >>> identity("tensor-refiner").label
        'tensorrefiner'
        """
        return label_of(self.name)

    @property
    def description(self) -> str:
        """What it is and whose method, as one text."""
        return f"{self.architecture} {self.provenance}"


def label_of(name: str) -> str:
    """Return the `model` entity of a registered name: BIDS labels hold letters and digits only.

    Examples
    --------
    >>> label_of("qcg-dti-paper")
    'qcgdtipaper'
    """
    return name.replace("-", "")


_TENSOR = ModelIdentity(
    name="tensor",
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

_REFINER = ModelIdentity(
    name="tensor-refiner",
    title="Tensor refiner",
    architecture=(
        "Convolutional network that refines a least-squares diffusion tensor: it weighs the "
        "neighbours over which the b=0 image and those of six directions are averaged before the "
        "tensor is fitted, and corrects the fitted tensor."
    ),
    provenance="This software's own network, experimental; it follows no published architecture.",
    citations=("basser1994", "mildenhall2018"),
    methods=(
        "The tensor refiner, a network of this software that follows no published architecture, "
        "estimated the diffusion tensor from the mean b=0 and six directions: it averages the "
        "images over neighbours that it weighs itself (as kernel prediction does) "
        "[@mildenhall2018], fits the tensor [@basser1994] and corrects it. Its maps are "
        "experimental. Standard deviations of its FA and MD, and the map of unfamiliarity, are "
        "this software's own; those of the packaged weights are calibrated on simulation."
    ),
    fit_method="neural network",
    card="docs/model_cards/tensor-refiner.md",
    is_experimental=True,
    outputs=MappingProxyType(
        {
            "intervals": (
                "Standard deviation of the tensor refiner's error, as the network itself predicts "
                "it; the packaged weights are calibrated on simulation so that nine errors in ten "
                "are below 1.645 times this; 0 outside the brain."
            ),
            "unfamiliarity": (
                "How unlike the tensor refiner's training data the surroundings of a voxel are "
                "(Mahalanobis distance of the network's coarse features), as the share of further "
                "such data (simulated ones for the packaged weights) that are less unlike, "
                "percent; 0 outside the brain."
            ),
        }
    ),
)

_QCG_DTI = ModelIdentity(
    name="qcg-dti-paper",
    title="QCG-DTI",
    architecture=(
        "Convolutional network that is guided by q-space coordinates and estimates the diffusion "
        "tensor from one b=0 and six directions."
    ),
    provenance=(
        "Published method: Zheng et al. 2025, written anew from the publication; it ships without "
        "weights."
    ),
    citations=("zheng2025",),
    methods=(
        "The QCG-DTI network [@zheng2025], written anew from the publication, estimated the "
        "diffusion tensor from one b=0 and six directions."
    ),
    url="https://doi.org/10.1631/FITEE.2400766",
    fit_method="neural network",
    card="docs/model_cards/qcg-dti.md",
)

_DROPE_PAPER = ModelIdentity(
    name="drope-paper",
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
        "the mean b=0 image."
    ),
    url="https://doi.org/10.48550/arXiv.2603.25977",
    card="docs/model_cards/drope.md",
)

_DROPE = ModelIdentity(
    name="drope",
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
    outputs=MappingProxyType(
        {
            "pooled": (
                "One row, the features of the whole scan: the encoder's patch tokens, pooled over "
                "the scan and, by the packaged weights, mapped by a Wiener filter (the class "
                "token is not used), and how far the scan lies from the training data."
            ),
            "patch": (
                "Features of every patch, patch tokens averaged over directions (the class token "
                "is not used): tokens (N, D) float32, ijk (N, 3), xyz_mm (N, 3), valid (N,), "
                "error (N,) of hidden directions in S/S0, grid_shape (3,), affine (4, 4)."
            ),
        }
    ),
)


def _ablation(of: ModelIdentity, name: str) -> ModelIdentity:
    variant = name.partition("ablation")[2].removeprefix("-").replace("-", " ")
    return replace(
        of,
        name=name,
        title=f"{of.title}, ablation {variant}".rstrip(),
        provenance=f"Small variant of {of.name}, for its ablations; it ships without weights.",
    )


#: Every model that outputs may come from, by name: the tensor fit and the whole registry.
IDENTITIES: Mapping[str, ModelIdentity] = MappingProxyType(
    {
        model.name: model
        for model in (
            _TENSOR,
            _REFINER,
            _QCG_DTI,
            *(
                _ablation(_QCG_DTI, f"qcg-dti-ablation-{row}")
                for row in ("whole", "no-qcf", "no-strategy", "no-mrd", "baseline")
            ),
            _DROPE,
            _DROPE_PAPER,
            *(_ablation(_DROPE_PAPER, f"drope-ablation{end}") for end in ("", "-plain")),
        )
    }
)

#: Networks that the app runs, in the order of its texts.
APP_MODELS = ("tensor-refiner", "drope")

#: Names that once stood for a model and stand for none now, with what to write in their place.
RETIRED_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "qcg-dti": (
            "tensor-refiner is what this name ran before; qcg-dti-paper is the published QCG-DTI, "
            "which can be trained and ships without weights"
        )
    }
)


def explain_retired(name: str) -> ConfigError | None:
    """Return the error to raise where a retired name is used, or None for any other name."""
    if name not in RETIRED_NAMES:
        return None
    return ConfigError(
        f"{name!r} names no model",
        expected=", ".join(APP_MODELS),
        advice=RETIRED_NAMES[name],
    )


def identity(name_or_label: str) -> ModelIdentity:
    """Return what a model is.

    Parameters
    ----------
    name_or_label
        Name in the registry, or the `model` entity of a file name.

    Raises
    ------
    ConfigError
        If there is no such model.

    Examples
    --------
    >>> identity("tensorrefiner").name
    'tensor-refiner'
    """
    label = label_of(name_or_label)
    for model in IDENTITIES.values():
        if model.label == label:
            return model
    raise explain_retired(name_or_label) or ConfigError(
        f"unknown model {name_or_label!r}", expected=", ".join(IDENTITIES)
    )


def about_model(name_or_label: str) -> dict[str, Any]:
    """Return what metadata say of a model.

    Returns
    -------
    dict
        `Name` (its title), `Label`, `Description`; if there is an address, `URL`: of the
        publication, or of the model card where the project has a public address; for models that
        fit something, `Parameters` with `FitMethod`.

    Raises
    ------
    ConfigError
        If there is no such model.
    """
    model = identity(name_or_label)
    found: dict[str, Any] = {
        "Name": model.title,
        "Label": model.label,
        "Description": model.description,
    }
    source = source_url()
    if model.url:
        found["URL"] = model.url
    elif model.card and source is not None:
        found["URL"] = f"{source.rstrip('/')}/blob/HEAD/{model.card}"
    if model.fit_method:
        found["Parameters"] = {"FitMethod": model.fit_method}
    return found


def describe_models(names: Collection[str]) -> str:
    """Return the paragraph of the methods text on models: the tensor fit, then the networks.

    Parameters
    ----------
    names
        Names or labels of the models that ran, `tensor` for the fit.

    Raises
    ------
    ConfigError
        If one is unknown.
    """
    chosen = {identity(name).name for name in names}
    return " ".join(model.methods for name, model in IDENTITIES.items() if name in chosen)
