/* Files as pictures: the bytes for the service, and the 28x28 pixels to show.
 *
 * A file of 28x28 is sent unchanged, byte for byte. A file of any other size is prepared here as the reader chooses:
 * "mnist" processes it like MNIST's scans, "scale" scales it down and pads it, "fit" scales it to a square. The service
 * does the same by `?resize=`, as `bundle/images/resizing.py` says.
 */

import { fitted, normalise, inPolarity, resample, SIZE } from "./normalise.js";
import { encodePng } from "./png.js";

const CANNOT_SHOW = "This browser cannot display it.";
const MAX_PIXELS = 1 << 19; // of the working copy of a large picture; the service resizes files up to this size

/** Return pixels of 28x28, in the model's polarity, as a picture {name, blob, pixels, note}. */
export function pictureOf(pixels, name, note = "") {
  const blob = new Blob([encodePng(pixels, SIZE, SIZE)], { type: "image/png" });
  return { name, blob, pixels, note };
}

/** Return a file as a picture; its pixels are null if this browser cannot show its format. */
export async function openPicture(file, preparation, polarity) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return { name: file.name, blob: file, pixels: null, note: CANNOT_SHOW }; // the service may be able to decode it
  }
  const { width, height } = bitmap;
  if (preparation === "none" || (width === SIZE && height === SIZE)) {
    const pixels = width === SIZE && height === SIZE ? grey(bitmap, SIZE, SIZE) : null;
    return { name: file.name, blob: file, pixels, note: "" };
  }
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
  const [columns, rows] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const pixels = grey(bitmap, columns, rows);
  const from = `from ${width}×${height}`;
  if (preparation === "scale") {
    return pictureOf(scaled(pixels, columns, rows), file.name, `Scaled to 28×28 ${from}.`);
  }
  if (preparation === "fit") {
    return pictureOf(stretched(pixels, columns, rows), file.name, `Scaled to 28×28 ${from}.`);
  }
  const normal = normalise(bilevel(pixels, columns, rows), columns, rows);
  if (!normal) return { ...pictureOf(scaled(pixels, columns, rows), file.name), note: "No ink was found in it." };
  return pictureOf(inPolarity(normal, polarity), file.name, `Fitted and centred ${from}.`);
}

/** Return a picture with light and dark exchanged. */
export function inverted({ name, pixels, note }) {
  const turned = pixels.map((value) => 255 - value);
  return pictureOf(turned, name, note.endsWith("Inverted.") ? note.slice(0, -9).trim() : `${note} Inverted.`.trim());
}

/** Show 28x28 pixels on a canvas, one for one; null clears it. */
export function paint(canvas, pixels) {
  canvas.width = canvas.height = SIZE; // also clears it
  canvas.classList.toggle("blank", !pixels);
  if (!pixels) return;
  const image = new ImageData(SIZE, SIZE);
  pixels.forEach((value, at) => image.data.set([value, value, value, 255], 4 * at));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Return a bitmap's luma (ITU-R 601) at a size, composited on black, as the service reads a file. */
function grey(bitmap, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const luma = new Uint8ClampedArray(width * height);
  for (let at = 0; at < luma.length; at++) {
    const [red, green, blue] = [data[4 * at], data[4 * at + 1], data[4 * at + 2]];
    luma[at] = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
  }
  return luma;
}

/** Return bilevel ink like NIST's scans: the pixels that differ from the paper, which the border shows. */
export function bilevel(pixels, width, height) {
  const threshold = otsu(pixels);
  const light = median(border(pixels, width, height)) > threshold;
  return pixels.map((value) => (value > threshold !== light ? 255 : 0));
}

/** Return the threshold with the largest variance between the two classes of grey levels (Otsu, 1979). */
export function otsu(pixels) {
  const counts = new Array(256).fill(0);
  for (const value of pixels) counts[value]++;
  const total = counts.reduce((sum, count, level) => sum + level * count, 0);
  let [best, threshold, count, sum] = [-1, 0, 0, 0];
  for (let level = 0; level < 255; level++) {
    count += counts[level];
    sum += level * counts[level];
    if (count === 0 || count === pixels.length) continue;
    const distance = sum / count - (total - sum) / (pixels.length - count);
    const variance = count * (pixels.length - count) * (distance * distance);
    if (variance > best) [best, threshold] = [variance, level];
  }
  return threshold;
}

/** Return 28x28 with the whole picture in the middle, padded with the median grey of its border. */
export function scaled(pixels, width, height) {
  const { width: columns, height: rows } = fitted({ width, height }, SIZE);
  const { sums, area } = resample(pixels, width, { left: 0, top: 0, width, height }, columns, rows);
  const [left, top] = [columns, rows].map((side) => Math.floor((SIZE - side) / 2));
  const field = new Uint8ClampedArray(SIZE * SIZE).fill(median(border(pixels, width, height)));
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) field[(top + y) * SIZE + left + x] = sums[y * columns + x] / area;
  }
  return field;
}

/** Return 28x28 with the whole picture, whatever its aspect ratio. */
export function stretched(pixels, width, height) {
  const { sums, area } = resample(pixels, width, { left: 0, top: 0, width, height }, SIZE, SIZE);
  return Uint8ClampedArray.from(sums, (sum) => sum / area);
}

function border(pixels, width, height) {
  return pixels.filter((_, at) => {
    const [x, y] = [at % width, Math.floor(at / width)];
    return x === 0 || y === 0 || x === width - 1 || y === height - 1;
  });
}

function median(values) {
  return values.toSorted()[values.length >> 1];
}
