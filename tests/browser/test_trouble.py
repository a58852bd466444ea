"""When the service is slow, busy, away, or asks who is there."""

import json
from collections.abc import Callable

from playwright.sync_api import Browser, Page, Route, expect

from bench.support.pictures import png
from bench.support.processes import Service
from tests.browser.asking import a_file, await_that
from tests.browser.bundles import Images
from tests.browser.conftest import TOKEN, open_page
from tests.browser.strokes import ONE, SEVEN, THREE, draw

PREDICT = "**/predict"
PROBLEM = "application/problem+json"

RACE = """async () => {
  const { Latest } = await import("/assets/latest.js");
  const [answers, waiting] = [[], []];
  const latest = new Latest({
    ask: (question) => new Promise((resolve) => waiting.push(() => resolve(question))),
    answered: (answer) => answers.push(answer),
    failed: () => {},
  });
  const turn = () => new Promise((resolve) => setTimeout(resolve));
  let seed = 7;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  const cancelledAt = [];
  for (let question = 1; question <= 500; question++) {
    latest.submit(question);
    if (random(20) === 0) {
      latest.cancel();
      cancelledAt.push([question, answers.length]);
    }
    // Requests that were given up answer too, late and in any order.
    while (waiting.length && random(3)) waiting.splice(random(waiting.length), 1)[0]();
    await turn();
  }
  for (let left = 0; left < 3; left++) {
    waiting.splice(0).forEach((answer) => answer());
    await turn();
  }
  return { answers, cancelledAt };
}"""


class Answering:
    """A stand-in for `/predict` that keeps requests until it is told what to answer."""

    def __init__(self, page: Page) -> None:
        self.kept: list[Route] = []
        page.route(PREDICT, lambda route: self.kept.append(route))  # noqa: PLW0108  a method takes no attributes

    def await_request(self, page: Page, count: int) -> None:
        """Wait until so many requests have been made."""
        await_that(page, lambda: len(self.kept) == count)


def a_problem(status: int, title: str, **headers: str) -> Callable[[Route], None]:
    """Return a handler that answers a problem."""
    body = f'{{"title": "{title}", "status": {status}, "detail": "the detail", "remedy": "the remedy"}}'
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda route: route.fulfill(status=status, headers=fields, content_type=PROBLEM, body=body)


def an_answer(label: str, digest: str = "another") -> str:
    """Return what the service would answer."""
    prediction = {
        "label": label,
        "index": int(label),
        "probability": 0.91,
        "probabilities": {str(digit): 0.91 if str(digit) == label else 0.01 for digit in range(10)},
        "warnings": [],
    }
    model = {"name": "synthetic", "version": 1, "digest": digest}
    return json.dumps({"model": model, "predictions": [prediction]})


def test_no_older_answer_follows_a_newer_one(page: Page, service: Service) -> None:
    """Five hundred questions, answers in any order, some given up: what is shown only ever moves on."""
    page.goto(f"http://127.0.0.1:{service.port}/livez")
    result = page.evaluate(RACE)
    answers = result["answers"]
    assert len(answers) > 100
    assert answers == sorted(set(answers))
    for question, answered in result["cancelledAt"]:
        assert all(answer > question for answer in answers[answered:])
    assert answers[-1] == 500 or result["cancelledAt"][-1][0] == 500


def test_while_a_request_is_out_only_the_newest_drawing_waits(page: Page, service: Service) -> None:
    """However many strokes are drawn meanwhile, one question follows: the last."""
    page.clock.install(time=0)
    open_page(page, service)
    page.clock.pause_at(600_000)  # so that the page's patience with the first request does not end
    answering = Answering(page)
    draw(page, ONE)
    answering.await_request(page, 1)
    draw(page, SEVEN)
    draw(page, THREE)
    answering.kept[0].fulfill(body=an_answer("1"), content_type="application/json")
    expect(page.locator("#label")).to_have_text("1")
    answering.await_request(page, 2)
    answering.kept[1].fulfill(body=an_answer("3"), content_type="application/json")
    expect(page.locator("#label")).to_have_text("3")
    assert len(answering.kept) == 2


