// Training sessions: begun here, and followed as they go.

import { address, getJson, post, postJson } from "/page/api.js";
import { failure, fill, h, say, state } from "/page/dom.js";
import { follow } from "/page/events.js";
import { count, date, duration, number } from "/page/format.js";

const PATH = "/api/v1/training/sessions";
const LIVE = 50; // that the stream tells of, beside those that are under way
const OLDER = 25; // of one page
const FAILURES = 20;

const LABELS = {
  finding: "Looking for pictures",
  running: "Running",
  paused: "Paused",
  finished: "Finished",
  cancelled: "Cancelled",
  failed: "Failed",
};
const OVER = ["finished", "cancelled", "failed"];

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
    "aria-describedby": "folder-hint start-error",
  });
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
      h("h1", { id: "sessions-title", tabindex: -1 }, "Training sessions"),
      h(
        "form",
        { class: "panel start", submit: begin },
        h(
          "div",
          { class: "stack wide" },
          h("label", { for: "training-folder" }, "Folder on the server"),
          folder,
          h("p", { id: "folder-hint", class: "hint" }, "An absolute path inside the server’s roots. Its pictures, and those of all folders below it, become searchable; what is there already is not done twice."),
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
      error.textContent = problem.detail;
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
      fill(empty, state("No session yet", "Name a folder above. A worker has to run as well: warmclip worker."));
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

  follow(`${PATH}/events`, { tell, note, signal });
  return () => {};
}

/** One session's row; `update` lets it show what has become of it. */
function makeRow(first, changed, signal) {
  const { id } = first;
  const heading = h("h3", { tabindex: -1 });
  const badge = h("span", { class: "badge" });
  const about = h("p", { class: "hint" });
  const bar = h("progress", { "aria-label": "Pictures that are done" });
  const figures = h("p", { class: "figures" });
  const error = h("p", { class: "error", role: "alert" });
  const actions = h("div", { class: "row" });
  const failures = makeFailures(id, signal);
  const element = h(
    "li",
    { class: "session panel", "data-born": first.created_at, "data-id": id },
    h("div", { class: "row spread" }, heading, badge),
    about,
    bar,
    figures,
    error,
    failures.element,
    actions,
  );
  const row = { session: first, element, heading, update };
  let offered = "";
  let isActing = false; // a button that is disabled meanwhile loses the focus

  function update(session) {
    const before = row.session;
    row.session = session;
    heading.textContent = session.training_directory;
    badge.textContent = LABELS[session.state];
    badge.dataset.state = session.state;
    about.textContent = [
      `into “${session.collection}”`,
      `begun ${date(session.created_at)}`,
      session.ended_at ? `ended ${date(session.ended_at)}` : "",
    ].filter(Boolean).join(" · ");
    bar.hidden = ["finished", "failed"].includes(session.state) ||
      (session.images === null && session.state !== "finding");
    if (session.images === null) {
      bar.removeAttribute("value");
    } else {
      bar.max = session.images || 1;
      bar.value = session.images ? session.done : 1;
    }
    fill(figures, ...told(session).flatMap((part) => [part, " "]));
    if (session.error) error.textContent = session.error;
    else if (session.state !== before.state) error.textContent = "";
    failures.update(session);
    offer(session);
    if (session.state !== before.state) say(`${session.training_directory}: ${LABELS[session.state]}`);
  }

  function offer(session) {
    const names = offers(session);
    if (names.join() === offered) return; // a button that is being pressed stays
    offered = names.join();
    const hadFocus =
      actions.contains(document.activeElement) || (isActing && document.activeElement === document.body);
    fill(actions, ...names.map(button));
    if (hadFocus) (actions.querySelector("button") ?? heading).focus();
  }

  function button(name) {
    const label = { pause: "Pause", resume: "Resume", cancel: "Cancel…", retry: "Try skipped again" }[name];
    const press = h("button", {
      type: "button",
      class: name === "cancel" ? "quiet" : null,
      "aria-label": `${label.replace("…", "")}: ${row.session.training_directory}`,
      click: async () => {
        if (name === "cancel" && !(await confirmed(row.session))) return;
        press.disabled = isActing = true;
        error.textContent = "";
        try {
          changed(await post(`${PATH}/${id}/${name}`, { signal }));
        } catch (problem) {
          if (!signal.aborted) error.textContent = problem.detail;
        } finally {
          press.disabled = isActing = false;
        }
      },
    }, label);
    return press;
  }

  update(first);
  return row;
}

function offers(session) {
  if (session.state === "paused") return ["resume", "cancel"];
  if (!OVER.includes(session.state)) return ["pause", "cancel"];
  const isWorthIt = session.state === "failed" || (session.state === "finished" && session.skipped > 0);
  return isWorthIt ? ["retry"] : [];
}

function told(session) {
  if (session.state === "finding") return [h("span", null, "The folder is being searched…")];
  if (session.images === null) return [h("span", null, "Not all pictures of the folder were found.")];
  const all = count(session.images, "picture");
  const parts = [h("strong", null, OVER.includes(session.state) && session.done === session.images
    ? all : `${number(session.done)} of ${all}`)];
  for (const name of ["indexed", "unchanged", "reused", "skipped"]) {
    if (session[name]) parts.push(h("span", { class: name }, `${number(session[name])} ${name}`));
  }
  if (session.state === "running") {
    if (session.images_per_s) parts.push(h("span", null, `${rate(session.images_per_s)} a second`));
    if (session.eta_s !== null) parts.push(h("span", null, `${duration(session.eta_s)} left`));
  }
  return parts;
}

const rate = (perSecond) => (perSecond < 10 ? perSecond.toFixed(1) : number(Math.round(perSecond)));

/** What was skipped and why, fetched when somebody looks. */
function makeFailures(id, signal) {
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
      const page = await getJson(address(`${PATH}/${id}/failures`, { offset, limit: FAILURES }), { signal });
      const found = [...page.folders, ...page.skipped].map(({ path, reason }) =>
        h("li", null, h("span", { class: "path" }, path), h("span", { class: "reason" }, reason)));
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

/** Whether somebody means it: a session that was cancelled cannot go on. */
function confirmed(session) {
  return new Promise((resolve) => {
    const keep = h("button", { type: "submit", value: "keep" }, "Keep it");
    const dialog = h(
      "dialog",
      { class: "confirm", "aria-labelledby": "confirm-title" },
      h(
        "form",
        { method: "dialog", class: "stack" },
        h("h2", { id: "confirm-title" }, "Cancel this session?"),
        h("p", null, "What waits for a worker is given up; pictures that are stored stay. ", h("span", { class: "path" }, session.training_directory)),
        h("div", { class: "row end" }, keep, h("button", { type: "submit", value: "cancel", class: "danger" }, "Cancel it")),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "cancel");
    }, { once: true });
    document.body.append(dialog);
    dialog.showModal();
    keep.focus();
  });
}
