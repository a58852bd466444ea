/* Asks one thing at a time, and of what waits only the newest: no older answer comes after a newer one. */

const PATIENCE_MS = 1500;
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;

export class Latest {
  #ask;
  #answered;
  #failed;
  #wanted = null;
  #asked = null; // {question, controller, since} while a request is out
  #timer = null; // of a pause that the service has asked for
  #held = null; // the error after which nothing is asked until something has changed
  #failures = 0;

  /**
   * ask(question, signal) returns a promise; answered(answer, question) and failed(error, question, waitMs)
   * take what came of it. waitMs tells when it is asked again by itself, null if it is not.
   */
  constructor({ ask, answered, failed }) {
    this.#ask = ask;
    this.#answered = answered;
    this.#failed = failed;
  }

  /** Whether nothing is asked for now: the service wants a pause or a token. */
  get paused() {
    return this.#timer !== null || this.#held?.status === 401;
  }

  /** Ask, or replace what waits; while the service has asked for a pause, that pause is kept. */
  submit(question) {
    this.#wanted = question;
    if (this.#held?.status !== 401) this.#held = null; // without a token no question is answered
    if (this.#asked && performance.now() - this.#asked.since > PATIENCE_MS) this.#abandon();
    this.#next();
  }

  /** Forget what waits or is under way: none of it is answered any more. A pause goes on. */
  cancel() {
    this.#wanted = null;
    this.#abandon();
  }

  /** Ask again at once what failed last. */
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
    if (this.#asked !== asked) return; // abandoned: whatever came is of no interest
    this.#asked = null;
    if (error) this.#recover(error, question);
    else {
      this.#failures = 0;
      this.#answered(answer, question);
    }
    this.#next();
  }

  #recover(error, question) {
    this.#wanted ??= question; // for `retry`, if nothing newer has come
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
