"""A text that was chosen to do harm, and what a page must not make of it."""

from __future__ import annotations

from html.parser import HTMLParser

#: Runs in a shell, in a page, in a template, in a table; leads out of folders; breaks lines.
NASTY = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}{% raw %}"
    "$(touch pwned);`touch pwned`|touch pwned\n../../pwned\t\x1b[2J\u202e"
)


class Page(HTMLParser):
    """Collects what a browser would run or load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.images: list[str | None] = []
        self._is_script = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_script = tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.images += [value for name, value in attrs if tag == "img" and name == "src"]

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False

    def handle_data(self, data: str) -> None:
        if self._is_script:
            self.scripts.append(data)


def assert_harmless(html: str) -> None:
    page = Page(html)
    assert page.handlers == []
    assert not [text for text in page.scripts if "alert(" in text]
    assert "x" not in page.images
    assert "49{%" not in html, "a template ran a text"
