// The doctor: whether everything works, and which provider each tower computes on and why.

import { ask, getJson } from "/page/api.js";
import { failure, fill, h, icon, prose } from "/page/dom.js";
import { count, date, number } from "/page/format.js";

const LIGHTS = { redis: "Redis", worker: "A worker", qdrant: "Qdrant", sessions: "Sessions" };
const TOWERS = { image: "Pictures", text: "Words" };

export const title = "Doctor";

/** The view; the address has nothing more to say. */
export function mount(main, _go, signal) {
  const again = h("button", { type: "button", click: look }, "Look again");
  const verdict = h("p", { class: "headline", role: "status" });
  const lights = h("ul", { class: "lights" });
  const rest = h("div", { class: "sections" });
  const view = h(
    "section",
    { "aria-labelledby": "doctor-title" },
    h("div", { class: "row spread" }, h("h1", { id: "doctor-title", tabindex: -1 }, "Doctor"), again),
    verdict,
    lights,
    rest,
  );
  fill(main, view);

  async function look() {
    again.disabled = true;
    view.setAttribute("aria-busy", "true");
    verdict.textContent = "A worker is asked to embed something…";
    if (!lights.children.length) {
      fill(lights, ...Object.values(LIGHTS).map((name) => light(name, null, "…")));
      fill(rest, h("div", { class: "panel waiting" }));
    }
    await Promise.all([health(), findings()]);
    again.disabled = false;
    view.removeAttribute("aria-busy");
  }

  async function health() {
    try {
      const answer = await ask("/healthz", { accept: [503], signal });
      const seen = await answer.json();
      if (!(Object.keys(LIGHTS)[0] in seen)) throw seen; // a problem, such as too many requests
      const bad = Object.keys(LIGHTS).filter((name) => !seen[name].ok);
      verdict.textContent = bad.length
        ? `${count(bad.length, "thing")} ${bad.length === 1 ? "needs" : "need"} attention.`
        : "Everything works.";
      fill(lights, ...Object.entries(LIGHTS).map(([key, name]) => light(name, seen[key].ok, seen[key].detail)));
    } catch (problem) {
      if (signal.aborted) return;
      verdict.textContent = "";
      fill(lights, h("li", { class: "plain" }, failure(problem)));
    }
  }

  async function findings() {
    try {
      const found = await getJson("/api/v1/doctor", { signal });
      fill(rest, ...sections(found));
    } catch (problem) {
      if (signal.aborted) return;
      fill(rest, failure(problem, look));
    }
  }

  look();
  return () => {};
}

function light(name, ok, detail) {
  const kind = ok === null ? "unknown" : ok ? "ok" : "bad";
  const words = { unknown: "not known yet", ok: "works", bad: "needs attention" }[kind];
  return h(
    "li",
    { class: "light panel", "data-state": kind },
    h("span", { class: "lamp" }, icon(kind)),
    h(
      "div",
      null,
      h("h2", null, name, h("span", { class: "unseen" }, ` ${words}`)),
      h("p", { class: "hint" }, prose(detail)),
    ),
  );
}

function sections(found) {
  return [
    found.verdict === null ? noVerdict(found.verdict_missing) : towers(found.verdict),
    found.verdict?.trials.length ? trials(found.verdict.trials) : null,
    found.verdict ? others(found.verdict) : null,
    queues(found),
    workers(found.workers),
    failed(found),
    found.verdict ? about(found.verdict) : null,
  ].filter(Boolean);
}

function section(name, ...children) {
  return h("section", { class: "panel" }, h("h2", null, name), ...children);
}

function noVerdict(reason) {
  return section("Where it computes", h("p", { class: "error" }, prose(reason)));
}

function towers({ towers: found, asked }) {
  return section(
    "Where it computes",
    h("p", { class: "hint" }, "Asked for: ", h("code", null, asked)),
    h(
      "ul",
      { class: "towers" },
      found.map((each) =>
        h(
          "li",
          null,
          h("h3", null, TOWERS[each.tower] ?? each.tower),
          h("p", { class: "provider" }, each.now),
          h("p", { class: "hint" }, prose(each.why)),
          each.now === each.chosen
            ? null
            : h("p", { class: "error" }, `The choice was ${each.chosen}: it failed in service, and ${each.now} goes on.`),
        ),
      ),
    ),
  );
}

