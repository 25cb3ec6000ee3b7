// Training sessions: begun here, and followed as they go.

import { address, getJson, postJson } from "/page/api.js";
import { failure, fill, h, prose, say, state } from "/page/dom.js";
import { follow } from "/page/events.js";
import { number } from "/page/format.js";
import { suggestRoots } from "/page/roots.js";
import { PATH, makeRow } from "/page/session.js";

const LIVE = 50; // that the stream tells of, beside those that are under way
const OLDER = 25; // of one page

export const title = "Sessions";

/** The view; the address has nothing more to say. */
export function mount(main, _go, signal) {
  const rows = new Map(); // id -> its row
  let total = 0;
  let offset = LIVE; // of the next older ones
  let isThere = false; // whether the server has told of all that is new

  const folder = h("input", {
    id: "training-folder",
    required: true,
    placeholder: "/mnt/photos/2026",
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: "false",
    list: "training-folders",
    "aria-describedby": "folder-hint start-error",
  });
  const folders = h("datalist", { id: "training-folders" });
  const collection = h("input", {
    id: "training-collection",
    placeholder: "the server’s own",
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: "false",
  });
  const error = h("p", { id: "start-error", class: "error", role: "alert" });
  const start = h("button", { type: "submit", class: "primary" }, "Start");
  const live = h("span", { class: "live", role: "status" }, "Connecting…");
  const list = h("ul", { class: "sessions" });
  const below = h("div", { class: "row center" });
  const empty = h("div", null, h("div", { class: "session waiting" }), h("div", { class: "session waiting" }));

  fill(
    main,
    h(
      "section",
      { "aria-labelledby": "sessions-title" },
      h("h1", { id: "sessions-title", tabindex: -1 }, "Index a folder"),
      h(
        "form",
        { class: "panel start", submit: begin },
        h(
          "div",
          { class: "stack wide" },
          h("label", { for: "training-folder" }, "Folder on the server"),
          folder,
          folders,
          h("p", { id: "folder-hint", class: "hint" }, "Its pictures, and those of all folders below it, become searchable; what is there already is not done twice. It lies inside the server’s roots, which are offered; ~ is the home folder of the server’s user."),
        ),
        h("div", { class: "stack" }, h("label", { for: "training-collection" }, "Collection"), collection),
        start,
        error,
      ),
      h("div", { class: "row spread" }, h("h2", null, "All sessions"), live),
      empty,
      list,
      below,
    ),
  );

  async function begin(event) {
    event.preventDefault();
    error.textContent = "";
    start.disabled = true;
    const name = collection.value.trim();
    try {
      const begun = await postJson(PATH, {
        training_directory: folder.value.trim(),
        ...(name ? { collection: name } : {}),
      }, { signal });
      if (!rows.has(begun.id)) total += 1;
      take([begun]);
      const row = rows.get(begun.id);
      say(begun.joined ? "A session is at that folder already: it is shown below." : "The session has begun.");
      row.element.classList.add("new");
      row.heading.focus({ preventScroll: true });
      row.element.scrollIntoView({ block: "nearest" });
      folder.value = "";
    } catch (problem) {
      if (signal.aborted) return;
      fill(error, ...prose(problem.detail));
      folder.focus();
    } finally {
      start.disabled = false;
    }
  }

  function take(sessions) {
    for (const session of sessions) {
      const there = rows.get(session.id);
      if (there) there.update(session);
      else place(makeRow(session, (changed) => take([changed]), signal));
    }
    fill(empty);
    if (!rows.size) {
      fill(empty, state("No session yet", "Name a folder above. A worker has to run as well: `warmclip worker`."));
    }
    const hidden = total - rows.size;
    if (hidden > 0 && isThere) {
      fill(below, h("button", { type: "button", click: older }, `Show older sessions (${number(hidden)})`));
    } else fill(below);
  }

  /** The youngest come first. */
  function place(row) {
    rows.set(row.session.id, row);
    const next = [...list.children].find((each) => each.dataset.born < row.element.dataset.born);
    list.insertBefore(row.element, next ?? null);
  }

  async function older(event) {
    const button = event.currentTarget;
    button.disabled = true;
    try {
      const page = await getJson(address(PATH, { offset, limit: OLDER }), { signal });
      offset += OLDER;
      total = page.sessions.length ? page.total : rows.size;
      take(page.sessions);
    } catch (problem) {
      if (signal.aborted) return;
      fill(below, h("p", { class: "error", role: "alert" }, problem.detail), button);
      button.disabled = false;
    }
  }

  function tell(name, data) {
    if (name === "problem") {
      note(data);
      return;
    }
    isThere = true;
    total = data.total;
    take(data.sessions);
  }

  function note(problem) {
    live.classList.toggle("on", problem === null);
    live.title = problem?.detail ?? "";
    const text = problem === null ? "Live" : "Not live: trying again…";
    if (live.textContent !== text) live.textContent = text;
    if (problem && !isThere && problem.status !== 401) fill(empty, failure(problem));
  }

  suggestRoots(folders, signal);
  follow(`${PATH}/events`, { tell, note, signal });
  return () => {};
}
