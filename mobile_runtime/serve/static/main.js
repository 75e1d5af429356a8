// The conversation: questions go to every model, and each answers in a column of its own.

import { ApiError, keepKey, listModels, streamAnswer } from "./api.js";
import { asPart, attach, preview, takeAttached } from "./media.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed", "max_slice_nums"];
let models = [];
let histories = new Map(); // model -> messages of its conversation
let running = null; // AbortController of the answers that stream

function tell(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

async function start() {
  try {
    models = await listModels();
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 401)) return tell(error.message, true);
    $("key-dialog").showModal();
    $("key-dialog").onclose = () => {
      keepKey($("key").value);
      start();
    };
    return;
  }
  $("models").textContent = models.join(" and ");
  reset();
}

function reset() {
  running?.abort();
  histories = new Map(models.map((model) => [model, []]));
  for (const turn of document.querySelectorAll(".turn")) turn.remove();
  $("hint").hidden = false;
  takeAttached();
  tell("");
  $("question").focus();
}

function options() {
  const given = NUMBERS.filter((name) => $(name).value !== "");
  const numbers = Object.fromEntries(given.map((name) => [name, Number($(name).value)]));
  return { ...numbers, chat_template_kwargs: { enable_thinking: $("thinking").checked } };
}

function addTurn(kind, heading) {
  const turn = document.createElement("article");
  turn.className = `turn ${kind}`;
  const title = document.createElement("h2");
  title.textContent = heading;
  turn.append(title);
  return turn;
}

function show(element) {
  $("hint").hidden = true;
  $("log").append(element);
  $("log").scrollTop = $("log").scrollHeight;
}

// Keeps the end in view, unless the reader has scrolled away from it.
function follow() {
  const log = $("log");
  const below = log.scrollHeight - log.scrollTop - log.clientHeight;
  if (below < 120) log.scrollTop = log.scrollHeight;
}

function paragraph(className) {
  const element = document.createElement("p");
  element.className = className;
  return element;
}

function showQuestion(text, items) {
  const turn = addTurn("user", "You");
  const shown = document.createElement("div");
  shown.className = "shown";
  shown.append(...items.map(preview));
  const words = paragraph("text");
  words.textContent = text;
  turn.append(shown, words);
  show(turn);
}

// One model's answer on the page; `content` and `thoughts` are what it said so far.
class Answer {
  constructor(model) {
    this.model = model;
    this.content = this.thoughts = "";
    this.element = addTurn("assistant", models.length > 1 ? model : "Answer");
    this.element.ariaBusy = "true";
    this.folded = document.createElement("details");
    this.folded.className = "thoughts";
    this.folded.hidden = true;
    const summary = document.createElement("summary");
    summary.textContent = "Thoughts";
    this.thoughtText = paragraph("text");
    this.folded.append(summary, this.thoughtText);
    this.text = paragraph("text");
    this.note = paragraph("statistics");
    this.element.append(this.folded, this.text, this.note);
  }

  add(delta) {
    if (delta.reasoning_content) {
      this.thoughts += delta.reasoning_content;
      this.folded.hidden = false;
      this.thoughtText.textContent = this.thoughts;
    }
    if (delta.content) {
      this.content += delta.content;
      this.text.textContent = this.content;
    }
    follow();
  }

  end(note, isError = false) {
    this.element.ariaBusy = "false";
    this.note.textContent = note;
    this.note.classList.toggle("error", isError);
    follow();
  }
}

function statistics({ reason, usage, timings }) {
  const seconds = timings.decode_seconds;
  const speed = seconds > 0 ? `, ${(usage.completion_tokens / seconds).toFixed(1)} per second` : "";
  const { cached_tokens: cached } = usage.prompt_tokens_details;
  const parts = [
    `${usage.completion_tokens} tokens in ${seconds.toFixed(2)} s${speed}`,
    `vision ${timings.vision_seconds.toFixed(2)} s`,
    `prefill ${timings.prefill_seconds.toFixed(2)} s`,
    `prompt ${usage.prompt_tokens} tokens${cached ? `, ${cached} of them kept from before` : ""}`,
  ];
  if (timings.video_frames) parts.push(`${timings.video_frames} frames of video`);
  if (reason === "length") parts.push("cut: a limit was reached");
  return parts.join(" · ");
}

async function ask(model, question, answer, signal) {
  const messages = [...histories.get(model), question];
  const request = { model, messages, ...options() };
  try {
    const end = await streamAnswer(request, signal, (delta) => answer.add(delta));
    answer.end(statistics(end));
  } catch (error) {
    if (error.name !== "AbortError") {
      answer.end(error.message, true);
      if (error instanceof ApiError && error.status === 401) start();
      return false;
    }
    answer.end("stopped");
  }
  const said = { role: "assistant", content: answer.content };
  if (answer.thoughts) said.reasoning_content = answer.thoughts;
  histories.set(model, [...messages, said]);
  return true;
}

// Marks where two answers part: from there on their tokens differ.
function markDifference([first, second]) {
  const [a, b] = [[...first.content], [...second.content]];
  let same = 0;
  while (same < a.length && same < b.length && a[same] === b[same]) same += 1;
  if (same === a.length && same === b.length) return "Both answers are equal.";
  for (const [answer, letters] of [[first, a], [second, b]]) {
    const rest = document.createElement("mark");
    rest.textContent = letters.slice(same).join("");
    answer.text.replaceChildren(letters.slice(0, same).join(""), rest);
  }
  return `The answers part after ${same} letters.`;
}

async function send() {
  const text = $("question").value.trim();
  if (running || !models.length) return;
  const items = takeAttached();
  if (!text && !items.length) return tell("Write a question first.", true);
  $("question").value = "";
  tell("Answering …");
  showQuestion(text, items);
  const parts = [...items.map(asPart), ...(text ? [{ type: "text", text }] : [])];
  const question = { role: "user", content: parts };
  const answers = models.map((model) => new Answer(model));
  const row = document.createElement("div");
  row.className = models.length > 1 ? "pair" : "";
  row.append(...answers.map((answer) => answer.element));
  show(row);
  setRunning(new AbortController());
  const { signal } = running;
  const good = await Promise.all(answers.map((a) => ask(a.model, question, a, signal)));
  setRunning(null);
  const isWhole = good.every(Boolean);
  const parting = answers.length === 2 && isWhole ? ` ${markDifference(answers)}` : "";
  tell(isWhole ? `The answer is complete.${parting}` : "There is no answer.", !isWhole);
}

function setRunning(controller) {
  running = controller;
  $("stop").hidden = controller === null;
  $("send").disabled = controller !== null;
}

const take = (files) => attach([...files], Number($("max_frames").value), tell);

$("composer").onsubmit = (event) => {
  event.preventDefault();
  send();
};
$("question").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
};
document.onkeydown = (event) => {
  if (event.key === "Escape") running?.abort();
};
$("stop").onclick = () => running?.abort();
$("reset").onclick = reset;
for (const id of ["files", "camera"]) {
  $(id).onchange = async () => {
    await take($(id).files);
    $(id).value = ""; // the same file may be chosen again
  };
}
document.onpaste = (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    take(event.clipboardData.files);
  }
};
document.ondragover = (event) => {
  event.preventDefault();
  $("composer").classList.add("over");
};
document.ondragleave = () => $("composer").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  $("composer").classList.remove("over");
  take(event.dataTransfer.files);
};
start();
