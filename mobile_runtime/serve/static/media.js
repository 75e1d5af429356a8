// Pictures and videos of the next question: dropped, pasted, chosen or taken.

import { listFrames } from "./api.js";

const list = document.getElementById("attached");
let attached = [];

// Each is {kind, name, url, frames, settings}; url is a data: URL.
export function takeAttached() {
  const taken = attached;
  attached = [];
  list.replaceChildren();
  return taken;
}

export async function attach(files, mostFrames, tell) {
  for (const file of files) {
    const kind = file.type.startsWith("video/") ? "video" : "image";
    try {
      tell(`Reading ${file.name} …`);
      const item = { kind, name: file.name, url: await dataUrl(file) };
      if (kind === "video") Object.assign(item, await listFrames(file, mostFrames));
      attached.push(item);
      list.append(entry(item));
      tell(kind === "video" ? `${item.frames.length} frames of ${file.name} are read.` : "");
    } catch (error) {
      tell(`${file.name}: ${error.message}`, true);
    }
  }
}

function entry(item) {
  const element = document.createElement("li");
  const remove = document.createElement("button");
  remove.type = "button";
  remove.textContent = "×";
  remove.ariaLabel = `Remove ${item.name}`;
  remove.onclick = () => {
    attached = attached.filter((other) => other !== item);
    element.remove();
    document.getElementById("question").focus();
  };
  element.append(preview(item), remove);
  return element;
}

// A picture, or the strip of a video's frames with their times.
export function preview(item) {
  if (item.kind === "image") {
    const image = new Image();
    Object.assign(image, { src: item.url, alt: item.name, className: "picture" });
    return image;
  }
  const strip = document.createElement("div");
  strip.className = "strip";
  strip.tabIndex = 0;
  strip.role = "group";
  strip.ariaLabel = `${item.frames.length} frames of ${item.name}`;
  strip.append(
    ...item.frames.map(({ seconds, image }) => {
      const figure = document.createElement("figure");
      const picture = new Image();
      Object.assign(picture, { src: image, alt: "", loading: "lazy" });
      const caption = document.createElement("figcaption");
      caption.textContent = `${seconds.toFixed(1)} s`;
      figure.append(picture, caption);
      return figure;
    }),
  );
  return strip;
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("the file cannot be read."));
    reader.readAsDataURL(file);
  });
}

// The part of a message that shows it.
export function asPart({ kind, url, settings }) {
  return kind === "image"
    ? { type: "image_url", image_url: { url } }
    : { type: "video_url", video_url: { url }, ...settings };
}
