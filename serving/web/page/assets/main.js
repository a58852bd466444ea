/* The page: a drawing, file or sample becomes a picture, the picture a request, and the response is shown. */

import { Chart, percent } from "./chart.js";
import { FileTable, LOOKS_INVERTED } from "./files.js";
import { PAD } from "./ink.js";
import { Latest } from "./latest.js";
import { Model } from "./model.js";
import { normalise, inPolarity } from "./normalise.js";
import { Pad } from "./pad.js";
import { inverted, openPicture, paint, pictureOf } from "./picture.js";
import { keepToken, predict, sentences } from "./service.js";

const ASK_EVERY_MS = 40;
const ANNOUNCE_AFTER_MS = 500;
const UNSURE = 0.6;

const byId = (id) => document.getElementById(id);
const model = new Model();
const chart = new Chart({ bars: byId("bars"), others: byId("others"), rest: byId("rest") });
const pad = new Pad(byId("pad"), drawingChanged);
const latest = new Latest({ ask: (picture, signal) => predict([picture], signal), answered, failed });
const table = new FileTable(byId("rows"), byId("row"), {
  preparation: () => byId("preparation").value,
  polarity: () => model.polarity,
  mostFiles: () => model.mostFiles,
  show: (picture, answer) => {
    showFile(picture, answer);
    byId("verdict").scrollIntoView({ block: "nearest" });
  },
  finished: announceFiles,
  unauthorized: (error) => failed(error, null, null),
});

let shown = null; // the picture whose prediction is wanted

/* ---- Drawing -------------------------------------------------------------------------------------------- */

let drawnAt = 0;
let drawingTimer = null;

function drawingChanged({ finished }) {
  byId("undo").disabled = byId("clear").disabled = pad.empty;
  byId("hint").hidden = !pad.empty;
  clearTimeout(drawingTimer);
  if (finished) askDrawing();
  else drawingTimer = setTimeout(askDrawing, Math.max(0, drawnAt + ASK_EVERY_MS - performance.now()));
}

function askDrawing() {
  drawnAt = performance.now();
  const ink = normalise(pad.ink, PAD, PAD);
  if (ink) ask(pictureOf(inPolarity(ink, model.polarity), "drawing.png"));
  else showNothing();
}

byId("undo").addEventListener("click", () => pad.undo());
byId("clear").addEventListener("click", startOver);
byId("pen").addEventListener("input", ({ target }) => (pad.penWidth = Number(target.value)));

function startOver() {
  pad.clear();
  byId("pad").focus({ preventScroll: true }); // the button that had the focus is now disabled
}

addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input, select, textarea");
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z" && !typing) pad.undo();
  else if (event.target !== byId("pad") || event.ctrlKey || event.metaKey || event.altKey) return;
  else if (event.key === "Delete" || event.key === "Backspace") startOver();
  else if (event.key === "[" || event.key === "]") {
    const pen = byId("pen");
    pen[event.key === "[" ? "stepDown" : "stepUp"]();
    pad.penWidth = Number(pen.value);
  } else return;
  event.preventDefault();
});

/* ---- Requests and responses ------------------------------------------------------------------------------ */

function ask(picture) {
  showPicture(picture);
  latest.submit(picture);
}

function showPicture(picture) {
  shown = picture;
  paint(byId("seen"), picture.pixels);
  byId("note").textContent = picture.note;
  const save = byId("save");
  if (save.href) URL.revokeObjectURL(save.href);
  save.href = URL.createObjectURL(picture.blob);
  save.download = picture.name;
}

function showNothing() {
  shown = null;
  latest.cancel();
  paint(byId("seen"), null);
  byId("note").textContent = "";
  byId("save").removeAttribute("href");
  showNoAnswer("No image yet");
  announce("");
  if (!latest.paused) hideNotice();
}

function showNoAnswer(reason) {
  byId("label").textContent = "–";
  byId("label").className = "label empty";
  byId("sure").textContent = reason;
  byId("timing").textContent = "\u00a0";
  chart.show(model.classes.map((name) => [name, 0]));
}

function answered(answer, picture) {
  const prediction = answer.prediction ?? answer.predictions[0];
  const probabilities = model.ordered(prediction.probabilities);
  chart.show(probabilities);
  const second = probabilities
    .filter(([name]) => name !== prediction.label)
    .reduce((best, entry) => (entry[1] > best[1] ? entry : best));
  const unsure = prediction.probability < UNSURE ? `, or perhaps ${second[0]} (${percent(second[1])})` : "";
  byId("label").textContent = prediction.label;
  byId("label").className = `label ${prediction.label.length > 12 ? "long" : prediction.label.length > 3 ? "word" : ""}`;
  byId("sure").textContent = `${percent(prediction.probability)}${unsure}`;
  byId("timing").textContent = timingOf(answer);
  announce(`${prediction.label}, ${percent(prediction.probability)}${unsure}`);
  if (prediction.warnings.length) warn(prediction.warnings, picture);
  else hideNotice();
  model.answeredBy(answer.model);
}

function timingOf({ elapsedMs, timing }) {
  const there = timing.infer === undefined ? "" : `, of which the model took ${milliseconds(timing.infer)}`;
  return `Answered in ${milliseconds(elapsedMs)}${there}`;
}

function milliseconds(value) {
  return `${value < 10 ? value.toFixed(1).replace(/\.0$/, "") : Math.round(value)} ms`;
}

let announcing = null;

/** Announce an answer to screen readers once it has been stable for a moment, not twenty times a second. */
function announce(text) {
  clearTimeout(announcing);
  announcing = setTimeout(() => (byId("live").textContent = text), ANNOUNCE_AFTER_MS);
}

