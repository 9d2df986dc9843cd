/**
 * The state of the page, which its parts share.
 * @module
 */

import { $ } from "./dom.js";

/** @typedef {import("./flowmo.js").Tokens} Tokens */
/** @typedef {import("./flowmo.js").Tokenized} Tokenized */
/** @typedef {import("./pictures.js").Photo} Photo */

export const original = /** @type {HTMLCanvasElement} */ ($("original"));
export const reconstruction = /** @type {HTMLCanvasElement} */ ($("reconstruction"));

/** What the page shows. */
export const state = {
  /** @type {Photo | null} */
  photo: null,
  /** @type {Photo | null} The photo as it was sent: no larger than the knob says. */
  sent: null,
  name: "picture",
  /** @type {string | undefined} */
  sample: undefined,
  /** @type {Tokenized["fit"] | null} */
  fit: null,
  /** @type {Tokens | null} */
  tokens: null,
  /** @type {number[][]} As they came. */
  base: [],
  /** @type {number[][]} As they are decoded. */
  ids: [],
  /** @type {{blob: Blob, ids: number[][] | null} | null} */
  second: null,
  /** @type {Blob | null} A container that this page cannot read, but the server may. */
  container: null,
  /** @type {Blob | null} */
  file: null,
  /** @type {Record<string, number>} */
  timings: {},
  tool: "flip",
  mix: "bits",
  isNew: true,
};

/** @param {string} text */
export function tell(text) {
  $("status").textContent = text;
}

/** Whether the tokens are as they came. */
export const isUnchanged = () =>
  state.ids.every((row, k) => row.every((id, h) => id === state.base[k][h]));
