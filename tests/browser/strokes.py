"""Digits as strokes, and the hand that draws them on the page."""

import math

from playwright.sync_api import Page

from tests.browser.mnist import Points


def _arc(x: float, y: float, width: float, height: float, start: float, end: float) -> Points:
    """Return points of an ellipse around (x, y), from one angle to another, in degrees clockwise from the right."""
    angles = [math.radians(start + (end - start) * step / 15) for step in range(16)]
    return [(x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles]


ZERO = [_arc(0.5, 0.5, 0.2, 0.3, -90, 270)]
ONE = [[(0.53, 0.2), (0.47, 0.8)]]
THREE = [_arc(0.48, 0.34, 0.17, 0.14, -150, 80) + _arc(0.48, 0.65, 0.2, 0.17, -80, 150)]
SEVEN = [[(0.3, 0.25), (0.7, 0.25)], [(0.7, 0.25), (0.45, 0.8)]]
STROKES = {"0": ZERO, "1": ONE, "3": THREE, "7": SEVEN}


def draw(page: Page, strokes: list[Points]) -> None:
    """Draw with the mouse, button held; points are parts of the pad's side."""
    for stroke in strokes:
        points = on_screen(page, stroke)
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def on_screen(page: Page, points: Points) -> Points:
    """Return parts of the pad's side as positions in the window."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    assert box is not None
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
