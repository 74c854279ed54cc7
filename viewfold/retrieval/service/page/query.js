// The image that is asked about: chosen, dropped, pasted, or taken from the index.

import { byId, bytes, el, show } from "./dom.js";
import { path, lazy } from "./pictures.js";
import { fetched } from "./api.js";

let current = null;
let taken = 0; // counts files, of which the last one counts

/** `{ data, name }` with `data` in base64, or null. */
export const query = () => current;

/** Wire up the inputs; `onChange` is called with each new image, `onProblem` with what is none. */
export function startQuery(onChange, onProblem) {
  const take = async (file) => {
    if (!file) return;
    if (!file.type.startsWith("image/")) {
      onProblem(`${file.name || "This"} is not an image. Take a picture such as a JPEG, PNG or WebP file.`);
      return;
    }
    const turn = ++taken;
    const data = await base64(file);
    if (turn !== taken) return; // another one came while this one was read
    current = { data, name: file.name || "pasted image" };
    preview(file);
    onChange();
  };
  byId("file").addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = ""; // the same file may be chosen again
  });
  byId("clear").addEventListener("click", () => {
    taken += 1;
    current = null;
    preview(null);
    onChange();
    byId("file").focus();
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) take(file);
  });
  acceptDrops(take);
  return take;
}

function acceptDrops(take) {
  const over = (yes) => document.body.classList.toggle("over", yes);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || over(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    take(event.dataTransfer.files[0]);
  });
}

function preview(file) {
  const image = byId("preview");
  if (image.src) URL.revokeObjectURL(image.src);
  show(image, file);
  show(byId("clear"), file);
  image.onerror = () => show(image, false); // the service may read what the browser cannot
  if (file) image.src = URL.createObjectURL(file);
  else image.removeAttribute("src");
  byId("drop-title").textContent = file ? file.name || "Pasted image" : "Choose an image";
  byId("drop-help").textContent = file ? bytes(file.size) : "or drop it anywhere, or paste it";
}

function base64(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}

/** The picture that the index keeps of `key`, as a file. */
export async function fileOf(key) {
  const blob = await fetched(path(key));
  return new File([blob], `${key.split("/").pop()}.jpg`, { type: blob.type });
}

/** Offer images of the index: of six labels, where it has as many. */
export function offer(points, askWith) {
  const places = [...points.key.keys()].sort((a, b) => (points.key[a] < points.key[b] ? -1 : 1));
  const labels = new Set();
  const picked = places.filter((place) => !labels.has(points.label[place]) && labels.add(points.label[place]));
  const step = Math.max(1, Math.floor(picked.length / 6));
  const shown = picked.filter((_, place) => place % step === 0).slice(0, 6);
  byId("samples").querySelector("ul").replaceChildren(
    ...shown.map((place) => {
      const label = points.label[place] ?? "an unlabelled image";
      const button = el("button", { type: "button", title: label }, lazy(points.key[place], label));
      button.addEventListener("click", () => askWith(points.key[place]));
      return el("li", {}, button);
    }),
  );
  show(byId("samples"), shown.length > 0);
}
