"use strict";

const { metric, points, threshold, agents } = JSON.parse(document.getElementById("data").textContent);
const figure = document.getElementById("chart");
const svg = figure.querySelector("svg");
const tip = document.getElementById("tip");
const hidden = new Set();
const DASHES = ["", "8 4", "2 4", "9 4 2 4"];
const MARGIN = { top: 12, right: 24, bottom: 44 };
let chosen = null; // the number of the evaluation whose values are shown
let place = null; // how the axes lie

function element(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

const line = (agent) => ({
  stroke: `var(--c${agent.number % 8})`,
  "stroke-dasharray": DASHES[Math.floor(agent.number / 8) % DASHES.length],
});

/** About `count` round numbers from `low` to `high`. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

function tokens(count) {
  if (count >= 1e6) return `${+(count / 1e6).toFixed(2)} M`;
  return count >= 1e3 ? `${+(count / 1e3).toFixed(1)} k` : `${count}`;
}

const number = (value) => (value === null ? "none" : value.toFixed(3));

function lay() {
  const values = agents.flatMap((a) => a.curve.flatMap((e) => [e.value, e.low, e.high])).filter((v) => v !== null);
  if (threshold !== null) values.push(threshold);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (!(low < high)) [low, high] = Number.isFinite(low) ? [low - 0.5, high + 0.5] : [0, 1];
  const pad = 0.06 * (high - low);
  [low, high] = [low - pad, high + pad];
  if (metric === "pass@1") [low, high] = [Math.max(low, 0), Math.min(high, 1)];
  const width = Math.max(figure.clientWidth, 240);
  const height = Math.round(Math.min(440, Math.max(280, width * 0.5)));
  const steps = ticks(low, high, 5);
  const digits = Math.max(1, ...steps.map((v) => (String(+v.toFixed(6)).split(".")[1] || "").length));
  const labels = steps.map((value) => value.toFixed(digits));
  const left = 26 + 8 * Math.max(3, ...labels.map((label) => label.length)); // beside the axis' name
  const [inner, tall] = [width - left - MARGIN.right, height - MARGIN.top - MARGIN.bottom];
  const last = points[points.length - 1];
  return {
    width,
    height,
    left,
    steps,
    labels,
    x: (count) => left + (inner * count) / last,
    y: (value) => MARGIN.top + tall * (1 - (value - low) / (high - low)),
  };
}

function drawAxes() {
  const { width, height, left, steps, labels, x, y } = place;
  const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom];
  steps.forEach((value, i) => {
    svg.append(element("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }));
    svg.append(element("text", { class: "score", x: left - 8, y: y(value) + 4, "text-anchor": "end" }, labels[i]));
  });
  for (const count of ticks(0, points[points.length - 1], Math.max(2, Math.min(8, Math.floor(width / 90))))) {
    svg.append(element("line", { class: "grid", x1: x(count), x2: x(count), y1: bottom, y2: bottom + 4 }));
    svg.append(element("text", { x: x(count), y: bottom + 18, "text-anchor": "middle" }, tokens(count)));
  }
  const middle = (left + right) / 2;
  svg.append(element("text", { x: middle, y: height - 6, "text-anchor": "middle" }, "sampled tokens"));
  const name = element("text", { class: "name", "text-anchor": "middle", transform: `translate(13 ${bottom / 2}) rotate(-90)` });
  name.textContent = `${metric} on held-out problems`;
  svg.append(name);
  if (threshold !== null) {
    svg.append(element("line", { class: "threshold", x1: left, x2: right, y1: y(threshold), y2: y(threshold) }));
  }
}

function drawCurve(agent) {
  const { x, y } = place;
  const known = agent.curve.map((e, i) => ({ ...e, at: x(points[i]) })).filter((e) => e.value !== null);
  const path = (edge) => edge.map(([at, value]) => `${at.toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const banded = known.filter((e) => e.low !== null && e.high !== null);
  const around = [...banded.map((e) => [e.at, e.high]), ...banded.reverse().map((e) => [e.at, e.low])];
  const { stroke } = line(agent);
  svg.append(element("polygon", { class: "band", points: path(around), fill: stroke }));
  const curve = path(known.map((e) => [e.at, e.value]));
  svg.append(element("polyline", { class: "curve", points: curve, ...line(agent) }));
  for (const e of known) svg.append(element("circle", { cx: e.at, cy: y(e.value), r: 3, fill: stroke }));
}

function draw() {
  place = lay();
  svg.setAttribute("viewBox", `0 0 ${place.width} ${place.height}`);
  svg.setAttribute("aria-label", `${metric} over sampled tokens of ${agents.map((a) => a.name).join(", ")}`);
  svg.replaceChildren();
  drawAxes();
  const shown = agents.filter((agent) => !hidden.has(agent.name));
  shown.forEach(drawCurve);
  if (!agents.length) {
    const low = { x: place.width / 2, y: place.height - MARGIN.bottom - 12, "text-anchor": "middle" };
    svg.append(element("text", low, "No run has come to its end."));
  }
  tip.hidden = chosen === null || !shown.length;
  if (!tip.hidden) drawValues(shown);
}

function drawValues(shown) {
  const at = place.x(points[chosen]);
  const [y1, y2] = [MARGIN.top, place.height - MARGIN.bottom];
  svg.append(element("line", { class: "cursor", x1: at, x2: at, y1, y2 }));
  const head = document.createElement("div");
  head.textContent = `${points[chosen].toLocaleString("en")} tokens`;
  const list = document.createElement("div");
  list.className = "of";
  const rows = shown.map((agent) => ({ agent, e: agent.curve[chosen] }));
  rows.sort((a, b) => (b.e.value ?? -Infinity) - (a.e.value ?? -Infinity));
  for (const { agent, e } of rows) {
    const name = document.createElement("span");
    name.textContent = agent.name;
    name.style.color = line(agent).stroke;
    const value = document.createElement("span");
    value.textContent = number(e.value);
    const interval = document.createElement("span");
    interval.textContent = e.low === null ? "" : `${number(e.low)} – ${number(e.high)}`;
    list.append(name, value, interval);
  }
  tip.replaceChildren(head, list);
  const left = at < place.width / 2 ? at + 12 : at - 12 - tip.offsetWidth;
  tip.style.left = `${Math.max(4, Math.min(left, place.width - tip.offsetWidth - 4))}px`;
}

function choose(number) {
  chosen = number === null ? null : Math.max(0, Math.min(points.length - 1, number));
  draw();
}

function point(event) {
  const at = event.clientX - svg.getBoundingClientRect().left;
  const distances = points.map((count) => Math.abs(place.x(count) - at));
  choose(distances.indexOf(Math.min(...distances)));
}

svg.addEventListener("pointermove", point);
svg.addEventListener("pointerdown", point);
svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && choose(null));
svg.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape") choose(null);
  else if (step) choose(chosen === null ? points.length - 1 : chosen + step);
  else return;
  event.preventDefault();
});

for (const agent of agents) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "true");
  const sample = element("svg", { viewBox: "0 0 36 12", "aria-hidden": "true" });
  sample.append(element("line", { x1: 0, x2: 36, y1: 6, y2: 6, "stroke-width": 4, ...line(agent) }));
  button.append(sample, agent.name);
  button.addEventListener("click", () => {
    if (!hidden.delete(agent.name)) hidden.add(agent.name);
    button.setAttribute("aria-pressed", String(!hidden.has(agent.name)));
    draw();
  });
  document.getElementById("legend").append(button);
}

new ResizeObserver(draw).observe(figure);
