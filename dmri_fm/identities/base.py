"""What the record of a model holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from dmri_fm.errors import ConfigError

#: Family of a model: it computes a tensor without training, a tensor with it, or features.
Family = Literal["tensor fit", "tensor network", "encoder"]

#: Use of experimental models, of their outputs and of their weights.
RESEARCH_ONLY = "Research only: not for diagnosis or treatment."


#: Parts of the grid that an encoder may read, in words.
REGIONS = {"whole": "the whole brain", "published": "slices 64 to 119 at 1 mm"}

#: Choices of the directions that an encoder reads, in words.
DIRECTION_CHOICES = {
    "spread": "spread over q-space",
    "random": "drawn at random",
    "all": "all of them",
    "shell": "one shell, brought to fixed directions by spherical harmonics",
}


class Extraction(NamedTuple):
    """What an encoder reads of a scan.

    Attributes
    ----------
    region
        Key of :data:`REGIONS`; another may be asked for.
    directions
        Key of :data:`DIRECTION_CHOICES`; "shell": series without a shell that
        :func:`dmri_fm.shell_resampling.find_shell` finds have no features.
    reads_rotations
        Whether directions may differ between places, as they do behind a warp.
    """

    region: str = "whole"
    directions: str = "spread"
    reads_rotations: bool = False


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
        Whether its outputs are experimental: no evaluation has found them better than a baseline,
        or not for every scan. Maps of a tensor network are primary where their sidecars say so.
    is_packaged
        Whether its weights ship with the package. A network without needs a weights file.
    has_intervals
        Whether a tensor network can estimate standard deviations of FA and MD (`desc-std`): with
        weights that hold their calibration.
    has_patches, has_sensitivity
        Whether an encoder gives features of patches (`desc-patch`), and a map of how far features
        follow the signal of a place (`param-sensitivity`).
    has_ood
        Whether an out-of-distribution (OOD) score is defined: a map of percentiles for tensor
        networks, score and percentile of the scan for encoders. Weights without statistics of
        training features give none.
    extraction
        What an encoder reads of a scan; not read for other families.
    ablation_of
        Name of the network that it is a small variant of, for tables of ablations; empty for
        models that users choose from.
    outputs
        Descriptions of the outputs that are the model's own: `intervals` and `ood` (tensor
        networks); `scan`, `patch` and `sensitivity` (encoders).
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
    has_intervals: bool = False
    has_ood: bool = False
    has_patches: bool = False
    has_sensitivity: bool = False
    extraction: Extraction = field(default_factory=Extraction)
    ablation_of: str = ""
    outputs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        is_encoder, is_network = self.family == "encoder", self.family == "tensor network"
        own = {"scan"} if is_encoder else set()
        own |= {"patch"} if self.has_patches else set()
        own |= {"sensitivity"} if self.has_sensitivity else set()
        own |= {"intervals"} if self.has_intervals else set()
        own |= {"ood"} if self.has_ood and not is_encoder else set()
        cited = set(re.findall(r"@(\w+)", self.methods))
        for is_sound, problem, expected in (
            (
                self.label.isalnum() and self.label.islower(),
                "name that makes no label of BIDS",
                "lower-case letters, digits and dashes",
            ),
            (
                is_network or not (self.has_intervals or (self.has_ood and not is_encoder)),
                f"has_intervals or has_ood of the family {self.family!r}",
                "has_intervals for tensor networks alone, has_ood for them and encoders",
            ),
            (
                is_encoder or not (self.has_patches or self.has_sensitivity),
                f"has_patches or has_sensitivity of the family {self.family!r}",
                "these for encoders alone",
            ),
            (
                set(self.outputs) == own,
                f"outputs {sorted(self.outputs)}",
                f"the keys {sorted(own)}, as family and has_* state",
            ),
            (
                cited.issuperset(self.citations),
                f"methods without citation of {sorted({*self.citations} - cited)}",
                "every one of citations as [@key]",
            ),
            (
                ("experimental" in self.methods) == self.is_experimental,
                f"is_experimental is {self.is_experimental}, the methods text differs",
                'methods that say "experimental" where is_experimental is set, and only there',
            ),
        ):
            if not is_sound:
                raise ConfigError(f"record of model {self.name!r}: {problem}", expected=expected)

    @property
    def label(self) -> str:
        """Value of the `model` entity of file names: the name without dashes.

        Examples
        --------
        >>> label_of("tensor-refiner")
        'tensorrefiner'
        """
        return label_of(self.name)

    def ablation(self, name: str) -> ModelIdentity:
        """Return the record of a small variant, whose name ends in `-ablation[-<variant>]`."""
        variant = name.partition("ablation")[2].removeprefix("-").replace("-", " ")
        return replace(
            self,
            name=name,
            title=f"{self.title}, ablation {variant}".rstrip(),
            provenance=f"Small variant of {self.name}, for its ablations; it ships without "
            "weights.",
            ablation_of=self.name,
        )

    @property
    def description(self) -> str:
        """Architecture and provenance as one text."""
        return f"{self.architecture} {self.provenance}"


def label_of(name: str) -> str:
    """Return the `model` entity of a registered name: BIDS labels hold letters and digits only."""
    return name.replace("-", "")
