"""Hook of MkDocs: Sphinx roles of docstrings (:func:`~a.b`) become plain code."""

import re
from typing import Any

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([^<]*)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Return a page's content without the names of roles."""
    return _ROLE.sub(r"<code>\1</code>", html)
