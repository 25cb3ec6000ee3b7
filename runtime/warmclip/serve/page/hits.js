// What was found, as a grid of pictures that grows page by page.

import { fill, h, icon, say } from "/page/dom.js";
import { count, fileName, halves } from "/page/format.js";
import { openPicture } from "/page/picture.js";

export const PAGE = 24; // hits that are asked for at once
const MORE = 96; // of each page that follows
const MOST_HITS = 5_000; // the server's
const AHEAD = "0px 0px 200px 0px"; // below the window, where the next page is asked for
const THUMBNAIL_PX = 384;

/**
 * Show hits, and more of them as one scrolls, as long as there are any.
 *
 * Args:
 *   results: the element that is to hold all of it.
 *   found: the first page.
 *   question: asks for another page: an offset and a limit -> what was found.
 *   tell: called with how many there are, in words.
 *   lookFor: called with what else to look for; see openPicture.
 *   thumbnails: of the view.
 *   running: the signal of this search; the view's own is `signal`.
 */
export function showHits(results, found, { question, tell, lookFor, thumbnails, running, signal }) {
  const list = { hits: [], isComplete: false, more };
  const { hits } = list;
  const grid = h("ul", { class: "grid", keydown: onKey });
  const button = h("button", { type: "button", click: onButton }, "Show more");
  const error = h("p", { class: "error center", role: "alert" });
  const end = h("div", { class: "more center" }, error, button);
  let coming = null; // the next page, while it is asked for
  const observer = new IntersectionObserver(
    (entries) => entries.at(-1).isIntersecting && !error.textContent && more(), // the last is how it is now
    { rootMargin: AHEAD },
  );
  running.addEventListener("abort", () => observer.disconnect(), { once: true });
  results.replaceChildren(grid, end);
  append(found, PAGE);

  function append(page, limit) {
    const first = hits.length;
    hits.push(...page.hits);
    grid.append(...page.hits.map((hit, index) => card(hit, first + index)));
    const cut = page.cut ? "; the text is too long: the model did not read its end" : "";
    const words = `${count(hits.length, "picture")}, the nearest first${cut}`;
    tell(words);
    say(words);
    const isFull = page.hits.length === limit;
    list.isComplete = !isFull || hits.length >= MOST_HITS;
    observer.disconnect(); // and begin again: it tells of the end also if that is still in sight
    if (!list.isComplete) observer.observe(end);
    else if (!isFull) end.remove();
    else fill(end, h("p", { class: "hint" }, "There are more: narrow the search down to see them."));
  }

  /** Ask for the next page, once; resolves when it is there, or cannot be had. */
  function more() {
    coming ??= ask().finally(() => {
      coming = null;
    });
    return coming;
  }

  async function ask() {
    if (list.isComplete || running.aborted) return;
    button.textContent = "Loading…";
    error.textContent = "";
    const limit = Math.min(MORE, MOST_HITS - hits.length);
    try {
      const page = await question(hits.length, limit);
      if (running.aborted) return;
      button.textContent = "Show more";
      append(page, limit);
    } catch (problem) {
      if (running.aborted) return;
      error.textContent = problem.detail;
      button.textContent = "Try again";
    }
  }

  async function onButton() {
    const first = hits.length;
    await more();
    grid.children[first]?.querySelector("button").focus({ preventScroll: true });
  }

  function card(hit, index) {
    const name = fileName(hit.path);
    const image = h("img", { alt: "", width: 256, height: 256 });
    thumbnails.show(image, hit.thumbnail, THUMBNAIL_PX);
    return h(
      "li",
      { class: "card" },
      h(
        "button",
        {
          type: "button",
          class: "open",
          "aria-label": `${name}, score ${hit.score.toFixed(3)}`,
          click: () => openPicture(list, index, lookFor, signal),
        },
        h("span", { class: "tile" }, image),
        h(
          "span",
          { class: "caption" },
          h("span", { class: "name", title: hit.path }, halves(name).map((part) => h("span", null, part))),
          h("span", { class: "score" }, hit.score.toFixed(3)),
        ),
      ),
      h(
        "button",
        {
          type: "button",
          class: "similar",
          "aria-label": `Similar to ${name}`,
          title: "Similar to this",
          click: () => lookFor({ like: hit }),
        },
        icon("similar"),
      ),
    );
  }

  function onKey(event) {
    const cards = [...grid.children];
    const at = cards.findIndex((each) => each.contains(document.activeElement));
    const across = cards.filter((each) => each.offsetTop === cards[0].offsetTop).length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    const next = by === undefined ? undefined : cards[at + by];
    if (at < 0 || !next) return;
    event.preventDefault();
    next.querySelector("button").focus();
  }
}

/** What there is to see before anything was found. */
export function skeleton() {
  return h(
    "ul",
    { class: "grid", "aria-hidden": "true" },
    Array.from({ length: 12 }, () =>
      h("li", { class: "card" }, h("span", { class: "tile waiting" }), h("span", { class: "line waiting" })),
    ),
  );
}
