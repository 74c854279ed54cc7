// The demonstrations of an image, and what was left out.

import { byId, count, el, percent, show } from "./dom.js";
import { dot } from "./colours.js";
import { lazy } from "./pictures.js";
import { openRecord } from "./record.js";

const FEW = 6;

const WORDS = {
  domain: "by the domain filter",
  label: "by the label filter",
  key: "the image itself",
  sha256: "the same file",
  group: "of its group",
  phash: "that look the same",
  duplicate: "near copies",
  min_p_match: "too improbable",
};

/** Most similar first, wherever they stand in the prompt. */
const ranked = (demos) => [...demos.items].sort((a, b) => a.rank - b.rank);

/** The cards; `colours` maps values of the column `by` to colours. */
export function showItems(demos, colours, by) {
  byId("items").replaceChildren(...ranked(demos).map((item) => el("li", {}, card(item, colours, by))));
}

function card(item, colours, by) {
  const label = el("span", { className: "label" }, ...mark(item, "label", colours, by), item.label);
  const domain = el("span", { className: "domain" }, ...mark(item, "domain", colours, by), item.domain ?? "");
  const words = el("span", { className: "words" }, label, domain, figure("cosine", item.score.toFixed(3)));
  if (item.p_match !== null) words.append(figure("same label", percent(item.p_match)));
  words.append(el("meter", { min: 0, max: 1, value: Math.max(0, item.p_match ?? item.score), ariaHidden: "true" }));
  const frame = el("span", { className: "frame" }, lazy(item.key));
  const button = el("button", { type: "button", className: "item", title: item.reason }, frame, words);
  button.addEventListener("click", () => openRecord(item.key, item.label));
  return button;
}

const figure = (name, value) => el("span", { className: "figure" }, el("span", { textContent: name }), " ", el("span", { textContent: value }));

const mark = (item, column, colours, by) => (column === by && item[column] !== null ? [dot(colours.get(item[column]))] : []);

/** What the demonstrations say together, and what a person should know of them. */
export function showVerdict(demos, unlike) {
  const counts = new Map();
  for (const { label } of ranked(demos)) counts.set(label, (counts.get(label) || 0) + 1);
  const [first, ...others] = [...counts].sort((a, b) => b[1] - a[1]);
  const vote = byId("vote");
  if (!first) vote.textContent = "There are none to show.";
  else if (!others.length) vote.replaceChildren(many(first[1], "All"), strong(first[0]), ".");
  else vote.replaceChildren(`${first[1]} of ${demos.items.length} are `, strong(first[0]), `; ${rest(others)}.`);
  const warnings = [...demos.warnings, ...(unlike ? [unlike] : [])];
  byId("warnings").replaceChildren(...warnings.map((text) => el("li", { textContent: text })));
}

const many = (n, all) => (n === 1 ? "It is " : `${all} ${n} are `);

const strong = (text) => el("strong", { textContent: text });

function rest(others) {
  const named = others.slice(0, 4).map(([label, n]) => `${n} ${label}`);
  const more = others.length - named.length;
  return named.join(", ") + (more > 0 ? ` and ${count(more, "other label")}` : "");
}

/** Images near the query that were kept back, and how many in all. */
export function showLeftOut(demos, explained) {
  const counts = Object.entries(demos.excluded).filter(([, n]) => n > 0);
  byId("left-out-counts").replaceChildren(
    ...counts.map(([name, n]) => el("li", {}, el("b", { textContent: n.toLocaleString("en") }), ` ${WORDS[name] ?? `by ${name}`}`)),
  );
  const near = explained.filter(({ stage }) => stage !== "chosen" && stage !== "rank");
  byId("left-out-lead").textContent =
    counts.length || near.length
      ? "Kept back, because they would give the answer away or because a setting says so. The nearest of them:"
      : "Nothing near this image had to be kept back.";
  const list = byId("left-out-items");
  const draw = (shown) => list.replaceChildren(...shown.map((one) => el("li", {}, leftOut(one))));
  draw(near.slice(0, FEW));
  const more = byId("left-out-more");
  show(more, near.length > FEW);
  more.textContent = `Show ${count(near.length - FEW, "more", "more")}`;
  more.onclick = () => {
    draw(near);
    show(more, false);
    list.children[FEW].querySelector("button").focus();
  };
}

function leftOut(one) {
  const why = el("span", { className: "soft", textContent: one.reason });
  const words = el("span", { className: "words" }, el("span", {}, strong(one.label ?? "no label"), ` ${one.score.toFixed(3)}`), why);
  const button = el("button", { type: "button" }, lazy(one.key), words);
  button.addEventListener("click", () => openRecord(one.key, one.label));
  return button;
}
