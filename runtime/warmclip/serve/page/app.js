// The page: which view the address names, and the token before all of them.

import { token } from "/page/api.js";
import * as doctor from "/page/doctor.js";
import { h } from "/page/dom.js";
import * as search from "/page/search.js";
import * as sessions from "/page/sessions.js";
import { askForToken } from "/page/token.js";

const VIEWS = { search, sessions, doctor };

const main = document.getElementById("main");
const forget = document.getElementById("forget");
let shown = ""; // the name of the view
let update = () => {};
let leaving = new AbortController();

/** "#/search?q=a+star" names a view, and says what it is to show. */
function read(hash) {
  const [name, query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { name: Object.hasOwn(VIEWS, name) ? name : "search", params: Object.fromEntries(new URLSearchParams(query)) };
}

/** Go to another state of a view, or see this one again. */
function go(name, params) {
  const given = Object.entries(params).filter(([, value]) => value);
  const hash = `#/${name}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
  if (hash === location.hash) update(read(hash).params);
  else location.hash = hash;
}

function render() {
  const { name, params } = read(location.hash);
  if (name !== shown) {
    const isFirst = shown === "";
    leave();
    shown = name;
    mark(name);
    update = VIEWS[name].mount(main, (next) => go(name, next), leaving.signal);
    if (!isFirst) main.querySelector("h1")?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
  document.title = [params.q || params.name, VIEWS[name].title, "warmclip"].filter(Boolean).join(" · ");
  forget.hidden = token.get() === null;
  update(params);
}

function leave() {
  leaving.abort();
  leaving = new AbortController();
  update = () => {};
  shown = "";
}

function mark(name) {
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function wantToken() {
  if (shown === "token") return;
  leave();
  shown = "token";
  mark("");
  token.forget();
  forget.hidden = true;
  document.title = "Token · warmclip";
  askForToken(main, () => {
    shown = "";
    render();
  });
}

window.addEventListener("hashchange", () => {
  if (location.hash === "#main") return; // the link past the navigation
  if (shown !== "token") render();
});
window.addEventListener("token-wanted", wantToken);
forget.addEventListener("click", wantToken);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
main.append(h("p", { class: "unseen" }, "Loading…"));
render();
