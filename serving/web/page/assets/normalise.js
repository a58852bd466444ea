/* From a picture of any size to the model's 28x28, by the procedure that made MNIST.
 *
 * "The original black and white (bilevel) images from NIST were size normalized to fit in a 20x20 pixel box
 * while preserving their aspect ratio. The resulting images contain grey levels as a result of the
 * anti-aliasing technique used by the normalization algorithm. The images were centered in a 28x28 image by
 * computing the center of mass of the pixels, and translating the image so as to position this point at the
 * center of the 28x28 field." (LeCun, Cortes, Burges, The MNIST database)
 *
 * MNIST's files show two things that this text leaves open: the translation is by whole pixels, and the centre is
 * pixel 14, counted from 0. In all 70,000 images the centre of mass lies within half a pixel of it.
 *
 * `bundle/images/resizing.py` does the same for files, and a test compares both, pixel for pixel: every sum is of whole
 * numbers, which a double holds exactly, and is divided once.
 *
 * Ink is 0 (none) to 255 everywhere here, whatever the model's polarity; `inPolarity` is the last step.
 */

export const SIZE = 28;
export const BOX = 20;
const CENTRE = 14;

/** Return the 28x28 ink of `ink`, a picture of `width` x `height`; null where there is no ink. */
export function normalise(ink, width, height) {
  const box = boundingBox(ink, width, height);
  return box && centre(fit(ink, width, box));
}

/** Return the smallest {left, top, width, height} that holds all ink; null where there is none. */
export function boundingBox(ink, width, height) {
  let [left, right, top, bottom] = [width, -1, height, -1];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (ink[at] === 0) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

/** Return the box's content, its longer side 20 pixels, as `resample` does. */
export function fit(ink, stride, box) {
  const { width, height } = fitted(box, BOX);
  return resample(ink, stride, box, width, height);
}

/** Return {width, height} in a picture's aspect ratio, the longer of which is `most`. */
export function fitted({ width, height }, most) {
  const longer = Math.max(width, height);
  const side = (length) => Math.max(1, Math.round((length * most) / longer));
  return { width: side(width), height: side(height) };
}

/** Return {sums, area, width, height} of a box of a picture: sum / area is the mean of the area a pixel covers. */
export function resample(source, stride, box, width, height) {
  const columns = spans(box.width, width);
  const rows = spans(box.height, height);
  const narrow = new Float64Array(width * box.height);
  for (let y = 0; y < box.height; y++) {
    const line = (box.top + y) * stride + box.left;
    columns.forEach((span, x) => {
      for (const [from, weight] of span) narrow[y * width + x] += source[line + from] * weight;
    });
  }
  const sums = new Float64Array(width * height);
  rows.forEach((span, y) => {
    for (const [from, weight] of span) {
      for (let x = 0; x < width; x++) sums[y * width + x] += narrow[from * width + x] * weight;
    }
  });
  return { sums, area: box.width * box.height, width, height };
}

/** Return, for each of `to` pixels over `from` pixels, which of those it covers, and how many `to`ths of each. */
function spans(from, to) {
  return Array.from({ length: to }, (_, index) => {
    const [start, end] = [index * from, (index + 1) * from];
    const span = [];
    for (let at = Math.floor(start / to); at * to < end; at++) {
      span.push([at, Math.min((at + 1) * to, end) - Math.max(at * to, start)]);
    }
    return span;
  });
}

/** Return 28x28 with the fitted picture's centre of mass at the centre, as far as nothing is cut off. */
export function centre({ sums, area, width, height }) {
  let [mass, momentX, momentY] = [0, 0, 0];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      mass += sums[at];
      momentX += x * sums[at];
      momentY += y * sums[at];
    }
  }
  const left = within(Math.round(CENTRE - momentX / mass), SIZE - width);
  const top = within(Math.round(CENTRE - momentY / mass), SIZE - height);
  const field = new Uint8ClampedArray(SIZE * SIZE); // rounds and bounds what is written to it
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) field[(top + y) * SIZE + left + x] = sums[y * width + x] / area;
  }
  return field;
}

/** Return ink as a model of this polarity takes it. */
export function inPolarity(ink, polarity) {
  return polarity === "black-on-white" ? ink.map((value) => 255 - value) : ink;
}

function within(value, most) {
  return Math.max(0, Math.min(most, value));
}
