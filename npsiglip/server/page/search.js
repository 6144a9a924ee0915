// Words, a picture or a drawing against the index; more like what was found.

import { ask, element, latest, percent, picture, tell } from "./api.js";
import { pad } from "./pad.js";

const by = (id) => document.getElementById(id);
let about = null, urls = [];

function item(hit) {
  const said = `${hit.probability === null ? "" : `${percent(hit.probability)} · `}cosine ${hit.cosine.toFixed(4)}`;
  const parts = [element("span", { className: "name", textContent: hit.name }), element("span", { className: "said", textContent: said })];
  if (hit.thumbnail) {
    const image = element("img", { alt: hit.name, loading: "lazy" });
    picture(`${hit.thumbnail}?side=224`).then((url) => { urls.push(url); image.src = url; })
      .catch(() => { image.alt = `${hit.name} (not there any more)`; });
    parts.unshift(image);
  }
  const more = element("button", { type: "button", textContent: "More like this", "aria-label": `More like ${hit.name}` });
  more.addEventListener("click", () => show(`Like ${hit.name}`, ask("/v1/similar", { id: hit.id, k: 24 })).catch((e) => tell(e.message)));
  return element("li", {}, ...parts, more);
}

async function show(title, asked) {
  const hits = (await asked).data;
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
  by("gallery").replaceChildren(...hits.map(item));
  by("index-about").textContent = `${title}: ${hits.length} of ${about.count.toLocaleString("en")} ${about.kind}s, the best first.`
    + (hits.some((hit) => hit.probability !== null) ? "" : " There are no probabilities of such a search, only cosines.");
}

const run = latest(async (signal) => {
  if (!about) return;
  const query = by("query").value.trim(), image = by("with-picture").checked ? pad.source : null;
  if (!query && !image) return by("gallery").replaceChildren();
  const body = { k: 24, ...(query ? { query } : {}), ...(image ? { image } : {}) };
  await show([query && `“${query}”`, image && "the picture"].filter(Boolean).join(" and "), ask("/v1/search", body, signal));
}, 250);

export const search = {
  async start() {
    by("search-form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
    for (const id of ["query", "with-picture"]) by(id).addEventListener("input", run);
    pad.onChange(() => { if (!by("panel-search").hidden) run(); });
    await this.load();
  },
  async load() {
    try {
      about = await ask("/v1/index");
      by("index-about").textContent = `${about.count.toLocaleString("en")} ${about.kind}s, embedded by ${about.model}.`;
    } catch (error) {
      by("index-about").textContent = `Nothing can be searched: ${error.message}.`;
    }
  },
  run,
};
