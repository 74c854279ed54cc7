// How demonstrations are chosen, as the body of a request.

import { byId, count, el, show } from "./dom.js";

const MANY = 12; // from here on a list of values gets a search field
const SHOWN = 200; // a longer list is searched, not scrolled

const lists = { domains: new Set(), labels: new Set() };
let defaults = null;
let varied = false; // the slider knows tenths, the service may have been started with any number

/** The settings that differ from what the service does unasked, and `k`. */
export function settings() {
  const lam = varied ? Number((1 - Number(byId("diversity").value)).toFixed(2)) : defaults.diversity.lam;
  const wanted = {
    strategy: byId("strategy").value,
    order: byId("order").value,
    "quota.rule": byId("quota").value,
    "diversity.lam": lam,
  };
  const body = { k: clampedK() };
  for (const [path, value] of Object.entries(wanted)) if (value !== at(defaults, path)) put(body, path, value);
  for (const [name, values] of Object.entries(lists)) if (values.size) put(body, `filters.${name}`, [...values]);
  if (byId("group").value.trim()) body.group = byId("group").value.trim();
  return body;
}

/** Wire up the controls; `onChange` is called when a setting changes. */
export function startSettings(onChange) {
  byId("diversity").addEventListener("input", () => (varied = true));
  for (const id of ["k", "strategy", "quota", "order", "diversity", "group"]) {
    byId(id).addEventListener("input", () => changed(onChange));
  }
  byId("strategy").addEventListener("change", alone);
  byId("reset").addEventListener("click", () => {
    for (const values of Object.values(lists)) values.clear();
    for (const box of byId("filters").querySelectorAll("input[type=checkbox]")) box.checked = false;
    byId("group").value = "";
    fill();
    changed(onChange);
  });
  byId("settings").open = matchMedia("(min-width: 56rem)").matches;
}

/** What the service offers: its defaults, its limits, and the values to filter by. */
export function offerSettings({ defaults: served, limits, pair }, onChange) {
  const first = !defaults;
  defaults = served;
  byId("k").max = limits.max_k;
  if (first) fill(); // what a visitor has set stays when the index is exchanged
  choices("domains", pair.domains, onChange);
  choices("labels", pair.labels, onChange);
  summarise();
}

function fill() {
  byId("k").value = defaults.k;
  const [nearest] = byId("strategy").options; // one rule with two names: the service knows which is true of its encoder
  nearest.value = defaults.strategy === "random" ? "invariant" : defaults.strategy;
  byId("strategy").value = defaults.strategy;
  byId("quota").value = defaults.quota.rule;
  byId("order").value = defaults.order;
  byId("diversity").value = (1 - defaults.diversity.lam).toFixed(1);
  varied = false;
  alone();
}

function alone() {
  const random = byId("strategy").value === "random"; // which has no similarity to weigh variety against
  byId("diversity").disabled = random;
  if (!random || !Number(byId("diversity").value)) return;
  byId("diversity").value = 0;
  varied = true;
}

function changed(onChange) {
  summarise();
  onChange();
}

function summarise() {
  const variety = Number(byId("diversity").value);
  byId("diversity-value").textContent = variety ? variety.toFixed(1) : "none";
  byId("settings-summary").textContent = `${clampedK()} ${byId("strategy").selectedOptions[0].textContent}`;
  const filters = [lists.domains.size && count(lists.domains.size, "domain"), lists.labels.size && count(lists.labels.size, "label")];
  byId("filters-summary").textContent = filters.filter(Boolean).join(", ") || "none";
}

function clampedK() {
  const { value, max } = byId("k");
  return Math.min(Math.max(value === "" ? defaults.k : Math.round(Number(value)), 0), Number(max));
}

function choices(id, values, onChange) {
  const kept = new Set(values);
  for (const value of lists[id]) if (!kept.has(value)) lists[id].delete(value); // another index has other values
  const list = el("ul");
  const draw = (text = "") => {
    const fitting = values.filter((value) => value.toLowerCase().includes(text.toLowerCase()));
    list.replaceChildren(...fitting.slice(0, SHOWN).map((value) => choice(id, value, onChange)));
    if (!fitting.length) list.append(el("li", { className: "soft", textContent: "none like that" }));
    if (fitting.length > SHOWN) {
      list.append(el("li", { className: "soft", textContent: `and ${count(fitting.length - SHOWN, "other")}: type to find them` }));
    }
  };
  draw();
  const search = el("input", { type: "search", placeholder: `find one of ${values.length}`, autocomplete: "off" });
  search.setAttribute("aria-label", `Find ${id}`);
  search.addEventListener("input", () => draw(search.value));
  byId(id).replaceChildren(byId(id).querySelector("legend"), ...(values.length > MANY ? [search] : []), list);
  show(byId(id), values.length > 1);
  show(byId("filters"), !byId("domains").hidden || !byId("labels").hidden);
}

function choice(id, value, onChange) {
  const box = el("input", { type: "checkbox", value, name: id, checked: lists[id].has(value) });
  box.addEventListener("change", () => {
    if (box.checked) lists[id].add(value);
    else lists[id].delete(value);
    changed(onChange);
  });
  return el("li", {}, el("label", {}, box, value));
}

const at = (tree, path) => path.split(".").reduce((node, name) => node?.[name], tree);

function put(tree, path, value) {
  const names = path.split(".");
  const last = names.pop();
  const node = names.reduce((inner, name) => (inner[name] ??= {}), tree);
  node[last] = value;
}
