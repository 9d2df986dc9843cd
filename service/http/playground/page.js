/**
 * The page: a photo becomes tokens, these a picture, and every change is decoded at once.
 * @module
 */

import { fromContainer, isContainer } from "./container.js";
import { $, choice, dragged, on, save } from "./dom.js";
import { clearCodecs, showCodecs, showPsnr, showSize, showTimes } from "./figures.js";
import { copyLink, saveTokens } from "./keep.js";
import * as knobs from "./knobs.js";
import { readLink } from "./link.js";
import { contextOf, covering, drawFile, drawFitted, psnr, readPhoto, within } from "./pictures.js";
import { allIsWell, askForKey, attempt, client } from "./session.js";
import { isUnchanged, original, reconstruction, state, tell } from "./state.js";
import { MAX_CELLS, TokenMap } from "./token_map.js";
import { erased, flipped, halves, mixed, rows, withRows } from "./tokens.js";

/** @typedef {import("./flowmo.js").Tokens} Tokens */

const SAMPLES = ["chelsea.png", "flower.jpg", "astronaut.png", "coffee.png", "china.jpg", "rocket.jpg"];
const PREVIEWS = 8;

/** @type {AbortController} */
let reading = new AbortController();
/** @type {AbortController} */
let decoding = new AbortController();

// --- from a file to tokens ----------------------------------------------------------------------

/**
 * @param {Blob} blob
 * @param {{name?: string, sample?: string, edited?: number[][]}} [about] The last: its tokens' ids
 *   as a link has them.
 */
async function open(blob, { name = "picture", sample, edited } = {}) {
  const data = new Uint8Array(await blob.slice(0, 8).arrayBuffer());
  Object.assign(state, { name: name.replace(/\.\w+$/, ""), sample, second: null });
  pressSample(sample);
  if (isContainer(data)) return openContainer(blob);
  state.photo = await readPhoto(blob);
  await tokenize(edited);
}

/** @param {number[][]} [edited] */
async function tokenize(edited) {
  const photo = state.photo;
  if (!photo) return decode();
  const signal = restart();
  tell("encoding …");
  const sent = await within(photo, Number(knobs.side()) || Infinity);
  if (signal.aborted) return;
  state.sent = sent;
  const found = await attempt(() =>
    client.tokenize(sent.blob, { fit: knobs.fit(), model: knobs.model()?.name, signal }),
  );
  if (!found || signal.aborted) return tell("");
  const second = state.second;
  if (second) second.ids = null;
  state.fit = found.fit;
  state.timings = found.timings;
  take(found.tokens);
  if (edited) {
    state.ids = edited;
    showMap();
  }
  if (second) await tokenizeSecond(second.blob);
  else await decode();
}

/** @param {Blob} blob */
async function openContainer(blob) {
  restart();
  Object.assign(state, { photo: null, sent: null, fit: null, timings: {} });
  const found = fromContainer(new Uint8Array(await blob.arrayBuffer()));
  if (found) take(found);
  else Object.assign(state, { tokens: null, container: blob, isNew: true });
  showMap();
  await decode();
}

function restart() {
  reading.abort();
  decoding.abort();
  reading = new AbortController();
  return reading.signal;
}

/** @param {Tokens} tokens */
function take(tokens) {
  const ids = rows(tokens);
  Object.assign(state, { tokens, base: ids, ids: ids.map((row) => [...row]), container: null, isNew: true });
  showMap();
}

// --- from tokens to a picture -------------------------------------------------------------------

async function decode() {
  const sent = state.container ?? (state.tokens && withRows(state.tokens, state.ids));
  if (!sent) return;
  decoding.abort();
  decoding = new AbortController();
  const { signal } = decoding;
  const sampling = knobs.sampling();
  // Tokens of another model are decoded by it, which the server finds by their fingerprint.
  const foreign = state.container || state.tokens?.fingerprint !== knobs.model()?.fingerprint;
  const steps = sampling.steps ?? 1;
  const every = Math.max(1, Math.ceil(steps / PREVIEWS));
  const previews = Array.from({ length: steps - 1 }, (_, i) => i + 1).filter((step) => step % every === 0);
  tell("decoding …");
  const picture = await attempt(() =>
    client.stream(sent, {
      ...sampling,
      model: foreign ? undefined : sampling.model,
      previews: previews.slice(0, 32),
      signal,
      onProgress: (step, of) => {
        allIsWell();
        progress(step / of);
        tell(`step ${step} of ${of}`);
      },
      onPreview: (blob) => void show(blob, signal),
    }),
  );
  if (signal.aborted) return;
  progress(0);
  tell("");
  if (!picture || !(await show(picture.blob, signal))) return;
  state.file = picture.blob;
  report({ ...state.timings }, picture.timings);
}

let came = 0;
let shown = 0;

