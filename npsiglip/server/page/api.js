// Asking the server: JSON in, JSON out, the API key where one is needed, errors as sentences.

export { element } from "./element.js";

const problem = document.getElementById("problem");
const keyForm = document.getElementById("key-form");
const again = [];

function headers(more = {}) {
  const key = sessionStorage.getItem("npsiglip-key");
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

export function tell(sentence) {
  problem.textContent = sentence || "";
  problem.hidden = !sentence;
}

function sentenceOf(body, status) {
  const said = body?.error?.message ?? body?.error ?? body?.detail;
  return typeof said === "string" ? said : `the server answered ${status}`;
}

async function get(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server cannot be reached");
  }
  if (answer.status === 401) keyForm.hidden = false;
  if (!answer.ok) throw new Error(sentenceOf(await answer.json().catch(() => null), answer.status));
  return answer;
}

export async function ask(path, body, signal) {
  const options = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  };
  return (await get(path, { ...options, signal })).json();
}

export async function picture(path) {
  return URL.createObjectURL(await (await get(path)).blob());
}

// What has to be done anew with another key.
export function onKey(action) {
  again.push(action);
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("npsiglip-key", document.getElementById("key").value);
  keyForm.hidden = true;
  again.forEach((action) => action());
});

// Runs an action after a pause in typing; a newer call ends the older one. Errors are told.
export function latest(action, pause = 200) {
  let timer, control;
  return (...given) => {
    clearTimeout(timer);
    control?.abort();
    timer = setTimeout(async () => {
      const own = control = new AbortController();
      try {
        await action(own.signal, ...given);
        if (control === own) tell("");
      } catch (error) {
        if (error.name !== "AbortError" && control === own) tell(error.message);
      }
    }, pause);
  };
}

// Two digits that tell a probability from 0 and from 1, as the command line shows it.
export function percent(score) {
  const value = 100 * score;
  if (value > 0 && value < 1e-4) return `${value.toExponential(1).replace("e-", "e−")} %`;
  const distance = Math.min(value, 100 - value);
  const decimals = distance > 0 ? 1 - Math.floor(Math.log10(distance)) : 1;
  return `${value.toFixed(Math.min(Math.max(decimals, 1), 6))} %`;
}
