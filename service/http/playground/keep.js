/**
 * What is kept of a picture: its tokens as a file, and a link.
 * @module
 */

import { save } from "./dom.js";
import { CONTAINER_TYPE } from "./flowmo.js";
import * as knobs from "./knobs.js";
import { stateLink } from "./link.js";
import { attempt, client } from "./session.js";
import { isUnchanged, reconstruction, state, tell } from "./state.js";
import { toContainer } from "./tokens.js";

function container() {
  const { tokens, ids } = state;
  const { width, height } = reconstruction;
  const isSquare = tokens?.fingerprint && ids.length === tokens.code_length;
  if (!tokens || !isSquare) return null;
  return toContainer(ids, tokens.group_bits ?? 1, { fingerprint: tokens.fingerprint ?? "", width, height });
}

/** Save the tokens as they are as a `.flowmo` file. */
export async function saveTokens() {
  const packed = container();
  const photo = state.photo;
  let blob = state.container ?? (packed && new Blob([packed], { type: CONTAINER_TYPE }));
  if (!blob && photo && isUnchanged()) {
    const found = await attempt(() =>
      client.tokenizeToFile(photo.blob, { fit: knobs.fit(), model: knobs.model()?.name }),
    );
    blob = found ?? null;
  }
  if (blob) save(blob, `${state.name}.flowmo`);
  else tell("changed tokens of several tiles cannot be saved here");
}

/** Put a link that restores the state into the address and the clipboard. */
export async function copyLink() {
  const packed = container();
  if (!packed) return tell("a picture of several tiles is too long for a link");
  const { model: _, ...sampling } = knobs.sampling();
  const link = stateLink(packed, { ...sampling, fit: knobs.fit(), sample: state.sample });
  history.replaceState(null, "", link);
  await navigator.clipboard?.writeText(location.href).catch(() => {});
  tell("link copied");
}
