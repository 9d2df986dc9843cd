/**
 * Pictures on canvases: the fitted original, files, PSNR.
 * @module
 */

/**
 * Draw a photo as the server fitted it: a part of it, somewhere on white.
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap} bitmap
 * @param {{source: number[], target: number[]}} fit Boxes: left, top, right, bottom.
 * @param {number} width
 * @param {number} height
 */
export function drawFitted(canvas, bitmap, { source, target }, width, height) {
  canvas.width = width;
  canvas.height = height;
  const context = contextOf(canvas);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  const [left, top, right, bottom] = source;
  const [x0, y0, x1, y1] = target;
  context.drawImage(bitmap, left, top, right - left, bottom - top, x0, y0, x1 - x0, y1 - y0);
}

/**
 * @typedef {object} Photo
 * @property {Blob} blob Its file.
 * @property {ImageBitmap | null} bitmap Null if the browser cannot show it.
 */

/**
 * A photo with its orientation applied. What the browser cannot show (TIFF) the server may still read.
 * @param {Blob} blob
 * @returns {Promise<Photo>}
 */
export const readPhoto = async (blob) => ({ blob, bitmap: await createImageBitmap(blob).catch(() => null) });

/**
 * A photo no larger than that: a phone's has a thousand tiles of a small model.
 * @param {Photo} photo
 * @param {number} longest Of the longer side, in pixels.
 * @returns {Promise<Photo>}
 */
export async function within({ blob, bitmap }, longest) {
  if (!bitmap || Math.max(bitmap.width, bitmap.height) <= longest) return { blob, bitmap };
  const scale = longest / Math.max(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  return drawn(bitmap, [0, 0, bitmap.width, bitmap.height], width, height);
}

/**
 * The largest centred part of a photo that has a size's shape, in that size.
 * @param {Photo} photo
 * @param {number} width
 * @param {number} height
 * @returns {Promise<Photo>}
 */
export async function covering({ blob, bitmap }, width, height) {
  if (!bitmap) return { blob, bitmap };
  const scale = Math.min(bitmap.width / width, bitmap.height / height);
  const [w, h] = [width * scale, height * scale];
  return drawn(bitmap, [(bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h], width, height);
}

/**
 * @param {ImageBitmap} bitmap
 * @param {number[]} part Left, top, width, height.
 * @param {number} width
 * @param {number} height
 * @returns {Promise<Photo>}
 */
async function drawn(bitmap, [left, top, w, h], width, height) {
  const resized = await createImageBitmap(bitmap, Math.round(left), Math.round(top), Math.round(w), Math.round(h), {
    resizeWidth: width,
    resizeHeight: height,
    resizeQuality: "high",
  });
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = contextOf(canvas);
  context.fillStyle = "#fff"; // behind what is transparent, as the server does
  context.fillRect(0, 0, width, height);
  context.drawImage(resized, 0, 0);
  /** @type {Blob | null} */
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("this browser cannot write a PNG of the photo");
  return { blob, bitmap: resized };
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Blob} blob
 */
export async function drawFile(canvas, blob) {
  const bitmap = await createImageBitmap(blob);
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  contextOf(canvas).drawImage(bitmap, 0, 0);
  bitmap.close();
}

/** @param {HTMLCanvasElement} canvas */
export const contextOf = (canvas) =>
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));

/**
 * Peak signal-to-noise ratio of two pictures of the same size, in decibels.
 * @param {HTMLCanvasElement} one
 * @param {HTMLCanvasElement} other
 */
export function psnr(one, other) {
  const { width, height } = one;
  if (other.width !== width || other.height !== height) return NaN;
  const a = contextOf(one).getImageData(0, 0, width, height).data;
  const b = contextOf(other).getImageData(0, 0, width, height).data;
  let sum = 0;
  for (let i = 0; i < a.length; i += 4) {
    for (let c = i; c < i + 3; c++) sum += (a[c] - b[c]) ** 2;
  }
  return sum ? 10 * Math.log10((255 ** 2 * 3 * width * height) / sum) : Infinity;
}
