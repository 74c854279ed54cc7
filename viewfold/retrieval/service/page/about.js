// What is served: the index's card.

import { Problem, address, fetched, hasKey } from "./api.js";
import { byId, count, el, facts, percent, show } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, BASE] = [400, 92, 74];

let histogram = null;

export function showAbout({ pair }) {
  const { bundle } = pair;
  const images = bundle.n - bundle.num_deleted;
  histogram = bundle.score_histogram;
  byId("served").textContent = [count(images, "image"), count(pair.labels.length, "label"), pair.domains.length > 1 ? count(pair.domains.length, "domain") : ""].filter(Boolean).join(", ");
  facts(byId("facts"), [
    ["Images", images.toLocaleString("en")],
    ["Labels", listed(pair.labels)],
    ["Domains", listed(pair.domains)],
    ["Index", `${bundle.factory}, ${bundle.metric}, ${bundle.dim} numbers an image (${bundle.part} features)`],
    ["Finds", `${percent(bundle.recall_at_10)} of the true ten nearest, in ${milliseconds(bundle.latency_ms)} when it was built`],
    ["Near copies", pair.base ? "told by hash and by the encoder from before adaptation" : "told by hash alone"],
    ["Encoder", code(pair.encoder_id)],
    ["Card", cardOf(bundle)],
    ["Bundle", code(bundle.id)],
    ["Version", pair.version],
    ["From", code(pair.source)],
    ["Built", when(bundle.created)],
    ["Loaded", when(pair.loaded)],
  ]);
  show(byId("about"), true);
  drawHistogram(null);
}

/** Mark how near the nearest image of the index is to the query; null for no query. */
export function drawHistogram(nearest) {
  const { low, high, counts } = histogram;
  const most = Math.max(...counts);
  show(byId("histogram"), most > 0);
  if (!most) return;
  const used = counts.map((n, bin) => [n, bin]).filter(([n]) => n > 0).map(([, bin]) => bin);
  const size = (high - low) / counts.length;
  const from = Math.min(low + used[0] * size, nearest ?? high) - 2 * size;
  const to = Math.min(high, Math.max(low + (used.at(-1) + 1) * size, nearest ?? low) + 2 * size);
  const x = (score) => ((score - from) / (to - from)) * WIDTH;
  const bars = used.map((bin) => {
    const tall = Math.max(1, (counts[bin] / most) * (BASE - 8));
    const left = low + bin * size;
    return shape("rect", { x: x(left) + 0.5, y: BASE - tall, width: Math.max(1, x(left + size) - x(left) - 1), height: tall });
  });
  const marks = nearest === null ? [] : [shape("line", { x1: x(nearest), x2: x(nearest), y1: 2, y2: BASE })];
  const ends = [label(2, "start", from.toFixed(2)), label(WIDTH - 2, "end", to.toFixed(2))];
  byId("histogram").querySelector("svg").replaceChildren(...bars, shape("path", { d: `M0 ${BASE}H${WIDTH}` }), ...marks, ...ends);
  const yours = nearest === null ? "" : ` The line is your image, at ${nearest.toFixed(3)}.`;
  byId("histogram-words").textContent = `How near the images of the index are to their nearest other, as cosine.${yours}`;
}

/** Share of the index's own images whose nearest other is no nearer than `score`; those of its bin count in full. */
export function shareBelow(score) {
  const { low, high, counts } = histogram;
  const total = counts.reduce((sum, n) => sum + n, 0);
  const size = (high - low) / counts.length;
  const below = counts.reduce((sum, n, bin) => sum + (low + bin * size <= score ? n : 0), 0);
  return total ? below / total : 1;
}

/** A link that saves the encoder's card; null for an index without one. */
function cardOf({ files }) {
  const name = Object.keys(files).find((file) => file.startsWith("card."));
  if (!name) return null;
  const link = el("a", { href: address("v1/card"), download: name, textContent: "what the encoder ignores, and what it predicts" });
  link.addEventListener("click", (event) => hasKey() && saveWithKey(event, name));
  return link;
}

/** A link brings no key, so the file is fetched first. */
async function saveWithKey(event, name) {
  event.preventDefault();
  const link = event.currentTarget;
  try {
    const href = URL.createObjectURL(await fetched("v1/card"));
    el("a", { href, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10_000); // the browser may not have begun to read it
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    link.replaceWith(error.message);
  }
}

function listed(values) {
  if (values.length <= 8) return values.join(", ");
  const rest = el("details", {}, el("summary", { textContent: `${count(values.length, "value", "in all")}: ${values.slice(0, 5).join(", ")}, ...` }), values.join(", "));
  return rest;
}

function milliseconds(ms) {
  return ms < 1 ? `${ms.toFixed(2)} ms` : `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
}

const code = (text) => el("code", { textContent: text });

function when(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function label(x, anchor, text) {
  const node = shape("text", { x, y: HEIGHT - 4, "text-anchor": anchor });
  node.textContent = text;
  return node;
}
