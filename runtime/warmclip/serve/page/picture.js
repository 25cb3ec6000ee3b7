// One picture, large, with what is stored of it.

import { ask } from "/page/api.js";
import { fill, h, icon, prose } from "/page/dom.js";
import { bytes, date, fileName, folderOf, number } from "/page/format.js";
import { put } from "/page/thumbnails.js";

const SIDE_PX = 1024;

/**
 * Show hits in a dialog, beginning with one of them; arrow keys go on.
 *
 * Args:
 *   hits: all that may be gone through.
 *   start: which of them comes first.
 *   lookFor: called with what else to look for: {like} or {folder}.
 *   signal: of the view; the dialog closes with it.
 */
export function openPicture(hits, start, lookFor, signal) {
  let at = start;
  let loading = new AbortController();
  const image = h("img", { class: "large", alt: "" });
  const note = h("p", { class: "hint", role: "status" });
  const title = h("h2", { id: "picture-title", tabindex: -1 });
  const facts = h("dl", { class: "facts" });
  const actions = h("div", { class: "row" });
  const back = step("left", "Previous picture", -1);
  const next = step("right", "Next picture", +1);
  const dialog = h(
    "dialog",
    { class: "picture", "aria-labelledby": "picture-title", keydown: onKey, click: onBackdrop },
    h(
      "div",
      { class: "picture-inner" },
      h("div", { class: "stage" }, image, note),
      h(
        "div",
        { class: "about" },
        h(
          "div",
          { class: "row end" },
          back,
          next,
          h(
            "button",
            { type: "button", class: "round", "aria-label": "Close", click: () => dialog.close() },
            icon("close"),
          ),
        ),
        title,
        actions,
        facts,
      ),
    ),
  );

  function step(name, label, by) {
    return h(
      "button",
      { type: "button", class: "round", "aria-label": label, click: () => show(at + by) },
      icon(name),
    );
  }

  function onKey(event) {
    if (event.key === "ArrowLeft" && at > 0) show(at - 1);
    if (event.key === "ArrowRight" && at < hits.length - 1) show(at + 1);
  }

  function onBackdrop(event) {
    if (event.target === dialog) dialog.close();
  }

  function leave(wish) {
    dialog.close();
    lookFor(wish);
  }

  async function show(index) {
    at = index;
    const hit = hits[at];
    loading.abort();
    loading = new AbortController();
    // A button that is disabled loses the focus, and with it the arrow keys.
    if ((at === 0 && back.matches(":focus")) || (at === hits.length - 1 && next.matches(":focus"))) {
      title.focus();
    }
    back.disabled = at === 0;
    next.disabled = at === hits.length - 1;
    title.textContent = fileName(hit.path);
    fill(facts, ...entries(hit));
    fill(
      actions,
      h(
        "button",
        { type: "button", class: "primary", click: () => leave({ like: hit }) },
        icon("similar"),
        "Similar to this",
      ),
      h(
        "button",
        { type: "button", click: () => leave({ folder: folderOf(hit.path) }) },
        icon("folder"),
        "Only this folder",
      ),
    );
    image.dataset.state = "waiting";
    image.alt = fileName(hit.path);
    note.textContent = "Loading…";
    const mine = loading;
    try {
      const path = `${hit.thumbnail}&side_px=${SIDE_PX}`;
      const answer = await ask(path, { signal: mine.signal });
      await put(image, await answer.blob());
      image.dataset.state = "there";
      note.textContent = "";
    } catch (problem) {
      if (mine.signal.aborted) return;
      image.dataset.state = "missing";
      fill(note, ...prose(problem.detail ?? "it is no picture that this browser can show."));
    }
  }

  function close() {
    loading.abort();
    dialog.remove();
  }

  dialog.addEventListener("close", close, { once: true });
  signal.addEventListener("abort", () => dialog.close(), { once: true });
  document.body.append(dialog);
  dialog.showModal();
  title.focus();
  show(start);
}

function entries(hit) {
  const pairs = [
    ["Score", hit.score.toFixed(4)],
    ...(hit.probability === null ? [] : [["Probability", `${(100 * hit.probability).toFixed(2)} %`]]),
    ["Folder", folderOf(hit.path)],
    ["Size", `${number(hit.width_px)} × ${number(hit.height_px)} pixels, ${bytes(hit.size_bytes)}`],
    ...(hit.taken_at ? [["Taken", hit.taken_at.replace("T", " ")]] : []),
    ["Indexed", date(hit.indexed_at)],
    ["SHA-256", hit.sha256],
    ["Point", hit.id],
  ];
  return pairs.flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)]);
}
