// The bearer token, where the server wants one: asked for, tried, and kept for this tab alone.

import { getJson, token } from "/page/api.js";
import { fill, h } from "/page/dom.js";

/** Ask for it; `go` is called once the server has taken one. */
export function askForToken(main, go) {
  const error = h("p", { id: "token-error", class: "error", role: "alert" });
  const input = h("input", {
    id: "token",
    type: "password",
    autocomplete: "off",
    required: true,
    "aria-describedby": "token-hint token-error",
  });
  const button = h("button", { type: "submit", class: "primary" }, "Continue");

  async function submit(event) {
    event.preventDefault();
    const secret = input.value.trim();
    if (!/^[\x21-\x7e]+$/.test(secret)) {
      error.textContent = "A token is made of letters, digits and signs, without spaces.";
      return;
    }
    button.disabled = true;
    error.textContent = "";
    token.keep(secret);
    try {
      await getJson("/api/v1/training/sessions?limit=1");
      go();
    } catch (problem) {
      if (problem.status === 401) token.forget();
      error.textContent =
        problem.status === 401 ? "That is not the server's token." : problem.detail;
      button.disabled = false;
      input.select();
    }
  }

  fill(
    main,
    h(
      "section",
      { class: "narrow" },
      h("h1", { tabindex: -1 }, "This server wants a token"),
      h(
        "p",
        { id: "token-hint", class: "hint" },
        "It was given to ",
        h("code", null, "warmclip serve"),
        " by ",
        h("code", null, "WARMCLIP_TOKEN"),
        " or ",
        h("code", null, "--token-file"),
        ". This tab remembers it until it is closed.",
      ),
      h(
        "form",
        { class: "stack", submit },
        h("label", { for: "token" }, "Token"),
        input,
        error,
        h("div", { class: "row" }, button),
      ),
    ),
  );
  input.focus();
}
