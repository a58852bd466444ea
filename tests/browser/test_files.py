"""Files: chosen, dropped and pasted; one and many; of the wrong size, the wrong polarity, and no images at all."""

import base64
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import FilePayload, Locator, Page, Route, expect

from bench.support.models import CLASSES, Linear
from bench.support.pictures import encoded, png
from bench.support.processes import Service
from tests.browser.asking import a_file, await_that, is_painted, seen, watch_bodies, what_is_shown_was_sent
from tests.browser.bundles import Images
from tests.browser.conftest import open_page
from tests.browser.mnist import Pixels, prepare

DROP = """([kind, files]) => {
  const transfer = new DataTransfer();
  for (const [name, type, content] of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  const options = { bubbles: true, cancelable: true };
  const event =
    kind === "paste"
      ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
      : new DragEvent(kind, { ...options, dataTransfer: transfer });
  document.getElementById("pad").dispatchEvent(event);
}"""


def give(page: Page, kind: str, files: list[FilePayload]) -> None:
    """Drag, drop or paste files."""
    plain = [[file["name"], file["mimeType"], base64.b64encode(file["buffer"]).decode()] for file in files]
    page.evaluate(DROP, [kind, plain])


def rows(page: Page) -> Locator:
    """Return the table's rows."""
    return page.locator("#rows tr")


def answers(page: Page) -> list[str]:
    """Return the answers in the table, from top to bottom."""
    return page.locator("#rows .answer").all_inner_texts()


@pytest.fixture
def labelled(digits: Images, linear: Linear) -> tuple[list[Pixels], list[str]]:
    """Return ten of MNIST's digits and what the model, computed by NumPy, says of them."""
    images = digits[:10]
    return list(images), [CLASSES[index] for index in linear.probabilities(images).argmax(axis=1)]


def test_dropped_files_become_a_table_in_their_order(
    page: Page, service: Service, labelled: tuple[list[Pixels], list[str]]
) -> None:
    """Ten files at once: ten rows, each with its file's name and answer; the first is shown large."""
    images, expected = labelled
    open_page(page, service)
    files = [a_file(f"{index}.png", png(image)) for index, image in enumerate(images)]
    give(page, "dragenter", files)
    expect(page.locator("#drop")).to_be_visible()
    give(page, "drop", files)
    expect(page.locator("#drop")).to_be_hidden()
    expect(rows(page)).to_have_count(10)
    expect(page.locator("#rows .show:enabled")).to_have_count(10)
    assert answers(page) == expected
    assert page.locator("#rows .name").all_inner_texts() == [file["name"] for file in files]
    expect(page.locator("#label")).to_have_text(expected[0])
    expect(page.locator("#live")).to_contain_text("10 of 10 files classified")
    page.get_by_role("button", name="Show 4.png above").click()
    expect(page.locator("#label")).to_have_text(expected[4])
    assert np.array_equal(seen(page), images[4])


def test_more_files_than_a_form_takes_are_asked_in_several(
    page: Page, service: Service, digits: Images
) -> None:
    """Forty files are two forms; a proxy that takes three files at most is met with smaller forms."""
    open_page(page, service)
    sizes: list[int] = []

    def narrow(route: Route) -> None:
        count = page.evaluate("window.parts.shift()")
        sizes.append(count)
        if count > 3:
            route.fulfill(status=413, body="<h1>413 Request Entity Too Large</h1>", content_type="text/html")
        else:
            route.continue_()

    page.evaluate("""() => {
      const fetch = window.fetch;
      window.parts = [];
      window.fetch = (path, options) => {
        if (path === "predict") window.parts.push(options.body instanceof FormData ? [...options.body].length : 1);
        return fetch(path, options);
      };
    }""")
    page.route("**/predict", narrow)
    page.set_input_files("#files", [a_file(f"{index}.png", png(digits[index])) for index in range(40)])
    expect(page.locator("#rows .show:enabled")).to_have_count(40)
    assert sizes[0] == 32
    assert max(sizes[4:]) <= 3


