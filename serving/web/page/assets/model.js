/* The metadata of the served model (`GET /metadata`), and the sentences made of it. */

import { percent } from "./chart.js";
import { read } from "./service.js";

const LONGEST_CHARACTER = 2;
const RETRY_MS = 3000;
const RELOAD_MS = 5000;
const PROVIDERS = { cpu: "CPU", cuda: "GPU (CUDA)" };

/** Dispatches `change` when the model is known or has changed, and `failed` with a ServiceError and the retry time. */
export class Model extends EventTarget {
  #metadata = null;
  #samples = [];
  #loadedAt = -Infinity;
  #loading = false;

  /** Load the metadata; retry while the service does not answer, after the time that it asks for. */
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

  /** Reload the metadata if another model has answered, but seldom: during an update two may answer in turns. */
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

  /** The maximum of files in one form. */
  get mostFiles() {
    return this.#metadata?.limits.files ?? 1;
  }

  /** Whether the classes look like written characters, whose data sets are prepared like MNIST. */
  get characters() {
    return this.classes.every((name) => [...name].length <= LONGEST_CHARACTER);
  }

  /** How files of other sizes become 28x28: as the training images did, if the model says so. */
  get preparation() {
    const trained = { fit: "fit", pad: "scale", mnist: "mnist" }[this.#metadata?.input.resize];
    return trained ?? (this.characters ? "mnist" : "scale");
  }

  /** Whether the classes are the ten digits. */
  get digits() {
    return this.classes.length === 10 && this.classes.every((name) => /^\d$/.test(name));
  }

  /** The page's heading. */
  get invitation() {
    return this.digits ? "Draw a digit" : "Draw something";
  }

  /** The served model, in a line. */
  get facts() {
    if (!this.#metadata) return "";
    const { model, provider } = this.#metadata;
    return `Model ${model.name}, version ${model.version}, on ${PROVIDERS[provider] ?? provider}`;
  }

  /** The measured accuracy of the model, in sentences. */
  get about() {
    if (!this.#metadata) return "";
    const { model, test } = this.#metadata;
    const accuracy = test ? `Test accuracy ${percent(test.accuracy)}, on ${test.images.toLocaleString("en")} images. ` : "";
    return `${accuracy}Digest ${model.digest.slice(0, 12)}.`;
  }

  /** The polarity that the model expects, in a sentence. */
  get expects() {
    return this.polarity === "white-on-black"
      ? "The model expects light ink on dark paper."
      : "The model expects dark ink on light paper.";
  }

  /** What the page does with images of either polarity. */
  get polarityHelp() {
    return (
      `${this.expects} Drawings, and files that this page fits and centres, are sent in that polarity. All other ` +
      "files are sent unchanged; if one looks inverted, a remark offers to exchange light and dark."
    );
  }

  /** Return an answer's probabilities as [[class, probability], ...] in the classes' order. */
  ordered(probabilities) {
    const known = this.classes.every((name) => Object.hasOwn(probabilities, name));
    const names = known && this.classes.length ? this.classes : Object.keys(probabilities);
    return names.map((name) => [name, probabilities[name]]);
  }
}