/**
 * @param {Blob} blob
 * @param {AbortSignal} signal
 */
async function show(blob, signal) {
  const mine = ++came;
  const canvas = document.createElement("canvas");
  await drawFile(canvas, blob);
  // Browsers read pictures side by side: a preview that is read last must not cover what came later.
  if (signal.aborted || mine < shown) return false;
  shown = mine;
  const { width, height } = canvas;
  reconstruction.width = width;
  reconstruction.height = height;
  contextOf(reconstruction).drawImage(canvas, 0, 0);
  const bitmap = state.sent?.bitmap;
  if (bitmap && state.fit && (state.isNew || original.width !== width || original.height !== height)) {
    drawFitted(original, bitmap, state.fit, width, height);
  }
  const hasOriginal = Boolean(bitmap);
  for (const id of ["original", "original-tag", "divider", "line"]) $(id).hidden = !hasOriginal;
  $("stage").style.setProperty("--aspect", `${width} / ${height}`);
  $("stage").classList.toggle("wide", width > height);
  $("empty").hidden = true;
  $("compare").hidden = false;
  return true;
}

/**
 * @param {Record<string, number>} timings
 * @param {Record<string, number>} more
 */
function report(timings, more) {
  for (const [name, value] of Object.entries(more)) timings[name] = (timings[name] ?? 0) + value;
  showTimes(timings);
  const bytes = state.tokens?.payload_bytes ?? (state.container ? state.container.size : 0);
  showSize(bytes, reconstruction.width * reconstruction.height);
  if (state.sent?.bitmap) {
    showPsnr(psnr(original, reconstruction));
    void showCodecs(original, reconstruction, bytes, state.isNew);
  } else {
    clearCodecs();
  }
  state.isNew = false;
  for (const id of ["save-tokens", "save-picture", "link"]) {
    /** @type {HTMLButtonElement} */ ($(id)).disabled = id === "link" && !state.tokens;
  }
  for (const id of ["second", "second-sample"]) {
    /** @type {HTMLButtonElement} */ ($(id)).disabled = !state.photo || !state.tokens;
  }
  document.documentElement.dataset.decoded = String(Number(document.documentElement.dataset.decoded ?? 0) + 1);
}

// --- the tokens ---------------------------------------------------------------------------------

const map = new TokenMap($("map"), /** @type {HTMLCanvasElement} */ ($("map-canvas")), (cells) => {
  const groupBits = state.tokens?.group_bits ?? 1;
  for (const k of cells) {
    if (state.tool === "flip") state.ids[k] = flipped(state.ids[k], groupBits);
    if (state.tool === "erase") state.ids[k] = erased(state.ids[k]);
    if (state.tool === "restore") state.ids[k] = [...state.base[k]];
  }
  showMap();
  void decode();
});

function showMap() {
  const fits = Boolean(state.tokens) && state.ids.length <= MAX_CELLS;
  $("map").hidden = $("map-canvas").hidden = !fits;
  const shape = state.tokens;
  if (fits && shape) map.draw(state.ids, state.base, shape.group_bits ?? 1);
  $("tokens-text").textContent = !shape
    ? state.container ? "These tokens are decoded, but cannot be changed here." : "One cell a token, one dot a bit."
    : `${state.ids.length} tokens of ${shape.token_bits} bits. ` +
      (fits ? "Click or sweep to change them." : "Too many to be shown one by one.");
  /** @type {HTMLButtonElement} */ ($("restore-all")).disabled = isUnchanged();
}

/** @param {Blob} blob */
async function tokenizeSecond(blob) {
  const { signal } = reading;
  const { width = 0, height = 0, fit } = state.tokens ?? {};
  // Of the first one's size, so that it has as many tokens, in the same places.
  const photo = fit === "native" ? await covering(await readPhoto(blob), width, height) : { blob };
  const found = await attempt(() =>
    client.tokenize(photo.blob, { fit: knobs.fit(), model: knobs.model()?.name, signal }),
  );
  if (!found || signal.aborted) return;
  const ids = rows(found.tokens);
  if (ids.length !== state.base.length) {
    tell("the two photos have different numbers of tokens: choose a fit that makes squares");
    return;
  }
  state.second = { blob, ids };
  mix();
}

function mix() {
  const second = state.second?.ids ?? null;
  $("unmix").hidden = !second;
  const share = /** @type {HTMLInputElement} */ ($("share"));
  share.disabled = !second;
  $("share-value").textContent = `${share.value} %`;
  if (second) {
    const part = Number(share.value) / 100;
    state.ids = state.mix === "bits"
      ? mixed(state.base, second, state.tokens?.group_bits ?? 1, part)
      : halves(state.base, second, state.tokens ?? { ids: [] }, part);
  } else {
    state.ids = state.base.map((row) => [...row]);
  }
  showMap();
  void decode();
}

