/* The table of files: they are sent in forms of a few, and each has a row with its answer or its error. */

import { percent } from "./chart.js";
import { inverted, openPicture, paint } from "./picture.js";
import { predict, sentences } from "./service.js";

const FILES_PER_FORM = 32;
const TRIES = 5;
const WAIT_MS = 1000;

export const LOOKS_INVERTED = /^looks inverted/;

export class FileTable {
  #body;
  #template;
  #options;
  #rows = [];

  /**
   * options: preparation(), polarity() and mostFiles() return the current values; show(picture, answer) is called when
   * a row is chosen, finished(rows) when all are answered or failed, unauthorized(error) when a token is needed.
   */
  constructor(body, template, options) {
    this.#body = body;
    this.#template = template;
    this.#options = options;
  }

  /** Add files and classify them; return when all are answered or failed. */
  async add(files) {
    const rows = [...files].map((file) => this.#row(file.name));
    const { preparation, polarity } = this.#options;
    await Promise.all(
      rows.map(async (row, index) => {
        this.#draw(row, await openPicture(files[index], preparation(), polarity()));
      }),
    );
    await this.#askAll(rows);
  }

  /** Retry every file that failed without a valid token. */
  async authorized() {
    await this.#askAll(this.#rows.filter((row) => row.error?.status === 401));
  }

  clear() {
    this.#rows = [];
    this.#body.replaceChildren();
  }

  #row(name) {
    const element = this.#template.content.firstElementChild.cloneNode(true);
    const part = (selector) => element.querySelector(selector);
    const row = { element, part, name, picture: null, answer: null, error: null };
    part(".name").textContent = name;
    part(".show").addEventListener("click", () => row.answer && this.#options.show(row.picture, row.answer));
    part(".invert").addEventListener("click", () => {
      this.#draw(row, inverted(row.picture));
      this.#askAll([row]);
    });
    part(".again").addEventListener("click", () => this.#askAll([row]));
    this.#rows.push(row);
    this.#body.append(element);
    return row;
  }

  #draw(row, picture) {
    row.picture = picture;
    paint(row.part("canvas"), picture.pixels);
    row.part(".note").textContent = picture.note;
    row.part(".show").setAttribute("aria-label", `Show ${row.name} above`);
  }

  async #askAll(rows) {
    let [left, most, tries] = [rows, Math.min(FILES_PER_FORM, this.#options.mostFiles()), 0];
    rows.forEach((row) => this.#state(row, "…", ""));
    while (left.length > 0) {
      const batch = left.slice(0, most);
      try {
        const answer = await predict(batch.map((row) => row.picture));
        batch.forEach((row, index) => this.#answered(row, { ...answer, prediction: answer.predictions[index] }));
        left = left.slice(batch.length);
      } catch (error) {
        if (error.upload !== null && batch[error.upload]) {
          this.#failed(batch[error.upload], error);
          left = left.filter((row) => row !== batch[error.upload]);
        } else if (error.status === 413 && batch.length > 1) {
          most = Math.ceil(batch.length / 2);
        } else if (error.passing && ++tries < TRIES) {
          batch.forEach((row) => this.#state(row, "…", `${error.message} Waiting to retry.`));
          const wait = error.retryAfterMs ?? WAIT_MS * 2 ** tries;
          await new Promise((resolve) => setTimeout(resolve, wait));
        } else {
          batch.forEach((row) => this.#failed(row, error));
          left = left.slice(batch.length);
          if (error.status === 401) this.#options.unauthorized(error);
        }
      }
    }
    this.#options.finished(rows);
  }

  #answered(row, answer) {
    const { label, probability, warnings } = answer.prediction;
    row.answer = answer;
    const looksInverted = warnings.some((text) => LOOKS_INVERTED.test(text));
    const others = warnings.filter((text) => !LOOKS_INVERTED.test(text));
    const about = looksInverted ? "Looks inverted, so the prediction may be wrong." : "";
    this.#state(row, label, sentences(about, ...others), percent(probability));
    row.part(".show").disabled = false;
    row.part(".invert").hidden = !(looksInverted && row.picture.pixels);
  }

  #failed(row, error) {
    row.error = error;
    this.#state(row, "–", error.message);
    row.element.classList.add("failed");
    row.part(".again").hidden = !error.passing;
  }

  #state(row, label, remark, probability = "") {
    if (label === "…") row.answer = row.error = null;
    row.element.classList.remove("failed");
    row.part(".show").disabled = true;
    row.part(".answer").textContent = label;
    row.part(".probability").textContent = probability;
    row.part(".remark").textContent = remark;
    row.part(".invert").hidden = row.part(".again").hidden = true;
  }
}