def test_another_model_is_noticed_by_its_answer(page: Page, service: Service) -> None:
    """A version that was swapped in answers: the page learns of it, once, and asks nothing twice."""
    page.clock.install(time=0)
    open_page(page, service)
    page.clock.pause_at(600_000)
    metadata = service.ask("GET", "/metadata").json()
    metadata["model"] |= {"version": 2, "digest": "another"}
    asked: list[Route] = []

    def tell(route: Route) -> None:
        asked.append(route)
        route.fulfill(json=metadata)

    page.route("**/metadata", tell)
    answering = Answering(page)
    samples = page.locator("#samples button")
    samples.nth(0).click()
    answering.await_request(page, 1)
    answering.kept[0].fulfill(body=an_answer("7"), content_type="application/json")
    expect(page.locator("#model")).to_contain_text("version 2")
    samples.nth(1).click()
    answering.await_request(page, 2)
    # A third model, a moment later: two may answer in turns behind one address, and are not chased.
    answering.kept[1].fulfill(body=an_answer("1", "a third"), content_type="application/json")
    expect(page.locator("#label")).to_have_text("1")
    page.evaluate("fetch('livez')")  # whatever the page asked before this has been seen
    assert (len(asked), len(answering.kept)) == (1, 2)


def test_a_request_that_takes_too_long_is_given_up_for_a_newer_one(page: Page, service: Service) -> None:
    """After a while without an answer the newest drawing is asked about at once."""
    page.clock.install(time=0)
    open_page(page, service)
    page.clock.pause_at(600_000)
    answering = Answering(page)
    draw(page, ONE)
    answering.await_request(page, 1)
    page.clock.run_for(2_000)
    draw(page, SEVEN)
    answering.await_request(page, 2)
    answering.kept[1].fulfill(body=an_answer("7"), content_type="application/json")
    expect(page.locator("#label")).to_have_text("7")


def test_an_answer_to_what_was_cleared_is_not_shown(page: Page, service: Service) -> None:
    """Clear while a request is out: its answer changes nothing."""
    open_page(page, service)
    answering = Answering(page)
    draw(page, ONE)
    answering.await_request(page, 1)
    page.click("#clear")
    answering.kept[0].abort()  # the page has given it up, so that it can no longer be fulfilled
    draw(page, SEVEN)
    answering.await_request(page, 2)
    expect(page.locator("#sure")).to_have_text("No image yet")
    answering.kept[1].fulfill(body=an_answer("7"), content_type="application/json")
    expect(page.locator("#label")).to_have_text("7")


def test_a_busy_service_is_left_alone_as_long_as_it_asks(page: Page, service: Service) -> None:
    """503 with Retry-After: a sentence, a countdown, no request before its end, then the newest drawing."""
    page.clock.install(time=0)
    open_page(page, service)
    page.clock.pause_at(600_000)
    refused: list[Route] = []

    def refuse(route: Route) -> None:
        refused.append(route)
        a_problem(503, "The service is busy", Retry_After="7", X_Request_ID="id-1")(route)

    page.route(PREDICT, refuse)
    draw(page, ONE)
    expect(page.locator("#problem")).to_have_text("The service is busy. The detail. Request id-1.")
    assert page.locator("#problem").get_attribute("role") == "alert"
    expect(page.locator("#again")).to_be_hidden()
    page.clock.run_for(6_500)
    page.locator("#pad").press("Delete")
    draw(page, SEVEN)
    expect(page.locator("#countdown")).to_have_text("Trying again in 1 s.")
    assert len(refused) == 1
    page.unroute(PREDICT)
    page.clock.run_for(1_000)
    expect(page.locator("#label")).to_have_text("7")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_service_that_is_away_is_asked_again(page: Page, service: Service) -> None:
    """No network: a sentence, and a button for who will not wait."""
    page.clock.install(time=0)
    open_page(page, service)
    page.clock.pause_at(600_000)  # so that the page does not ask by itself before the button is pressed
    page.route(PREDICT, lambda route: route.abort())
    draw(page, SEVEN)
    expect(page.locator("#problem")).to_have_text("The service cannot be reached.")
    expect(page.locator("#countdown")).to_contain_text("Trying again")
    page.unroute(PREDICT)
    page.click("#again")
    expect(page.locator("#label")).to_have_text("7")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_refusal_that_will_not_pass_is_not_repeated(page: Page, service: Service) -> None:
    """413 is the reader's to mend: nothing is asked again until something is drawn or the button is pressed."""
    page.clock.install(time=0)
    open_page(page, service)
    page.clock.pause_at(600_000)
    refused: list[Route] = []

    def refuse(route: Route) -> None:
        refused.append(route)
        a_problem(413, "The body is too large")(route)

    page.route(PREDICT, refuse)
    page.get_by_role("button", name="Sample of 7").click()
    expect(page.locator("#problem")).to_have_text("The detail.")
    page.clock.run_for(120_000)
    assert len(refused) == 1
    page.unroute(PREDICT)
    page.click("#again")
    expect(page.locator("#label")).to_have_text("7")


