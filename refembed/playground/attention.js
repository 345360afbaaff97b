// The map of one layer's attention: a canvas, a cell that arrow keys move, and words for all of it.

import {color, write_names} from "./map.js";
import {at, digits, make, named, table, token} from "./parts.js";

const canvas = at("map");
let tokens = [], heads = 0, n = 0, weights = new Float32Array(0), ramp = [], cell = 1, margin = 0;
let row = 0, column = 0;  // the chosen cell

export function set_ramp(colors) { ramp = colors; }

// answer: {shape: [H, T, T], weights: base64 of float32, little-endian}
export function show_attention(found, answer) {
  const raw = atob(answer.weights), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  weights = new Float32Array(bytes.buffer);
  tokens = found;
  [heads, n] = answer.shape;
  const kept = at("head").value;
  const names = ["mean", ...Array(heads).keys()].map(String);
  at("head").replaceChildren(...names.map(h =>
    make("option", {value: h}, h === "mean" ? "mean of all heads" : "head " + h)));
  at("head").value = names.includes(kept) ? kept : "mean";
  largest();
  draw();
}

// how much token i looks at token j
export function weight(i, j) {
  if (at("head").value !== "mean") return weights[(Number(at("head").value) * n + i) * n + j];
  let sum = 0;
  for (let h = 0; h < heads; h++) sum += weights[(h * n + i) * n + j];
  return sum / heads;
}

function largest() {
  row = column = 0;
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
    if (weight(i, j) > weight(row, column)) { row = i; column = j; }
  }
}

function draw() {
  const room = Math.min(canvas.parentElement.clientWidth || 640, 720);
  margin = room / n >= 18 ? Math.min(96, Math.floor(room / 4)) : 0;  // names where there is room for them
  cell = Math.max(1, Math.min(34, Math.floor((room - margin - 2) / n)));
  const side = margin + n * cell, sharp = window.devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(side * sharp);
  canvas.style.width = canvas.style.height = side + 2 + "px";  // with its border
  const pen = canvas.getContext("2d");
  pen.scale(sharp, sharp);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
    pen.fillStyle = `rgb(${color(ramp, weight(i, j)).join()})`;
    pen.fillRect(margin + j * cell, margin + i * cell, cell, cell);
  }
  if (margin && cell >= 11) write_names(pen, tokens.map(t => t.piece), margin, cell);
  pen.strokeStyle = "#e36209";
  pen.lineWidth = 2;
  pen.strokeRect(margin + column * cell + 1, margin + row * cell + 1, Math.max(cell - 2, 1), Math.max(cell - 2, 1));
  const head = at("head").selectedOptions[0].text;
  at("looks").textContent = say(row, column);
  canvas.setAttribute("aria-label", `Attention of layer ${at("layer").value}, ${head}. ${say(row, column)}`);
  canvas.dataset.drawn = at("layer").value + "/" + at("head").value;
  words();
}

const say = (i, j) => `${named(tokens, i)} looks at ${named(tokens, j)}: ${weight(i, j).toFixed(4)}`;

function words() {
  const rows = tokens.map((t, i) => {
    const order = tokens.map((_, j) => j).sort((a, b) => weight(i, b) - weight(i, a)).slice(0, 3);
    return [token(t), order.map(j => `${named(tokens, j)} ${digits(weight(i, j), 3)}`).join(", ")];
  });
  at("looks-table").replaceChildren(table("What each token looks at most", ["token", "looks most at"], rows));
}

const STEPS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};

canvas.addEventListener("keydown", event => {
  const step = STEPS[event.key];
  if (!step || !n) return;
  event.preventDefault();
  row = Math.min(Math.max(row + step[0], 0), n - 1);
  column = Math.min(Math.max(column + step[1], 0), n - 1);
  draw();
});
canvas.addEventListener("click", event => {
  const box = canvas.getBoundingClientRect();
  const i = Math.floor((event.clientY - box.top - margin) / cell), j = Math.floor((event.clientX - box.left - margin) / cell);
  if (i < 0 || j < 0 || i >= n || j >= n) return;
  [row, column] = [i, j];
  draw();
});
at("head").addEventListener("change", () => { largest(); draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (n) draw(); });
addEventListener("resize", () => { if (n) draw(); });
