"""The scoring report in Chromium: light and dark, desktop and phone, with its pictures and nothing from outside."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ViewportSize

from tests.browser.test_reading import violations
from tests.serving.scoring.reporting.reports import COUNT, NASTY, a_page

DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_read_anywhere(
    browser: Browser, tmp_path: Path, viewport: ViewportSize, scheme: Literal["light", "dark"]
) -> None:
    """No part is wider than the window, every picture has ink, axe finds no fault, nothing is fetched."""
    rows = [f"{'long' * 40}/{NASTY[row % 6]}/{row}.png" for row in range(COUNT)]
    summary, content = a_page(tmp_path, NASTY, rows)
    (tmp_path / "report.html").write_text(content)
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert dark == (scheme == "dark")
    picture = page.locator(".cards i").first
    picture.scroll_into_view_if_needed()
    shown = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"))[:56, :56]
    zoomed = np.kron(summary.least[0].image(), np.ones((2, 2)))
    assert np.corrcoef(shown.ravel(), zoomed.ravel())[0, 1] > 0.4  # it may lie between two pixels; others: 0
    assert violations(page) == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()
