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
