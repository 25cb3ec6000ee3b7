// Figures and times as people read them.

const NUMBER = new Intl.NumberFormat("en");
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const KINDS = 5; // that are told one by one
const UNITS = ["bytes", "kB", "MB", "GB"];

export const number = (value) => NUMBER.format(value);

/** "1 picture", "2,000 pictures". */
export const count = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;

/** "1,204 .mov, 88 .psd, 7 more": counts of kinds, the most frequent first. */
export function kinds(counts) {
  const ordered = Object.entries(counts).sort(([, a], [, b]) => b - a);
  const rest = ordered.slice(KINDS).reduce((sum, [, some]) => sum + some, 0);
  const told = ordered.slice(0, KINDS).map(([kind, some]) => `${number(some)} ${kind}`);
  return [...told, ...(rest ? [`${number(rest)} more`] : [])].join(", ");
}

export function bytes(value) {
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

export function date(text) {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : DATE.format(at);
}

/** "40 s", "3 min", "2 h 5 min". */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${number(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

const TAIL = 10; // characters of a name that stay in sight: its number and suffix

/** A name in two parts, of which the first may be cut: names of one camera differ at the end. */
export function halves(name) {
  const letters = [...name];
  const at = letters.length > TAIL + 4 ? letters.length - TAIL : letters.length;
  return [letters.slice(0, at).join(""), letters.slice(at).join("")];
}

/** The last part of a path. */
export const fileName = (path) => path.slice(path.lastIndexOf("/") + 1) || path;

/** All but the last part of a path. */
export const folderOf = (path) => path.slice(0, path.lastIndexOf("/")) || "/";
