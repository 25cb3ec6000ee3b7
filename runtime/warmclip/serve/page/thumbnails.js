// Thumbnails, fetched as they come into view: an <img> sends no Authorization header.

import { ask } from "/page/api.js";

const AT_ONCE = 4; // one worker draws them, and a browser has six connections to a server
const TRIES = 4;
const LONGEST_WAIT_S = 10;

/** Those of one view; they end with its signal. */
export class Thumbnails {
  #waiting = [];
  #busy = 0;
  #signal;
  #observer;

  constructor(signal) {
    this.#signal = signal;
    this.#observer = new IntersectionObserver((entries) => this.#seen(entries), {
      rootMargin: "300px",
    });
    signal.addEventListener("abort", () => this.#observer.disconnect(), { once: true });
  }

  /** Show a stored picture in an <img>, once it is about to be seen. */
  show(image, thumbnail, sidePx) {
    image.dataset.state = "waiting";
    image.dataset.from = `${thumbnail}&side_px=${sidePx}`;
    this.#observer.observe(image);
  }

  #seen(entries) {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        this.#waiting.push({ image: target, tries: 0 });
      } else { // scrolled past before its turn came: it waits until it is near again
        this.#waiting = this.#waiting.filter((job) => job.image !== target);
      }
    }
    this.#next();
  }

  /** Take the one that is nearest to the middle of the window. */
  #take() {
    const middle = window.innerHeight / 2;
    const away = ({ image }) => {
      const { top, height } = image.getBoundingClientRect();
      return Math.abs(top + height / 2 - middle);
    };
    const inOrder = this.#waiting.map((job) => [away(job), job]).sort(([a], [b]) => a - b);
    const [, job] = inOrder[0];
    this.#waiting.splice(this.#waiting.indexOf(job), 1);
    return job;
  }

  #next() {
    while (this.#busy < AT_ONCE && this.#waiting.length && !this.#signal.aborted) {
      const job = this.#take();
      if (!job.image.isConnected) continue;
      this.#observer.unobserve(job.image);
      this.#busy += 1;
      this.#load(job).finally(() => {
        this.#busy -= 1;
        this.#next();
      });
    }
  }

  async #load(job) {
    const { image } = job;
    try {
      const answer = await ask(image.dataset.from, { signal: this.#signal });
      await put(image, await answer.blob());
      image.dataset.state = "there";
    } catch (problem) {
      if (this.#signal.aborted) return;
      job.tries += 1;
      if ([429, 503].includes(problem.status) && job.tries < TRIES) {
        setTimeout(() => {
          this.#waiting.push(job);
          this.#next();
        }, 1000 * Math.min(problem.retryAfterS || 1, LONGEST_WAIT_S));
        return;
      }
      image.dataset.state = "missing";
      image.title = problem.detail ?? "It is no picture that this browser can show.";
    }
  }
}

/** Show bytes in an <img>; rejects if they are no picture. */
export async function put(image, blob) {
  const url = URL.createObjectURL(blob);
  try {
    image.src = url;
    await image.decode();
  } finally {
    URL.revokeObjectURL(url);
  }
}
