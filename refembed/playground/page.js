// The page: what is typed and switched goes to the server, what comes of it into the sections.

import {set_ramp, show_attention} from "./attention.js";
import {at, bar, digits, make, sentence, table, token} from "./parts.js";
import {show_planes} from "./plane.js";

let model = null, answer = null, faults = [], number = 0, timer = 0, left = null;
let asked = {};  // the text and the switches that the sections are about

async function ask(path, body) {
  const how = {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body || {})};
  let reply;
  try {
    reply = await fetch(path, {...how, cache: "no-store", credentials: "omit"});
  } catch {
    throw new Error("The server does not answer: has `refembed explain --serve` ended?");
  }
  const found = await reply.json();
  if (!reply.ok) throw new Error(found.error.message);
  return found;
}

function options(select, pairs) {
  const kept = select.value;
  select.replaceChildren(...pairs.map(([value, name]) => make("option", {value}, name)));
  if (pairs.some(([value]) => value === kept)) select.value = kept;
}

// faults in groups, as far as the words looked for are in their names or sentences
function list_faults() {
  const words = at("find").value.toLowerCase().split(/\s+/).filter(Boolean), kept = at("fault").value, groups = new Map();
  let count = 0;
  for (const [id, group, says] of faults) {
    const text = (id + " " + says).toLowerCase();
    const matches = words.every(word => text.includes(word));
    count += matches;
    if (id !== kept && !matches) continue;
    if (!groups.has(group)) groups.set(group, make("optgroup", {label: group}));
    groups.get(group).append(make("option", {value: id}, says));
  }
  at("fault").replaceChildren(make("option", {value: ""}, "none: does as the reference does"), ...groups.values());
  at("fault").value = kept;
  const all = `${faults.length} faults that \`refembed verify\` would try on this text`;
  at("found").replaceChildren(...sentence(words.length ? `${count} of ${all}.` : `${all}.`));
}

const wanted = () => ({
  text: at("text").value, pooling: at("pooling").value, weights: at("weights").value, fault: at("fault").value,
});

function trouble(e) { at("trouble").replaceChildren(...sentence(e ? e.message : "")); }

function busy(says) {
  at("state").textContent = says;
  at("result").classList.toggle("waits", Boolean(says));
  at("result").setAttribute("aria-busy", String(Boolean(says)));
}

// ask for what is typed and switched; an answer that has been overtaken is dropped
async function explain() {
  clearTimeout(timer);
  const mine = ++number, body = wanted();
  busy(body.weights ? "Computing; quantizing takes a moment ..." : "Computing ...");
  trouble(null);
  try {
    const found = await ask("explain", body);
    if (mine !== number) return;
    [answer, faults, asked, left] = [found, found.faults, body, null];
    list_faults();
    show();
    await look(mine);
  } catch (e) {
    if (mine === number) {
      trouble(e);
      at("result").hidden = true;  // it is about another text, or other switches
    }
  }
  if (mine !== number) return;
  busy("");
  at("result").dataset.answered = String(mine);
}

// the attention of the chosen layer
async function look(mine) {
  const layers = Object.keys(answer.attention);
  at("attention-part").hidden = !layers.length;
  at("no-attention").hidden = Boolean(layers.length);
  if (!layers.length) return;
  options(at("layer"), layers.map(il => [il, "layer " + il]));
  const found = await ask("attention", {...asked, layer: Number(at("layer").value)});
  if (mine === number) show_attention(answer.tokens, found);
}

function show() {
  at("result").hidden = false;
  show_verdict(answer.said);
  show_moved(answer.moved);
  const rows = answer.tokens.map((t, i) => [
    token(t), i, t.id, make("code", {}, t.bytes || "none"), t.special ? "special" : i >= answer.tokens.length - answer.padding ? "padding" : "",
  ]);
  at("token-table").replaceChildren(table("Tokens", ["token", ">place", ">id", "bytes", ""], rows));
  show_planes(answer.tokens, answer.planes);
  at("pooling-title").textContent = answer.pooling.title;
  at("pooling-formula").textContent = answer.pooling.formula;
  at("shares-say").textContent = answer.shares ? answer.shares_say : "This pooling is no sum over tokens, so there are no shares.";
  show_shares();
}

function show_verdict(said) {
  const box = at("verdict");
  box.className = "verdict " + said.kind;
  box.replaceChildren(
    make("p", {}, make("strong", {}, said.verdict)),
    make("ul", {}, ...said.evidence.map(line => make("li", {}, ...sentence(line)))),
    make("p", {}, make("b", {}, said.kind ? "What to do: " : ""), ...sentence(said.advice)));
}

