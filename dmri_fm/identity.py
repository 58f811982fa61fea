"""Records of the models: name, family, outputs, method and citations of each.

The command line, file names, sidecars, methods text and report read a model's record here, so
that they agree. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from dmri_fm.errors import ConfigError
from dmri_fm.project import source_url

#: Family of a model: it computes a tensor without training, a tensor with it, or features.
Family = Literal["tensor fit", "tensor network", "encoder"]

#: Features of a scan: its patch tokens, pooled; or its class token.
FeatureType = Literal["pooled", "cls"]


@dataclass(frozen=True)
class ModelIdentity:
    """The record of a model.

    Attributes
    ----------
    name
        Name in the registry, and of `--models`.
    family
        "tensor fit", "tensor network" or "encoder".
    title
        Name in headings and legends.
    architecture
        Description of its computation, a sentence or two.
    provenance
        Origin of the method, and differences from the publication.
    citations
        Keys of `references.yaml`; the first is the method's own publication, if it has one.
    methods
        Sentences of the methods text, with citations as `[@key]`.
    url
        Address of the method's description, or empty.
    fit_method
        `Model.Parameters.FitMethod` of sidecars, in the words of BEP016 (`wls`) where it has one;
        empty for encoders.
    card
        Model card, relative to the repository, or empty. Its address stands in for that of a
        publication.
    is_experimental
        Whether its outputs are experimental: no evaluation has found them better than a baseline.
    is_packaged
        Whether its weights ship with the package. A network without needs a weights file.
    features
        Features of a scan that an encoder gives with its default configuration; None for other
        models.
    has_intervals
        Whether a tensor network estimates standard deviations of FA and MD (`desc-std`).
    has_ood
        Whether an out-of-distribution (OOD) score is defined: a map of percentiles for tensor
        networks, score and percentile of the scan for encoders. Weights without statistics of
        training features give none.
    outputs
        Descriptions of the outputs that are the model's own: `intervals` and `ood` (tensor
        networks); `pooled` or `cls`, and `patch` (encoders).
    """

    name: str
    family: Family
    title: str
    architecture: str
    provenance: str
    citations: tuple[str, ...]
    methods: str
    url: str = ""
    fit_method: str = ""
    card: str = ""
    is_experimental: bool = False
    is_packaged: bool = False
    features: FeatureType | None = None
    has_intervals: bool = False
    has_ood: bool = False
    outputs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def label(self) -> str:
        """Value of the `model` entity of file names: the name without dashes.

        Examples
        --------
        >>> identity("tensor-refiner").label
        'tensorrefiner'
        """
        return label_of(self.name)

    @property
    def description(self) -> str:
        """Architecture and provenance as one text."""
        return f"{self.architecture} {self.provenance}"


def label_of(name: str) -> str:
    """Return the `model` entity of a registered name: BIDS labels hold letters and digits only."""
    return name.replace("-", "")


_TENSOR = ModelIdentity(
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

_REFINER = ModelIdentity(
    name="tensor-refiner",
    family="tensor network",
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
        "experimental. Standard deviations of its FA and MD, and the out-of-distribution map, are "
        "this software's own; those of the packaged weights are calibrated on simulation."
    ),
    fit_method="neural network",
    card="docs/model_cards/tensor-refiner.md",
    is_experimental=True,
    is_packaged=True,
    has_intervals=True,
    has_ood=True,
    outputs=MappingProxyType(
        {
            "intervals": (
                "Standard deviation of the tensor refiner's error, as the network itself predicts "
                "it; the packaged weights are calibrated on simulation so that nine errors in ten "
                "are below 1.645 times this; 0 outside the brain."
            ),
            "ood": (
                "Out-of-distribution percentile of a voxel's surroundings: Mahalanobis distance "
                "of the tensor refiner's coarse features from those of its training data, as the "
                "share of held-out training data (simulated for the packaged weights) that lie "
                "nearer, percent; 0 outside the brain."
            ),
        }
    ),
)

_QCG_DTI = ModelIdentity(
    name="qcg-dti-paper",
    family="tensor network",
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
        "diffusion tensor from one b=0 and six directions. Its maps are experimental: no "
        "evaluation has compared the weights that ran with a baseline."
    ),
    url="https://doi.org/10.1631/FITEE.2400766",
    fit_method="neural network",
    card="docs/model_cards/qcg-dti.md",
    is_experimental=True,
)

#: Arrays of the file of patch features.
_PATCH_ARRAYS = (
    "tokens (N, D) float32, ijk (N, 3), xyz_mm (N, 3), valid (N,), error (N,) of masked "
    "directions in S/S0, grid_shape (3,), affine (4, 4)"
)

_DROPE_PAPER = ModelIdentity(
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

_DROPE = ModelIdentity(
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


def _ablation(of: ModelIdentity, name: str) -> ModelIdentity:
    variant = name.partition("ablation")[2].removeprefix("-").replace("-", " ")
    return replace(
        of,
        name=name,
        title=f"{of.title}, ablation {variant}".rstrip(),
        provenance=f"Small variant of {of.name}, for its ablations; it ships without weights.",
    )


_PUBLIC = (_TENSOR, _REFINER, _QCG_DTI, _DROPE, _DROPE_PAPER)

_ABLATIONS = (
    *(
        _ablation(_QCG_DTI, f"qcg-dti-ablation-{row}")
        for row in ("whole", "no-qcf", "no-strategy", "no-mrd", "baseline")
    ),
    *(_ablation(_DROPE_PAPER, f"drope-ablation{end}") for end in ("", "-plain")),
)

#: Record of every model that outputs may come from, by name: the tensor fit and the registry.
IDENTITIES: Mapping[str, ModelIdentity] = MappingProxyType(
    {model.name: model for model in (*_PUBLIC, *_ABLATIONS)}
)

#: Networks that users choose from, in the order of texts. Ablations, which reproduce tables of
#: publications, are not among them; Python and the lab run them by name.
TENSOR_NETWORKS = tuple(m.name for m in _PUBLIC if m.family == "tensor network")
ENCODERS = tuple(m.name for m in _PUBLIC if m.family == "encoder")

#: Networks that run unless others are asked for; their weights ship with the package.
DEFAULT_MODELS = ("tensor-refiner", "drope")

#: Names of models that are gone, with advice on what to write instead.
RETIRED_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "qcg-dti": (
            "tensor-refiner is what this name ran before; qcg-dti-paper is the published QCG-DTI, "
            "which can be trained and ships without weights"
        )
    }
)


def explain_retired(name: str) -> ConfigError | None:
    """Return the error to raise for a retired name, or None for any other name."""
    if name not in RETIRED_NAMES:
        return None
    return ConfigError(
        f"{name!r} names no model",
        expected=", ".join((*TENSOR_NETWORKS, *ENCODERS)),
        advice=RETIRED_NAMES[name],
    )


def identity(name_or_label: str) -> ModelIdentity:
    """Return the record of a model of the registry, by name or `model` entity.

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
    """Return the entries of `Model` in metadata that come from a model's record.

    `Name` (its title), `Label`, `Description`; if there is an address, `URL`: of the publication,
    or of the model card where the project has a public address; for models that fit something,
    `Parameters` with `FitMethod`.
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
    """Return the paragraph of the methods text on the models of these names or labels."""
    chosen = {identity(name).name for name in names}
    return " ".join(model.methods for name, model in IDENTITIES.items() if name in chosen)
