"""Works to cite, and text that cites them in four formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from types import MappingProxyType

import yaml

from dmri_fm.errors import ConfigError

_CITATION = re.compile(r"\[(@[\w-]+(?:;\s*@[\w-]+)*)\]")


@dataclass(frozen=True)
class Reference:
    """A work to cite.

    Attributes
    ----------
    key
        Name in `references.yaml`.
    authors
        Full names; a last entry `others` stands for more.
    year, title, journal, doi
        As usual; the DOI without its resolver.
    """

    key: str
    authors: tuple[str, ...]
    year: int
    title: str
    journal: str
    doi: str

    @property
    def label(self) -> str:
        """Return e.g. `Basser and Pierpaoli 1996`."""
        first, *others = (name.split()[-1] for name in self.authors)
        if others:
            is_pair = len(others) == 1 and others != ["others"]
            first += f" and {others[0]}" if is_pair else " et al."
        return f"{first} {self.year}"

    @property
    def text(self) -> str:
        """Return the entry of a reference list."""
        names = ", ".join("et al." if a == "others" else a for a in self.authors)
        stop = "" if names.endswith(".") else "."
        return (
            f"{names}{stop} {self.title}. {self.journal}, {self.year}. https://doi.org/{self.doi}"
        )

    @property
    def bibtex(self) -> str:
        """Return the BibTeX entry."""
        fields = {
            "author": " and ".join(self.authors),
            "title": f"{{{self.title}}}",
            "journal": self.journal.replace("&", "\\&"),
            "year": str(self.year),
            "doi": self.doi,
        }
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@article{{{self.key},\n{lines}\n}}\n"


@cache
def load_references() -> Mapping[str, Reference]:
    """Read `references.yaml` (once)."""
    page = files("dmri_fm_workflows.outputs").joinpath("references.yaml")
    entries = yaml.safe_load(page.read_text(encoding="utf-8"))
    return MappingProxyType(
        {
            k: Reference(**e | {"key": k, "authors": tuple(e["authors"])})
            for k, e in entries.items()
        }
    )


def find_references(keys: Iterable[str], *, citing: str) -> list[Reference]:
    """Return works by their keys.

    Parameters
    ----------
    keys
        Keys of `references.yaml`.
    citing
        What cites them, for the message.

    Raises
    ------
    ConfigError
        If `references.yaml` lacks a key.

    Examples
    --------
    >>> [work.label for work in find_references(["yeh2019"], citing="the methods text")]
    ['Yeh et al. 2019']
    >>> find_references(["nobody1900"], citing="output fa")
    Traceback (most recent call last):
    ...
    dmri_fm.errors.ConfigError: output fa cites nobody1900
      expected: keys of references.yaml
      what to do: define the work in references.yaml
    """
    keys, known = list(keys), load_references()
    if unknown := sorted(set(keys) - set(known)):
        raise ConfigError(
            f"{citing} cites {', '.join(unknown)}",
            expected="keys of references.yaml",
            advice="define the work in references.yaml",
        )
    return [known[key] for key in keys]


def split_paragraphs(text: str) -> list[tuple[int, str]]:
    """Return level of heading (0 for none) and words of each paragraph of a methods text.

    Examples
    --------
    >>> split_paragraphs("# Tensor\\n\\nFitted by\\nleast squares.")
    [(1, 'Tensor'), (0, 'Fitted by least squares.')]
    """
    blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip()]
    return [(len(b) - len(b.lstrip("#")), b.lstrip("# ")) for b in blocks]


def replace_citations(text: str, write: Callable[[list[Reference]], str]) -> str:
    """Replace each citation by what `write` makes of its works.

    Raises
    ------
    ConfigError
        If a key is not in `references.yaml`.

    Examples
    --------
    >>> replace_citations("As in [@power2012; @yeh2019].", lambda works: works[1].doi)
    'As in 10.1016/j.neuroimage.2019.116131.'
    """

    def replaced(match: re.Match[str]) -> str:
        keys = [word.strip()[1:] for word in match[1].split(";")]
        return write(find_references(keys, citing="the methods text"))

    return _CITATION.sub(replaced, text)


def render_methods(text: str) -> dict[str, str]:
    """Turn a methods text into Markdown, HTML, LaTeX and BibTeX.

    Parameters
    ----------
    text
        Paragraphs parted by empty lines; headings start with `#`; citations are written
        `[@key]` or `[@key; @key]` with keys of `references.yaml`.

    Returns
    -------
    dict
        Complete documents by format: `md`, `html`, `tex`, `bib`.

    Raises
    ------
    ConfigError
        If a key is unknown.

    Examples
    --------
    >>> print(render_methods("Tensors were fitted [@basser1994].")["md"].splitlines()[0])
    Tensors were fitted (Basser et al. 1994).
    """
    cited: set[Reference] = set()

    def spelt(works: list[Reference]) -> str:
        cited.update(works)
        return f"({'; '.join(work.label for work in works)})"

    def linked(works: list[Reference]) -> str:
        links = (f'<a href="https://doi.org/{w.doi}">{escape(w.label)}</a>' for w in works)
        return f"({'; '.join(links)})"

    def latex(works: list[Reference]) -> str:
        return "\\citep{" + ",".join(work.key for work in works) + "}"

    markdown, html, tex = [], [], []
    for level, words in split_paragraphs(text):
        markdown.append(f"{'#' * level} {replace_citations(words, spelt)}".lstrip())
        tag = f"h{level}" if level else "p"
        html.append(f"<{tag}>{replace_citations(escape(words), linked)}</{tag}>")
        body = replace_citations(_escape_tex(words), latex)
        tex.append("\\section*{" + body + "}" if level else body)
    listed = sorted(cited, key=lambda work: work.key)
    if listed:
        markdown += ["# References", "\n".join(f"- {work.text}" for work in listed)]
        items = "".join(f"<li>{escape(work.text)}</li>" for work in listed)
        html.append(f"<h1>References</h1>\n<ul>{items}</ul>")
        tex.append("\\bibliographystyle{plainnat}\n\\bibliography{CITATION}")
    return {
        "md": "\n\n".join(markdown) + "\n",
        "html": '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>Methods</title></head>\n<body>\n" + "\n".join(html) + "\n</body></html>\n",
        "tex": "\\documentclass{article}\n\\usepackage{natbib}\n\\begin{document}\n"
        + "\n\n".join(tex)
        + "\n\\end{document}\n",
        "bib": "\n".join(work.bibtex for work in listed),
    }


def _escape_tex(text: str) -> str:
    # Citations stay readable for the pattern: none of its characters is touched.
    for sign in ("&", "%", "$", "#"):
        text = text.replace(sign, "\\" + sign)
    text = text.replace("^", "\\^{}")
    return re.sub(r"_(?![^\[]*\])", r"\\_", text)
