// What a session skipped and why, fetched when somebody looks.

import { address, getJson } from "/page/api.js";
import { fill, h, prose } from "/page/dom.js";
import { count } from "/page/format.js";

const FAILURES = 20; // of one page

/** The list of one session; `update` tells it how many there are. */
export function makeFailures(path, signal) {
  const summary = h("summary");
  const list = h("ul", { class: "failures" });
  const below = h("div", { class: "row" });
  const element = h("details", { hidden: true, toggle }, summary, list, below);
  let known = ""; // the counts that the list shows
  let wanted = "";
  let shown = 0;

  function update(session) {
    const { skipped, unreadable_folders: folders } = session;
    element.hidden = !skipped && !folders;
    const parts = [];
    if (skipped) parts.push(`${count(skipped, "picture")} skipped`);
    if (folders) parts.push(`${count(folders, "folder")} could not be searched`);
    summary.textContent = parts.join(", ");
    wanted = `${skipped},${folders}`;
    if (element.open && wanted !== known && shown <= FAILURES) load(0);
  }

  function toggle() {
    if (element.open && wanted !== known) load(0);
  }

  async function load(offset) {
    const asked = wanted;
    if (offset === 0) known = asked;
    try {
      const page = await getJson(address(path, { offset, limit: FAILURES }), { signal });
      const found = [...page.folders, ...page.skipped].map(({ path, reason }) =>
        h("li", null, h("span", { class: "path" }, path), h("span", { class: "reason" }, prose(reason))));
      if (offset === 0) fill(list, ...found);
      else list.append(...found);
      shown = offset + FAILURES;
      const isMore = shown < Math.max(page.skipped_total, page.folders_total);
      fill(below, isMore
        ? h("button", { type: "button", class: "quiet", click: () => load(shown) }, "Show more")
        : null);
    } catch (problem) {
      if (signal.aborted) return;
      known = "";
      fill(below, h("p", { class: "error", role: "alert" }, problem.detail));
    }
  }

  return { element, update };
}
