/* Encodes pixels as a grayscale 8-bit PNG (PNG specification, third edition; RFC 1950, RFC 1951). */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/** Return the bytes of a PNG file of `width` x `height` grey pixels, stored without compression. */
export function encodePng(pixels, width, height) {
  const lines = new Uint8Array(height * (width + 1)); // each line starts with its filter, 0 for none
  for (let y = 0; y < height; y++) {
    lines.set(pixels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  }
  const header = [...bytes32(width), ...bytes32(height), 8, 0, 0, 0, 0];
  return new Uint8Array([
    ...SIGNATURE,
    ...chunk("IHDR", header),
    ...chunk("IDAT", zlibStored(lines)),
    ...chunk("IEND", []),
  ]);
}

function chunk(type, data) {
  const body = [...type].map((letter) => letter.charCodeAt(0)).concat([...data]);
  return [...bytes32(data.length), ...body, ...bytes32(crc32(body))];
}

/** Return a zlib stream of one stored block, which holds 65,535 bytes at most. */
function zlibStored(data) {
  const length = [data.length & 255, data.length >> 8];
  return [0x78, 0x01, 0x01, ...length, ...length.map((byte) => byte ^ 255), ...data, ...bytes32(adler32(data))];
}

function crc32(data) {
  let crc = ~0;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

function adler32(data) {
  let [a, b] = [1, 0];
  for (const byte of data) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return b * 65536 + a;
}

function bytes32(number) {
  return [number >>> 24, (number >>> 16) & 255, (number >>> 8) & 255, number & 255];
}
