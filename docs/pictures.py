"""Take docs/page.png, a drawn digit with its answer, and docs/report.png, the top of a training's report.

`python -m docs.pictures --model models/mnist` serves that model on a free port of this machine, and opens both pages in
Chromium by Playwright: `make check` installs the one, `make chromium` the other.
"""  # noqa: INP001  a program

import argparse
import io
import math
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from bench.support.processes import ROOT, running
from bundle.errors import BundleError
from bundle.manifest import REPORT_FILE
from bundle.repository import resolve

PAGE_WIDTH, REPORT_WIDTH, PICTURE_WIDTH = 880, 1060, 1320
"""Pixels of the windows, such that both pictures have about one height, and of either picture."""
COLOURS = 128
"""Of a picture's palette: text, bars and curves need no more, and the file is half as large."""


def arc(x: float, y: float, width: float, height: float, start: int, end: int) -> list[tuple[float, float]]:
    """Return points of an ellipse around (x, y), from one angle to another, in degrees clockwise from the right."""
    angles = [math.radians(start + (end - start) * step / 30) for step in range(31)]
    return [(x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles]


THREE = arc(0.48, 0.34, 0.17, 0.14, -150, 80) + arc(0.48, 0.65, 0.2, 0.17, -80, 150)
"""The stroke that is drawn, in parts of the pad's side."""


def draw(page: Page) -> None:
    """Draw the digit with the mouse, and wait until the page shows the answer to it."""
    pad = page.locator("#pad").bounding_box() or {"x": 0, "y": 0, "width": 0, "height": 0}
    points = [(pad["x"] + x * pad["width"], pad["y"] + y * pad["height"]) for x, y in THREE]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point)
    page.mouse.up()
    page.wait_for_load_state("networkidle")
    expect(page.locator("#label")).to_have_text("3")


def window(browser: Browser, url: str, width: int) -> Page:
    """Open a page in light colours and without motion."""
    page = browser.new_page(
        viewport={"width": width, "height": width},
        color_scheme="light",
        reduced_motion="reduce",
        device_scale_factor=2,
    )
    page.goto(url)
    return page


def take(page: Page, name: str, last: Locator) -> None:
    """Write docs/NAME: the page from its top down to the end of an element."""
    box = last.bounding_box() or {"y": 0, "height": 0}
    width = (page.viewport_size or {"width": 0})["width"]
    png = page.screenshot(
        full_page=True, clip={"x": 0, "y": 0, "width": width, "height": box["y"] + box["height"]}
    )
    with Image.open(io.BytesIO(png)) as picture:
        size = PICTURE_WIDTH, round(picture.height * PICTURE_WIDTH / picture.width)
        picture.convert("RGB").resize(size).quantize(COLOURS).save(ROOT / "docs" / name, optimize=True)


def main() -> int:
    """Take both pictures; return 2 where there is no model or no browser."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/mnist"), help="directory of the model")
    model = parser.parse_args().model.resolve()
    if (chromium := shutil.which("chromium") or shutil.which("google-chrome")) is None:
        parser.error("no Chromium is installed; on Debian: apt-get install chromium")
    try:
        report = resolve(model).path / REPORT_FILE
    except BundleError as error:
        parser.error(str(error))
    with (
        tempfile.TemporaryDirectory() as directory,
        running(Path(directory), until="/readyz", model=model) as service,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = window(browser, f"http://127.0.0.1:{service.port}/", PAGE_WIDTH)
        expect(page.locator("#model")).to_contain_text("version")
        draw(page)
        take(page, "page.png", page.locator("body"))
        page = window(browser, report.as_uri(), REPORT_WIDTH)
        take(page, "report.png", page.locator("#curves figure").first)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
