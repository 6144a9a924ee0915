// The picture: dropped, pasted, chosen, drawn or photographed. Files are sent as they are, so that scores are those of
// the library for the same file.

import { element, tell } from "./api.js";

const by = (id) => document.getElementById(id);
const [drop, preview, video, canvas, empty] = ["drop", "preview", "video", "canvas", "empty"].map(by);
const COLOURS = [["black", "#111111"], ["red", "#e02424"], ["green", "#159a3c"], ["blue", "#2456e0"], ["yellow", "#f2c511"],
  ["brown", "#7a4a21"], ["white", "#ffffff"]];
const pen = canvas.getContext("2d", { willReadFrequently: true });
const listeners = [];
const past = [];
const cursor = { x: 224, y: 224, down: false };
let source = null, colour = COLOURS[2][1], stream = null, url = null;

export const pad = {
  get source() { return source; },
  onChange(action) { listeners.push(action); },
};

function show(part) {
  for (const each of [preview, video, canvas, empty]) each.hidden = each !== part;
  drop.classList.toggle("full", part !== empty);
  by("draw-tools").hidden = part !== canvas;
  by("camera-tools").hidden = part !== video;
  by("draw").setAttribute("aria-pressed", part === canvas);
  by("camera").setAttribute("aria-pressed", part === video);
  if (part !== video) stop();
}

function set(value) {
  source = value;
  by("remove").disabled = value === null && canvas.hidden && video.hidden;
  listeners.forEach((action) => action());
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
}

function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) return tell(`${file.name || "this"} is not a picture`);
  const reader = new FileReader();
  reader.onload = () => {
    if (url) URL.revokeObjectURL(url);
    preview.src = url = URL.createObjectURL(file);
    preview.alt = `the picture ${file.name || "that was pasted"}`;
    show(preview);
    tell("");
    set(reader.result);
  };
  reader.onerror = () => tell(`${file.name} cannot be read`);
  reader.readAsDataURL(file);
}

by("file").addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (file) { event.preventDefault(); take(file); }
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
by("remove").addEventListener("click", () => { wipe(); past.length = 0; show(empty); set(null); by("draw").focus(); });

// -- drawing

function wipe() {
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
}

function remember() {
  past.push(pen.getImageData(0, 0, canvas.width, canvas.height));
  if (past.length > 30) past.shift();
}

function line(from, to) {
  Object.assign(pen, { strokeStyle: colour, lineWidth: by("width").value, lineCap: "round", lineJoin: "round" });
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x + 0.01, to.y);
  pen.stroke();
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return { x: (event.clientX - box.left) * canvas.width / box.width, y: (event.clientY - box.top) * canvas.height / box.height };
}

const drawn = () => set(canvas.toDataURL("image/png"));
let last = null;
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  remember();
  last = place(event);
  line(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const now = place(event);
  line(last, now);
  last = now;
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { if (last) { last = null; drawn(); } });
canvas.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 4 : 16;
  const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (event.key === " ") {
    cursor.down = !cursor.down;
    if (cursor.down) { remember(); line(cursor, cursor); }
    drawn();
  } else if (way) {
    const to = { x: Math.min(448, Math.max(0, cursor.x + way[0])), y: Math.min(448, Math.max(0, cursor.y + way[1])) };
    if (cursor.down) line(cursor, to);
    Object.assign(cursor, to);
    if (cursor.down) drawn();
  } else return;
  event.preventDefault();
});
by("draw").addEventListener("click", () => {
  if (!past.length) wipe();
  show(canvas);
  by("remove").disabled = false;
  canvas.focus();
  if (past.length) drawn();
});
by("clear").addEventListener("click", () => { remember(); wipe(); drawn(); });
by("undo").addEventListener("click", () => { if (past.length) { pen.putImageData(past.pop(), 0, 0); drawn(); } });
const choices = COLOURS.map(([name, value], i) => {
  const made = element("button", { type: "button", role: "radio", "aria-label": name, "aria-checked": value === colour,
    title: name, tabIndex: value === colour ? 0 : -1 });
  made.style.background = value;
  made.addEventListener("click", () => choose(i));
  made.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); choose((i + step + COLOURS.length) % COLOURS.length); }
  });
  return made;
});
by("colours").append(...choices);

function choose(i) {
  colour = COLOURS[i][1];
  choices.forEach((each, j) => { each.setAttribute("aria-checked", i === j); each.tabIndex = i === j ? 0 : -1; });
  choices[i].focus();
}

// -- camera

by("camera").addEventListener("click", async () => {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    video.srcObject = stream;
    await video.play();
    const own = stream;
    show(video);
    stream = own;
    by("shot").focus();
  } catch {
    tell("there is no camera, or the browser does not give it to this page");
  }
});
by("shot").addEventListener("click", () => {
  const shot = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  shot.getContext("2d").drawImage(video, 0, 0);
  shot.toBlob((blob) => take(new File([blob], "from the camera", { type: "image/jpeg" })), "image/jpeg", 0.92);
});
