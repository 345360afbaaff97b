// What clients of OpenAI and Ollama in JavaScript make of a server, as JSON: node clients.mjs ADDRESS TEXTS [ollama]
// Run from a folder where `npm install openai ollama` has been.

import { Ollama } from "ollama";
import OpenAI from "openai";

const [address, given, other] = process.argv.slice(2);
const input = JSON.parse(given);
const openai = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 });

async function error(ask) {
  try {
    await ask();
    return null;
  } catch (e) {
    return { name: e.constructor.name, status: e.status ?? e.status_code, type: e.type, message: e.message };
  }
}

const embed = (options) => openai.embeddings.create({ model: "some-model", input, ...options });
const unasked = await embed({}); // base64 under the hood, decoded
const floats = await embed({ encoding_format: "float" });
const base64 = await embed({ encoding_format: "base64" });
const one = await embed({ input: input[1] });
const ids = await embed({ input: [101, 7592, 102] });
const atOnce = await Promise.all(input.map((text) => embed({ input: text })));
const models = await openai.models.list();

const said = {
  node: process.version,
  unasked,
  floats,
  base64: base64.data.map((d) => d.embedding),
  one: one.data[0].embedding,
  ids,
  atOnce: atOnce.map((answer) => answer.data[0].embedding),
  models: models.data.map((m) => m.id),
  empty: await error(() => embed({ input: [] })),
  long: await error(() => embed({ input: "a ".repeat(600) })),
  chat: await error(() => openai.chat.completions.create({ model: "m", messages: [{ role: "user", content: "a" }] })),
};

if (other) {
  const ollama = new Ollama({ host: address });
  said.ollama = await ollama.embed({ model: "some-model", input });
  said.older = await ollama.embeddings({ model: "some-model", prompt: input[0] });
  said.listed = await ollama.list();
  said.refused = await error(() => ollama.embed({ model: "m", input: "a ".repeat(600), truncate: false }));
}

console.log(JSON.stringify(said));
