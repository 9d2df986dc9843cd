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
export type Tokens = {
    /**
     * `[K][D/G]`, or that for each tile.
     */
    ids: number[][] | number[][][];
    /**
     * Of the picture, in pixels.
     */
    width?: number;
    height?: number;
    /**
     * Side of a tile: the model's square.
     */
    tile_size?: number;
    /**
     * The fewest pixels that neighbouring tiles share.
     */
    overlap?: number;
    /**
     * `native`, `crop`, `pad` or `stretch`.
     */
    fit?: string;
    model?: string;
    /**
     * 32 hex digits that name the weights.
     */
    fingerprint?: string;
    /**
     * K, tokens a tile.
     */
    code_length?: number;
    /**
     * D, bits a token.
     */
    token_bits?: number;
    /**
     * G, bits an id.
     */
    group_bits?: number;
    /**
     * Size of the packed tokens of all tiles.
     */
    payload_bytes?: number;
};
export type Tokenized = {
    tokens: Tokens;
    upload: {
        width: number;
        height: number;
        format: string;
        animated: boolean;
    };
    fit: {
        fit: string;
        size?: number;
        source: number[];
        target: number[];
    };
    /**
     * Milliseconds by stage.
     */
    timings: Record<string, number>;
};
export type Model = {
    name: string;
    fingerprint: string;
    image_size: number;
    code_length: number;
    token_bits: number;
    group_bits: number;
    ids_per_token: number;
    payload_bytes: number;
    sampler: {
        schedule: string;
        steps: number;
        rho: number;
        guidance: number;
    };
    max_steps: number;
    device: string;
    ready: boolean;
};
export type Sampling = {
    model?: string;
    /**
     * 0 … 2⁶³ − 1; a text beyond 2⁵³.
     */
    seed?: number | string;
    steps?: number;
    schedule?: "power" | "linear" | "merged";
    rho?: number;
    guidance?: number;
    /**
     * Of JPEG and WebP.
     */
    quality?: number;
};
export type Picture = {
    /**
     * The picture's file.
     */
    blob: Blob;
    /**
     * Lower-case names.
     */
    headers: Record<string, string>;
    /**
     * Milliseconds by stage.
     */
    timings: Record<string, number>;
};
export type Waiting = {
    seconds: number;
    error: FlowmoError | TypeError;
};
export type Call = {
    /**
     * Aborting ends the request, and its work on the server.
     */
    signal?: AbortSignal;
};
export type Progress = {
    /**
     * After each step.
     */
    onProgress?: (step: number, steps: number) => void;
    onPreview?: (blob: Blob, step: number, steps: number) => void;
    /**
     * Steps, 1 for the first, after which a preview is wanted.
     */
    previews?: number[];
};
/**
 * @typedef {object} Tokens What `tokenize` answered of a picture; only `ids` is needed to decode.
 * @property {number[][] | number[][][]} ids `[K][D/G]`, or that for each tile.
 * @property {string} [model]
 * @property {string} [fingerprint] 32 hex digits that name the weights.
 * @property {number} [code_length] K, tokens a tile.
 * @property {number} [token_bits] D, bits a token.
 * @property {number} [group_bits] G, bits an id.
 * @property {number} [payload_bytes] Size of the packed tokens.
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
export declare const CONTAINER_TYPE = "application/vnd.flowmo";
/** What the server refused: its status, the stable `code`, and what to do about it. */
export declare class FlowmoError extends Error {
    status: number;
    code: string;
    hint: string;
    retryAfter: number | undefined;
    /**
     * @param {number} status
     * @param {{code?: string, title?: string, detail?: string, hint?: string}} problem
     * @param {number} [retryAfter] Seconds.
     */
    constructor(status: number, problem: {
        code?: string;
        title?: string;
        detail?: string;
        hint?: string;
    }, retryAfter?: number);
}
export declare class Client {
    #private;
    base: URL;
    key: string | undefined;
    retries: number;
    onRetry: ((waiting: Waiting) => void) | undefined;
    /**
     * @param {string | URL} [base] Where the server is; this file's own server by default.
     * @param {object} [options]
     * @param {string} [options.key] An API key.
     * @param {number} [options.retries] How often a request is tried again.
     * @param {(waiting: Waiting) => void} [options.onRetry]
     */
    constructor(base?: string | URL, { key, retries, onRetry }?: {
        key?: string;
        retries?: number;
        onRetry?: (waiting: Waiting) => void;
    });
    /**
     * The models that are served; the first is the default.
     * @param {Call} [call]
     * @returns {Promise<Model[]>}
     */
    models({ signal }?: Call): Promise<Model[]>;
    /**
     * Turn an image file into tokens.
     * @param {Blob} image
     * @param {Call & {fit?: string, model?: string}} [options]
     * @returns {Promise<Tokenized>}
     */
    tokenize(image: Blob, { signal, ...options }?: Call & {
        fit?: string;
        model?: string;
    }): Promise<Tokenized>;
    /**
     * Turn an image file into a `.flowmo` container.
     * @param {Blob} image
     * @param {Call & {fit?: string, model?: string}} [options]
     * @returns {Promise<Blob>}
     */
    tokenizeToFile(image: Blob, { signal, ...options }?: Call & {
        fit?: string;
        model?: string;
    }): Promise<Blob>;
    /**
     * Turn tokens, or a container, into a picture.
     * @param {Tokens | Blob} tokens
     * @param {Sampling & Call & {accept?: string}} [options]
     * @returns {Promise<Picture>}
     */
    detokenize(tokens: Tokens | Blob, { signal, accept, ...options }?: Sampling & Call & {
        accept?: string;
    }): Promise<Picture>;
    /**
     * Turn tokens, or a container, into a picture and see it while it is made.
     * @param {Tokens | Blob} tokens
     * @param {Sampling & Call & Progress & {accept?: string}} [options]
     * @returns {Promise<Picture>}
     */
    stream(tokens: Tokens | Blob, options?: Sampling & Call & Progress & {
        accept?: string;
    }): Promise<Picture>;
}
/** @param {string} text */
export declare const fromBase64: (text: string) => Uint8Array<ArrayBuffer>;
/**
 * Milliseconds by stage, of a `Server-Timing` header.
 * @param {string | null | undefined} header
 * @returns {Record<string, number>}
 */
export declare function timings(header: string | null | undefined): Record<string, number>;
