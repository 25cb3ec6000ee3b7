// Requests to the server that this page came from, with its token if it wants one.

const KEY = "warmclip-token";

/** What went wrong: a title, and a sentence that says what to do. */
export class Problem extends Error {
  constructor(status, title, detail, retryAfterS = 0) {
    super(detail);
    this.retryAfterS = retryAfterS;
    this.status = status;
    this.title = title;
    this.detail = detail;
  }

  static async of(answer) {
    const waitS = Number(answer.headers.get("Retry-After")) || 0;
    try {
      const { title, detail } = await answer.json();
      return new Problem(answer.status, String(title), String(detail), waitS);
    } catch {
      return new Problem(answer.status, `Answer ${answer.status}`, "The server did not say why.");
    }
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  keep: (secret) => sessionStorage.setItem(KEY, secret),
  forget: () => sessionStorage.removeItem(KEY),
};

/** An address with those of the parameters that say something. */
export function address(path, query) {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== "" && value != null);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/**
 * Ask for something.
 *
 * Throws a Problem, or what the signal was aborted with. A missing or wrong token is told to the
 * whole page, by the event "token-wanted" of the window.
 */
export async function ask(path, { accept = [], ...options } = {}) {
  const secret = token.get();
  const headers = { ...options.headers, ...(secret ? { Authorization: `Bearer ${secret}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem(0, "No answer", "The server cannot be reached. Is `warmclip serve` running?");
  }
  if (answer.ok || accept.includes(answer.status)) return answer;
  if (answer.status === 401) window.dispatchEvent(new Event("token-wanted"));
  throw await Problem.of(answer);
}

export const getJson = async (path, options) => (await ask(path, options)).json();

export const post = async (path, options) =>
  (await ask(path, { ...options, method: "POST" })).json();

export const postJson = (path, value, options) =>
  post(path, {
    ...options,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(value),
  });