def test_each_file_that_is_refused_says_why_and_the_others_are_answered(
    page: Page, service: Service, labelled: tuple[list[Pixels], list[str]]
) -> None:
    """A damaged image and a text are refused by the service, in their rows."""
    images, expected = labelled
    open_page(page, service)
    whole = png(images[1])
    files = [
        a_file("first.png", png(images[0])),
        a_file("half.png", whole[: len(whole) // 2]),
        a_file("note.txt", b"not an image", "text/plain"),
        a_file("last.png", whole),
    ]
    page.set_input_files("#files", files)
    expect(page.locator("#live")).to_contain_text("2 of 4 files classified, 2 failed")
    assert answers(page) == [expected[0], "–", "–", expected[1]]  # noqa: RUF001
    expect(rows(page).nth(1).locator(".remark")).to_contain_text("truncated or damaged")
    expect(rows(page).nth(2).locator(".remark")).to_contain_text("text/plain is not supported")


def test_an_inverted_file_is_noticed_and_turned_with_one_click(
    page: Page, service: Service, labelled: tuple[list[Pixels], list[str]]
) -> None:
    """Dark on light, where light on dark is expected: a sentence says so, a button puts it right."""
    images, expected = labelled
    open_page(page, service)
    page.set_input_files("#files", [a_file("dark.png", png(255 - images[2]))])
    expect(page.locator("#problem")).to_contain_text("The model expects light ink on dark paper.")
    assert np.array_equal(seen(page), 255 - images[2])
    page.locator("#notice").get_by_role("button", name="Invert it").click()
    expect(page.locator("#label")).to_have_text(expected[2])
    expect(page.locator("#notice")).to_be_hidden()
    assert np.array_equal(seen(page), images[2])
    row = rows(page).first
    expect(row.locator(".remark")).to_contain_text("Looks inverted")
    row.get_by_role("button", name="Invert it").click()
    expect(row.locator(".answer")).to_have_text(expected[2])
    expect(row.locator(".remark")).to_be_empty()
    expect(row.locator(".note")).to_have_text("Inverted.")


EXPORT = """async (type) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 28;
  const pen = canvas.getContext("2d");
  pen.lineWidth = 3;
  pen.moveTo(14, 4);
  pen.lineTo(14, 24);
  pen.stroke();
  const blob = await new Promise((give) => canvas.toBlob(give, type));
  const answer = await fetch("/predict", { method: "POST", body: blob, headers: { "Content-Type": blob.type } });
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return [await answer.json(), blob.type, btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))];
}"""


@pytest.mark.parametrize("media_type", ["image/png", "image/webp"])
def test_a_canvas_with_its_default_colours_is_told_to_be_filled_before_it_is_drawn_on(
    page: Page, service: Service, media_type: str
) -> None:
    """Black strokes on a transparent canvas are nothing but black when they are composited; script and page say so."""
    open_page(page, service)
    answer, exported, content = page.evaluate(EXPORT, media_type)
    assert exported == media_type
    (said,) = answer["predictions"][0]["warnings"]
    assert said.startswith("looks blank: the drawing is in the transparency alone")
    assert "fill the canvas with black and draw with light ink before exporting it" in said
    page.set_input_files("#files", [a_file("canvas", base64.b64decode(content), exported)])
    expect(page.locator("#problem")).to_contain_text("fill the canvas with black")
    expect(rows(page).first.locator(".remark")).to_contain_text("fill the canvas with black")


def a_photograph() -> Image.Image:
    """Return a seven in dark ink on uneven light paper, 640x480, far from the middle."""
    ramp = np.linspace(190, 235, 640)[None, :] + np.random.default_rng(4).normal(0, 4, (480, 640))
    image = Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    pen.line([(120, 100), (300, 100), (180, 380)], fill=45, width=34, joint="curve")
    return image


def test_a_photograph_is_fitted_and_centred(page: Page, service: Service) -> None:
    """A picture of another size and polarity is prepared as MNIST was made, and says so."""
    watch_bodies(page)
    open_page(page, service)
    give(page, "paste", [a_file("photo.png", encoded(a_photograph(), "PNG"))])
    expect(page.locator("#label")).to_have_text("7")
    assert what_is_shown_was_sent(page)
    expect(page.locator("#note")).to_have_text("Fitted and centred from 640×480.")  # noqa: RUF001
    ink = np.where(np.asarray(a_photograph()) < 120, 255, 0).astype(np.uint8)
    # Scaled before the threshold or after it, the centre of mass can fall on either side of a half.
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    prepared = [np.roll(prepare(ink), shift, axis=(0, 1)) for shift in shifts]
    assert min(np.abs(seen(page).astype(float) - pixels).mean() for pixels in prepared) < 4


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("scale", "Scaled to 28×28 from 640×480."),  # noqa: RUF001
        ("fit", "Scaled to 28×28 from 640×480."),  # noqa: RUF001
        ("none", "The image is 640x480 pixels"),
    ],
)
def test_the_reader_chooses_what_becomes_of_other_sizes(
    page: Page, service: Service, choice: str, expected: str
) -> None:
    """Only scaled, it keeps its greys and its polarity; sent as it is, the service refuses it and says why."""
    open_page(page, service)
    page.select_option("#preparation", choice)
    page.set_input_files("#files", [a_file("photo.png", encoded(a_photograph(), "PNG"))])
    expect(rows(page).first).to_contain_text(expected)
    if choice == "scale":
        await_that(page, lambda: is_painted(page) and bool(seen(page).any()))
        expect(page.locator("#problem")).to_contain_text("looks inverted")
        small = np.asarray(a_photograph().resize((28, 21), Image.Resampling.BOX)).astype(float)
        assert np.abs(seen(page)[3:24].astype(float) - small).mean() < 6


@pytest.mark.parametrize(
    ("resize", "expected"), [(None, "mnist"), ("mnist", "mnist"), ("pad", "scale"), ("fit", "fit")]
)
def test_other_sizes_become_what_the_models_training_images_became(
    page: Page, service: Service, resize: str | None, expected: str
) -> None:
    """The model's own way is chosen beforehand; without one, characters are prepared as MNIST was."""

    def changed(route: Route) -> None:
        document = route.fetch().json()
        document["input"] |= {"resize": resize} if resize else {}
        route.fulfill(json=document)

    page.route("**/metadata", changed)
    open_page(page, service)
    expect(page.locator("#preparation")).to_have_value(expected)


def test_a_format_that_no_browser_shows_is_asked_about_all_the_same(
    page: Page, service: Service, labelled: tuple[list[Pixels], list[str]]
) -> None:
    """The service reads TIFF; Chromium does not."""
    images, expected = labelled
    open_page(page, service)
    tiff: Any = encoded(Image.fromarray(images[0]), "TIFF")
    page.set_input_files("#files", [a_file("seven.tiff", tiff, "image/tiff")])
    expect(rows(page).first.locator(".answer")).to_have_text(expected[0])
    expect(rows(page).first.locator(".note")).to_have_text("This browser cannot display it.")


def test_the_list_can_be_cleared(page: Page, service: Service, digits: Images) -> None:
    """The table goes, and the focus returns to where files are chosen."""
    open_page(page, service)
    page.set_input_files("#files", [a_file("one.png", png(digits[0]))])
    expect(rows(page)).to_have_count(1)
    page.click("#forget")
    expect(page.locator("#several")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "files"
