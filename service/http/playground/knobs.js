/**
 * The knobs: which model, how a photo is fitted, how its tokens are decoded.
 * @module
 */

import { $, on } from "./dom.js";

/** @typedef {import("./flowmo.js").Model} Model */
/** @typedef {import("./flowmo.js").Sampling} Sampling */

const form = /** @type {HTMLFormElement} */ ($("knobs"));
/** @type {Record<string, any>} */
const fields = form.elements;

/** Choices of a photo's longer side, in the model's squares: what a small machine decodes at once. */
const SIDES = [2, 3, 4, 8];

/** @type {Model[]} */
let models = [];

/** @returns {Model | undefined} The model that is chosen. */
export const model = () => models.find(({ name }) => name === fields.model.value) ?? models[0];

/** @returns {string} */
export const fit = () => fields.fit?.value ?? "crop";

/** @returns {string} The longest side of a photo that stays as it is, in pixels; empty: any. */
export const side = () => (fit() === "native" ? fields.side.value : "");

/** @returns {Sampling} As it is sent. */
export function sampling() {
  const schedule = fields.schedule.value;
  return {
    model: fields.model.value,
    steps: Number(fields.steps.value),
    guidance: Number(fields.guidance.value),
    schedule,
    rho: schedule !== "linear" ? Number(fields.rho.value) || undefined : undefined,
    seed: fields.seed.value || "0",
  };
}

/**
 * Fill the knobs with what the server offers.
 * @param {Model[]} served
 * @param {string[]} fits
 */
export function offer(served, fits) {
  models = served;
  fields.model.replaceChildren(...served.map(({ name }) => new Option(name, name)));
  $("fits").replaceChildren(
    ...fits.map((name) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name: "fit", value: name });
      input.checked = name === fits[0];
      label.append(input, name);
      return label;
    }),
  );
  defaults();
}

/** Set the knobs as the model's config has them. */
export function defaults() {
  const chosen = model();
  if (!chosen) return;
  const { steps, guidance, schedule, rho } = chosen.sampler;
  const sides = SIDES.map((tiles) => String(tiles * chosen.image_size));
  fields.side.replaceChildren(...sides.map((value) => new Option(`${value} px`, value)), new Option("any", ""));
  fields.side.value = sides[1];
  fields.steps.max = Math.min(chosen.max_steps, Math.max(50, steps));
  restore({ steps, guidance, schedule: schedule === "explicit" ? "power" : schedule, rho, seed: 0 });
}

/** @param {Record<string, any>} values By the fields' names. */
export function restore(values) {
  for (const [name, value] of Object.entries(values)) {
    if (fields[name] && value !== null && value !== undefined) fields[name].value = String(value);
  }
  label();
}

function label() {
  fields["steps-value"].value = fields.steps.value;
  fields["guidance-value"].value = Number(fields.guidance.value) === 1 ? "none" : Number(fields.guidance.value).toFixed(1);
  fields.side.disabled = fit() !== "native";
  fields.rho.disabled = fields.schedule.value === "linear";
}

/**
 * Call back when a knob has been turned.
 * @param {{onPhoto: () => void, onDecode: () => void}} handlers The first if the photo's tokens
 *   change, too.
 */
export function listen({ onPhoto, onDecode }) {
  let timer = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    label();
    const name = /** @type {HTMLInputElement} */ (event.target).name;
    if (name === "model") defaults();
    clearTimeout(timer); // a slider moves through many values
    timer = setTimeout(["model", "fit", "side"].includes(name) ? onPhoto : onDecode, 50);
  });
  on("dice", "click", () => {
    fields.seed.value = String(Math.floor(Math.random() * 1e6));
    onDecode();
  });
  on("defaults", "click", () => {
    defaults();
    onDecode();
  });
}
