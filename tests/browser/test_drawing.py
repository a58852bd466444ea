"""The pad: strokes by mouse, finger, pen and keyboard, and what the model is asked about them."""

from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from bench.support.models import CLASSES
from bench.support.processes import Service
from tests.browser.asking import await_that, probabilities, seen, watch_bodies, what_is_shown_was_sent
from tests.browser.bundles import MANY, Images, untrained
from tests.browser.conftest import open_page
from tests.browser.mnist import Points, centre_of_mass, crop, drawn, prepare
from tests.browser.strokes import ONE, SEVEN, STROKES, THREE, ZERO, draw, on_screen


@pytest.mark.parametrize("digit", STROKES)
def test_a_drawn_digit_is_named(page: Page, service: Service, digit: str) -> None:
    """Real strokes of the mouse end in the right answer, and a bar for every class in the classes' order."""
    open_page(page, service)
    draw(page, STROKES[digit])
    expect(page.locator("#label")).to_have_text(digit)
    expect(page.locator("#live")).to_contain_text(f"{digit}, ")
    shown = probabilities(page)
    assert tuple(shown) == CLASSES
    assert shown[digit] == page.locator("#sure").inner_text().split(",")[0]
    expect(page.locator("#bars .top .label")).to_have_text(digit)
    expect(page.locator("#timing")).to_contain_text("of which the model took")


def test_what_is_shown_is_what_the_model_gets(page: Page, service: Service) -> None:
    """The 28x28 on the page, the PNG that is sent, and the strokes prepared by Pillow and NumPy are one image."""
    watch_bodies(page)
    open_page(page, service)
    for strokes in (THREE, SEVEN):
        page.locator("#pad").press("Delete")
        draw(page, strokes)
        await_that(page, lambda: what_is_shown_was_sent(page))
        pixels = seen(page)
        assert max(crop(pixels).shape) == 20
        assert np.abs(np.array(centre_of_mass(pixels)) - 14).max() <= 0.52
        # Pillow's edges, and positions that the browser rounds to whole pixels, leave small differences.
        assert np.abs(pixels.astype(float) - prepare(drawn(strokes, 20))).mean() < 4


def test_the_answer_comes_while_the_hand_still_draws(page: Page, service: Service) -> None:
    """The chart is live: there is an answer before the button is let go."""
    open_page(page, service)
    first, second = on_screen(page, ONE[0])
    page.mouse.move(*first)
    page.mouse.down()
    page.mouse.move(*second, steps=4)
    expect(page.locator("#label")).to_have_text("1")
    page.mouse.up()


def test_undo_takes_back_the_last_stroke_and_clear_all(page: Page, service: Service) -> None:
    """Undo, by button and by Ctrl+Z, gives the image of before; with nothing left there is no answer either."""
    open_page(page, service)
    expect(page.locator("#undo")).to_be_disabled()
    draw(page, SEVEN[:1])
    before = seen(page)
    draw(page, SEVEN[1:])
    assert not np.array_equal(seen(page), before)
    page.keyboard.press("Control+z")
    assert np.array_equal(seen(page), before)
    page.click("#undo")
    expect(page.locator("#sure")).to_have_text("No image yet")
    expect(page.locator("#hint")).to_be_visible()
    expect(page.locator("#undo")).to_be_disabled()
    draw(page, SEVEN)
    expect(page.locator("#label")).to_have_text("7")
    page.click("#clear")
    expect(page.locator("#sure")).to_have_text("No image yet")
    assert set(probabilities(page).values()) == {""}


def test_the_pen_has_a_width(page: Page, service: Service) -> None:
    """A wider pen, by keyboard, leaves more ink; the keys work on the pad only."""
    open_page(page, service)
    draw(page, ONE)
    thin = seen(page).astype(int).sum()
    page.keyboard.press("Delete")
    for _ in range(4):
        page.keyboard.press("]")
    expect(page.locator("#pen")).to_have_value("28")
    draw(page, ONE)
    assert seen(page).astype(int).sum() > 1.2 * thin
    page.keyboard.press("[")
    expect(page.locator("#pen")).to_have_value("26")
    page.locator("#files").focus()
    page.keyboard.press("]")
    expect(page.locator("#pen")).to_have_value("26")


Hand = Callable[[Page, list[Points]], None]


