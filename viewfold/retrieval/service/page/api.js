// Requests to the service this page came from. Addresses are relative: the page may lie under a prefix.

const KEY = "viewfold-key";

export class Problem extends Error {
  constructor(message, { status = 0, requestId = "", retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, requestId, retryAfter });
  }
}

let served = null; // the pair of encoder and index that answered last
let clock = 0; // counts requests
let swapped = 0; // the last request that was sent before `served` was
let onSwap = () => {};

/** Call `listener` when answers begin to come from another pair of encoder and index. */
export function whenSwapped(listener) {
  onSwap = listener;
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export const address = (path) => new URL(path, document.baseURI).href;

/** The answer to GET `path`, or with a `body` to POST it as JSON. */
export async function ask(path, body, signal) {
  const answer = await request(path, body, signal);
  return answer.json();
}

/** The file that GET `path` answers with. */
export async function fetched(path) {
  const answer = await request(path);
  return answer.blob();
}

async function request(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  // Not from the browser's store: what it holds may be of an index that is no longer served.
  const options = { headers, signal, cache: "no-store", method: body === undefined ? "GET" : "POST" };
  if (body !== undefined) options.body = JSON.stringify(body);
  const sent = ++clock;
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service cannot be reached. Is it still running?");
  }
  if (!answer.ok) throw await problem(answer);
  notice(answer.headers.get("X-Pair-Id"), sent);
  return answer;
}

/** Which pair answered; what was sent before the last swap was noticed may still be of the old one, and says nothing. */
function notice(pair, sent) {
  if (!pair || pair === served || sent <= swapped) return;
  const first = served === null;
  served = pair;
  swapped = clock;
  if (!first) onSwap();
}

async function problem(answer) {
  const found = await answer.json().catch(() => null);
  const requestId = found?.error?.request_id || answer.headers.get("X-Request-Id") || "";
  const retryAfter = Number(answer.headers.get("Retry-After")) || 0;
  return new Problem(words(answer.status, found?.error?.message), { status: answer.status, requestId, retryAfter });
}

function words(status, message) {
  if (status === 413) return message ? sentence(message) : "This image is larger than the service takes.";
  if (status === 504) return message ? sentence(message) : "The service took too long.";
  if (status === 429 || status === 503) return message ? sentence(message) : "The service is busy.";
  if (status >= 500) return "Something went wrong in the service. Its log says what.";
  return message ? sentence(message) : `The service answered ${status}.`;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
