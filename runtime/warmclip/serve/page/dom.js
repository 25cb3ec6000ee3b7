// Elements, made of text: whatever the server says enters the document as text or as an
// attribute's value, and never as HTML.

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13M15.4 15.4 20 20",
  picture: "M4 5.5h16v13H4zM4 16l4.7-5 4 4.2 2.3-2.4 5 4.7M15.8 9.2h.01",
  similar: "M4 4.5h9v9H4zM11 16v3.5h9v-9h-4",
  close: "M6 6l12 12M18 6 6 18",
  left: "M14.5 5.5 8 12l6.5 6.5",
  right: "M9.5 5.5 16 12l-6.5 6.5",
  folder: "M3.5 6.5h6l2 2.5h9v10h-17z",
  zoom: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13M15.4 15.4 20 20M7.5 10.5h6M10.5 7.5v6",
  copy: "M9 9h11v11H9zM6 15H4V4h11v2",
  save: "M12 4v11M7 10.5l5 5 5-5M4.5 20h15",
  ok: "M5 12.5l4.5 4.5L19 7.5",
  bad: "M12 4.5 21 19.5H3zM12 10v4.2M12 17v.01",
  unknown: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16M12 7.5V12l3 2",
};

/**
 * An element. A function among the attributes listens to the event of that name; what is null,
 * undefined or false is left out, of the children as well.
 */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...kept(children));
  return element;
}

/** Let an element have these children and no others. */
export function fill(element, ...children) {
  element.replaceChildren(...kept(children));
  return element;
}

function kept(children) {
  return children.flat().filter((child) => child !== null && child !== undefined && child !== false);
}

/** A drawing that says nothing to those who cannot see it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** The server's words as a sentence: a capital, unless it begins with a name; commands as such. */
export function prose(text) {
  const parts = text.replace(/^[a-z](?=[a-z]* )/, (first) => first.toUpperCase()).split(/`(warmclip[^`]*)`/);
  return parts.map((part, at) => (at % 2 ? h("code", null, part) : part));
}

/** Tell those who cannot see it what has changed. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** What there is to see where there is nothing else. */
export function state(title, detail, ...actions) {
  return h(
    "div",
    { class: "state" },
    h("h2", null, title),
    detail ? h("p", null, prose(detail)) : null,
    actions.length ? h("div", { class: "row center" }, actions) : null,
  );
}

const TITLES = { 422: "That cannot be done", 502: "That went wrong", 503: "A service does not answer" };

/** What went wrong, in the server's own words, and a way to try again. */
export function failure(problem, again) {
  return h(
    "div",
    { class: "state wrong", role: "alert" },
    h("h2", null, TITLES[problem.status] ?? problem.title),
    h("p", null, prose(problem.detail)),
    again ? h("button", { type: "button", click: again }, "Try again") : null,
  );
}
