// Which label or domain has which colour: as many as can be told apart, the rest share one.

const COLOURS = 8;

const held = {}; // by column, which value has which colour

/** Value to CSS variable for a column: of `first` and then of the most frequent of `values`. A value keeps its colour
 * as long as it has one, so that a change of a setting does not recolour all there is. */
export function palette(column, values, first) {
  const counts = new Map();
  for (const value of values) if (value !== null) counts.set(value, (counts.get(value) || 0) + 1);
  const frequent = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || (a < b ? -1 : 1));
  const wanted = [...new Set([...first.filter((value) => value !== null), ...frequent])].slice(0, COLOURS);
  const slots = (held[column] ?? []).map((value) => (wanted.includes(value) ? value : undefined));
  for (const value of wanted) {
    if (slots.includes(value)) continue;
    const free = slots.indexOf(undefined);
    slots[free < 0 ? slots.length : free] = value;
  }
  held[column] = slots;
  return new Map(wanted.map((value) => [value, `--c${slots.indexOf(value)}`]));
}

export function dot(variable) {
  const node = document.createElement("span");
  node.className = "dot";
  node.style.setProperty("--dot", `var(${variable || "--other"})`);
  return node;
}
