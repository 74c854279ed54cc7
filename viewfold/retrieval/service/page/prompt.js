// The prompt of the demonstrations: what a model is sent, as JSON and as a Python program that asks for it.

import { address, ask, hasKey } from "./api.js";
import { byId, bytes, chosen, count } from "./dom.js";

let prompt = null;
let program = "";

/** Wire up the section; `onLayout` is called when another layout is wanted. */
export function startPrompt(onLayout) {
  for (const input of document.querySelectorAll("input[name=form]")) input.addEventListener("change", draw);
  for (const input of document.querySelectorAll("input[name=layout]")) input.addEventListener("change", onLayout);
  byId("copy").addEventListener("click", copy);
}

/** The text as it is copied: whole. */
const whole = () => (chosen("form") === "python" ? program : JSON.stringify(prompt.messages, null, 2));

/** Fetch and show the prompt for `query` under `settings`. */
export async function showPrompt(query, settings, signal) {
  const body = { ...settings, layout: chosen("layout") };
  const answer = await ask("v1/messages", { image: query.data, ...body }, signal);
  prompt = answer.prompt;
  program = python(query.name, body);
  draw();
}

function draw() {
  if (!prompt) return;
  byId("copy").textContent = "Copy";
  const { cost, notes } = prompt;
  const told = [
    `${count(cost.images, "image")}, about ${cost.prompt_tokens.toLocaleString("en")} tokens, ${bytes(cost.bytes)}.`,
    ...(chosen("form") === "json" ? ["Pictures are cut short here and whole in the copy."] : ["Needs nothing but Python."]),
    ...notes.map((note) => `${note}.`),
  ];
  byId("prompt-cost").textContent = told.join(" ");
  byId("prompt-text").textContent = shortened(whole());
}

const shortened = (text) =>
  text.replace(/(data:image\/\w+;base64,[\w+/]{24})([\w+/=]+)/g, (_, start, rest) => `${start}... ${bytes((rest.length * 3) / 4)}`);

async function copy() {
  const text = whole();
  const button = byId("copy");
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = copiedByHand(text) ? "Copied" : "Not allowed"; // no clipboard outside https and localhost
  }
  byId("status").textContent = button.textContent === "Copied" ? "The prompt is in the clipboard." : "The browser keeps its clipboard shut.";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

function copiedByHand(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "hidden";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  byId("copy").focus();
  return done;
}

function python(name, body) {
  const settings = Object.entries(body).map(([key, value]) => `    ${literal(key)}: ${literal(value)},\n`);
  const key = hasKey() ? ', "Authorization": "Bearer " + os.environ["VIEWFOLD_KEY"]' : "";
  return `import base64
import json
${hasKey() ? "import os\n" : ""}import urllib.request

with open(${literal(name)}, "rb") as file:
    image = base64.b64encode(file.read()).decode()

question = {
    "image": image,
${settings.join("")}}
request = urllib.request.Request(
    ${literal(address("v1/messages"))},
    data=json.dumps(question).encode(),
    headers={"Content-Type": "application/json"${key}},
)
with urllib.request.urlopen(request) as answer:
    prompt = json.load(answer)["prompt"]

messages = prompt["messages"]  # for any server with OpenAI's chat completions:
# openai.OpenAI(base_url=..., api_key=...).chat.completions.create(model=..., messages=messages)
`;
}

/** A Python literal of what JSON can say. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, inner]) => `${literal(key)}: ${literal(inner)}`).join(", ")}}`;
}