def test_files_wait_for_a_busy_service(page: Page, service: Service, digits: Images) -> None:
    """The rows say what they wait for, and are answered after the pause."""
    page.clock.install(time=0)
    open_page(page, service)
    page.clock.pause_at(600_000)
    page.route(PREDICT, a_problem(503, "The service is busy", Retry_After="5"))
    page.set_input_files("#files", [a_file("seven.png", png(digits[0]))])
    expect(page.locator("#rows .remark")).to_contain_text("Waiting to retry.")
    page.unroute(PREDICT)
    page.clock.run_for(5_500)
    expect(page.locator("#rows .answer")).to_have_text("7")


def test_a_service_without_a_model_is_waited_for(page: Page, service: Service) -> None:
    """Not ready when the page is opened: it says so, and is there as soon as the model is."""
    page.clock.install(time=0)
    page.route("**/metadata", a_problem(503, "The service is not ready", Retry_After="30"))
    page.goto(f"http://127.0.0.1:{service.port}/")
    expect(page.locator("#problem")).to_have_text("The service is not ready. The detail.")
    expect(page.locator("#countdown")).to_contain_text("Trying again in")
    page.unroute("**/metadata")
    page.clock.fast_forward(31_000)
    expect(page.locator("#model")).to_contain_text("version 1")
    expect(page.locator("#notice")).to_be_hidden()


def test_what_was_answered_before_is_not_shown_beside_a_refusal(page: Page, service: Service) -> None:
    """A drawing without an answer stands beside none, not beside that of the drawing before."""
    open_page(page, service)
    draw(page, SEVEN[:1])
    expect(page.locator("#live")).to_contain_text("%")
    page.route(PREDICT, a_problem(503, "The service is busy", Retry_After="60"))
    draw(page, SEVEN[1:])
    expect(page.locator("#sure")).to_have_text("No answer yet")


def test_a_service_that_asks_for_a_token_gets_one(
    browser: Browser, guarded_service: Service, digits: Images
) -> None:
    """The real refusal shows a field; the token is kept for this tab alone, and sent from then on."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{guarded_service.port}/")
    expect(page.locator("#problem")).to_have_text("This service requires an access token.")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    with page.expect_response(PREDICT):
        draw(page, ONE)
    page.evaluate("fetch('livez')")  # by now the page has read the refusal
    refused = asked.count("predict")
    page.locator("#pad").press("Delete")
    draw(page, SEVEN)
    page.evaluate("fetch('livez')")  # whatever the page asked before this has been seen
    assert asked.count("predict") == refused
    page.set_input_files("#files", [a_file("seven.png", png(digits[0]))])
    expect(page.locator("#rows .remark")).to_contain_text("access token")
    page.get_by_label("Access token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_have_text("The service does not accept this access token.")
    page.get_by_label("Access token").fill(TOKEN)
    page.get_by_role("button", name="Use token").click()
    expect(page.locator("#label")).to_have_text("7")
    expect(page.locator("#rows .answer")).to_have_text("7")
    expect(page.locator("#model")).to_contain_text("version 1")
    expect(page.locator("#notice")).to_be_hidden()
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    page.reload()
    expect(page.get_by_role("button", name="Sample of 7")).to_be_visible()
    other = context.new_page()
    other.goto(page.url)
    expect(other.get_by_label("Access token")).to_be_visible()
    context.close()
