// The images of the index in two dimensions, with the query among them.

import { byId, chosen, count, el, show } from "./dom.js";
import { dot, palette } from "./colours.js";
import { load } from "./pictures.js";
import { openRecord } from "./record.js";

const NEAR = 16; // pixels from a point at which the pointer is on it
const EDGE = 18;

let points = null;
let asked = { place: null, items: [] };
let only = null; // the one value that is not dimmed
let screen = []; // where each point lies on the canvas
let onColours = () => {};

export const column = () => chosen("colour");

export function startMap(whenColoursChange) {
  onColours = whenColoursChange;
  for (const input of document.querySelectorAll("input[name=colour]")) {
    input.addEventListener("change", () => {
      only = null;
      redraw();
    });
  }
  new ResizeObserver(paint).observe(byId("canvas"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  const canvas = byId("canvas");
  canvas.addEventListener("pointermove", (event) => tip(under(event)));
  canvas.addEventListener("pointerleave", () => tip(-1));
  canvas.addEventListener("click", (event) => {
    const place = under(event);
    if (place >= 0) openRecord(points.key[place], points.label[place]);
  });
}

/** Show these points of the index, whose map tells `explained` of the variance. */
export function showMap(found, explained) {
  points = found;
  const shown = found.key.length < found.total ? `${found.key.length.toLocaleString("en")} of ${count(found.total, "image")}` : count(found.total, "image");
  byId("map-lead").textContent = `${shown}, like near like. Two dimensions hold ${(100 * explained).toFixed(0)} % of how they differ, so neighbours here may lie apart in the index.`;
  show(byId("map"), found.key.length > 0);
  show(byId("colour"), new Set(found.domain).size > 1);
  redraw();
}

/** Mark the query and its demonstrations; nulls for none. */
export function placeQuery(place, items) {
  asked = { place, items };
  only = null;
  redraw();
}

/** Values of the coloured column to CSS variables: those of the demonstrations first. */
export function colours() {
  const nearest = [...asked.items].sort((a, b) => a.rank - b.rank);
  return palette(column(), points?.[column()] ?? [], nearest.map((item) => item[column()]));
}

const dimmed = (value) => only !== null && value !== only;

function redraw() {
  onColours();
  if (!points) return;
  legend();
  paint();
}

function legend() {
  const found = colours();
  const entries = [...found].map(([value, variable]) => {
    const button = el("button", { type: "button", ariaPressed: String(only === value) }, dot(variable), value);
    button.addEventListener("click", () => {
      only = only === value ? null : value;
      legend();
      paint();
      [...byId("legend").querySelectorAll("button")].find((one) => one.textContent === value)?.focus();
    });
    return el("li", {}, button);
  });
  const others = new Set(points[column()].filter((value) => value !== null && !found.has(value))).size;
  if (others) entries.push(el("li", {}, el("span", {}, dot(), count(others, `other ${column()}`))));
  if (asked.place) entries.unshift(el("li", {}, el("span", {}, el("span", { className: "dot query" }), "your image")));
  byId("legend").replaceChildren(...entries);
  const among = asked.place ? `; your image lies among ${[...found.keys()].slice(0, 3).join(", ")}` : "";
  byId("canvas").ariaLabel = `Map of ${count(points.key.length, "image")}, coloured by ${column()}${among}`;
}

export function paint() {
  const canvas = byId("canvas");
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!points || !width) return;
  const ratio = devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const draw = canvas.getContext("2d");
  draw.scale(ratio, ratio);
  const at = scale(width, height);
  screen = points.x.map((x, place) => at(x, points.y[place]));
  const found = colours();
  const resolved = new Map([...found].map(([value, variable]) => [value, css(variable)]));
  const other = css("--other");
  // Those without a colour of their own lie below, so that they hide nothing.
  const layers = [(value) => !resolved.has(value), (value) => resolved.has(value)];
  for (const belongs of layers) {
    points[column()].forEach((value, place) => {
      if (!belongs(value)) return;
      draw.globalAlpha = dimmed(value) ? 0.12 : 0.8;
      disc(draw, screen[place], 3, resolved.get(value) ?? other);
    });
  }
  draw.globalAlpha = 1;
  paintAsked(draw, at, resolved, other);
}

function paintAsked(draw, at, resolved, other) {
  const ink = css("--ink");
  const places = new Map(points.key.map((key, place) => [key, place]));
  for (const item of asked.items) {
    const place = places.get(item.key);
    if (place === undefined) continue; // the map is a sample
    disc(draw, screen[place], 6.5, ink);
    disc(draw, screen[place], 5, resolved.get(item[column()]) ?? other);
  }
  if (!asked.place) return;
  const [x, y] = at(...asked.place);
  for (const [colour, wide] of [[css("--sheet"), 6], [ink, 2.5]]) {
    draw.strokeStyle = colour;
    draw.lineWidth = wide;
    draw.beginPath();
    draw.arc(x, y, 9, 0, 2 * Math.PI);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      draw.moveTo(x + 9 * dx, y + 9 * dy);
      draw.lineTo(x + 15 * dx, y + 15 * dy);
    }
    draw.stroke();
  }
}

function disc(draw, [x, y], radius, colour) {
  draw.fillStyle = colour;
  draw.beginPath();
  draw.arc(x, y, radius, 0, 2 * Math.PI);
  draw.fill();
}

/** From the map's units to pixels, the same in both directions; the query is always in view. */
function scale(width, height) {
  const [xs, ys] = [0, 1].map((axis) => range([...(axis ? points.y : points.x), ...(asked.place ? [asked.place[axis]] : [])]));
  const unit = Math.min((width - 2 * EDGE) / (xs.size || 1), (height - 2 * EDGE) / (ys.size || 1));
  return (x, y) => [width / 2 + (x - xs.middle) * unit, height / 2 - (y - ys.middle) * unit];
}

function range(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return { size: high - low, middle: (high + low) / 2 };
}

const probe = document.createElement("span");

function css(variable) {
  if (!probe.isConnected) document.body.append(probe);
  probe.hidden = true;
  probe.style.color = `var(${variable})`;
  return getComputedStyle(probe).color;
}

function under(event) {
  const { left, top } = byId("canvas").getBoundingClientRect();
  let [best, nearest] = [-1, NEAR];
  screen.forEach(([x, y], place) => {
    if (dimmed(points[column()][place])) return;
    const far = Math.hypot(x - (event.clientX - left), y - (event.clientY - top));
    if (far < nearest) [best, nearest] = [place, far];
  });
  return best;
}

function tip(place) {
  const node = byId("tip");
  show(node, place >= 0);
  byId("canvas").style.cursor = place >= 0 ? "pointer" : "";
  if (place < 0) return;
  const words = [points.label[place] ?? "no label", points.domain[place]].filter(Boolean);
  node.querySelector("span").textContent = words.join(", ");
  load(node.querySelector("img"), points.key[place]);
  const [x, y] = screen[place];
  const { clientWidth, clientHeight } = byId("canvas");
  node.style.left = `${Math.max(4, Math.min(x + 12, clientWidth - node.offsetWidth - 4))}px`;
  node.style.top = `${y + 12 + node.offsetHeight > clientHeight ? y - node.offsetHeight - 12 : y + 12}px`;
}
