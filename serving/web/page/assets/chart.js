/* A bar chart of all probabilities: up to ten classes in their order; of more classes the ten most probable, with the
 * others in a <details> below. */

const SHOWN = 10;

export class Chart {
  #bars;
  #others;
  #summary;
  #rest;
  #pending = null;

  /** bars and rest are lists; others is a <details> around rest with a <summary>. */
  constructor({ bars, others, rest }) {
    this.#bars = bars;
    this.#others = others;
    this.#summary = others.querySelector("summary");
    this.#rest = rest;
    others.addEventListener("toggle", () => this.#fillRest());
  }

  /** Show probabilities, [[class, probability], ...] in the classes' order; all 0 where nothing is known. */
  show(probabilities) {
    const most = Math.max(...probabilities.map(([, probability]) => probability));
    const many = probabilities.length > SHOWN;
    const order = many ? [...probabilities].sort((a, b) => b[1] - a[1]) : probabilities;
    fill(this.#bars, order.slice(0, SHOWN), most);
    this.#others.hidden = !many;
    if (!many) return;
    const rest = order.slice(SHOWN);
    const together = rest.reduce((sum, [, probability]) => sum + probability, 0);
    this.#summary.textContent = `${rest.length} more, ${percent(together)} together`;
    this.#pending = [rest, most];
    this.#fillRest();
  }

  /** Lay out the other classes, up to a thousand rows, only when they are opened. */
  #fillRest() {
    if (!this.#others.open || !this.#pending) return;
    fill(this.#rest, ...this.#pending);
    this.#pending = null;
  }
}

function fill(list, probabilities, most) {
  while (list.children.length > probabilities.length) list.lastElementChild.remove();
  while (list.children.length < probabilities.length) list.append(row());
  probabilities.forEach(([name, probability], index) => {
    const item = list.children[index];
    const [label, track, value] = item.children;
    item.classList.toggle("top", most > 0 && probability === most);
    label.textContent = label.title = name;
    track.firstElementChild.style.transform = `scaleX(${probability})`;
    value.textContent = most > 0 ? percent(probability) : "";
  });
}

function row() {
  const item = document.createElement("li");
  const [label, track, value] = ["label", "track", "value"].map((name) => {
    const part = document.createElement("span");
    part.className = name;
    return part;
  });
  label.dir = "auto";
  track.append(document.createElement("span"));
  item.append(label, track, value);
  return item;
}

/** Return a probability in percent, to a tenth, and never as 100%. */
export function percent(probability) {
  const value = probability * 100;
  return value >= 99.95 ? ">99.9%" : `${value.toFixed(1).replace(/\.0$/, "")}%`;
}
