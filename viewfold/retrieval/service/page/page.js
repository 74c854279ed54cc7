// The page: an image and settings in, demonstrations out. The other files each know one part of it.

import { Problem, ask, hasKey, useKey, whenSwapped } from "./api.js";
import { drawHistogram, shareBelow, showAbout } from "./about.js";
import { byId, bytes, count, show } from "./dom.js";
import { colours, column, paint, placeQuery, showMap, startMap } from "./map.js";
import { forget } from "./pictures.js";
import { showPrompt, startPrompt } from "./prompt.js";
import { fileOf, offer, query, startQuery } from "./query.js";
import { startRecord } from "./record.js";
import { showItems, showLeftOut, showVerdict } from "./results.js";
import { offerSettings, settings, startSettings } from "./settings.js";

const POINTS = 3000;
const NOT_COMPARED = ["filter", "key", "sha256", "group"]; // as in the histogram of the index
const UNLIKE = 0.02; // of the index's own images; an image less like it than they are gets a word of warning

let demos = null;
let connecting = false;
let mostBytes = Infinity; // that the service takes in one request
let running = null;
let waiting = 0;
let repeating = 0;
let again = connect;

async function connect() {
  connecting = true;
  byId("status").textContent = "Connecting to the index";
  await carefully(connect, async () => {
    const { indexes } = await ask("v1/indexes");
    const [index] = indexes;
    mostBytes = index.limits.max_body_bytes;
    offerSettings(index, soon);
    showAbout(index);
    const points = await ask(`v1/map?limit=${Math.min(POINTS, index.limits.max_map)}`);
    showMap(points, index.pair.bundle.map_explained);
    offer(points, askWith);
    byId("status").textContent = "";
    connecting = false;
    if (query()) await answer();
  });
  if (!connecting) return;
  connecting = false;
  busy(false);
}

/** Ask once the visitor has stopped turning knobs. */
function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(answer, 250);
}

async function answer() {
  running?.abort();
  clearTimeout(repeating);
  running = new AbortController();
  const { signal } = running;
  if (!query()) return clear();
  busy(true);
  if (connecting) return; // it asks itself, once it knows the settings
  const asked = query();
  const wanted = settings();
  byId("status").textContent = "Looking for demonstrations";
  await carefully(answer, async () => {
    checkSize(asked.data.length);
    const start = performance.now();
    const found = await ask("v1/demonstrations", { image: asked.data, ...wanted, explain: true }, signal);
    render(found, asked, performance.now() - start);
    await showPrompt(asked, wanted, signal);
    show(byId("prompt"), true);
  });
  if (running?.signal === signal) busy(false);
}

/** Said before it is sent: a service that refuses a body half-way looks as if it had broken down. */
function checkSize(length) {
  if (length + 10_000 < mostBytes) return;
  const most = bytes(0.75 * mostBytes); // an image travels as base64
  throw new Problem(`This image is too large: the service takes up to ${most}. Make it smaller first.`, { status: 413 });
}

function render({ demonstrations, place, explained }, asked, milliseconds) {
  const others = explained.filter(({ stage }) => !NOT_COMPARED.includes(stage));
  const near = [...demonstrations.items, ...others].map(({ score }) => score);
  const nearest = near.length ? Math.max(...near) : null;
  const share = nearest === null ? 1 : shareBelow(nearest);
  demos = demonstrations;
  showVerdict(demos, share < UNLIKE ? unlike(share) : null);
  placeQuery(place, demos.items);
  showLeftOut(demos, explained);
  drawHistogram(nearest);
  for (const id of ["demos", "left-out"]) show(byId(id), true);
  byId("status").textContent = `${count(demos.items.length, "demonstration")} for ${asked.name}, in ${Math.round(milliseconds)} ms`;
}

const unlike = (share) =>
  "nothing that the filters leave is much like this image: " +
  `${share ? `only ${(100 * share).toFixed(1)} %` : "none"} of the images of the index stand as far from their nearest`;

function hide() {
  for (const id of ["demos", "prompt", "left-out"]) show(byId(id), false);
}

function clear() {
  demos = null;
  running = null;
  busy(false);
  hide();
  show(byId("problem"), false);
  placeQuery(null, []);
  drawHistogram(null);
  byId("status").textContent = "";
}

const busy = (yes) => {
  byId("answer").classList.toggle("busy", yes);
  byId("answer").ariaBusy = String(yes);
};

/** Run `work`; what goes wrong is said, with `retry` at hand. */
async function carefully(retry, work) {
  try {
    await work();
    complain(null);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    again = retry;
    if (retry === answer) hide(); // what stands there is of another question
    if (error.status === 401) askForKey();
    else complain(error);
  }
}

function complain(problem) {
  clearTimeout(repeating);
  show(byId("problem"), problem);
  show(byId("key-form"), false);
  if (!problem) return;
  byId("status").textContent = "";
  byId("problem-words").textContent = problem.message;
  byId("problem-id").textContent = problem.requestId ? `Request ${problem.requestId}` : "";
  show(byId("retry"), problem.status === 0 || problem.status === 429 || problem.status >= 500);
  if (problem.retryAfter) repeating = setTimeout(() => byId("problem").hidden || again(), 1000 * problem.retryAfter);
}

function askForKey() {
  byId("status").textContent = hasKey() ? "That key is not accepted." : "This service asks for a key.";
  byId("served").textContent = "A key is needed";
  show(byId("key-form"), true);
  byId("key").focus();
}

function enterKey() {
  useKey(byId("key").value.trim());
  again();
}

async function askWith(key) {
  await carefully(() => askWith(key), async () => take(await fileOf(key)));
  byId("file").focus();
}

function startTheme() {
  const button = byId("theme");
  const root = document.documentElement;
  const dark = () => getComputedStyle(root).colorScheme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const name = () => (button.textContent = dark() ? "Light" : "Dark");
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("viewfold-theme", root.dataset.theme);
    name();
    paint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
}

const take = startQuery(answer, (words) => complain(new Problem(words, { status: 422 })));
startTheme();
startSettings(soon);
startPrompt(soon);
startRecord(askWith);
startMap(() => demos && showItems(demos, colours(), column()));
byId("ask").addEventListener("submit", (event) => event.preventDefault());
byId("retry").addEventListener("click", () => again());
byId("key-use").addEventListener("click", enterKey);
byId("key").addEventListener("keydown", (event) => event.key === "Enter" && enterKey());
whenSwapped(() => {
  forget();
  byId("swapped").textContent = `The index was exchanged at ${new Date().toLocaleTimeString("en-GB", { timeStyle: "short" })}; answers are from the new one.`;
  connect();
});
connect();
