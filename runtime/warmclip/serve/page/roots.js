// The folders that pictures may lie in, where a folder is typed.

import { Problem, getJson } from "/page/api.js";
import { h } from "/page/dom.js";

/** Offer them in a <datalist>, before what it has. */
export async function suggestRoots(list, signal) {
  try {
    const { folders } = await getJson("/api/v1/roots", { signal });
    list.prepend(...folders.map((value) => h("option", { value })));
  } catch (problem) {
    if (!signal.aborted && !(problem instanceof Problem)) throw problem;
    // The field does without: whatever is typed is checked by the server.
  }
}