function trials(found) {
  const speed = (trial) =>
    Object.entries(trial.images_per_s).map(([batch, rate]) => `${number(Math.round(rate))} at ${batch}`).join(", ");
  return section(
    "Trials",
    h("p", { class: "hint" }, "Each provider was tried once, in a process that may crash: it must reproduce the model’s golden vectors."),
    table(
      ["Provider", "Tower", "Outcome", "A second, by batch"],
      found.map((trial) => [
        trial.provider,
        trial.tower,
        trial.passed ? "passed" : trial.reason || "failed",
        speed(trial) || "–",
      ]),
    ),
  );
}

function others({ quarantine, passed_over: passedOver }) {
  const held = quarantine.length
    ? h("ul", { class: "failures" }, quarantine.map((each) =>
        h("li", null, h("span", { class: "path" }, each.provider),
          h("span", { class: "reason" }, prose(each.reason), `; until ${date(each.until)}`))))
    : h("p", { class: "hint" }, "No provider is in quarantine.");
  const names = Object.entries(passedOver);
  return section(
    "Providers that are not used",
    held,
    names.length
      ? h("dl", { class: "facts" }, names.flatMap(([name, why]) => [h("dt", null, name), h("dd", null, prose(why))]))
      : null,
  );
}

function queues({ queues: found, dead_letters: dead }) {
  return section(
    "Queues",
    found.length
      ? table(
          ["Queue", "Waiting", "Running", "Failed"],
          found.map((each) => [each.name, number(each.queued), number(each.started), number(each.failed)]),
          true,
        )
      : h("p", { class: "hint" }, "No job has come yet."),
    h("p", { class: "hint" }, prose(dead
      ? `${count(dead, "picture")} set aside, as they killed a worker’s process: \`warmclip status --dead\`.`
      : "No picture is set aside.")),
  );
}

function workers(found) {
  return section(
    "Workers",
    found.length
      ? h("ul", { class: "failures" }, found.map((each) =>
          h("li", null,
            h("span", { class: "path" }, `${each.hostname}, process ${each.pid}`),
            h("span", { class: "reason" }, [
              each.state,
              each.at ? `${each.at[2]} ${number(each.at[0])} of ${number(each.at[1])}` : "",
              `queues ${each.queues.join(", ")}`,
              each.last_heartbeat ? `heard of ${date(each.last_heartbeat)}` : "",
            ].filter(Boolean).join(" · ")))))
      : h("p", { class: "error" }, prose("None is listening: start one with `warmclip worker`.")),
  );
}

function failed({ failures }) {
  if (!failures.length) return null;
  return section(
    "Jobs that failed",
    h("ul", { class: "failures" }, failures.map((each) =>
      h("li", null,
        h("span", { class: "path" }, each.function.replace(/^warmclip\.work\.jobs\./, "")),
        h("span", { class: "reason" }, prose(each.reason)),
        each.ended_at ? h("span", { class: "hint" }, date(each.ended_at)) : null))),
  );
}

function about(verdict) {
  const pairs = [
    ["Model", verdict.model],
    ["Fingerprint", verdict.fingerprint],
    ...Object.entries(verdict.versions),
    ["Machine", verdict.machine],
    ["Answered by", `${verdict.hostname}, process ${verdict.pid}`],
  ];
  return section("This worker", h("dl", { class: "facts" }, pairs.flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)])));
}

function table(heads, rows, isNumeric = false) {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": heads.join(", ") },
    h(
      "table",
      { class: isNumeric ? "numeric" : null },
      h("thead", null, h("tr", null, heads.map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", null, rows.map(([first, ...others]) =>
        h("tr", null, h("th", { scope: "row" }, first), others.map((each) => h("td", null, each))))),
    ),
  );
}
