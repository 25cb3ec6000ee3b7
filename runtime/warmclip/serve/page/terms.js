// Words as people type them, as terms that are added and subtracted: "a red car - night + 2:snow".

const SIGNS = new Map([["+", 1], ["-", -1]]);
const MOST_TERMS = 32;
const MOST_WEIGHT = 1000;

// As in `warmclip search`: no weight, if a digit follows, as in a time of day.
const WEIGHT = /^(\d+\.?\d*|\.\d+):(?!\d)\s*(.*)$/;

/** The terms of a text; null if it is but one text, or signs are among its words in another way. */
export function readTerms(text) {
  const parts = [];
  let sign = 1;
  let words = [];
  const end = () => parts.push([sign, words.join(" ")]);
  for (const [place, word] of text.trim().split(/\s+/).entries()) {
    if (!SIGNS.has(word)) {
      words.push(word);
      continue;
    }
    if (place > 0) end();
    sign = SIGNS.get(word);
    words = [];
  }
  end();
  const terms = parts.map(([sign, words]) => {
    const [, weight = "1", rest = words] = words.match(WEIGHT) ?? [];
    return { text: rest, weight: sign * Number(weight) };
  });
  const isQuery = terms.every(({ text, weight }) => text && weight && Math.abs(weight) <= MOST_WEIGHT);
  const isText = terms.length === 1 && terms[0].weight === 1;
  return isQuery && !isText && terms.length <= MOST_TERMS ? terms : null;
}
