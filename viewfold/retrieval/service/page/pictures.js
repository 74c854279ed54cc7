// Thumbnails, fetched with the key where one is needed, at most once each, and only when they come into view.

import { fetched } from "./api.js";

const found = new Map();

export const path = (key) => `v1/records/${encodeURIComponent(key)}/thumbnail`;

async function source(key) {
  if (!found.has(key)) found.set(key, fetched(path(key)).then((data) => URL.createObjectURL(data)));
  try {
    return await found.get(key);
  } catch {
    found.delete(key); // a later try may go better
    return null;
  }
}

const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      load(target, target.dataset.key);
    }
  },
  { rootMargin: "200px" },
);

/** Show the thumbnail of `key` in `image` now. */
export async function load(image, key) {
  image.dataset.key = key;
  const url = await source(key);
  if (image.dataset.key !== key) return; // another was asked for meanwhile
  if (url) image.src = url;
  else image.removeAttribute("src");
}

/** An image that shows the thumbnail of `key` once it comes into view. */
export function lazy(key, alt = "") {
  const image = new Image();
  image.alt = alt;
  image.dataset.key = key;
  seen.observe(image);
  return image;
}

/** All of this is of an index that is no longer served. */
export function forget() {
  for (const url of found.values()) url.then(URL.revokeObjectURL, () => {});
  found.clear();
}
