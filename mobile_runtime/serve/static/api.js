// The server's API: models, frames of a video, and answers as they stream.

let key = new URLSearchParams(location.hash.slice(1)).get("key") ?? sessionStorage.getItem("key");
if (key) keepKey(key);
if (location.hash) history.replaceState(null, "", location.pathname);

export function keepKey(given) {
  key = given;
  sessionStorage.setItem("key", given);
}

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) throw new ApiError(response.status, await errorText(response));
  return response;
}

async function errorText(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

export async function listModels() {
  return (await (await call("v1/models")).json()).data.map((model) => model.id);
}

// {frames: [{seconds, image}], settings}: the frames that are read of a video, and the settings of
// its part by which they are.
export async function listFrames(file, most) {
  const query = most ? `?max_frames=${most}` : "";
  const headers = { "Content-Type": "application/octet-stream" };
  return (await call(`demo/frames${query}`, { method: "POST", headers, body: file })).json();
}

// Streams an answer: onDelta gets {reasoning_content} or {content}. Returns {reason, usage,
// timings}.
export async function streamAnswer(request, signal, onDelta) {
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const headers = { "Content-Type": "application/json" };
  const response = await call("v1/chat/completions", { method: "POST", headers, body, signal });
  const end = {};
  for await (const event of events(response.body)) {
    if (event.error) throw new ApiError(500, event.error.message);
    const [choice] = event.choices;
    if (choice) onDelta(choice.delta);
    if (choice?.finish_reason) end.reason = choice.finish_reason;
    if (event.usage) Object.assign(end, { usage: event.usage, timings: event.timings });
  }
  if (!end.reason) throw new ApiError(500, "The server ended before the answer did.");
  return end;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const data = block.startsWith("data: ") ? block.slice(6) : "";
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}
