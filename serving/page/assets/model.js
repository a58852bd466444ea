/* What the page knows of the served model, as `GET /metadata` tells it, and the sentences made of that. */

import { read } from "./service.js";

const LONGEST_CHARACTER = 2;
const RETRY_MS = 3000;

/** Sends `change` when the model is known or has changed, `failed` with a ServiceError as its detail. */
export class Model extends EventTarget {
  #metadata = null;
  #samples = [];
  #digest = null;
  #loading = false;

  /** Learn of the model; where the service does not answer, keep trying, as the service asks. */
  async load() {
    if (this.#loading) return;
    this.#loading = true;
    try {
      const [metadata, samples] = await Promise.all([read("metadata"), read("samples")]);
      this.#metadata = metadata.document;
      this.#samples = samples.document.samples;
      this.#digest = this.#metadata.model.digest;
      this.dispatchEvent(new Event("change"));
    } catch (error) {
      this.dispatchEvent(new CustomEvent("failed", { detail: error }));
      if (error.passing) setTimeout(() => this.load(), error.retryAfterMs ?? RETRY_MS);
    } finally {
      this.#loading = false;
    }
  }

  /** Note which model has answered: another one than before is learnt anew. */
  answeredBy({ digest }) {
    if (digest !== this.#digest) {
      this.#digest = digest;
      this.load();
    }
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

  /** Whether the classes look like written characters, which were prepared as MNIST's digits were. */
  get characters() {
    return this.classes.every((name) => [...name].length <= LONGEST_CHARACTER);
  }

  /** Return an answer's probabilities as [[class, probability], ...] in the classes' order. */
  ordered(probabilities) {
    const known = this.classes.every((name) => Object.hasOwn(probabilities, name));
    const names = known && this.classes.length ? this.classes : Object.keys(probabilities);
    return names.map((name) => [name, probabilities[name]]);
  }
}
