/**
 * The API's documentation, by Swagger UI; requests go to where this page came from.
 * @module
 */

const root = new URL("..", import.meta.url);
const spec = await (await fetch(new URL("openapi.json", root))).json();
spec.servers ??= [{ url: root.href.replace(/\/$/, "") }]; // right behind a proxy's path prefix, too
/** @type {any} */ (globalThis).SwaggerUIBundle({ spec, dom_id: "#api", deepLinking: true, validatorUrl: null });
