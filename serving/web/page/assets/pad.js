/* The drawing pad: strokes by mouse, touch or pen, with undo. A canvas shows the strokes; `ink.js` computes the pixels
 * for the model from the same strokes. */

import { addLine, emptyInk, inkOf, PAD } from "./ink.js";

export class Pad {
  #canvas;
  #context;
  #changed;
  #strokes = [];
  #ink = emptyInk();
  #drawing = null; // the pointer's id while a stroke is drawn
  #colour = "#fff";

  penWidth = 20;

  /** changed({finished}) is called when the ink has changed; finished means that no stroke is being drawn. */
  constructor(canvas, changed) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#changed = changed;
    canvas.addEventListener("pointerdown", (event) => this.#start(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#end(event));
    canvas.addEventListener("pointercancel", (event) => this.#end(event));
    new ResizeObserver(() => this.#repaint()).observe(canvas);
  }

  /** Ink of PAD x PAD pixels, 0 to 255. */
  get ink() {
    return this.#ink;
  }

  get empty() {
    return this.#strokes.length === 0;
  }

  undo() {
    if (this.#drawing !== null || !this.#strokes.pop()) return;
    this.#ink = inkOf(this.#strokes);
    this.#repaint();
    this.#changed({ finished: true });
  }

  clear() {
    this.#strokes = [];
    this.#drawing = null;
    this.#ink = emptyInk();
    this.#repaint();
    this.#changed({ finished: true });
  }

  /** Redraw after the theme or the polarity has changed the colour of ink. */
  recolour() {
    this.#repaint();
  }

  #start(event) {
    if (!event.isPrimary || event.button !== 0 || this.#drawing !== null) return;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#drawing = event.pointerId;
    this.#strokes.push({ width: this.penWidth, points: [] });
    this.#add(event);
    this.#changed({ finished: false });
  }

  #move(event) {
    if (event.pointerId !== this.#drawing) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const step of passed.length ? passed : [event]) this.#add(step);
    this.#changed({ finished: false });
  }

  #end(event) {
    if (event.pointerId !== this.#drawing) return;
    this.#drawing = null;
    this.#changed({ finished: true });
  }

  #add(event) {
    const area = this.#canvas.getBoundingClientRect();
    const point = {
      x: ((event.clientX - area.left) / area.width) * PAD,
      y: ((event.clientY - area.top) / area.height) * PAD,
    };
    const { width, points } = this.#strokes.at(-1);
    const from = points.at(-1) ?? point;
    points.push(point);
    addLine(this.#ink, from, point, width);
    this.#paintLine(from, point, width);
  }

  #repaint() {
    const side = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    if (side === 0) return;
    this.#canvas.width = this.#canvas.height = side; // also clears it
    this.#context.setTransform(side / PAD, 0, 0, side / PAD, 0, 0);
    this.#context.lineCap = this.#context.lineJoin = "round";
    this.#colour = getComputedStyle(this.#canvas).color;
    for (const { width, points } of this.#strokes) {
      points.forEach((point, index) => this.#paintLine(points[Math.max(0, index - 1)], point, width));
    }
  }

  #paintLine(from, to, width) {
    this.#context.strokeStyle = this.#colour;
    this.#context.lineWidth = width;
    this.#context.beginPath();
    this.#context.moveTo(from.x, from.y);
    this.#context.lineTo(to.x, to.y);
    this.#context.stroke();
  }
}
