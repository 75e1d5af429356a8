// Asks a server by the page's own module, with what a browser would give it.
// Arguments: the module, the server's URL with its fragment, a video, a message in JSON.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [module, address, video, question] = process.argv.slice(2);
const kept = new Map();
globalThis.location = new URL(address);
globalThis.history = { replaceState: () => {} };
globalThis.sessionStorage = {
  getItem: (name) => kept.get(name) ?? null,
  setItem: (name, value) => kept.set(name, value),
};
const fetched = globalThis.fetch;
globalThis.fetch = (path, options) => fetched(new URL(path, address), options);

const api = await import(pathToFileURL(module));
const [model] = await api.listModels();
const { frames, settings } = await api.listFrames(readFileSync(video), 4);
const said = { content: "", reasoning_content: "" };
const request = { model, messages: [JSON.parse(question)], temperature: 0, max_tokens: 6 };
const end = await api.streamAnswer(request, undefined, (delta) => {
  for (const name of Object.keys(said)) said[name] += delta[name] ?? "";
});
const refused = await api.streamAnswer({ ...request, n: 2 }, undefined, () => {}).catch((e) => e);
console.log(JSON.stringify({ model, frames, settings, said, end, refused: refused.message }));
