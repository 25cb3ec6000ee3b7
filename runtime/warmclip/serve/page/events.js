// Server-sent events over fetch: EventSource sends no Authorization header.

import { Problem, ask } from "/page/api.js";

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 15_000;
const SILENCE_MS = 45_000; // three heartbeats

/** Text in pieces, cut anywhere, into events with a name and data. */
export class EventParser {
  #rest = "";
  #name = "";
  #data = [];

  push(text) {
    const events = [];
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      const event = this.#take(line);
      if (event) events.push(event);
    }
    return events;
  }

  #take(line) {
    if (line === "") {
      const event = this.#data.length
        ? { name: this.#name || "message", data: this.#data.join("\n") }
        : null;
      this.#name = "";
      this.#data = [];
      return event;
    }
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "event") this.#name = value;
    if (field === "data") this.#data.push(value);
    return null; // a comment, an id, or a wish for another delay
  }
}

/**
 * Follow a stream until the signal is aborted, again and again if it ends.
 *
 * Args:
 *   path: of the stream.
 *   tell: called with the name and the parsed data of each event.
 *   note: called with null once the stream is open, with a Problem while it is not.
 */
export async function follow(path, { tell, note, signal }) {
  let wait = FIRST_WAIT_MS;
  while (!signal.aborted) {
    try {
      await read(path, signal, (name, data) => {
        wait = FIRST_WAIT_MS;
        note(null);
        tell(name, data);
      });
      note(new Problem(0, "The stream ended", "The server has stopped."));
    } catch (problem) {
      if (signal.aborted) return;
      const told = problem instanceof Problem;
      note(told ? problem : new Problem(0, "No answer", "The stream fell silent, or tells what is none."));
      if (problem.status === 401) return; // the token's view takes over
    }
    await pause(wait, signal);
    wait = Math.min(2 * wait, LONGEST_WAIT_MS);
  }
}

async function read(path, signal, tell) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MS);
  };
  heard();
  try {
    const answer = await ask(path, {
      headers: { Accept: "text/event-stream" },
      cache: "no-store",
      signal: AbortSignal.any([signal, silence.signal]),
    });
    const parser = new EventParser();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      for (const { name, data } of parser.push(value)) tell(name, JSON.parse(data));
    }
  } finally {
    clearTimeout(timer);
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
