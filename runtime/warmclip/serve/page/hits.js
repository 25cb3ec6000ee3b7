// What was found, as a grid of pictures that grows page by page.

import { h, icon, say } from "/page/dom.js";
import { count, fileName } from "/page/format.js";
import { openPicture } from "/page/picture.js";

export const PAGE = 24; // hits that are asked for at once
const MOST_OFFSET = 800; // the server's
const THUMBNAIL_PX = 384;

/**
 * Show hits, and a button for more as long as there are any.
 *
 * Args:
 *   results: the element that is to hold all of it.
 *   found: the first page.
 *   question: asks for another page: an offset -> what was found.
 *   tell: called with how many there are, in words.
 *   lookFor: called with what else to look for; see openPicture.
 *   thumbnails: of the view.
 *   running: the signal of this search; the view's own is `signal`.
 */
export function showHits(results, found, { question, tell, lookFor, thumbnails, running, signal }) {
  const hits = [];
  const grid = h("ul", { class: "grid", keydown: onKey });
  results.replaceChildren(grid);
  append(found);

  /** Returns the first picture of the page, if there is one. */
  function append(page) {
    const first = hits.length;
    hits.push(...page.hits);
    grid.append(...page.hits.map((hit, index) => card(hit, first + index)));
    const cut = page.cut ? "; the text is too long: the model did not read its end" : "";
    const words = `${count(hits.length, "picture")}, the nearest first${cut}`;
    tell(words);
    say(words);
    results.querySelector(".more")?.remove();
    const isFull = page.hits.length === PAGE;
    if (isFull && hits.length <= MOST_OFFSET) {
      const button = h("button", { type: "button", click: () => more(button) }, "Show more");
      results.append(h("div", { class: "more row center" }, button));
    } else if (isFull) {
      results.append(h("p", { class: "more hint center" }, "There are more: narrow the search down to see them."));
    }
    return grid.children[first];
  }

  async function more(button) {
    button.disabled = true;
    button.textContent = "Loading…";
    results.querySelector(".error")?.remove();
    try {
      const page = await question(hits.length);
      if (running.aborted) return;
      const last = grid.lastElementChild;
      (append(page) ?? last).querySelector("button").focus({ preventScroll: true });
    } catch (problem) {
      if (running.aborted) return;
      button.parentElement.before(h("p", { class: "error center", role: "alert" }, problem.detail));
      button.disabled = false;
      button.textContent = "Try again";
    }
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
          click: () => openPicture(hits, index, lookFor, signal),
        },
        h("span", { class: "tile" }, image),
        h(
          "span",
          { class: "caption" },
          h("span", { class: "name", title: hit.path }, name),
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
