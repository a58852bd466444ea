/* A latest-wins queue: one request at a time, then only the newest that waits, so no older answer follows a newer one. */

const PATIENCE_MS = 1500;
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;

export class Latest {
  #ask;
  #answered;
  #failed;
  #wanted = null;
  #asked = null; // {question, controller, since} while a request is out
  #timer = null; // until the next try
  #held = null; // the error after which no request is sent until something changes
  #failures = 0;

  /**
   * ask(question, signal) returns a promise; answered(answer, question) or failed(error, question, waitMs) is called
   * with its result. waitMs is the time until an automatic retry, null if there is none.
   */
  constructor({ ask, answered, failed }) {
    this.#ask = ask;
    this.#answered = answered;
    this.#failed = failed;
  }

  /** Whether no request is sent for now, because the service requires a pause or a token. */
  get paused() {
    return this.#timer !== null || this.#held?.status === 401;
  }

  /** Ask, or replace the question that waits; a pause that the service requires is kept. */
  submit(question) {
    this.#wanted = question;
    if (this.#held?.status !== 401) this.#held = null; // without a token every question would fail
    if (this.#asked && performance.now() - this.#asked.since > PATIENCE_MS) this.#abandon();
    this.#next();
  }

  /** Drop the question that waits and abort the one that is asked. A pause goes on. */
  cancel() {
    this.#wanted = null;
    this.#abandon();
  }

  /** Ask again at once the question that failed. */
  retry() {
    this.#stopWaiting();
    this.#held = null;
    this.#next();
  }

  #abandon() {
    this.#asked?.controller.abort();
    this.#asked = null;
  }

  #stopWaiting() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  async #next() {
    if (this.#wanted === null || this.#asked || this.#timer !== null || this.#held) return;
    const question = this.#wanted;
    const asked = { controller: new AbortController(), since: performance.now() };
    this.#wanted = null;
    this.#asked = asked;
    let answer;
    let error = null;
    try {
      answer = await this.#ask(question, asked.controller.signal);
    } catch (reason) {
      error = reason;
    }
    if (this.#asked !== asked) return; // it was abandoned
    this.#asked = null;
    if (error) this.#recover(error, question);
    else {
      this.#failures = 0;
      this.#answered(answer, question);
    }
    this.#next();
  }

  #recover(error, question) {
    this.#wanted ??= question; // for `retry`, unless there is a newer question
    let waitMs = null;
    if (error.passing) {
      const usual = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#failures++);
      waitMs = error.retryAfterMs ?? usual;
      this.#timer = setTimeout(() => this.retry(), waitMs);
    } else if (error.status === 401 || this.#wanted === question) {
      this.#held = error;
    }
    this.#failed(error, question, waitMs);
  }
}
