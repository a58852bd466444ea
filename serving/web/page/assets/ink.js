/* Rasterises strokes geometrically: the ink of a pixel is how far the pen covers it.
 *
 * The pixels are not read from a canvas, because browsers that protect against fingerprinting add noise to such reads,
 * which the model would get.
 */

/** Side of the pad in its own units, and of its grid in pixels: ten for each pixel of the model. */
export const PAD = 280;

/** Return an empty grid. */
export function emptyInk() {
  return new Uint8ClampedArray(PAD * PAD);
}

/** Add a straight line of a round pen, {x, y} to {x, y}; equal ends make a dot. */
export function addLine(ink, from, to, penWidth) {
  const radius = penWidth / 2;
  const reach = radius + 1;
  const left = Math.max(0, Math.floor(Math.min(from.x, to.x) - reach));
  const right = Math.min(PAD - 1, Math.ceil(Math.max(from.x, to.x) + reach));
  const top = Math.max(0, Math.floor(Math.min(from.y, to.y) - reach));
  const bottom = Math.min(PAD - 1, Math.ceil(Math.max(from.y, to.y) + reach));
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const square = dx * dx + dy * dy;
  for (let row = top; row <= bottom; row++) {
    for (let column = left; column <= right; column++) {
      const [x, y] = [column + 0.5 - from.x, row + 0.5 - from.y]; // of the pixel's centre
      const along = square ? Math.max(0, Math.min(1, (x * dx + y * dy) / square)) : 0;
      const distance = Math.hypot(x - along * dx, y - along * dy);
      const covered = 255 * Math.max(0, Math.min(1, radius + 0.5 - distance));
      const at = row * PAD + column;
      if (covered > ink[at]) ink[at] = covered;
    }
  }
}

/** Return the ink of whole strokes, [{width, points: [{x, y}, ...]}, ...]. */
export function inkOf(strokes) {
  const ink = emptyInk();
  for (const { width, points } of strokes) {
    points.forEach((point, index) => addLine(ink, points[Math.max(0, index - 1)], point, width));
  }
  return ink;
}
