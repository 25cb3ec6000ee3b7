// Searching: by words, by a picture that is dropped, pasted or chosen, by one that is stored.

import { Problem, address, getJson, post, postJson } from "/page/api.js";
import { failure, fill, h, icon, say, state } from "/page/dom.js";
import { fileName } from "/page/format.js";
import { PAGE, showHits, skeleton } from "/page/hits.js";
import { receivePictures } from "/page/incoming.js";
import { suggestRoots } from "/page/roots.js";
import { readTerms } from "/page/terms.js";
import { Thumbnails } from "/page/thumbnails.js";

const MOST_BYTES = 10 * 1024 * 1024; // the server's
const PATIENCE_MS = 3_000;
const FILTERS = ["folder", "since", "until", "collection"];

export const title = "Search";

// The picture that was sent last: "back" finds it again, a new page does not.
let picture = null;

/** The view; returns what is called when the address says something else. */
export function mount(main, go, signal) {
  const thumbnails = new Thumbnails(signal);
  let params = {};
  let running = new AbortController();

  const words = h("input", {
    id: "words",
    type: "search",
    name: "q",
    maxlength: 2000,
    placeholder: "a red bicycle in the snow",
    autocomplete: "off",
    enterkeyhint: "search",
    spellcheck: "false",
  });
  const chooser = h("input", {
    id: "chooser",
    class: "unseen",
    type: "file",
    accept: "image/*",
    tabindex: -1,
    "aria-hidden": "true",
    change: () => {
      take(chooser.files[0]);
      chooser.value = "";
    },
  });
  const fields = {
    folder: h("input", {
      id: "folder",
      placeholder: "/mnt/photos/2026",
      autocomplete: "off",
      spellcheck: "false",
      list: "folders",
    }),
    since: h("input", { id: "since", type: "date" }),
    until: h("input", { id: "until", type: "date" }),
    collection: h("input", {
      id: "collection",
      placeholder: "the server’s own",
      autocomplete: "off",
      spellcheck: "false",
      list: "collections",
    }),
  };
  const folders = h("datalist", { id: "folders" });
  const collections = h("datalist", { id: "collections" });
  const summary = h("span", { class: "chosen" });
  const filters = h(
    "details",
    { class: "filters" },
    h("summary", null, "Filters", summary),
    h(
      "div",
      { class: "filter-fields" },
      field("Folder, and all below it", fields.folder, "wide"),
      field("Taken since", fields.since),
      field("Taken until", fields.until),
      field("Collection", fields.collection),
      h(
        "div",
        { class: "row" },
        h("button", { type: "submit" }, "Apply"),
        h("button", { type: "button", class: "quiet", click: clear }, "Clear"),
      ),
    ),
  );
  const reference = h("div", { class: "reference" });
  const told = h("p", { class: "told" });
  const results = h("div", { class: "results" });
  const view = h(
    "section",
    { class: "search", "aria-labelledby": "search-title" },
    h("h1", { id: "search-title", tabindex: -1 }, "Find a picture"),
    h(
      "form",
      { role: "search", submit },
      h(
        "div",
        { class: "ask" },
        h("label", { class: "unseen", for: "words" }, "In words"),
        h("div", { class: "field" }, icon("search"), words),
        h("button", { type: "submit", class: "primary" }, "Search"),
        h(
          "button",
          { type: "button", class: "by-picture", click: () => chooser.click() },
          icon("picture"),
          "By picture",
        ),
        chooser,
      ),
      filters,
      folders,
      collections,
    ),
    reference,
    told,
    results,
    h("div", { class: "drop", "aria-hidden": "true" }, icon("picture"), "Drop the picture to search by it"),
  );

  function field(label, input, more = "") {
    return h("div", { class: `stack ${more}` }, h("label", { for: input.id }, label), input);
  }

  function chosen() {
    return Object.fromEntries(FILTERS.map((name) => [name, fields[name].value.trim()]));
  }

  function submit(event) {
    event.preventDefault();
    const q = words.value.trim();
    if (q) go({ q, ...chosen() });
    else if (params.like || params.picture) go({ ...params, q: "", ...chosen() });
    else {
      go(chosen());
      words.focus();
    }
  }

  function clear() {
    for (const input of Object.values(fields)) input.value = "";
    go({ ...params, ...chosen() });
  }

  function lookFor({ like, folder }, collection) {
    if (like) {
      go({ ...chosen(), like: like.id, name: fileName(like.path), collection });
    } else {
      fields.folder.value = folder;
      go({ ...params, ...chosen() });
    }
    window.scrollTo({ top: 0 });
  }

  function take(file) {
    if (!file) return;
    if (file.size > MOST_BYTES) {
      stop();
      fill(results, failure(new Problem(413, "That picture is too large",
        `${file.name} has more than 10 MiB: send a smaller one, or index it and ask for what is similar to it.`)));
      return;
    }
    picture = file;
    words.value = "";
    const next = { ...chosen(), picture: file.name || "pasted picture" };
    if (next.picture === params.picture) update(next); // the address stays the same
    else go(next);
  }

  function stop() {
    running.abort();
    running = new AbortController();
    told.textContent = "";
  }

  function question(offset, limit) {
    const filter = Object.fromEntries(FILTERS.map((name) => [name, params[name]]));
    const query = { ...filter, limit, offset };
    const options = { signal: running.signal };
    if (params.like) {
      return getJson(address(`/api/v1/points/${encodeURIComponent(params.like)}/similar`, query), options);
    }
    if (params.picture) {
      const body = new FormData();
      body.append("file", picture);
      for (const [name, value] of Object.entries(query)) if (value || value === 0) body.append(name, value);
      return post("/api/v1/search/image", { ...options, body });
    }
    const terms = readTerms(params.q);
    if (terms) {
      const given = Object.fromEntries(Object.entries(query).filter(([, value]) => value || value === 0));
      return postJson("/api/v1/search", { terms, ...given }, options);
    }
    return getJson(address("/api/v1/search", { q: params.q, ...query }), options);
  }

  async function update(wanted) {
    params = wanted;
    if (document.activeElement !== words || params.q) words.value = params.q ?? "";
    for (const name of FILTERS) fields[name].value = params[name] ?? "";
    const used = FILTERS.filter((name) => params[name]);
    summary.textContent = used.length ? `${used.length} set` : "";
    if (used.length) filters.open = true;
    stop();
    refer();
    view.classList.toggle("fresh", !(params.q || params.like || params.picture));
    if (params.picture && !picture) {
      fill(results, state("That picture is gone", "A page that is loaded again forgets it. Drop it here once more."));
    } else if (params.q || params.like || params.picture) {
      await load();
    } else {
      fill(
        results,
        state("Describe what is in it", "Or drop a picture anywhere on this page, paste one, or choose one: what looks like it is found as well."),
      );
    }
  }

  /** Say which picture is looked for, if it is one. */
  function refer() {
    const name = params.like ? params.name || params.like : params.picture;
    if (!name || (params.picture && !picture)) return fill(reference);
    const image = h("img", { alt: "", width: 44, height: 44 });
    fill(
      reference,
      image,
      h("span", { class: "grow" }, params.like ? "Similar to " : "Looks like ", h("strong", null, name)),
      h(
        "button",
        {
          type: "button",
          class: "round",
          "aria-label": "No longer by this picture",
          click: () => {
            go(chosen());
            words.focus();
          },
        },
        icon("close"),
      ),
    );
    if (params.like) {
      const query = new URLSearchParams(params.collection ? { collection: params.collection } : {});
      const at = `/api/v1/points/${encodeURIComponent(params.like)}/thumbnail?${query}`;
      thumbnails.show(image, at, 96);
    } else {
      const url = URL.createObjectURL(picture);
      const over = () => URL.revokeObjectURL(url);
      image.addEventListener("load", over, { once: true });
      image.addEventListener("error", over, { once: true });
      image.src = url;
    }
  }

  async function load() {
    const mine = running;
    told.textContent = "Searching…";
    fill(results, skeleton());
    const slow = setTimeout(() => {
      told.textContent = "Still searching: the workers are busy…";
    }, PATIENCE_MS);
    try {
      const found = await question(0, PAGE);
      if (mine.signal.aborted) return;
      show(found);
    } catch (problem) {
      if (mine.signal.aborted) return;
      told.textContent = "";
      fill(results, refused(problem));
    } finally {
      clearTimeout(slow);
    }
  }

  function refused(problem) {
    if (problem.status === 404 && !params.like) {
      const title = params.collection ? `No collection “${params.collection}”` : "Nothing is indexed yet";
      return state(title, problem.detail,
        h("a", { class: "button primary", href: "#/sessions" }, "Index a folder"));
    }
    return failure(problem, load);
  }

  function show(found) {
    if (!found.hits.length) {
      told.textContent = "";
      say("Nothing was found.");
      fill(results, state("Nothing was found",
        FILTERS.some((name) => params[name])
          ? "The filters leave no picture: clear some of them."
          : `The collection “${found.collection}” holds no picture yet.`));
      return;
    }
    showHits(results, found, {
      question,
      tell: (words) => {
        told.textContent = words;
      },
      lookFor: (wish) => lookFor(wish, found.collection),
      thumbnails,
      running: running.signal,
      signal,
    });
  }

  /** Offer the roots, and the folders and collections of past sessions. */
  async function suggest() {
    suggestRoots(folders, signal);
    try {
      const { sessions } = await getJson("/api/v1/training/sessions?limit=100", { signal });
      const options = (name) =>
        [...new Set(sessions.map((each) => each[name]))].map((value) => h("option", { value }));
      folders.append(...options("training_directory"));
      fill(collections, ...options("collection"));
    } catch (problem) {
      if (!signal.aborted && !(problem instanceof Problem)) throw problem;
      // The fields do without: a search tells what is wrong.
    }
  }

  receivePictures(view, take, signal);
  window.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, textarea") || document.querySelector("dialog")) return;
    event.preventDefault();
    words.focus();
    words.select();
  }, { signal });
  signal.addEventListener("abort", () => running.abort(), { once: true });

  fill(main, view);
  suggest();
  return update;
}
