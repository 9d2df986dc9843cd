/**
 * What is kept of a picture: its tokens as a file, and a link.
 * @module
 */

import { toContainer } from "./container.js";
import { save } from "./dom.js";
import { CONTAINER_TYPE } from "./flowmo.js";
import * as knobs from "./knobs.js";
import { stateLink } from "./link.js";
import { state, tell } from "./state.js";
import { withRows } from "./tokens.js";

// Longer addresses are cut by what they are pasted into.
const LONGEST = 32_768;

function container() {
  const { tokens, ids } = state;
  return tokens?.fingerprint && tokens.width ? toContainer(withRows(tokens, ids)) : null;
}

/** Save the tokens as they are as a `.flowmo` file. */
export function saveTokens() {
  const packed = container();
  const blob = state.container ?? (packed && new Blob([packed], { type: CONTAINER_TYPE }));
  if (blob) save(blob, `${state.name}.flowmo`);
}

/** Put a link that restores the state into the address and the clipboard. */
export async function copyLink() {
  const packed = container();
  if (!packed || packed.length > LONGEST) return tell("these are too many tokens for a link: save them as a file");
  const { model: _, ...sampling } = knobs.sampling();
  const link = stateLink(packed, { ...sampling, fit: knobs.fit(), side: knobs.side(), sample: state.sample });
  history.replaceState(null, "", link);
  await navigator.clipboard?.writeText(location.href).catch(() => {});
  tell("link copied");
}
