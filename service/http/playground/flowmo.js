/**
 * A client of flowmo-serve in one file, for browsers, Deno and Node; it needs nothing but `fetch`.
 *
 *     import { Client } from "https://HOST/playground/flowmo.js";
 *     const client = new Client("https://HOST/", { key: "…" });
 *     const { tokens } = await client.tokenize(file);
 *     const { blob } = await client.detokenize(tokens, { seed: 7, steps: 8 });
 *
 * A server that is busy (429, 503) or gone is asked again, after the time that it names.
 * @module
 */

/**
 * @typedef {object} Tokens What `tokenize` answered of a picture; only `ids` is needed to
 *   decode a square.
 * @property {number[][] | number[][][]} ids `[K][D/G]`, or that for each tile.
 * @property {number} [width] Of the picture, in pixels.
 * @property {number} [height]
 * @property {number} [tile_size] Side of a tile: the model's square.
 * @property {number} [overlap] The fewest pixels that neighbouring tiles share.
 * @property {string} [fit] `native`, `crop`, `pad` or `stretch`.
 * @property {string} [model]
 * @property {string} [fingerprint] 32 hex digits that name the weights.
 * @property {number} [code_length] K, tokens a tile.
 * @property {number} [token_bits] D, bits a token.
 * @property {number} [group_bits] G, bits an id.
 * @property {number} [payload_bytes] Size of the packed tokens of all tiles.
 *
 * @typedef {object} Tokenized
 * @property {Tokens} tokens
 * @property {{width: number, height: number, format: string, animated: boolean}} upload
 * @property {{fit: string, size?: number, source: number[], target: number[]}} fit
 * @property {Record<string, number>} timings Milliseconds by stage.
 *
 * @typedef {object} Model
 * @property {string} name
 * @property {string} fingerprint
 * @property {number} image_size
 * @property {number} code_length
 * @property {number} token_bits
 * @property {number} group_bits
 * @property {number} ids_per_token
 * @property {number} payload_bytes
 * @property {{schedule: string, steps: number, rho: number, guidance: number}} sampler
 * @property {number} max_steps
 * @property {string} device
 * @property {boolean} ready
 *
 * @typedef {object} Sampling What is not given is the model's default.
 * @property {string} [model]
 * @property {number | string} [seed] 0 … 2⁶³ − 1; a text beyond 2⁵³.
 * @property {number} [steps]
 * @property {"power" | "linear" | "merged"} [schedule]
 * @property {number} [rho]
 * @property {number} [guidance]
 * @property {number} [quality] Of JPEG and WebP.
 *
 * @typedef {object} Picture
 * @property {Blob} blob The picture's file.
 * @property {Record<string, string>} headers Lower-case names.
 * @property {Record<string, number>} timings Milliseconds by stage.
 *
 * @typedef {object} Waiting Why, and how long, the client waits before it asks again.
 * @property {number} seconds
 * @property {FlowmoError | TypeError} error
 *
 * @typedef {object} Call
 * @property {AbortSignal} [signal] Aborting ends the request, and its work on the server.
 *
 * @typedef {object} Progress
 * @property {(step: number, steps: number) => void} [onProgress] After each step.
 * @property {(blob: Blob, step: number, steps: number) => void} [onPreview]
 * @property {number[]} [previews] Steps, 1 for the first, after which a preview is wanted.
 */

export const CONTAINER_TYPE = "application/vnd.flowmo";

/** What the server refused: its status, the stable `code`, and what to do about it. */
export class FlowmoError extends Error {
  /**
   * @param {number} status
   * @param {{code?: string, title?: string, detail?: string, hint?: string}} problem
   * @param {number} [retryAfter] Seconds.
   */
  constructor(status, problem, retryAfter) {
    super(problem.detail ?? problem.title ?? `the server answered ${status}`);
    this.name = "FlowmoError";
    this.status = status;
    this.code = problem.code ?? "http";
    this.hint = problem.hint ?? "";
    this.retryAfter = retryAfter;
  }
}

export class Client {
  /**
   * @param {string | URL} [base] Where the server is; this file's own server by default.
   * @param {object} [options]
   * @param {string} [options.key] An API key.
   * @param {number} [options.retries] How often a request is tried again.
   * @param {(waiting: Waiting) => void} [options.onRetry]
   */
  constructor(base = new URL("..", import.meta.url), { key, retries = 4, onRetry } = {}) {
    this.base = new URL(base);
    if (!this.base.pathname.endsWith("/")) this.base.pathname += "/";
    this.key = key;
    this.retries = retries;
    this.onRetry = onRetry;
  }

  /**
   * The models that are served; the first is the default.
   * @param {Call} [call]
   * @returns {Promise<Model[]>}
   */
  async models({ signal } = {}) {
    return this.#request("v1/models", { signal }, async (answer) => (await answer.json()).models);
  }

