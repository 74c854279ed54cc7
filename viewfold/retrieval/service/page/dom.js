// Building elements from text: nothing here ever reads markup out of a string.

export const byId = (id) => document.getElementById(id);

export function el(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function show(node, yes) {
  node.hidden = !yes;
}

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

export const percent = (share) => `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`;

export const bytes = (n) => (n < 1e6 ? `${Math.max(1, Math.round(n / 1e3))} kB` : `${(n / 1e6).toFixed(1)} MB`);

export function facts(list, rows) {
  list.replaceChildren(
    ...rows.filter(([, value]) => value).flatMap(([name, value]) => [
      el("dt", { textContent: name }),
      el("dd", {}, value),
    ]),
  );
}

export function chosen(name) {
  return document.querySelector(`input[name="${name}"]:checked`).value;
}
