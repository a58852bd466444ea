"""What the page asks of the service, watched from outside, and what it shows."""

import base64
import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from playwright.sync_api import FilePayload, Page

from tests.browser.mnist import Pixels

POLL_MS = 20
PATIENCE_MS = 60_000

_SEEN = """() => {
  const canvas = document.getElementById("seen");
  const { data } = canvas.getContext("2d").getImageData(0, 0, 28, 28);
  return btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
}"""


_WATCH = """(() => {
  const [fetch, sent] = [window.fetch, []];
  window.sent = () => sent.at(-1) ?? null;
  window.fetch = async (path, options) => {
    if (options?.body instanceof Blob) {
      const bytes = new Uint8Array(await options.body.arrayBuffer());
      const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
      sent.push([options.headers["Content-Type"], btoa(text)]);
    }
    return fetch(path, options);
  };
})()"""


def watch_bodies(page: Page) -> None:
    """Keep what the page sends from its next load on; Playwright does not tell bodies that are blobs."""
    page.add_init_script(_WATCH)


def sent(page: Page) -> Pixels | None:
    """Return the pixels of the PNG that was asked about last; None if there was none."""
    last = page.evaluate("window.sent()")
    if last is None:
        return None
    assert last[0] == "image/png"
    with Image.open(io.BytesIO(base64.b64decode(last[1]))) as image:
        return np.asarray(image)


def _canvas(page: Page) -> Pixels:
    colours = np.frombuffer(base64.b64decode(page.evaluate(_SEEN)), np.uint8)
    return colours.reshape(28, 28, 4)


def is_painted(page: Page) -> bool:
    """Tell whether there is an image under 'What the model sees' already."""
    return bool((_canvas(page)[..., 3] == 255).all())


def seen(page: Page) -> Pixels:
    """Return the pixels under 'What the model sees'."""
    colours = _canvas(page)
    assert (colours[..., 3] == 255).all()
    assert (colours[..., :3] == colours[..., :1]).all()
    return colours[..., 0]


def what_is_shown_was_sent(page: Page) -> bool:
    """Tell whether the last request was about the image that is shown, pixel for pixel."""
    last = sent(page)
    return last is not None and is_painted(page) and np.array_equal(last, seen(page))


def await_that(page: Page, condition: Callable[[], bool]) -> None:
    """Let the page go on until a condition holds that only this side can judge."""
    for _ in range(PATIENCE_MS // POLL_MS):
        if condition():
            return
        page.wait_for_timeout(POLL_MS)
    assert condition()


def probabilities(page: Page) -> dict[str, str]:
    """Return the chart that is shown: class to percent, from top to bottom."""
    rows = page.locator("#bars li").all()
    return {row.locator(".label").inner_text(): row.locator(".value").inner_text() for row in rows}


def a_file(name: str, content: bytes, media_type: str = "image/png") -> FilePayload:
    """Return a file to choose."""
    return {"name": name, "mimeType": media_type, "buffer": content}
