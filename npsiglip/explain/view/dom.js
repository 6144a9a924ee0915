/* Small helpers of the page: elements, numbers as text, maps of patches, line charts. */

/** An element: el("p", { class: "soft", onclick: f }, "text", child ...). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") node[name] = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A probability: four decimals, or 1.8e-9 where these would be zero. */
export const probability = (p) => (p >= 0.001 || p === 0 ? p.toFixed(4) : p.toExponential(1));

/** A number with so many digits behind the point, and a true minus; no minus before zero. */
export const number = (x, digits = 2) => x.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−");

const COLOURS = { heat: [255, 146, 43], yes: [45, 212, 191], no: [255, 99, 71] };

/** Numbers as a picture of one pixel each: the larger, the less transparent; signed ones in two colours. */
export function heat(values, rows, columns, { top = null, signed = false } = {}) {
  const canvas = el("canvas", { width: columns, height: rows, "aria-hidden": "true" });
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  const most = top ?? Math.max(...Array.from(values, Math.abs), 1e-30);
  for (let i = 0; i < rows * columns; i++) {
    const colour = signed ? COLOURS[values[i] < 0 ? "no" : "yes"] : COLOURS.heat;
    image.data.set([...colour, Math.round(255 * Math.min(Math.max(Math.abs(values[i]) / most, 0), 1) ** 0.8)], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Shade over what is not looked at, as a picture of one pixel each: the less attention, the darker. */
export function shade(values, rows, columns) {
  const canvas = el("canvas", { width: columns, height: rows, "aria-hidden": "true" });
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows), most = Math.max(...values);
  values.forEach((x, i) => image.data.set([8, 10, 16, Math.round(204 * (1 - x / most))], 4 * i));
  context.putImageData(image, 0, 0);
  return canvas;
}

/** A map of patches over the picture. `choose(i)`: makes it a button; a click or the arrow keys choose a patch. */
export function patch_map(values, view, { name, small = "", chosen = null, choose = null, plain = false, rows = view.rows, columns = view.columns, ...options }) {
  const node = el(choose ? "button" : "div", {
    class: `map ${small} ${plain ? "plain" : ""}`, type: choose ? "button" : null, role: choose ? null : "img", "aria-label": name, title: name,
  });
  node.append(el("img", { class: "below", src: view.picture.resized, alt: "" }));
  if (values) node.append(heat(values, rows, columns, options));
  if (chosen !== null)
    node.append(el("span", { class: "chosen", style: `left:${((chosen % columns) / columns) * 100}%;top:${(Math.floor(chosen / columns) / rows) * 100}%;width:${100 / columns}%;height:${100 / rows}%` }));
  if (choose) {
    node.addEventListener("click", (event) => {
      if (!event.clientX && !event.clientY) return;
      const box = node.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * columns), row = Math.floor(((event.clientY - box.top) / box.height) * rows);
      choose(Math.min(Math.max(row, 0), rows - 1) * columns + Math.min(Math.max(column, 0), columns - 1));
    });
    node.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const row = Math.floor(chosen / columns) + step[0], column = (chosen % columns) + step[1];
      if (row >= 0 && row < rows && column >= 0 && column < columns) choose(row * columns + column, step);
    });
  }
  return node;
}

export const figure = (content, ...caption) => el("figure", {}, content, el("figcaption", {}, ...caption));

/** A table: head and rows of texts or elements. */
export const table = (head, rows) => el("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "table" }, el("table", {},
  el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))),
  el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell)))))));

/** A slider with its value beside it; `show` makes text of it. */
export function slider(name, value, least, most, step, show, change) {
  const out = el("output", {}, show(value));
  const input = el("input", { type: "range", min: least, max: most, step, value, "aria-label": name, "aria-valuetext": show(value), oninput: (event) => {
    const now = Number(event.target.value);
    out.textContent = show(now);
    event.target.setAttribute("aria-valuetext", show(now));
    change(now);
  } });
  input.value = value;
  return el("label", { class: "field" }, name, input, out);
}

