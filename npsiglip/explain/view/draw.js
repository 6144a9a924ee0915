/* Another picture: from a file, dropped, pasted, or drawn; and more or fewer labels. */

import { bytes_of, el } from "./dom.js";

const COLOURS = ["#e03131", "#1971c2", "#2f9e44", "#f08c00", "#9c36b5", "#fab005", "#8d5524", "#212529", "#ffffff"];
const NAMES = ["red", "blue", "green", "orange", "violet", "yellow", "brown", "black", "white"];
const MOST_LABELS = 8, LARGEST = 4096;

/** A file that is no picture is told so; one that is becomes the picture. */
export async function open_picture(page, file) {
  try {
    const picture = await createImageBitmap(file);  // turned upright by its EXIF orientation
    const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
    const [width, height] = [Math.max(1, Math.round(picture.width * scale)), Math.max(1, Math.round(picture.height * scale))];
    const shown = el("canvas", {}), small = Math.min(1, 512 / Math.max(width, height));
    [shown.width, shown.height] = [Math.max(1, Math.round(width * small)), Math.max(1, Math.round(height * small))];
    shown.getContext("2d").drawImage(picture, 0, 0, shown.width, shown.height);
    page.look(bytes_of(picture, width, height), height, width, shown.toDataURL());
  } catch {
    page.say(`${file.name || "This"} cannot be read as a picture by this browser: expected PNG, JPEG, GIF or WebP.`, true);
  }
}

/** The tools below the picture and the labels. */
export function draw_tools(page) {
  const place = document.getElementById("tools"), fold = el("div", { hidden: true });
  const file = el("label", { class: "file" }, "Another picture", el("input", { type: "file", accept: "image/*", "aria-label": "another picture", onchange: (event) => event.target.files[0] && open_picture(page, event.target.files[0]) }));
  const pen = el("button", { type: "button", "aria-expanded": "false", onclick: () => {
    fold.hidden = !fold.hidden;
    pen.setAttribute("aria-expanded", String(!fold.hidden));
  } }, "Draw one");
  const overlay = el("button", { type: "button", "aria-pressed": "true", onclick: () => {
    page.state.overlay_off = !page.state.overlay_off;
    overlay.setAttribute("aria-pressed", String(!page.state.overlay_off));
    page.draw_hero();
  } }, "Probe");
  fold.append(...board(page));
  place.replaceChildren(el("div", { class: "tools" }, file, pen, overlay), fold);
  const more = document.getElementById("more");
  more.replaceChildren(
    el("button", { type: "button", onclick: () => page.labels.length < MOST_LABELS && page.relist([...page.labels, "a green star"]) }, "One more label"),
    el("button", { type: "button", onclick: () => page.labels.length > 1 && page.relist(page.labels.slice(0, -1)) }, "One less"));
  const hero = document.querySelector(".hero");
  hero.addEventListener("dragover", (event) => { event.preventDefault(); hero.classList.add("drop"); });
  hero.addEventListener("dragleave", () => hero.classList.remove("drop"));
  hero.addEventListener("drop", (event) => {
    event.preventDefault();
    hero.classList.remove("drop");
    if (event.dataTransfer.files[0]) open_picture(page, event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => event.clipboardData?.files[0] && open_picture(page, event.clipboardData.files[0]));
}

/** A board to draw on, with mouse, finger, pen or the stamps' buttons. */
function board(page) {
  const canvas = el("canvas", { class: "pen", width: 256, height: 256, role: "img", "aria-label": "a board to draw on" }), context = canvas.getContext("2d");
  let colour = COLOURS[0], last = null, waiting = false;
  const clear = () => { context.fillStyle = "#fff"; context.fillRect(0, 0, 256, 256); };
  const show = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; page.look(bytes_of(canvas, 256, 256), 256, 256, canvas.toDataURL()); });
  };
  const spot = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * 256, ((event.clientY - box.top) / box.height) * 256];
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); last = spot(event); });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = spot(event);
    Object.assign(context, { strokeStyle: colour, lineWidth: 22, lineCap: "round" });
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...next);
    context.stroke();
    last = next;
    show();
  });
  canvas.addEventListener("pointerup", () => { last = null; show(); });
  const stamps = {
    Circle: (x, y) => context.arc(x, y, 44, 0, 7),
    Square: (x, y) => context.rect(x - 40, y - 40, 80, 80),
    Triangle: (x, y) => { context.moveTo(x, y - 48); context.lineTo(x + 46, y + 38); context.lineTo(x - 46, y + 38); context.closePath(); },
  };
  const palette = el("div", { class: "colours", role: "group", "aria-label": "colours" }, ...COLOURS.map((value, i) => el("button", {
    type: "button", style: `background:${value}`, "aria-label": NAMES[i], "aria-pressed": String(i === 0), onclick: (event) => {
      colour = value;
      palette.querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(button === event.target)));
    } })));
  let count = 0;
  clear();
  return [el("p", { class: "soft" }, "Draw with mouse or finger, or put a shape there."), palette, canvas,
    el("div", { class: "tools" }, ...Object.entries(stamps).map(([name, path]) => el("button", { type: "button", onclick: () => {
      const [x, y] = [[128, 128], [72, 76], [184, 180], [184, 76], [72, 180]][count++ % 5];
      context.fillStyle = colour;
      context.beginPath();
      path(x, y);
      context.fill();
      show();
    } }, name)), el("button", { type: "button", onclick: () => { clear(); count = 0; show(); } }, "Clear"))];
}
