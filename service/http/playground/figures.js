/**
 * Figures of a picture: bytes, bits a pixel, PSNR, time by stage, other codecs at the same size.
 * @module
 */

import { $ } from "./dom.js";
import { encodedIn } from "./codecs.js";
import { contextOf, psnr } from "./pictures.js";

const STAGES = ["decode_image", "queue", "encode", "sample", "encode_image"];
const NAMES = { decode_image: "read file", queue: "queue", encode: "encode", sample: "decode", encode_image: "write file" };

/**
 * @param {string} id
 * @param {string} value
 * @param {string} [unit]
 */
function put(id, value, unit = "") {
  const small = document.createElement("small");
  small.textContent = unit && ` ${unit}`;
  $(id).replaceChildren(value, small);
}

/**
 * @param {number} bytes
 * @param {number} pixels
 */
export function showSize(bytes, pixels) {
  put("bytes", bytes.toLocaleString("en"), "bytes");
  put("bpp", ((8 * bytes) / pixels).toFixed(3));
}

/** @param {number} value */
export const showPsnr = (value) => (Number.isNaN(value) ? put("psnr", "–") : put("psnr", value.toFixed(1), "dB"));

/**
 * @param {number} milliseconds
 * @returns {[string, string]} A number and its unit.
 */
function duration(milliseconds) {
  if (milliseconds >= 1000) return [(milliseconds / 1000).toFixed(2), "s"];
  return [milliseconds.toFixed(milliseconds < 10 ? 1 : 0), "ms"];
}

/** @param {Record<string, number>} timings Milliseconds by stage. */
export function showTimes(timings) {
  const known = STAGES.filter((name) => name in timings);
  const total = known.reduce((sum, name) => sum + timings[name], 0);
  put("time", ...duration(total));
  $("stages").replaceChildren(
    ...known.map((name) => {
      const line = document.createElement("li");
      const bar = document.createElement("i");
      bar.style.setProperty("--share", `${(100 * timings[name]) / total}%`);
      line.dataset.time = duration(timings[name]).join(" ");
      line.append(NAMES[/** @type {keyof typeof NAMES} */ (name)], bar);
      return line;
    }),
  );
}

let asked = 0;

/**
 * Show the picture, and JPEG and WebP of the photo in as many bytes.
 * @param {HTMLCanvasElement} original
 * @param {HTMLCanvasElement} reconstruction
 * @param {number} bytes
 * @param {boolean} again Whether the photo is another than the last time.
 */
export async function showCodecs(original, reconstruction, bytes, again) {
  const mine = ++asked;
  const ours = figure(copy(reconstruction), "Tokens", bytes, psnr(original, reconstruction));
  const old = [...$("codecs").children];
  if (!again && old.length === 3) {
    old[0].replaceWith(ours);
    return;
  }
  const others = await Promise.all(
    /** @type {const} */ (["image/jpeg", "image/webp"]).map(async (type) => {
      const name = type === "image/jpeg" ? "JPEG" : "WebP";
      const found = await encodedIn(original, type, bytes);
      if (!found) return figure(document.createElement("canvas"), name, NaN, NaN);
      return figure(found.canvas, name, found.bytes, found.psnr, found.bytes > bytes);
    }),
  );
  if (mine === asked) $("codecs").replaceChildren(ours, ...others);
}

/** Without a photo there is nothing to compare with. */
export function clearCodecs() {
  asked++;
  $("codecs").replaceChildren();
  showPsnr(NaN);
}

/** @param {HTMLCanvasElement} canvas */
function copy(canvas) {
  const made = document.createElement("canvas");
  made.width = canvas.width;
  made.height = canvas.height;
  contextOf(made).drawImage(canvas, 0, 0);
  return made;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {string} name
 * @param {number} bytes
 * @param {number} quality In decibels.
 * @param {boolean} [least] It cannot be written in fewer bytes.
 */
function figure(canvas, name, bytes, quality, least = false) {
  const made = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const detail = document.createElement("span");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `The photo by ${name}`);
  const size = `${least ? "at least " : ""}${bytes.toLocaleString("en")} bytes`;
  detail.textContent = Number.isNaN(bytes) ? "not written by this browser" : `${size}, ${quality.toFixed(1)} dB`;
  caption.append(name, detail);
  made.append(canvas, caption);
  return made;
}
