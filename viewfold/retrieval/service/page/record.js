// One image of the index, in a dialog.

import { Problem, ask } from "./api.js";
import { byId, el, facts } from "./dom.js";
import { load } from "./pictures.js";

const SHOWN = { key: "key", label: "label", domain: "domain", group: "group", shard: "shard" };

let shown = null;

/** Wire up the dialog; `askWith` is called with a key. */
export function startRecord(askWith) {
  const dialog = byId("record");
  byId("record-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  byId("record-ask").addEventListener("click", () => {
    dialog.close();
    askWith(shown);
  });
}

export async function openRecord(key, label) {
  shown = key;
  byId("record-title").textContent = label ?? "No label";
  byId("record-image").alt = label ?? key;
  facts(byId("record-facts"), [["key", el("code", { textContent: key })]]);
  byId("record").showModal();
  load(byId("record-image"), key);
  try {
    const found = await ask(`v1/records/${encodeURIComponent(key)}`);
    if (shown !== key) return;
    const rows = Object.entries(SHOWN).map(([name, title]) => [title, found[name] && el("code", { textContent: found[name] })]);
    facts(byId("record-facts"), rows);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    byId("record-facts").append(el("dt", { textContent: "more" }), el("dd", { textContent: error.message }));
  }
}
