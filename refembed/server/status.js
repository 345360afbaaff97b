"use strict";
const at = id => document.getElementById(id);
const settings = JSON.parse(at("settings").textContent);
let key = "", kind = settings.kind, timer = 0;

async function ask(path, body) {
  const headers = key ? {"Authorization": "Bearer " + key} : {};
  const how = body === undefined ? {headers} : {method: "POST", headers, body: JSON.stringify(body)};
  const answer = await fetch(path, {...how, cache: "no-store", credentials: "omit"});
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error.message);
  return found;
}

async function refresh() {
  clearTimeout(timer);
  try {
    const found = await ask("status");
    for (const [name, value] of Object.entries(found)) if (at(name)) at(name).textContent = String(value);
    at("title").textContent = document.title = "refembed: " + found.model;
    kind = found.pooling === "rank" ? "rank" : found.pooling === "none" ? "none" : "pair";
    at("trouble").textContent = "";
    open_box();
  } catch (e) {
    at("trouble").textContent = e instanceof TypeError ? "The server does not answer." : e.message;
    if (settings.guarded && !(e instanceof TypeError)) return;
  }
  timer = setTimeout(refresh, document.hidden ? 10000 : 2000);
}

function open_box() {
  at("box").hidden = at("inside").hidden = false;
  if (at("ask")) at("door").hidden = true;
  if (kind === "rank") { at("name-a").textContent = "Query"; at("name-b").textContent = "Document"; }
}

function show_tokens(side, tokens) {
  at("count-" + side).textContent = tokens.length + (tokens.length === 1 ? " token" : " tokens");
  at("tokens-" + side).replaceChildren(...tokens.map(({id, piece}) => {
    const box = document.createElement("span"), number = document.createElement("small");
    box.className = "token";
    const bytes = b => "\\x" + b.toString(16).padStart(2, "0");
    box.textContent = typeof piece === "string" ? piece : piece.map(bytes).join("");
    number.textContent = " " + id;
    box.append(number);
    return box;
  }));
}

function cosine(x, y) {
  let xy = 0, xx = 0, yy = 0;
  for (let i = 0; i < x.length; i++) { xy += x[i] * y[i]; xx += x[i] * x[i]; yy += y[i] * y[i]; }
  return xx && yy ? xy / Math.sqrt(xx * yy) : xx === yy ? 1 : 0;
}

async function measure(a, b) {
  if (kind === "rank") {
    const found = await ask("v1/rerank", {query: a, documents: [b]});
    return [found.results[0].relevance_score, "score, as the model's head gives it"];
  }
  if (kind === "none") return [null, "With pooling none each token has a vector, and a text has none."];
  const found = await ask("v1/embeddings", {input: [a, b], encoding_format: "float"});
  return [cosine(found.data[0].embedding, found.data[1].embedding), "cosine: 1 alike, 0 unrelated"];
}

async function compare() {
  const a = at("a").value, b = at("b").value;
  at("go").disabled = true;
  at("answer").textContent = at("meaning").textContent = "";
  try {
    const options = {add_special: kind !== "rank", parse_special: kind !== "rank", with_pieces: true};
    for (const [side, text] of [["a", a], ["b", b]])
      show_tokens(side, (await ask("tokenize", {content: text, ...options})).tokens);
    const [value, meaning] = await measure(a, b);
    at("answer").textContent = value === null ? "" : value.toFixed(6);
    at("meaning").textContent = meaning;
    at("trouble").textContent = "";
  } catch (e) {
    at("trouble").textContent = e instanceof TypeError ? "The server does not answer." : e.message;
  }
  at("go").disabled = false;
}

function enter() { key = at("key").value; at("key").value = ""; refresh(); }

at("go").addEventListener("click", compare);
if (settings.guarded) {
  at("ask").hidden = false;
  at("enter").addEventListener("click", enter);
  at("key").addEventListener("keydown", e => { if (e.key === "Enter") enter(); });
} else {
  open_box();
  timer = setTimeout(refresh, 2000);
}