// --- the page -----------------------------------------------------------------------------------

/** @param {number} share */
function progress(share) {
  /** @type {HTMLProgressElement} */ ($("progress")).value = share;
}

/** @param {string | undefined} name */
function pressSample(name) {
  for (const button of $("samples").children) {
    button.setAttribute("aria-pressed", String(/** @type {HTMLElement} */ (button).dataset.name === name));
  }
}

/** @param {string} name */
const sample = (name) =>
  attempt(async () => (await fetch(new URL(`playground/samples/${name}`, client.base))).blob());

/**
 * @param {string} name
 * @param {number[][]} [edited]
 */
async function openSample(name, edited) {
  const blob = await sample(name);
  if (blob) await open(blob, { name, sample: name, edited });
}

function addSamples() {
  for (const name of SAMPLES) {
    const button = document.createElement("button");
    const image = new Image();
    button.type = "button";
    button.dataset.name = name;
    button.setAttribute("aria-pressed", "false");
    image.src = String(new URL(`playground/samples/${name.replace(/\.\w+$/, ".webp")}`, client.base));
    image.alt = name.replace(/\.\w+$/, "");
    button.append(image);
    button.addEventListener("click", () => void openSample(name));
    $("samples").append(button);
    $("second-sample").append(new Option(image.alt, name));
  }
}

let asksForSecond = false;

function connect() {
  const divider = /** @type {HTMLInputElement} */ ($("divider"));
  const place = () => $("compare").style.setProperty("--at", `${divider.value}%`);
  divider.addEventListener("input", place);
  dragged($("compare"), (event) => {
    const box = $("compare").getBoundingClientRect();
    divider.value = String((100 * (event.clientX - box.left)) / box.width);
    place();
  });
  const pick = (/** @type {string} */ id, second = false) => {
    asksForSecond = second;
    $(id).click();
  };
  on("choose", "click", () => pick("file"));
  on("take", "click", () => pick("camera"));
  on("second", "click", () => pick("file", true));
  on("second-sample", "change", async (event) => {
    const blob = event.target.value && (await sample(event.target.value));
    event.target.value = "";
    if (blob) await tokenizeSecond(blob);
  });
  for (const id of ["file", "camera"]) {
    on(id, "change", (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) void (asksForSecond ? tokenizeSecond(file) : open(file, { name: file.name }));
    });
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("stage").classList.add("over");
  });
  document.addEventListener("dragleave", () => $("stage").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("stage").classList.remove("over");
    const [first, second] = event.dataTransfer?.files ?? [];
    if (first) {
      void open(first, { name: first.name }).then(() => second && tokenizeSecond(second));
    }
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (file) void open(file, { name: file.name });
  });
  choice("zoom", (zoom) => {
    $("stage").dataset.zoom = zoom;
    $("stage").style.setProperty("--zoom", zoom);
  });
  choice("tool", (tool) => (state.tool = tool));
  choice("mix", (kind) => {
    state.mix = kind;
    if (state.second) mix();
  });
  on("share", "input", mix);
  on("restore-all", "click", () => {
    state.ids = state.base.map((row) => [...row]);
    showMap();
    void decode();
  });
  on("unmix", "click", () => {
    state.second = null;
    mix();
  });
  on("theme", "click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
      (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("flowmo-theme", document.documentElement.dataset.theme);
  });
  on("key-button", "click", () => void askForKey());
  on("save-picture", "click", () => state.file && save(state.file, `${state.name}.flowmo.png`));
  on("save-tokens", "click", saveTokens);
  on("link", "click", () => void copyLink());
  knobs.listen({ onPhoto: () => void tokenize(), onDecode: () => void decode() });
}

/** Show what the address says: the tokens as they were, beside the sample if it was one. */
async function openLink() {
  const found = readLink(location.hash);
  const read = found && fromContainer(found.container);
  if (!found || !read) return false;
  const { sample: name, ...values } = found.values;
  const served = knobs.model();
  knobs.restore(values);
  if (name && SAMPLES.includes(name) && served?.fingerprint === read.fingerprint) {
    await openSample(name, rows(read));
  } else {
    await openContainer(new Blob([found.container]));
  }
  return true;
}

async function start() {
  document.documentElement.dataset.theme = localStorage.getItem("flowmo-theme") ?? "";
  addSamples();
  connect();
  const served = await attempt(() => client.models());
  if (!served) return;
  const document_ = await attempt(async () => (await fetch(new URL("openapi.json", client.base))).json());
  const fits = document_?.components?.schemas?.TokenizeBody?.properties?.fit?.enum;
  knobs.offer(served, fits ?? ["native", "crop", "pad", "stretch"]);
  if (!(await openLink())) await openSample(SAMPLES[0]); // something to see at once
}

void start();
