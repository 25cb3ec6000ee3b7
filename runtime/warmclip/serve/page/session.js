// One training session, as its row shows it.

import { post } from "/page/api.js";
import { fill, h, prose, say } from "/page/dom.js";
import { makeFailures } from "/page/failures.js";
import { count, date, duration, kinds, number } from "/page/format.js";

export const PATH = "/api/v1/training/sessions";

const LABELS = {
  finding: "Looking for pictures",
  running: "Running",
  paused: "Paused",
  finished: "Finished",
  cancelled: "Cancelled",
  failed: "Failed",
};
const OVER = ["finished", "cancelled", "failed"];

/** One session's row; `update` lets it show what has become of it. */
export function makeRow(first, changed, signal) {
  const { id } = first;
  const heading = h("h3", { tabindex: -1 });
  const badge = h("span", { class: "badge" });
  const about = h("p", { class: "hint" });
  const bar = h("progress", { "aria-label": "Pictures that are done" });
  const figures = h("p", { class: "figures" });
  const error = h("p", { class: "error", role: "alert" });
  const actions = h("div", { class: "row" });
  const failures = makeFailures(`${PATH}/${id}/failures`, signal);
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
    if (session.error) fill(error, ...prose(session.error));
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
          if (!signal.aborted) fill(error, ...prose(problem.detail));
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
  if (Object.keys(session.ignored).length) parts.push(h("span", { class: "ignored" }, `${kinds(session.ignored)} ignored`));
  if (session.state === "running") {
    if (session.images_per_s) parts.push(h("span", null, `${rate(session.images_per_s)} a second`));
    if (session.eta_s !== null) parts.push(h("span", null, `${duration(session.eta_s)} left`));
  }
  return parts;
}

const rate = (perSecond) => (perSecond < 10 ? perSecond.toFixed(1) : number(Math.round(perSecond)));

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
