// Elements, tables and bars. Texts go in as text, never as markup.

export const at = id => document.getElementById(id);

// make("td", {className: "number"}, "1.5"): an element with properties and children
export function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties || {});
  element.append(...children);
  return element;
}

// a sentence in which `code` stands in backticks; what is short stays on one line
export function sentence(text) {
  return text.split("`").map((part, i) => i % 2 ? make("code", {className: part.length < 24 ? "word" : ""}, part) : part);
}

// heads: a head that begins with ">" is a column of numbers; rows: of texts, numbers or elements, the first is the row's head
export function table(caption, heads, rows) {
  const right = heads.map(head => head.startsWith(">"));
  const top = make("tr", {}, ...heads.map((head, i) =>
    make("th", {scope: "col", className: right[i] ? "number" : ""}, head.replace(">", ""))));
  const body = rows.map(row => make("tr", {className: row.marked ? "marked" : ""}, ...row.map((cell, i) =>
    i ? make("td", {className: right[i] ? "number" : ""}, cell) : make("th", {scope: "row"}, cell))));
  const found = make("table", {}, make("thead", {}, top), make("tbody", {}, ...body));
  found.setAttribute("aria-label", caption);
  return make("div", {className: "wide"}, found);
}

// a token as a box
export function token(t) {
  return make("span", {className: "token"}, t.piece || "(nothing)");
}

// a bar of a length from 0 to 1; below zero it has another color
export function bar(value, most) {
  const inner = make("span", {className: value < 0 ? "bar minus" : "bar"});
  const share = most > 0 && Number.isFinite(value) ? Math.min(Math.abs(value) / most, 1) : 0;
  inner.style.width = (100 * share).toFixed(1) + "%";
  inner.hidden = share === 0;
  const track = make("span", {className: "track"}, inner);
  track.setAttribute("aria-hidden", "true");  // the number stands next to it
  return track;
}

// a number in so many digits; what is not finite comes as text
export function digits(x, n) {
  if (x === null) return "";
  if (typeof x !== "number") return "not finite";
  if (x === 0) return "0";
  return Math.abs(x) >= 0.01 && Math.abs(x) < 1e5 ? x.toPrecision(n) : x.toExponential(n - 1);
}

// "token 3" for those who cannot see where it stands: its piece, and its place
export const named = (tokens, i) => `\u201c${tokens[i].piece}\u201d (${i})`;