def _by_touch(page: Page, strokes: list[Points]) -> None:
    session = page.context.new_cdp_session(page)

    def touch(kind: str, points: Points) -> None:
        positions = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": positions})

    for stroke in strokes:
        first, *others = on_screen(page, stroke)
        touch("touchStart", [first])
        for point in others:
            touch("touchMove", [point])
        touch("touchEnd", [])


def _by_pen(page: Page, strokes: list[Points]) -> None:
    session = page.context.new_cdp_session(page)

    def pen(kind: str, x: float, y: float) -> None:
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "pointerType": "pen"}
        session.send("Input.dispatchMouseEvent", event | {"clickCount": 1})

    for stroke in strokes:
        points = on_screen(page, stroke)
        pen("mousePressed", *points[0])
        for point in points[1:]:
            pen("mouseMoved", *point)
        pen("mouseReleased", *points[-1])


@pytest.mark.parametrize(("kind", "hand"), [("touch", _by_touch), ("pen", _by_pen)])
def test_a_finger_and_a_pen_draw_as_the_mouse_does(
    browser: Browser, service: Service, kind: str, hand: Hand
) -> None:
    """On a telephone's screen a finger draws and does not scroll; a pen draws too."""
    context = browser.new_context(viewport={"width": 390, "height": 500}, has_touch=True)
    page = context.new_page()
    page.add_init_script("addEventListener('pointerdown', (event) => (window.kind = event.pointerType))")
    open_page(page, service)
    hand(page, THREE)
    expect(page.locator("#label")).to_have_text("3")
    assert page.evaluate("window.kind") == kind
    assert page.evaluate("scrollY") == 0
    assert page.evaluate("getComputedStyle(document.getElementById('pad')).touchAction") == "none"
    context.close()


def test_without_a_pointer_a_sample_is_chosen_by_keyboard(page: Page, service: Service) -> None:
    """Tab leads to the samples, Enter asks about one, and a screen reader is told the answer."""
    open_page(page, service)
    sample = page.get_by_role("button", name="Sample of 4")
    expect(sample).to_be_visible()
    for _ in range(30):
        page.keyboard.press("Tab")
        if sample.evaluate("(button) => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#label")).to_have_text("4")
    expect(page.locator("#live")).to_contain_text("4, ")
    assert page.locator("#live").get_attribute("role") == "status"


def test_a_sample_is_shown_as_it_is(page: Page, service: Service, digits: Images) -> None:
    """A sample is one of the bundle's golden examples, pixel for pixel, and takes the drawing's place."""
    open_page(page, service)
    draw(page, ZERO)
    page.get_by_role("button", name="Sample of 7").click()
    expect(page.locator("#label")).to_have_text("7")
    assert any(np.array_equal(seen(page), image) for image in digits[:30])
    expect(page.locator("#hint")).to_be_visible()


def test_a_dark_on_light_model_gets_dark_ink_on_light_paper(page: Page, other_service: Service) -> None:
    """The pad, what is shown and what is sent have the polarity that the model states."""
    watch_bodies(page)
    open_page(page, other_service)
    assert (
        page.locator("#pad").evaluate("(pad) => getComputedStyle(pad).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    draw(page, THREE)
    await_that(page, lambda: what_is_shown_was_sent(page))
    pixels = seen(page)
    assert (pixels[0] == 255).all()
    assert np.abs(255 - pixels.astype(float) - prepare(drawn(THREE, 20))).mean() < 4
    expect(page.locator("#notice")).to_be_hidden()


def test_of_many_classes_the_ten_most_probable_are_shown(page: Page, other_service: Service) -> None:
    """Ten bars, sorted; the other 290 are folded away, whole when they are opened."""
    open_page(page, other_service)
    draw(page, THREE)
    expect(page.locator("#bars li")).to_have_count(10)
    expect(page.locator("#sure")).to_contain_text("%")
    expected = untrained(len(MANY)).probabilities(seen(page)[None])[0].argsort()[::-1][:10]
    await_that(page, lambda: list(probabilities(page)) == [MANY[index] for index in expected])
    expect(page.locator("#rest li")).to_have_count(0)
    page.click("#others summary")
    expect(page.locator("#rest li")).to_have_count(290)
    expect(page.locator("#others summary")).to_contain_text("290 more")
