"""Works to cite, and text that cites them in four formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from types import MappingProxyType

import yaml

from dmri_fm.errors import ConfigError

__all__ = ["Reference", "load_references", "render_methods"]

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
        family = [name.split()[-1] for name in self.authors]
        if len(family) == 1:
            names = family[0]
        elif len(family) == 2 and family[1] != "others":
            names = f"{family[0]} and {family[1]}"
        else:
            names = f"{family[0]} et al."
        return f"{names} {self.year}"

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
    text = (
        files("dmri_fm_workflows.outputs").joinpath("references.yaml").read_text(encoding="utf-8")
    )
    return MappingProxyType(
        {
            key: Reference(
                key=key,
                authors=tuple(entry["authors"]),
                year=int(entry["year"]),
                title=entry["title"],
                journal=entry["journal"],
                doi=str(entry["doi"]),
            )
            for key, entry in yaml.safe_load(text).items()
        }
    )


def _cited(text: str) -> list[Reference]:
    known = load_references()
    keys = [k.strip()[1:] for m in _CITATION.finditer(text) for k in m[1].split(";")]
    unknown = sorted(set(keys) - set(known))
    if unknown:
        raise ConfigError(
            f"the methods text cites {', '.join(unknown)}",
            expected="keys of references.yaml",
            advice="add the work there",
        )
    return [known[key] for key in sorted(set(keys))]


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
    cited = _cited(text)
    known = load_references()

    def spelt(match: re.Match[str]) -> str:
        labels = [known[k.strip()[1:]].label for k in match[1].split(";")]
        return f"({'; '.join(labels)})"

    def linked(match: re.Match[str]) -> str:
        works = [known[k.strip()[1:]] for k in match[1].split(";")]
        links = [f'<a href="https://doi.org/{w.doi}">{escape(w.label)}</a>' for w in works]
        return f"({'; '.join(links)})"

    def latex(match: re.Match[str]) -> str:
        return "\\citep{" + ",".join(k.strip()[1:] for k in match[1].split(";")) + "}"

    blocks = [" ".join(b.split()) for b in re.split(r"\n\s*\n", text.strip()) if b.strip()]
    markdown = [_CITATION.sub(spelt, b) for b in blocks]
    html, tex = [], []
    for block in blocks:
        level = len(block) - len(block.lstrip("#"))
        words = block.lstrip("# ")
        tag = f"h{level}" if level else "p"
        html.append(f"<{tag}>{_CITATION.sub(linked, escape(words))}</{tag}>")
        body = _CITATION.sub(latex, _escape_tex(words))
        tex.append("\\section*{" + body + "}" if level else body)
    listing = [w.text for w in cited]
    if listing:
        markdown += ["# References", "\n".join(f"- {entry}" for entry in listing)]
        items = "".join(f"<li>{escape(entry)}</li>" for entry in listing)
        html.append(f"<h1>References</h1>\n<ul>{items}</ul>")
        tex.append("\\bibliographystyle{plainnat}\n\\bibliography{CITATION}")
    return {
        "md": "\n\n".join(markdown) + "\n",
        "html": '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>Methods</title></head>\n<body>\n" + "\n".join(html) + "\n</body></html>\n",
        "tex": "\\documentclass{article}\n\\usepackage{natbib}\n\\begin{document}\n"
        + "\n\n".join(tex)
        + "\n\\end{document}\n",
        "bib": "\n".join(w.bibtex for w in cited),
    }


def _escape_tex(text: str) -> str:
    # Citations stay readable for the pattern: none of its characters is touched.
    for sign in ("&", "%", "$", "#"):
        text = text.replace(sign, "\\" + sign)
    text = text.replace("^", "\\^{}")
    return re.sub(r"_(?![^\[]*\])", r"\\_", text)