  /**
   * Turn an image file into tokens.
   * @param {Blob} image
   * @param {Call & {fit?: string, model?: string}} [options]
   * @returns {Promise<Tokenized>}
   */
  async tokenize(image, { signal, ...options } = {}) {
    const init = { ...upload(image), signal, headers: { Accept: "application/json" } };
    return this.#request(`v1/tokenize${query(options)}`, init, async (answer) => ({
      ...(await answer.json()),
      timings: timings(answer.headers.get("server-timing")),
    }));
  }

  /**
   * Turn an image file into a `.flowmo` container.
   * @param {Blob} image
   * @param {Call & {fit?: string, model?: string}} [options]
   * @returns {Promise<Blob>}
   */
  async tokenizeToFile(image, { signal, ...options } = {}) {
    const init = { ...upload(image), signal, headers: { Accept: CONTAINER_TYPE } };
    return this.#request(`v1/tokenize${query(options)}`, init, (answer) => answer.blob());
  }

  /**
   * Turn tokens, or a container, into a picture.
   * @param {Tokens | Blob} tokens
   * @param {Sampling & Call & {accept?: string}} [options]
   * @returns {Promise<Picture>}
   */
  async detokenize(tokens, { signal, accept = "image/png", ...options } = {}) {
    const { path, init } = decodeRequest(tokens, options);
    init.headers = { ...init.headers, Accept: accept };
    return this.#request(path, { ...init, signal }, async (answer) => {
      const headers = Object.fromEntries(answer.headers);
      return {
        blob: await answer.blob(),
        headers,
        timings: timings(headers["server-timing"]),
      };
    });
  }

  /**
   * Turn tokens, or a container, into a picture and see it while it is made.
   * @param {Tokens | Blob} tokens
   * @param {Sampling & Call & Progress & {accept?: string}} [options]
   * @returns {Promise<Picture>}
   */
  async stream(tokens, options = {}) {
    const { signal, accept = "image/png", onProgress, onPreview, previews, ...sampling } = options;
    const { path, init } = decodeRequest(tokens, { ...sampling, stream: true, previews });
    init.headers = { ...init.headers, Accept: accept };
    return this.#request(path, { ...init, signal }, async (answer) => {
      for await (const { event, data } of events(answer)) {
        if (event === "progress") onProgress?.(data.step, data.steps);
        if (event === "preview") onPreview?.(picture(data), data.step, data.steps);
        if (event === "error") throw new FlowmoError(data.status, data);
        if (event === "image") {
          /** @type {Record<string, string>} */
          const headers = {};
          for (const [name, value] of Object.entries(data.headers)) {
            headers[name.toLowerCase()] = String(value);
          }
          return { blob: picture(data), headers, timings: timings(headers["server-timing"]) };
        }
      }
      throw new TypeError("the server ended the stream before the picture was done");
    });
  }

  /**
   * @template T
   * @param {string} path
   * @param {RequestInit} init
   * @param {(answer: Response) => Promise<T>} read
   * @returns {Promise<T>}
   */
  async #request(path, init, read) {
    for (let tried = 0; ; tried++) {
      try {
        const headers = new Headers(init.headers);
        if (this.key) headers.set("Authorization", `Bearer ${this.key}`);
        const answer = await fetch(new URL(path, this.base), { ...init, headers });
        if (!answer.ok) throw await refusal(answer);
        return await read(answer);
      } catch (error) {
        // A TypeError is fetch's word for a server that cannot be reached, or left in the middle.
        const refused = error instanceof FlowmoError;
        const again = refused ? error.status === 429 || error.status === 503 : isNetwork(error);
        if (!again || tried >= this.retries || init.signal?.aborted) throw error;
        const seconds = (refused && error.retryAfter) || Math.min(2 ** tried, 8);
        this.onRetry?.({ seconds, error: /** @type {FlowmoError | TypeError} */ (error) });
        await wait(seconds, init.signal);
      }
    }
  }
}

/** @param {unknown} error */
const isNetwork = (error) => error instanceof TypeError;

/**
 * @param {Blob} image
 * @returns {{method: string, body: FormData}}
 */
function upload(image) {
  const body = new FormData(); // whatever the blob's type says, the server looks at the bytes
  body.append("image", image, "image");
  return { method: "POST", body };
}

/**
 * @param {Tokens | Blob} tokens
 * @param {Record<string, unknown>} options
 * @returns {{path: string, init: {method: string, body: BodyInit, headers: Record<string, string>}}}
 */
function decodeRequest(tokens, options) {
  const path = `v1/detokenize${query(options)}`;
  const isFile = tokens instanceof Blob;
  const headers = { "Content-Type": isFile ? CONTAINER_TYPE : "application/json" };
  return { path, init: { method: "POST", body: isFile ? tokens : JSON.stringify({ tokens }), headers } };
}

/** @param {Record<string, unknown>} options */
function query(options) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(options)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") found.append(name, String(one));
    }
  }
  return found.size ? `?${found}` : "";
}

/** @param {Response} answer */
async function refusal(answer) {
  const after = Number(answer.headers.get("retry-after")) || undefined;
  const problem = await answer.json().catch(() => ({}));
  return new FlowmoError(answer.status, problem, after);
}

/**
 * @param {number} seconds
 * @param {AbortSignal | null | undefined} signal
 */
function wait(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/**
 * @param {Response} answer
 * @returns {AsyncGenerator<{event: string, data: any}>}
 */
async function* events(answer) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.split("\n\n");
    text = /** @type {string} */ (blocks.pop());
    for (const block of blocks) {
      const event = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (event && data) yield { event, data: JSON.parse(data) };
    }
  }
}

/** @param {{image: string, media_type: string}} data */
function picture({ image, media_type }) {
  return new Blob([fromBase64(image)], { type: media_type });
}

/** @param {string} text */
export const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/**
 * Milliseconds by stage, of a `Server-Timing` header.
 * @param {string | null | undefined} header
 * @returns {Record<string, number>}
 */
export function timings(header) {
  /** @type {Record<string, number>} */
  const found = {};
  for (const [, name, value] of (header ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g)) {
    found[name] = Number(value);
  }
  return found;
}