// how far each layer's states have moved, and every tensor
function show_moved(moved) {
  at("moved").replaceChildren();
  if (!moved || !moved.layers.length) return;
  const most = Math.max(...moved.layers.map(x => typeof x === "number" ? Math.log10(Math.max(x, 1e-12)) + 12 : 0), 1e-9);
  const rows = moved.layers.map((x, i) => {
    const size = typeof x === "number" && x > 0 ? Math.max(Math.log10(x) + 12, 0.1) : 0;
    return [i ? "layer " + (i - 1) : "into layer 0", digits(x, 3), bar(size, most)];
  });
  const every = moved.tensors.map(([name, x]) => {
    const row = [make("code", {}, name), x === null ? "not computed" : digits(x, 3)];
    row.marked = moved.first && name === moved.first.name;
    return row;
  });
  at("moved").append(
    make("h3", {}, "How far hidden states have moved"),
    make("p", {className: "source"}, "The size of the difference over the size of the states; bars are logarithmic, from 1e-12."),
    table("How far hidden states have moved", ["states", ">moved by", ""], rows),
    make("details", {}, make("summary", {}, "Every tensor, in the order of the run"),
      table("Every tensor, in the order of the run", ["tensor", ">moved by"], every)));
}

function show_shares() {
  const largest = list => Math.max(...list.map(x => Math.abs(x || 0)), 0);
  const heads = ["token"], columns = [];
  if (answer.shares) {
    const most = largest(answer.shares);
    heads.push(">share", "");
    columns.push(i => [answer.shares[i].toFixed(4), bar(answer.shares[i], most)]);
  }
  if (left) {
    const most = largest(left);
    heads.push(">left out, 1 \u2212 cos", "");
    columns.push(i => [digits(left[i], 3), left[i] === null ? "" : bar(left[i], most)]);
  }
  at("leave").hidden = Boolean(left);
  const rows = answer.tokens.map((t, i) => [token(t), ...columns.flatMap(column => column(i))]);
  at("share-table").replaceChildren(columns.length ? table("What each token gives", heads, rows) : "");
}

async function leave_out() {
  const mine = number;
  busy("Leaving out each token ...");
  try {
    const found = await ask("leave-out", asked);
    if (mine !== number) return;
    left = found.distances;
    show_shares();
    trouble(null);
  } catch (e) {
    if (mine === number) trouble(e);
  }
  if (mine === number) busy("");
}

async function compare() {
  const texts = at("texts").value.split("\n").filter(line => line.trim()), {pooling, weights, fault} = wanted();
  busy("Comparing ...");
  try {
    const found = await ask("similarity", {texts, pooling, weights, fault});
    show_cosines(texts, found.cosines, found.before);
    trouble(null);
  } catch (e) {
    trouble(e);
  }
  busy("");
}

function show_cosines(texts, x, before) {
  let best = [0, 1];
  x.forEach((row, i) => row.forEach((v, j) => { if (i < j && v > x[best[0]][best[1]]) best = [i, j]; }));
  const moved = before ? Math.max(...x.flatMap((row, i) => row.map((v, j) => Math.abs(v - before[i][j])))) : 0;
  at("most-alike").textContent = `Most alike are \u201c${texts[best[0]]}\u201d and \u201c${texts[best[1]]}\u201d: `
    + x[best[0]][best[1]].toFixed(4) + (before ? `. The switches change a cosine by ${digits(moved, 2)} at most.` : ".");
  const rows = x.map((row, i) => [`${i + 1}. ${texts[i]}`, ...row.map(v => v.toFixed(3))]);
  const grid = table("Cosines of the texts with each other", ["text", ...texts.map((_, i) => ">" + (i + 1))], rows);
  grid.querySelectorAll("tbody tr").forEach((line, i) => line.querySelectorAll("td").forEach((cell, j) => {
    cell.className = "number tint";
    const strength = Math.min(Math.abs(x[i][j]), 1) * 0.45;
    cell.style.background = x[i][j] < 0 ? `rgba(179, 71, 0, ${strength})` : `rgba(11, 92, 173, ${strength})`;
  }));
  at("cosines").replaceChildren(grid);
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(explain, 250);  // an arrow key goes through many choices
}

async function begin() {
  try {
    model = await ask("model");
  } catch (e) {
    trouble(e);
    return;
  }
  set_ramp(model.ramp);
  at("lead").textContent = model.lead;
  document.title = "refembed explain: " + model.lead.split(":")[0];
  at("text").value = model.texts[0] || "";
  at("texts").value = model.texts.join("\n");
  options(at("pooling"), model.poolings);
  options(at("weights"), model.weights);
  at("pooling").disabled = model.poolings.length < 2;
  at("weights").disabled = model.weights.length < 2;
  await explain();
}

at("form").addEventListener("submit", event => { event.preventDefault(); explain(); });
at("several-form").addEventListener("submit", event => { event.preventDefault(); compare(); });
at("text").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); explain(); }
});
for (const id of ["pooling", "weights", "fault"]) at(id).addEventListener("change", soon);
at("find").addEventListener("input", list_faults);
at("find").addEventListener("keydown", event => { if (event.key === "Enter") event.preventDefault(); });
at("undo").addEventListener("click", () => {
  for (const id of ["pooling", "weights", "fault", "find"]) at(id).value = "";
  list_faults();
  explain();
});
at("layer").addEventListener("change", async () => {
  try { await look(number); } catch (e) { trouble(e); }
});
at("leave").addEventListener("click", leave_out);
begin();
