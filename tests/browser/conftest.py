"""Fixtures: Chromium by Playwright, and services whose page it opens.

`make test` installs Debian's Chromium where it can. The browser is a module's, not the session's: while
Playwright runs, asyncio takes this thread's loop for running, and other tests start loops of their own.
"""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    ViewportSize,
    expect,
    sync_playwright,
)

from bench.support.models import CLASSES, Linear
from bench.support.processes import Service, running
from tests.browser.bundles import MANY, Images, learnt, publish_linear, untrained

ARGUMENTS = (
    "--no-sandbox",  # which Chromium refuses to root, as whom containers run
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "a-token-for-the-tests-0123456789abcdef"  # noqa: S105
DESKTOP: ViewportSize = {"width": 1280, "height": 860}

expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium, without a window."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Return a fresh profile: no cache, no storage."""
    context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Return a tab; whatever a test does in it, no script fails and nothing foreign is asked or loaded."""
    page, wrong = context.new_page(), []

    def watch(message: ConsoleMessage) -> None:
        # A refused request is logged by the browser as an error; some tests are about those.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            wrong.append(message.text)

    def look(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            wrong.append(f"asked {request.url}")

    page.on("console", watch)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", look)
    yield page
    page.unroute_all(behavior="ignoreErrors")  # some tests end while a request is kept waiting
    assert wrong == []


@pytest.fixture(scope="session")
def digits(mnist_directory: Path) -> Images:
    """Return MNIST's test images, `uint8[10000, 28, 28]`."""
    raw = (mnist_directory / "t10k-images-idx3-ubyte").read_bytes()
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)


@pytest.fixture(scope="session")
def labels(mnist_directory: Path) -> Images:
    """Return their labels."""
    return np.frombuffer((mnist_directory / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)


@pytest.fixture(scope="session")
def linear(digits: Images, labels: Images) -> Linear:
    """Return a small model that knows digits."""
    return learnt(digits, labels)


@pytest.fixture(scope="session")
def model(digits: Images, linear: Linear, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish it; its golden examples are MNIST's first thirty."""
    return publish_linear(tmp_path_factory.mktemp("models"), linear, digits[:30], CLASSES).path.parent


@pytest.fixture(scope="session")
def service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service that knows digits, by the default worker class."""
    with running(tmp_path_factory.mktemp("service"), until="/readyz", model=model) as started:
        yield started


@pytest.fixture(scope="session")
def other_service(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service with 300 classes for dark ink on light paper, behind Gunicorn's threads."""
    models = tmp_path_factory.mktemp("models")
    bundle = publish_linear(models, untrained(len(MANY)), 255 - digits[:3], MANY, polarity="black-on-white")
    directory = tmp_path_factory.mktemp("service")
    with running(directory, until="/readyz", model=bundle.path.parent, worker="gthread") as started:
        yield started


@pytest.fixture(scope="session")
def guarded_service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service that asks for TOKEN."""
    directory = tmp_path_factory.mktemp("service")
    tokens = directory / "tokens"
    tokens.write_text(f"tests sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    tokens.chmod(0o600)
    with running(directory, until="/readyz", model=model, tokens_file=tokens) as started:
        yield started


def open_page(page: Page, service: Service) -> None:
    """Open a service's page and wait until it knows the model."""
    page.goto(f"http://127.0.0.1:{service.port}/")
    expect(page.locator("#model")).to_contain_text("version 1")
