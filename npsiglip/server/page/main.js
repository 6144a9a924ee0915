// Tabs, models, and what each tab does.

import { ask, element, onKey, tell } from "./api.js";
import { classify } from "./classify.js";
import { compare } from "./compare.js";
import { search } from "./search.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const parts = { classify, search, compare };

function select(tab, focus = true) {
  for (const each of tabs) {
    each.setAttribute("aria-selected", each === tab);
    each.tabIndex = each === tab ? 0 : -1;
    document.getElementById(each.getAttribute("aria-controls")).hidden = each !== tab;
  }
  if (focus) tab.focus();
  const name = tab.id.slice(4);
  history.replaceState(null, "", `#${name}`);
  document.querySelector(".model").hidden = name !== "classify";
  parts[name].run();
}

tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(tabs[(to + tabs.length) % tabs.length]);
  });
});

async function models() {
  try {
    const ids = (await ask("/v1/models")).data.filter((each) => each.modalities.length === 2).map((each) => each.id);
    document.getElementById("model").replaceChildren(...ids.map((id) => element("option", { value: id, textContent: id })));
    compare.models(ids);
  } catch (error) {
    tell(error.message);
  }
}

await models();
onKey(() => { tell(""); models(); search.load(); });
classify.start();
compare.start();
const wanted = document.getElementById(`tab-${location.hash.slice(1)}`);
if (wanted) select(wanted, false);
await search.start();
