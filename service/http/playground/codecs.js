/**
 * Other codecs at the tokens' size: the browser's JPEG and WebP in as many bytes.
 * @module
 */

import { contextOf, psnr } from "./pictures.js";

// Below a certain size of file a smaller picture, enlarged again, is the better one.
const SCALES = [1, 0.75, 0.5, 0.375, 0.25];

/**
 * @typedef {object} Encoded A picture by one of the browser's codecs.
 * @property {number} bytes
 * @property {HTMLCanvasElement} canvas The picture that the file holds, at the original's size.
 * @property {number} psnr
 */

/**
 * The best that a codec of the browser makes of a picture in so many bytes, of all qualities and
 * some sizes; or its smallest file of the whole size if none is as small.
 * @param {HTMLCanvasElement} original
 * @param {"image/jpeg" | "image/webp"} type
 * @param {number} bytes
 * @returns {Promise<Encoded | null>} Null if the browser has no such codec.
 */
export async function encodedIn(original, type, bytes) {
  const least = await written(original, type, 0);
  if (least?.type !== type) return null;
  /** @type {Encoded | null} */
  let best = null;
  for (const scale of SCALES) {
    const found = await largest(resized(original, scale), type, bytes);
    if (!found) continue;
    const made = await opened(found, original);
    if (best && made.psnr < best.psnr) break; // smaller ones are worse still
    best = made;
  }
  return best ?? opened(least, original);
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {string} type
 * @param {number} quality
 * @returns {Promise<Blob | null>} Without the colour profile that browsers put into every file: as
 *   many bytes again as such a picture has. What is left is sRGB by convention.
 */
async function written(canvas, type, quality) {
  /** @type {Blob | null} */
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, quality / 100));
  if (blob?.type !== type) return blob;
  const data = new Uint8Array(await blob.arrayBuffer());
  return new Blob([type === "image/jpeg" ? bareJpeg(data) : bareWebp(data)], { type });
}

/** @param {Uint8Array<ArrayBuffer>} data */
function bareJpeg(data) {
  const parts = [data.subarray(0, 2)];
  const view = new DataView(data.buffer);
  let at = 2;
  while (data[at + 1] !== 0xda && at < data.length) {
    const end = at + 2 + view.getUint16(at + 2);
    const isApplications = data[at + 1] > 0xe0 && data[at + 1] < 0xf0; // APP0 is JFIF's own
    if (!isApplications) parts.push(data.subarray(at, end));
    at = end;
  }
  return joined([...parts, data.subarray(at)]);
}

/** @param {Uint8Array<ArrayBuffer>} data */
function bareWebp(data) {
  const view = new DataView(data.buffer);
  for (let at = 12; at + 8 <= data.length; ) {
    const end = at + 8 + view.getUint32(at + 4, true);
    const name = String.fromCharCode(...data.subarray(at, at + 4));
    if (name === "VP8 " || name === "VP8L") {
      const made = joined([data.subarray(0, 12), data.subarray(at, end + (end & 1))]);
      new DataView(made.buffer).setUint32(4, made.length - 8, true);
      return made;
    }
    at = end + (end & 1);
  }
  return data;
}

/** @param {Uint8Array<ArrayBuffer>[]} parts */
function joined(parts) {
  const made = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    made.set(part, at);
    at += part.length;
  }
  return made;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {string} type
 * @param {number} bytes
 * @returns {Promise<Blob | null>} The file of the highest quality that is not larger.
 */
async function largest(canvas, type, bytes) {
  let best = null;
  for (let low = 0, high = 100; low <= high; ) {
    const quality = (low + high) >> 1;
    const blob = await written(canvas, type, quality);
    if (blob && blob.size <= bytes) {
      best = blob;
      low = quality + 1;
    } else {
      high = quality - 1;
    }
  }
  return best;
}

/**
 * @param {Blob} blob
 * @param {HTMLCanvasElement} original
 * @returns {Promise<Encoded>}
 */
async function opened(blob, original) {
  const bitmap = await createImageBitmap(blob);
  const canvas = drawn(bitmap, original.width, original.height);
  bitmap.close();
  return { bytes: blob.size, canvas, psnr: psnr(original, canvas) };
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number} scale
 */
const resized = (canvas, scale) =>
  drawn(canvas, Math.ceil(canvas.width * scale), Math.ceil(canvas.height * scale));

/**
 * @param {HTMLCanvasElement | ImageBitmap} picture
 * @param {number} width
 * @param {number} height
 */
function drawn(picture, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = contextOf(canvas);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  return canvas;
}
