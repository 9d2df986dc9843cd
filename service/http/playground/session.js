/**
 * What lies between the page and the server: the API key of this tab, and words for what fails.
 * @module
 */

import { Client, FlowmoError } from "./flowmo.js";
import { $, on } from "./dom.js";

const KEY = "flowmo-key"; // in sessionStorage: gone with the tab

const dialog = /** @type {HTMLDialogElement} */ ($("key-dialog"));
const field = /** @type {HTMLInputElement} */ ($("key"));

/** The client of the page; it tries again for as long as the page wants the answer. */
export const client = new Client(undefined, {
  key: sessionStorage.getItem(KEY) ?? undefined,
  retries: Infinity,
  onRetry: ({ seconds, error }) => countDown(seconds, error),
});

let timer = 0;

/**
 * @param {number} seconds
 * @param {FlowmoError | TypeError} error
 */
function countDown(seconds, error) {
  const why = error instanceof FlowmoError
    ? `The server is busy (${error.status}): ${error.message}.`
    : "The server cannot be reached.";
  const end = Date.now() + seconds * 1000;
  clearInterval(timer);
  const tell = () => {
    const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
    show(`${why} ${left ? `Trying again in ${left} s.` : "Trying again."}`);
  };
  tell();
  timer = setInterval(tell, 1000);
}

/** @param {string} text */
function show(text) {
  if ($("banner").textContent !== text) $("banner").textContent = text;
  $("banner").hidden = !text;
}

/** The server has answered, or nobody waits for it any more. */
export function allIsWell() {
  clearInterval(timer);
  show("");
}

/**
 * Run what asks the server; what goes wrong is shown.
 * @template T
 * @param {() => Promise<T>} work
 * @returns {Promise<T | undefined>} Undefined if it failed or was given up.
 */
export async function attempt(work) {
  for (;;) {
    try {
      const result = await work();
      allIsWell();
      return result;
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return undefined;
      if (error instanceof FlowmoError && error.status === 401) {
        allIsWell();
        if (await askForKey()) continue;
        show("Without a key this server answers nothing.");
        return undefined;
      }
      clearInterval(timer);
      if (error instanceof FlowmoError) show(`${error.message}. ${error.hint}`.replace("..", "."));
      else show(error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }
}

/** @type {Promise<boolean> | null} */
let asking = null;

/** @returns {Promise<boolean>} Whether there is another key now. */
export function askForKey() {
  asking ??= new Promise((resolve) => {
    $("key-error").hidden = !client.key;
    $("key-error").textContent = "The server does not know that key.";
    field.value = "";
    dialog.showModal();
    field.focus();
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        resolve(dialog.returnValue === "use");
      },
      { once: true },
    );
  });
  return asking;
}

on("key-form", "submit", (event) => {
  event.preventDefault();
  client.key = field.value.trim();
  sessionStorage.setItem(KEY, client.key);
  dialog.close("use");
});
on("key-cancel", "click", () => dialog.close(""));
