"""The documentation page in a browser: whole without scripts and without a network, and readable by everybody."""

from typing import Any

import pytest
from playwright.sync_api import Browser

from bench.support.processes import Service
from tests.browser.conftest import DESKTOP
from tests.browser.test_reading import NARROW, fits, violations


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (NARROW, "dark")])
def test_the_documentation_reads_well(browser: Browser, service: Service, viewport: Any, scheme: Any) -> None:
    """With all of an operation opened, axe finds nothing and nothing is too wide; nothing is asked of another host."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    home = f"http://127.0.0.1:{service.port}"
    page.goto(f"{home}/docs")
    assert set(asked) <= {f"{home}/docs", f"{home}/assets/docs.css", "data:,"}
    page.evaluate("document.querySelectorAll('#predict details').forEach(part => part.open = true)")
    assert (violations(page), fits(page)) == ([], True)
    context.close()


@pytest.mark.parametrize("width", [360, 700, 768, 980, 1280])
def test_no_word_of_the_documentation_is_broken(browser: Browser, service: Service, width: int) -> None:
    """A line ends between words, after a hyphen, or before a part of a path; only what scrolls may be wider."""
    page = browser.new_page(viewport={"width": width, "height": 860})
    page.goto(f"http://127.0.0.1:{service.port}/docs")
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    broken = page.evaluate("""() => {
      const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [], range = new Range();
      while (texts.nextNode()) {
        const text = texts.currentNode;
        if (text.parentElement.closest("pre")) continue;
        for (const word of text.data.matchAll(/[^\\s-]+-?/g)) {
          range.setStart(text, word.index);
          range.setEnd(text, word.index + word[0].length);
          if (new Set([...range.getClientRects()].map((part) => part.top)).size > 1) found.push(word[0]);
        }
      }
      return found;
    }""")
    assert (broken, fits(page)) == ([], True)
    page.close()
