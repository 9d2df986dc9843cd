/**
 * Tokens as bits: edits and mixtures.
 *
 * Bit i of a token is bit g of id h, where i = g·H + h and H = D/G is the number of ids a token.
 * @module
 */

/** @typedef {import("./flowmo.js").Tokens} Tokens */

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
 * The left of the first token set, the right of the second: tiles of a picture of several, else
 * columns of the map.
 * @param {number[][]} first
 * @param {number[][]} second
 * @param {Tokens} tokens The first's.
 * @param {number} share Of the second, 0 … 1.
 */
export function halves(first, second, tokens, share) {
  const { width = 0, tile_size: side = 0, overlap = 0, code_length: length = first.length } = tokens;
  const isTiled = first.length > length;
  const columns = isTiled ? Math.ceil(Math.max(0, width - side) / (side - overlap)) + 1 : columnsOf(first.length);
  const from = Math.round(columns * (1 - share));
  return first.map((row, k) => ((isTiled ? Math.floor(k / length) : k) % columns < from ? row : second[k]));
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
