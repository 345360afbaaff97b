// Hidden states of one layer as points in a plane; a slider, or `Play`, moves through the layers.

import {at, digits, make, named, table, token} from "./parts.js";

const SVG = "http://www.w3.org/2000/svg", EDGE = 46;
let planes = [], tokens = [], points = [], picture = null, timer = 0, width = 640, height = 420;

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// found: of each layer {points: [[x, y]], kept, nearest: [[place, cosine]]}, the first of what goes into layer 0
export function show_planes(pieces, found) {
  stop();
  [tokens, planes] = [pieces, found];
  picture = shape("svg", {role: "img", id: "plane-picture"});
  points = tokens.map(t => {
    const group = shape("g", t.special ? {class: "special"} : {});
    group.append(shape("circle", {r: t.special ? 4 : 5}));
    if (tokens.length <= 48) {
      const name = shape("text", {x: 8, y: 4});
      name.textContent = t.piece.length > 14 ? t.piece.slice(0, 13) + "\u2026" : t.piece;
      group.append(name);
    }
    picture.append(group);
    return group;
  });
  fit();
  at("depth").max = planes.length - 1;
  if (Number(at("depth").value) >= planes.length) at("depth").value = planes.length - 1;
  draw();
  at("plane").replaceChildren(picture);  // in their places already: points glide from layer to layer, not into the page
}

// as wide as the page, so that names stay legible in a narrow window
function fit() {
  width = Math.max(Math.min(at("plane").clientWidth, 900), 240);
  height = Math.round(Math.max(width * 0.5, 280));
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("width", width);
}

const called = depth => depth ? `After layer ${depth - 1} (${depth} of ${planes.length - 1})` : "What goes into layer 0";

function draw() {
  const depth = Number(at("depth").value), plane = planes[depth];
  const most = axis => Math.max(...plane.points.map(p => Math.abs(p[axis])), 1e-30);
  const scale = Math.min((width / 2 - EDGE) / most(0), (height / 2 - EDGE) / most(1));
  plane.points.forEach(([x, y], i) => {
    points[i].style.transform = `translate(${(width / 2 + x * scale).toFixed(1)}px, ${(height / 2 - y * scale).toFixed(1)}px)`;
  });
  const kept = `${(100 * plane.kept).toFixed(0)} % of how the tokens differ lies in this plane`;
  const far = `the point furthest out is ${digits(Math.max(...plane.points.map(p => Math.hypot(p[0], p[1]))), 3)} from the middle`;
  at("depth-says").textContent = `${called(depth)}: ${kept}; ${far}.`;
  at("depth").setAttribute("aria-valuetext", called(depth));
  picture.setAttribute("aria-label", `${called(depth)}: ${tokens.length} tokens as points. ${kept}.`);
  picture.dataset.depth = String(depth);
  const rows = plane.nearest.map(([j, cosine], i) => [token(tokens[i]), named(tokens, j), cosine.toFixed(4)]);
  at("near-table").replaceChildren(table("The token whose state is nearest", ["token", "nearest", ">cosine"], rows));
}

function stop() {
  clearInterval(timer);
  timer = 0;
  at("play").textContent = "Play";
}

function play() {
  if (timer) { stop(); return; }
  const last = planes.length - 1;
  if (Number(at("depth").value) >= last) at("depth").value = 0;
  at("play").textContent = "Stop";
  draw();
  timer = setInterval(() => {
    at("depth").value = Number(at("depth").value) + 1;
    draw();
    if (Number(at("depth").value) >= last) stop();
  }, 900);
}

at("depth").addEventListener("input", () => { stop(); draw(); });
at("play").addEventListener("click", play);
addEventListener("resize", () => { if (planes.length) { fit(); draw(); } });
