/**
 * A picture's state in an address: its tokens and knobs, behind the #, which no server sees.
 * @module
 */

import { fromBase64 } from "./flowmo.js";

/**
 * @param {Uint8Array} container
 * @param {Record<string, unknown>} values
 */
export function stateLink(container, values) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && value !== "") found.set(name, String(value));
  }
  const packed = btoa(Array.from(container, (byte) => String.fromCharCode(byte)).join(""));
  found.set("tokens", packed.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", ""));
  return `#${found}`;
}

/**
 * @param {string} hash
 * @returns {{container: Uint8Array<ArrayBuffer>, values: Record<string, string>} | null} Null if
 *   there is nothing in it, or it is damaged.
 */
export function readLink(hash) {
  const { tokens, ...values } = Object.fromEntries(new URLSearchParams(hash.slice(1)));
  if (!tokens) return null;
  try {
    return { container: fromBase64(tokens.replaceAll("-", "+").replaceAll("_", "/")), values };
  } catch {
    return null;
  }
}
