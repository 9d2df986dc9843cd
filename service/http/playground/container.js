/**
 * Tokens as a `.flowmo` file, both versions (docs/container.md).
 * @module
 */

import { bit, rows } from "./tokens.js";

/** @typedef {import("./flowmo.js").Tokens} Tokens */

const MAGIC = [0x89, 0x46, 0x4c, 0x4d, 0x0d, 0x0a, 0x1a, 0x0a];
/** Bytes before the tokens, by version. */
const HEADER = [0, 48, 64];
const FITS = ["native", "crop", "pad", "stretch"];

/** @param {Uint8Array} data */
export const isContainer = (data) => MAGIC.every((byte, at) => data[at] === byte);

/**
 * @param {Tokens} tokens As the server answered them, or with other ids.
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function toContainer(tokens) {
  const { width = 0, height = 0, tile_size = 0, overlap = 0, fit = "native", fingerprint = "" } = tokens;
  const ids = rows(tokens);
  const length = tokens.code_length ?? ids.length;
  const groupBits = tokens.group_bits ?? 1;
  const bits = ids[0].length * groupBits;
  const tiles = ids.length / length;
  const size = Math.ceil((length * bits) / 8);
  const isSquare = tiles === 1 && width === tile_size && height === tile_size;
  const version = isSquare ? 1 : 2;
  const header = HEADER[version];
  const data = new Uint8Array(header + tiles * size + 4);
  const view = new DataView(data.buffer);
  data.set(MAGIC);
  const shorts = [version, bits, groupBits, isSquare ? 0 : FITS.indexOf(fit)];
  const words = isSquare
    ? [length, width, height, size]
    : [length, width, height, tile_size, tiles > 1 ? overlap : 0, tiles, size, 0];
  shorts.forEach((value, at) => view.setUint16(8 + 2 * at, value, true));
  words.forEach((value, at) => view.setUint32(16 + 4 * at, value, true));
  for (let at = 0; at < 16; at++) data[header - 16 + at] = parseInt(fingerprint.slice(2 * at, 2 * at + 2), 16);
  ids.forEach((row, index) => {
    const begin = header + Math.floor(index / length) * size;
    for (let i = 0; i < bits; i++) {
      const n = (index % length) * bits + i;
      if (bit(row, i)) data[begin + (n >> 3)] |= 1 << (n & 7);
    }
  });
  view.setUint32(data.length - 4, crc32(data.subarray(0, data.length - 4)), true);
  return data;
}

/**
 * @param {Uint8Array} data
 * @returns {Tokens | null} Null if it is damaged, or of a version that is not known here: the
 *   server says what is wrong.
 */
export function fromContainer(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const version = data.length < HEADER[1] ? 0 : view.getUint16(8, true);
  const header = HEADER[version];
  if (!header || data.length < header + 4) return null;
  const [bits, groupBits, code] = [10, 12, 14].map((at) => view.getUint16(at, true));
  const words = Array.from({ length: (header - 32) / 4 }, (_, at) => view.getUint32(16 + 4 * at, true));
  const [length, width, height] = words;
  const [side, overlap, tiles, size] = version === 1 ? [width, 0, 1, words[3]] : words.slice(3);
  if (data.length !== header + tiles * size + 4 || size !== Math.ceil((length * bits) / 8)) return null;
  if (crc32(data.subarray(0, data.length - 4)) !== view.getUint32(data.length - 4, true)) return null;
  const columns = bits / groupBits;
  const ids = Array.from({ length: tiles }, (_, tile) => {
    const found = Array.from({ length }, () => new Array(columns).fill(0));
    for (let n = 0; n < length * bits; n++) {
      if ((data[header + tile * size + (n >> 3)] >> (n & 7)) & 1) {
        const i = n % bits;
        found[Math.floor(n / bits)][i % columns] |= 1 << Math.floor(i / columns);
      }
    }
    return found;
  });
  const digits = Array.from(data.subarray(header - 16, header), (byte) => byte.toString(16).padStart(2, "0"));
  return {
    ids,
    width,
    height,
    tile_size: side,
    overlap,
    fit: FITS[code],
    fingerprint: digits.join(""),
    code_length: length,
    token_bits: bits,
    group_bits: groupBits,
    payload_bytes: tiles * size,
  };
}

/** @param {Uint8Array} data */
function crc32(data) {
  let crc = ~0;
  for (const byte of data) {
    crc ^= byte;
    for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
