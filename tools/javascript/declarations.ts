// `flowmo.d.ts` says what `flowmo.js` is: `deno check` fails on this file where they differ.
// A class with private members equals no other class, so instances are compared by what is public.
import * as written from "../../service/http/playground/flowmo.js";
import type * as declared from "../../service/http/playground/flowmo.d.ts";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : never;
type Public<T> = { [K in keyof T]: T[K] };

export const names: Same<keyof typeof written, keyof typeof declared> = true;
export const client: Same<Public<written.Client>, Public<declared.Client>> = true;
export const error: Same<Public<written.FlowmoError>, Public<declared.FlowmoError>> = true;
export const created: Same<
  ConstructorParameters<typeof written.Client>,
  ConstructorParameters<typeof declared.Client>
> = true;
export const thrown: Same<
  ConstructorParameters<typeof written.FlowmoError>,
  ConstructorParameters<typeof declared.FlowmoError>
> = true;
export const timings: Same<typeof written.timings, typeof declared.timings> = true;
export const fromBase64: Same<typeof written.fromBase64, typeof declared.fromBase64> = true;
