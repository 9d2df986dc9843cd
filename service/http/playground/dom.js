/**
 * Short names for what the page does with its elements.
 * @module
 */

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
export function $(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`there is no element #${id}`);
  return element;
}

/**
 * @param {string} id
 * @param {string} event
 * @param {(event: any) => void} handler
 */
export const on = (id, event, handler) => $(id).addEventListener(event, handler);

/**
 * Buttons of which one is pressed.
 * @param {string} name Of their data attribute.
 * @param {(value: string) => void} chosen
 */
export function choice(name, chosen) {
  const buttons = [.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(`[data-${name}]`))].filter(
    (element) => element instanceof HTMLButtonElement,
  );
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      chosen(button.dataset[name] ?? "");
    });
  }
}

/**
 * Save a file.
 * @param {Blob} blob
 * @param {string} name
 */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * Follow a pointer that is held down on an element.
 * @param {HTMLElement} element
 * @param {(event: PointerEvent) => void} moved
 */
export function dragged(element, moved) {
  element.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    element.setPointerCapture(event.pointerId);
    moved(event);
  });
  element.addEventListener("pointermove", (event) => {
    if (element.hasPointerCapture(event.pointerId)) moved(event);
  });
}
