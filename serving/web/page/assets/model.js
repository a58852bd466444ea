/* What the page knows of the served model, as `GET /metadata` tells it, and the sentences made of that. */

import { percent } from "./chart.js";
import { read } from "./service.js";

const LONGEST_CHARACTER = 2;
const RETRY_MS = 3000;
const RELOAD_MS = 5000;
const PROVIDERS = { cpu: "CPU", cuda: "GPU (CUDA)" };

/** Sends `change` when the model is known or has changed, `failed` with a ServiceError and when it is tried again. */
export class Model extends EventTarget {
  #metadata = null;
  #samples = [];
  #loadedAt = -Infinity;
  #loading = false;

  /** Learn of the model; where the service does not answer, keep trying, as the service asks. */
  async load() {
    if (this.#loading) return;
    this.#loading = true;
    this.#loadedAt = performance.now();
    try {
      const [metadata, samples] = await Promise.all([read("metadata"), read("samples")]);
      this.#metadata = metadata.document;
      this.#samples = samples.document.samples;
      this.dispatchEvent(new Event("change"));
    } catch (error) {
      const waitMs = error.passing ? (error.retryAfterMs ?? RETRY_MS) : null;
      if (waitMs !== null) setTimeout(() => this.load(), waitMs);
      this.dispatchEvent(new CustomEvent("failed", { detail: { error, waitMs } }));
    } finally {
      this.#loading = false;
    }
  }

  /** Note which model has answered: another one than is known is learnt, but seldom: two may answer in turns. */
  answeredBy({ digest }) {
    if (digest !== this.#metadata?.model.digest && performance.now() - this.#loadedAt > RELOAD_MS) this.load();
  }

  get classes() {
    return this.#metadata?.classes ?? [];
  }

  get samples() {
    return this.#samples;
  }

  get polarity() {
    return this.#metadata?.input.polarity ?? "white-on-black";
  }

  /** The most files that one form may have. */
  get mostFiles() {
    return this.#metadata?.limits.files ?? 1;
  }

  /** Whether the classes look like written characters, which were prepared as MNIST's digits were. */
  get characters() {
    return this.classes.every((name) => [...name].length <= LONGEST_CHARACTER);
  }

  /** Whether the classes are the ten digits. */
  get digits() {
    return this.classes.length === 10 && this.classes.every((name) => /^\d$/.test(name));
  }

  /** What the reader is asked to do. */
  get invitation() {
    return this.digits ? "Draw a digit" : "Draw something";
  }

  /** Which model answers, in a line. */
  get facts() {
    if (!this.#metadata) return "";
    const { model, provider } = this.#metadata;
    return `Model ${model.name}, version ${model.version}, on ${PROVIDERS[provider] ?? provider}`;
  }

  /** What is measured of the model, in sentences. */
  get about() {
    if (!this.#metadata) return "";
    const { model, test } = this.#metadata;
    const accuracy = test ? `Right on ${percent(test.accuracy)} of ${test.images.toLocaleString("en")} test images. ` : "";
    return `${accuracy}Digest ${model.digest.slice(0, 12)}.`;
  }

  /** What the model takes, in a sentence. */
  get expects() {
    return this.polarity === "white-on-black"
      ? "The model expects light ink on dark paper."
      : "The model expects dark ink on light paper.";
  }

  /** What becomes of images of either polarity. */
  get polarityHelp() {
    return (
      `${this.expects} Drawings are sent like that, and so are files that are fitted and centred here. Every other ` +
      "file is sent as it is; if one looks inverted, a remark says so and offers to exchange light and dark."
    );
  }

  /** Return an answer's probabilities as [[class, probability], ...] in the classes' order. */
  ordered(probabilities) {
    const known = this.classes.every((name) => Object.hasOwn(probabilities, name));
    const names = known && this.classes.length ? this.classes : Object.keys(probabilities);
    return names.map((name) => [name, probabilities[name]]);
  }
}