/* ---- Errors and warnings -------------------------------------------------------------------------------- */

let counting = null;
let unreached = false;

function notice(text, kind) {
  clearInterval(counting);
  const box = byId("notice");
  box.className = kind;
  box.hidden = false;
  if (byId("problem").textContent !== text) byId("problem").textContent = text;
  byId("countdown").textContent = "";
  byId("access").hidden = byId("invert").hidden = byId("again").hidden = true;
}

function hideNotice() {
  clearInterval(counting);
  byId("notice").hidden = true;
  byId("problem").textContent = "";
}

function warn(warnings, picture) {
  const looksInverted = warnings.some((text) => LOOKS_INVERTED.test(text));
  const others = warnings.filter((text) => !LOOKS_INVERTED.test(text));
  const about = looksInverted ? `This image looks inverted, so the prediction may be wrong. ${model.expects}` : "";
  notice(sentences(about, ...others), "warning");
  byId("invert").hidden = !(looksInverted && picture.pixels);
}

function failed(error, picture, waitMs) {
  const id = error.requestId && error.status >= 500 ? `Request ${error.requestId}` : "";
  unreached = error.status === 0;
  notice(sentences(error.message, id), error.status === 401 ? "question" : "error");
  if (picture) showNoAnswer("No answer yet"); // the answer shown belonged to an earlier picture
  if (error.status === 401) {
    byId("access").hidden = false;
    return;
  }
  if (waitMs === null) {
    if (picture !== null) byId("again").hidden = false;
    return;
  }
  countDown(performance.now() + waitMs);
  byId("again").hidden = picture === null || error.retryAfterMs !== null; // a pause that the service asks for cannot be skipped
}

/** Show the seconds until the next try, outside the alert, which a screen reader would read out each second. */
function countDown(until) {
  const tell = () => {
    const seconds = Math.max(0, Math.ceil((until - performance.now()) / 1000));
    byId("countdown").textContent = seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again now.";
    if (seconds === 0 && !shown) hideNotice(); // the picture has been cleared
  };
  tell();
  counting = setInterval(tell, 250);
}

byId("again").addEventListener("click", () => latest.retry());
byId("invert").addEventListener("click", () => ask(inverted(shown)));
addEventListener("online", () => unreached && latest.retry());

byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(byId("token").value.trim());
  byId("token").value = "";
  hideNotice();
  model.load();
  latest.retry();
  table.authorized();
});

/* ---- Files and samples ---------------------------------------------------------------------------------- */

async function addFiles(files) {
  const images = [...files];
  if (images.length === 0) return;
  byId("several").hidden = false;
  if (images.length > 1) byId("several").scrollIntoView({ block: "nearest" });
  await table.add(images);
}

function announceFiles(rows) {
  const answers = rows.filter((row) => row.answer);
  if (answers.length > 0) showFile(answers[0].picture, answers[0].answer);
  if (rows.length > 1 || answers.length === 0) {
    announce(`${answers.length} of ${rows.length} files classified, ${rows.length - answers.length} failed`);
  }
}

function showFile(picture, answer) {
  pad.clear();
  showPicture(picture);
  answered(answer, picture);
}

byId("files").addEventListener("change", ({ target }) => {
  addFiles(target.files);
  target.value = ""; // so that the same file can be chosen again
});
addEventListener("paste", (event) => addFiles(event.clipboardData.files));
byId("forget").addEventListener("click", () => {
  table.clear();
  byId("several").hidden = true;
  byId("files").focus();
});

let inside = 0; // the number of nested elements that the dragged files are over

addEventListener("dragenter", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  byId("drop").hidden = ++inside === 0;
});
addEventListener("dragleave", () => (byId("drop").hidden = (inside = Math.max(0, inside - 1)) === 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  byId("drop").hidden = true;
  addFiles(event.dataTransfer.files);
});

function showSamples(samples) {
  byId("samples").hidden = samples.length === 0;
  byId("samples").replaceChildren(...samples.map(sampleItem));
}

function sampleItem({ label, png }) {
  const [item, button, image] = ["li", "button", "img"].map((name) => document.createElement(name));
  image.src = `data:image/png;base64,${png}`;
  image.alt = `Sample of ${label}`;
  image.width = image.height = 28;
  button.type = "button";
  button.title = label;
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const file = new File([bytes], `${label}.png`, { type: "image/png" });
  button.addEventListener("click", async () => {
    const picture = await openPicture(file, "none", model.polarity);
    pad.clear(); // the page shows either a drawing or an image
    ask(picture);
    byId("verdict").scrollIntoView({ block: "nearest" });
  });
  button.append(image);
  item.append(button);
  return item;
}

/* ---- The model ------------------------------------------------------------------------------------------ */

let withoutModel = false;

model.addEventListener("change", () => {
  const root = document.documentElement;
  const turned = root.dataset.polarity !== model.polarity;
  root.dataset.polarity = model.polarity;
  byId("title").textContent = model.invitation;
  byId("model").textContent = model.facts;
  byId("about").textContent = model.about;
  byId("polarity-help").textContent = model.polarityHelp;
  byId("preparation").value = model.preparation;
  showSamples(model.samples);
  if (withoutModel && !latest.paused) hideNotice();
  withoutModel = false;
  if (turned) pad.recolour();
  if (!shown) chart.show(model.classes.map((name) => [name, 0]));
  else if (turned && !pad.empty) askDrawing();
});
model.addEventListener("failed", ({ detail }) => {
  failed(detail.error, null, detail.waitMs);
  withoutModel = true;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => pad.recolour());

model.load();
