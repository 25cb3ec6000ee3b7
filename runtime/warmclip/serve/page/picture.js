// One picture, large, with what is stored of it.

import { ask } from "/page/api.js";
import { fill, h, icon, prose } from "/page/dom.js";
import { bytes, date, fileName, folderOf, number } from "/page/format.js";
import { put } from "/page/thumbnails.js";

const SIDE_PX = 1024;
const KEPT_MS = 60_000; // until the memory of a file that was saved is given back

/**
 * Show hits in a dialog, beginning with one of them; arrow keys go on, over pages.
 *
 * Args:
 *   list: `hits`, whether that `isComplete`, and `more`, which asks for the next page of them.
 *   start: which of them comes first.
 *   lookFor: called with what else to look for: {like} or {folder}.
 *   signal: of the view; the dialog closes with it.
 */
export function openPicture(list, start, lookFor, signal) {
  const { hits } = list;
  let at = start;
  let loading = new AbortController();
  const image = h("img", { class: "large", alt: "" });
  const note = h("p", { class: "hint", role: "status" });
  const title = h("h2", { id: "picture-title", tabindex: -1 });
  const facts = h("dl", { class: "facts" });
  const actions = h("div", { class: "row" });
  const told = h("p", { class: "hint told", role: "status" });
  const back = step("left", "Previous picture", -1);
  const next = step("right", "Next picture", +1);
  const stage = h("div", { class: "stage", click: () => setZoom(!isZoomed) }, image, note);
  const zoom = h(
    "button",
    { type: "button", class: "round", "aria-label": "Original size", "aria-pressed": "false", click: () => setZoom(!isZoomed) },
    icon("zoom"),
  );
  let isZoomed = false;
  let drawing = null;
  let original = null; // the file of the picture that is shown, once it was asked for
  const dialog = h(
    "dialog",
    { class: "picture", "aria-labelledby": "picture-title", keydown: onKey, click: onBackdrop },
    h(
      "div",
      { class: "picture-inner" },
      stage,
      h(
        "div",
        { class: "about" },
        h(
          "div",
          { class: "row end" },
          zoom,
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
        told,
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
    if (event.key === "ArrowRight" && !isLast()) show(at + 1);
  }

  function onBackdrop(event) {
    if (event.target === dialog) dialog.close();
  }

  function leave(wish) {
    dialog.close();
    lookFor(wish);
  }

  const isLast = () => at === hits.length - 1 && list.isComplete;

  async function show(index) {
    if (index === hits.length) { // its page is not there yet
      note.textContent = "Loading…";
      await list.more();
      note.textContent = hits[index] || list.isComplete ? "" : "The next pictures could not be loaded.";
    }
    if (!hits[index] || !dialog.isConnected) {
      next.disabled = isLast();
      return;
    }
    at = index;
    original = null;
    setZoom(false);
    const hit = hits[at];
    loading.abort();
    loading = new AbortController();
    // A button that is disabled loses the focus, and with it the arrow keys.
    if ((at === 0 && back.matches(":focus")) || (isLast() && next.matches(":focus"))) {
      title.focus();
    }
    back.disabled = at === 0;
    next.disabled = isLast();
    title.textContent = fileName(hit.path);
    told.textContent = "";
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
      h("button", { type: "button", click: () => save(hit) }, icon("save"), "Original"),
      h("button", { type: "button", click: () => copy(hit.path) }, icon("copy"), "Copy path"),
    );
    image.dataset.state = "waiting";
    image.alt = fileName(hit.path);
    note.textContent = "Loading…";
    const mine = loading;
    try {
      const path = `${hit.thumbnail}&side_px=${SIDE_PX}`;
      const answer = await ask(path, { signal: mine.signal });
      drawing = await answer.blob();
      await put(image, drawing);
      image.dataset.state = "there";
      note.textContent = "";
    } catch (problem) {
      if (mine.signal.aborted) return;
      image.dataset.state = "missing";
      fill(note, ...prose(problem.detail ?? "it is no picture that this browser can show."));
    }
  }

  /** The file itself, which is asked for once; again if that has failed. */
  function fetchOriginal(hit) {
    if (original) return original;
    const { signal } = loading;
    const mine = ask(hit.thumbnail.replace("/thumbnail?", "/original?"), { signal }).then((it) => it.blob());
    mine.catch(() => {
      if (original === mine) original = null; // it may be that of another picture by now
    });
    original = mine;
    return mine;
  }

  /** Show it pixel by pixel, to be scrolled; until its file is there, or if no browser shows it, its drawing. */
  async function setZoom(wanted) {
    if (wanted && image.dataset.state !== "there") return;
    isZoomed = wanted;
    stage.classList.toggle("zoomed", wanted);
    zoom.setAttribute("aria-pressed", String(wanted));
    if (!wanted) return;
    const mine = loading;
    told.textContent = "";
    try {
      await put(image, await fetchOriginal(hits[at]));
    } catch (problem) {
      if (mine.signal.aborted) return;
      await put(image, drawing);
      fill(told, ...prose(problem.detail ?? "This browser does not show such a file: here is its drawing."));
    }
  }

  async function save(hit) {
    const mine = loading;
    told.textContent = "Loading the original…";
    try {
      const url = URL.createObjectURL(await fetchOriginal(hit));
      h("a", { href: url, download: fileName(hit.path) }).click();
      setTimeout(() => URL.revokeObjectURL(url), KEPT_MS);
      told.textContent = "";
    } catch (problem) {
      if (!mine.signal.aborted) fill(told, ...prose(problem.detail ?? String(problem)));
    }
  }

  async function copy(path) {
    try {
      await navigator.clipboard.writeText(path);
      told.textContent = "The path was copied.";
    } catch { // only pages from this machine or over TLS may
      told.textContent = "This browser does not let the page copy: the path is selected.";
      getSelection().selectAllChildren(facts.querySelector(".path"));
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
    ["Path", h("span", { class: "path" }, hit.path)],
    ["Size", `${number(hit.width_px)} × ${number(hit.height_px)} pixels, ${bytes(hit.size_bytes)}`],
    ...(hit.taken_at ? [["Taken", hit.taken_at.replace("T", " ")]] : []),
    ["Indexed", date(hit.indexed_at)],
    ["SHA-256", hit.sha256],
    ["Point", hit.id],
  ];
  return pairs.flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)]);
}
