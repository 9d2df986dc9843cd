/**
 * The map of a picture's tokens: one cell a token, its bits as a pattern in a colour of their own.
 * @module
 */

import { bit, columnsOf } from "./tokens.js";

/** More cells than that are neither seen nor hit. */
export const MAX_CELLS = 2048;

export class TokenMap {
  /**
   * @param {HTMLElement} grid Has the role grid; gets rows of cells.
   * @param {HTMLCanvasElement} canvas Lies under it.
   * @param {(cells: number[]) => void} onEdit The cells that were clicked or swept.
   */
  constructor(grid, canvas, onEdit) {
    this.grid = grid;
    this.canvas = canvas;
    this.onEdit = onEdit;
    this.columns = 0;
    /** @type {HTMLElement[]} */
    this.cells = [];
    /** @type {number[] | null} */
    this.last = null;
    grid.addEventListener("pointerdown", (event) => this.#begin(event));
    grid.addEventListener("pointermove", (event) => this.#sweep(event));
    for (const end of ["pointerup", "pointercancel"]) {
      grid.addEventListener(end, () => (this.last = null));
    }
    grid.addEventListener("keydown", (event) => this.#key(event));
  }

  /**
   * @param {number[][]} rows The ids of each token.
   * @param {number[][]} base The ids as they came; cells that differ are marked.
   * @param {number} groupBits
   */
  draw(rows, base, groupBits) {
    if (this.cells.length !== rows.length) this.#build(rows.length);
    const bits = rows[0].length * groupBits;
    const across = Math.ceil(Math.sqrt(bits));
    const down = Math.ceil(bits / across);
    // Device pixels of a dot: whole ones, so that patterns are crisp.
    const dot = Math.max(1, Math.floor(640 / (this.columns * (across + 1))));
    const [width, height] = [dot * (across + 1), dot * (down + 1)];
    this.canvas.width = this.columns * width;
    this.canvas.height = Math.ceil(rows.length / this.columns) * height;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    rows.forEach((row, k) => {
      const [x, y] = [(k % this.columns) * width, Math.floor(k / this.columns) * height];
      const values = Array.from({ length: bits }, (_, i) => bit(row, i));
      const { dark, light } = colours(values);
      context.fillStyle = dark;
      context.fillRect(x + dot / 2, y + dot / 2, dot * across, dot * down);
      context.fillStyle = light;
      values.forEach((value, i) => {
        if (value) {
          const [dx, dy] = [(i % across) + 0.5, Math.floor(i / across) + 0.5];
          context.fillRect(x + dx * dot, y + dy * dot, dot, dot);
        }
      });
      const changed = row.some((id, h) => id !== base[k][h]);
      this.cells[k].classList.toggle("changed", changed);
      this.cells[k].setAttribute("aria-label", `token ${k + 1}${changed ? ", changed" : ""}`);
    });
  }

  /** @param {number} count */
  #build(count) {
    this.columns = columnsOf(count);
    this.grid.style.setProperty("--columns", String(this.columns));
    this.cells = [];
    const lines = [];
    for (let start = 0; start < count; start += this.columns) {
      const line = document.createElement("div");
      line.setAttribute("role", "row");
      for (let k = start; k < Math.min(count, start + this.columns); k++) {
        const cell = document.createElement("div");
        cell.setAttribute("role", "gridcell");
        cell.tabIndex = k ? -1 : 0;
        cell.dataset.index = String(k);
        this.cells.push(cell);
        line.append(cell);
      }
      lines.push(line);
    }
    this.grid.replaceChildren(...lines);
  }

  /** @param {PointerEvent} event */
  #at(event) {
    const box = this.grid.getBoundingClientRect();
    const rows = Math.ceil(this.cells.length / this.columns);
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const inside = column >= 0 && column < this.columns && row >= 0 && row < rows;
    return inside ? [column, row] : null;
  }

  /** @param {PointerEvent} event */
  #begin(event) {
    if (event.button) return;
    event.preventDefault();
    this.grid.setPointerCapture(event.pointerId);
    this.last = this.#at(event);
    if (this.last) this.#touch([this.last]);
  }

  /** @param {PointerEvent} event */
  #sweep(event) {
    const at = this.last && this.#at(event);
    if (!at || !this.last) return;
    const [[x0, y0], [x1, y1]] = [this.last, at];
    const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0));
    const passed = Array.from({ length: steps }, (_, i) => [
      Math.round(x0 + ((x1 - x0) * (i + 1)) / steps),
      Math.round(y0 + ((y1 - y0) * (i + 1)) / steps),
    ]);
    this.last = at;
    if (passed.length) this.#touch(passed);
  }

  /** @param {number[][]} places */
  #touch(places) {
    const cells = places.map(([x, y]) => y * this.columns + x).filter((k) => k < this.cells.length);
    if (cells.length) {
      this.#focus(cells[cells.length - 1]);
      this.onEdit(cells);
    }
  }

  /** @param {number} k */
  #focus(k) {
    for (const cell of this.cells) cell.tabIndex = -1;
    this.cells[k].tabIndex = 0;
    this.cells[k].focus({ preventScroll: true });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const index = Number(/** @type {HTMLElement} */ (event.target).dataset.index);
    const to = {
      ArrowLeft: index - 1,
      ArrowRight: index + 1,
      ArrowUp: index - this.columns,
      ArrowDown: index + this.columns,
      Home: index - (index % this.columns),
      End: index - (index % this.columns) + this.columns - 1,
    }[event.key];
    if (event.key === " " || event.key === "Enter") this.onEdit([index]);
    else if (to === undefined) return;
    else if (to >= 0 && to < this.cells.length) this.#focus(to);
    event.preventDefault();
  }
}

/**
 * Colours of a token: tokens with many bits in common have similar ones.
 * @param {number[]} bits
 */
function colours(bits) {
  let [a, b] = [0, 0];
  bits.forEach((value, i) => {
    const angle = i * 2.399963; // the golden angle: no two bits pull the same way
    a += (value - 0.5) * Math.cos(angle);
    b += (value - 0.5) * Math.sin(angle);
  });
  const hue = (Math.atan2(b, a) * 180) / Math.PI + 180;
  const chroma = Math.min(0.13, 0.04 + (0.05 * Math.hypot(a, b)) / Math.sqrt(bits.length / 8));
  return { dark: `oklch(0.45 ${chroma} ${hue})`, light: `oklch(0.8 ${chroma} ${hue})` };
}
