"""Ratings on a page that is open in the browser."""

from __future__ import annotations

from tests.browser import Page

_SAVE = """(async () => {
  const make = URL.createObjectURL;
  let saved = null;
  URL.createObjectURL = function (blob) { saved = blob; return make.call(URL, blob); };
  document.querySelector("#ratings button").click();
  URL.createObjectURL = make;
  return await saved.text();
})()"""


def rate(page: Page, scan: str, rating: str) -> None:
    """Choose a rating of a scan, with a comment that holds a tab."""
    page.run(f"""(() => {{
      const cell = document.querySelector('[data-scan="{scan}"]');
      cell.querySelector("select").value = "{rating}";
      cell.querySelector("input").value = "a\\tb";
      cell.querySelector("select").dispatchEvent(new Event("change", {{bubbles: true}}));
    }})()""")


def save_ratings(page: Page) -> str:
    """Return the text that the button saves, as the page would hand it to the browser."""
    return str(page.run(_SAVE))