/** A choice of one of several. */
export function choice(name, options, value, change) {
  const select = el("select", { "aria-label": name, onchange: (event) => change(Number(event.target.value)) }, ...options.map((text, i) => el("option", { value: i }, text)));
  select.value = value;
  return el("label", { class: "field" }, name, select);
}

/** Round numbers from below `low` to above `high`, about four steps. */
function round_ticks(low, high) {
  const rough = (high - low) / 4, scale = 10 ** Math.floor(Math.log10(rough)), step = scale * [1, 2, 5, 10].find((x) => x * scale >= rough);
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

/** Lines over positions 0, 1, ...: an SVG. lines: [{ name, values, colour, x? }]; `log` on a logarithmic axis. */
export function chart(lines, { log = false, width = 560, height = 210, names = [], label = "" }) {
  const [left, right, top, bottom] = [54, 96, 12, 32], f = log ? Math.log10 : (x) => x;
  const all = lines.flatMap(({ values }) => values.filter((v) => !log || v > 0)).map(f), xs = lines.flatMap(({ values, x }) => x ?? values.map((_, i) => i));
  let low = Math.min(...all), high = Math.max(...all);
  if (log) [low, high] = [Math.floor(low), Math.max(Math.ceil(high), Math.floor(low) + 1)];
  else if (high - low < 1e-12) [low, high] = [low - 0.5, high + 0.5];
  const round = log ? [] : round_ticks(low, high);
  if (!log) [low, high] = [round[0], round.at(-1)];
  const far = Math.max(...xs, 1), X = (x) => left + (x / far) * (width - left - right), Y = (y) => top + ((high - f(y)) / (high - low)) * (height - top - bottom);
  let svg = `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${label}">`;
  const ticks = log ? Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)) : round;
  for (const tick of ticks)
    svg += `<line x1="${left}" x2="${width - right}" y1="${Y(tick).toFixed(1)}" y2="${Y(tick).toFixed(1)}" stroke="var(--line)"/><text x="${left - 6}" y="${(Y(tick) + 4).toFixed(1)}" text-anchor="end">${log ? `1e${Math.round(f(tick))}` : Number(tick.toPrecision(3))}</text>`;
  if (lines.some(({ x }) => x))
    for (const tick of [0, far / 2, far]) svg += `<text x="${X(tick).toFixed(1)}" y="${height - 8}" text-anchor="middle">${Math.round(tick).toLocaleString("en")}</text>`;
  names.forEach((name, i) => { if (name) svg += `<text x="${X(i).toFixed(1)}" y="${height - 8}" text-anchor="middle">${name}</text>`; });
  const ends = lines.map(({ values }) => Y(values.at(-1))), order = ends.map((_, i) => i).sort((i, j) => ends[i] - ends[j]);
  order.forEach((i, place) => { if (place) ends[i] = Math.max(ends[i], ends[order[place - 1]] + 15); });
  lines.forEach(({ name, values, colour, x }, i) => {
    const at = (j) => `${X(x ? x[j] : j).toFixed(1)},${Y(Math.max(values[j], log ? 10 ** low : -Infinity)).toFixed(1)}`;
    svg += `<polyline points="${values.map((_, j) => at(j)).join(" ")}" fill="none" stroke="var(--${colour})" stroke-width="2"/>`;
    svg += `<text x="${width - right + 6}" y="${(ends[i] + 4).toFixed(1)}" style="fill:var(--${colour})">${name}</text>`;
  });
  const node = el("div", { class: "wide", tabindex: "0", role: "group", "aria-label": label });
  node.innerHTML = `${svg}</svg>`;
  return node;
}

/** RGB bytes [side, side, 3] as the URL of a picture. */
export function to_url(bytes, side) {
  const canvas = el("canvas", { width: side, height: side }), context = canvas.getContext("2d"), image = context.createImageData(side, side);
  for (let i = 0; i < side * side; i++) image.data.set([bytes[3 * i], bytes[3 * i + 1], bytes[3 * i + 2], 255], 4 * i);
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

/** The RGB bytes of a canvas or picture, on white where it is transparent. */
export function bytes_of(source, width, height) {
  const canvas = el("canvas", { width, height }), context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height), bytes = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) bytes.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
  return bytes;
}
