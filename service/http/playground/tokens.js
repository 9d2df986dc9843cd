/**
 * Tokens as bits: edits, mixtures, and the `.flowmo` container (docs/container.md).
 *
 * Bit i of a token is bit g of id h, where i = g·H + h and H = D/G is the number of ids a token.
 * @module
 */

/** @typedef {import("./flowmo.js").Tokens} Tokens */

const MAGIC = [0x89, 0x46, 0x4c, 0x4d, 0x0d, 0x0a, 0x1a, 0x0a];
const HEADER = 48;

/**
 * All tokens of a picture, one after the other, tile by tile.
 * @param {Tokens} tokens
 * @returns {number[][]}
 */
export function rows(tokens) {
  const ids = tokens.ids;
  return Array.isArray(ids[0]?.[0]) ? /** @type {number[][][]} */ (ids).flat() : /** @type {number[][]} */ (ids);
}

/**
 * The same tokens with other ids.
 * @param {Tokens} tokens
 * @param {number[][]} changed As {@link rows} gave them.
 * @returns {Tokens}
 */
export function withRows(tokens, changed) {
  if (!Array.isArray(tokens.ids[0]?.[0])) return { ...tokens, ids: changed };
  const length = tokens.ids[0].length;
  return { ...tokens, ids: tokens.ids.map((_, tile) => changed.slice(tile * length, (tile + 1) * length)) };
}

/**
 * @param {number[]} row The ids of a token.
 * @param {number} i Of the bit.
 */
export const bit = (row, i) => (row[i % row.length] >> Math.floor(i / row.length)) & 1;

/**
 * Every bit of a token turned round.
 * @param {number[]} row
 * @param {number} groupBits
 */
export const flipped = (row, groupBits) => row.map((id) => id ^ (2 ** groupBits - 1));

/** @param {number[]} row */
export const erased = (row) => row.map(() => 0);

/**
 * A mixture by bits: of the bits in which two token sets differ, a share comes from the second.
 * Which ones is always the same, so that a slider moves through one sequence of pictures.
 * @param {number[][]} first
 * @param {number[][]} second
 * @param {number} groupBits
 * @param {number} share 0 … 1
 */
export function mixed(first, second, groupBits, share) {
  let state = 1;
  const chance = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return first.map((row, k) =>
    row.map((id, h) => {
      let mask = 0;
      for (let g = 0; g < groupBits; g++) if (chance() < share) mask |= 1 << g;
      return (id & ~mask) | (second[k][h] & mask);
    }),
  );
}

/**
 * The first columns of the map from one token set, the rest from the other.
 * @param {number[][]} first
 * @param {number[][]} second
 * @param {number} columns Of the map.
 * @param {number} share Of the second, 0 … 1.
 */
export function halves(first, second, columns, share) {
  const from = Math.round(columns * (1 - share));
  return first.map((row, k) => (k % columns < from ? row : second[k]));
}

/**
 * The columns of a map of K tokens: as square as it goes.
 * @param {number} count
 */
export function columnsOf(count) {
  let columns = Math.ceil(Math.sqrt(count));
  while (count % columns && columns < count) columns++;
  return columns > 4 * Math.sqrt(count) ? Math.ceil(Math.sqrt(count)) : columns;
}

/**
 * Pack tokens of one square as a container of version 1.
 * @param {number[][]} ids
 * @param {number} groupBits
 * @param {{fingerprint: string, width: number, height: number}} of
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function toContainer(ids, groupBits, { fingerprint, width, height }) {
  const bits = ids[0].length * groupBits;
  const size = Math.ceil((ids.length * bits) / 8);
  const data = new Uint8Array(HEADER + size + 4);
  const view = new DataView(data.buffer);
  data.set(MAGIC);
  [1, bits, groupBits, 0].forEach((value, at) => view.setUint16(8 + 2 * at, value, true));
  [ids.length, width, height, size].forEach((value, at) => view.setUint32(16 + 4 * at, value, true));
  for (let at = 0; at < 16; at++) data[32 + at] = parseInt(fingerprint.slice(2 * at, 2 * at + 2), 16);
  ids.forEach((row, k) => {
    for (let i = 0; i < bits; i++) {
      const n = k * bits + i;
      if (bit(row, i)) data[HEADER + (n >> 3)] |= 1 << (n & 7);
    }
  });
  view.setUint32(HEADER + size, crc32(data.subarray(0, HEADER + size)), true);
  return data;
}

/** @param {Uint8Array} data */
export const isContainer = (data) => MAGIC.every((byte, at) => data[at] === byte);

/**
 * Read a container of version 1.
 * @param {Uint8Array} data
 * @returns {{tokens: Tokens, width: number, height: number} | null} Null for another version: such
 *   a file can be decoded, not edited.
 */
export function fromContainer(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (data.length < HEADER + 4 || view.getUint16(8, true) !== 1) return null;
  const [bits, groupBits] = [view.getUint16(10, true), view.getUint16(12, true)];
  const [count, width, height, size] = [16, 20, 24, 28].map((at) => view.getUint32(at, true));
  if (data.length !== HEADER + size + 4 || size !== Math.ceil((count * bits) / 8)) return null;
  if (crc32(data.subarray(0, HEADER + size)) !== view.getUint32(HEADER + size, true)) return null;
  const columns = bits / groupBits;
  const ids = Array.from({ length: count }, () => new Array(columns).fill(0));
  for (let n = 0; n < count * bits; n++) {
    if ((data[HEADER + (n >> 3)] >> (n & 7)) & 1) {
      const i = n % bits;
      ids[Math.floor(n / bits)][i % columns] |= 1 << Math.floor(i / columns);
    }
  }
  const fingerprint = Array.from(data.subarray(32, 48), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const shape = { code_length: count, token_bits: bits, group_bits: groupBits, payload_bytes: size };
  return { tokens: { ids, fingerprint, ...shape }, width, height };
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
