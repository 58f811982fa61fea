"""Records of the engines of a stage, and of the sentences about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Generic, TypeVar

_KEY = re.compile(r"@([\w-]+)")

E_co = TypeVar("E_co", covariant=True)


@dataclass(frozen=True)
class Method:
    """A method of a step.

    Attributes
    ----------
    pattern
        Regular expression at the start of the sidecar's entry.
    sentence
        Sentence of the methods text, with citations as `[@key]`; `{method}` is replaced by the
        sidecar's entry, versions included.
    """

    pattern: str
    sentence: str

    @property
    def works(self) -> tuple[str, ...]:
        """Works to cite, keys of `references.yaml`."""
        return tuple(dict.fromkeys(_KEY.findall(self.sentence)))


@dataclass(frozen=True)
class EngineText:
    """Texts about an engine.

    Attributes
    ----------
    title
        Name in the help of the command line; empty: the name says it.
    methods
        Sentences of the methods text, for each name that the engine gives itself in sidecars.
    """

    title: str
    methods: tuple[Method, ...]


@dataclass(frozen=True)
class StageEngines(Generic[E_co]):
    """Engines of a stage: the choices of a command-line option.

    Attributes
    ----------
    package
        Package with one module per engine, each with a record `ENGINE`.
    texts
        Texts by name, in the order in which `auto` prefers the engines.
    """

    package: str
    texts: Mapping[str, EngineText]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the engines."""
        return tuple(self.texts)

    @property
    def summary(self) -> str:
        """Names and titles for the help of the command line."""
        return ", ".join(
            f"{name} ({text.title})" if text.title else name for name, text in self.texts.items()
        )

    @property
    def methods(self) -> tuple[Method, ...]:
        """Sentences about all engines."""
        return tuple(m for text in self.texts.values() for m in text.methods)

    def load(self, name: str) -> E_co:
        """Import the module of an engine, and return its record."""
        engine: E_co = import_module(f"{self.package}.{name}").ENGINE
        return engine
