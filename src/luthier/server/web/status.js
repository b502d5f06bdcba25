// Draws what /status/data tells: texts only as text nodes, numbers only as coordinates.
"use strict";

const EVERY_MS = 2000, STEP_S = 5, WIDTH = 340, HEIGHT = 130, LEFT = 54, BOTTOM = 18, COLOURS = 6;
const SVG = "http://www.w3.org/2000/svg";
const queue = []; // [{at, waiting, inFlight}]: what the page itself has seen since it was opened

const CHARTS = [
  { title: "Requests per second", unit: "/s", of: (one) => one.requests / STEP_S },
  { title: "Latency, mean", unit: "s", of: (one) => answered(one) ? one.latency_s / answered(one) : null },
  { title: "Time to first token, mean", unit: "s", of: (one) => one.first_tokens ? one.first_token_s / one.first_tokens : null },
  { title: "Tokens out per second", unit: "/s", of: (one) => one.tokens_out / STEP_S },
  { title: "Errors per second", unit: "/s", of: (one) => one.errors / STEP_S },
];

function answered(one) { return one.requests - one.unanswered; }

function element(name, attributes = {}, text = null, inside = document) {
  const made = inside === SVG ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function shown(value, unit = "") {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (unit === "s" && value < 1) return `${Math.round(value * 1000)} ms`;
  const digits = value >= 100 || Number.isInteger(value) ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)}${unit && " "}${unit}`.replace(" /s", "/s");
}

function lasted(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [size, name] = parts.find(([size]) => seconds >= size) || [1, "s"];
  return `${Math.floor(seconds / size)} ${name}`;
}

// Sums of each release in steps of STEP_S, oldest first: Map(release -> [sums]).
function steps(data) {
  const count = Math.floor(data.span_s / STEP_S), last = Math.floor(data.now / STEP_S);
  const names = [...new Set(data.seconds.flatMap((one) => Object.keys(one.of)))].sort();
  const found = new Map(names.map((name) => [name, Array.from({ length: count }, zero)]));
  for (const second of data.seconds) {
    const at = count - 1 - (last - Math.floor(second.at / STEP_S));
    if (at < 0 || at >= count) continue;
    for (const [name, sums] of Object.entries(second.of)) add(found.get(name)[at], sums, name);
  }
  return found;
}

function zero() {
  return { requests: 0, errors: 0, tokens_in: 0, tokens_out: 0, latency_s: 0, first_token_s: 0, first_tokens: 0, unanswered: 0 };
}

function add(to, sums, name) {
  for (const key of Object.keys(sums)) to[key] += sums[key];
  if (name === "none") to.unanswered += sums.requests;
}

function nice(top) {
  if (!(top > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(top));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((one) => one >= top);
}

// lines: [{values, style}], values oldest first, null where there is nothing to show.
function chart(title, unit, lines, span_s) {
  const box = element("section");
  box.append(element("h2", {}, title));
  const newest = lines.map((line) => line.values.findLast((value) => value !== null) ?? null);
  const told = lines.map((line, n) => (line.name ? `${line.name} ` : "") + shown(newest[n], unit)).join(" · ");
  box.append(element("p", { class: "now" }, `last: ${told || "–"}`));
  const svg = element("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}; last: ${told}` }, null, SVG);
  const top = nice(Math.max(0, ...lines.flatMap((line) => line.values.filter((value) => value !== null))));
  const high = HEIGHT - BOTTOM - 8;
  for (const share of [0, 0.5, 1]) {
    const y = 8 + high * (1 - share);
    svg.append(element("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y, y2: y }, null, SVG));
    svg.append(element("text", { x: LEFT - 5, y: y + 4, "text-anchor": "end" }, shown(top * share, unit === "s" ? "s" : ""), SVG));
  }
  svg.append(element("text", { x: LEFT, y: HEIGHT - 3 }, `${Math.round(span_s / 60)} min ago`, SVG));
  svg.append(element("text", { x: WIDTH, y: HEIGHT - 3, "text-anchor": "end" }, "now", SVG));
  for (const line of lines) {
    const points = line.values.map((value, n) =>
      value === null ? null : [LEFT + (WIDTH - LEFT) * (n / Math.max(1, line.values.length - 1)), 8 + high * (1 - value / top)]);
    let path = "", down = false;
    points.forEach((point) => {
      if (!point) { down = false; return; }
      path += `${down ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
      if (!down) path += "h0.01"; // a point alone is seen too
      down = true;
    });
    svg.append(element("path", { class: `s ${line.style}`, d: path || "M0 0", "stroke-linecap": "round" }, null, SVG));
  }
  box.append(svg);
  return box;
}

function style(n) { return `s${n % COLOURS}${n >= COLOURS ? " dash" : ""}`; }

function draw(data) {
  const of = steps(data), names = [...of.keys()];
  const legend = document.getElementById("legend");
  legend.replaceChildren(...names.map((name, n) => {
    const item = element("li"), svg = element("svg", { viewBox: "0 0 14 10", "aria-hidden": "true" }, null, SVG);
    svg.append(element("path", { class: `s ${style(n)}`, d: "M0 5H14" }, null, SVG));
    item.append(svg, document.createTextNode(name === "none" ? "without an answer" : name));
    return item;
  }));
  const charts = CHARTS.map(({ title, unit, of: value }) =>
    chart(title, unit, names.map((name, n) => ({ values: of.get(name).map(value), style: style(n) })), data.span_s));
  const oldest = data.now - data.span_s, each = Array.from({ length: Math.floor(data.span_s / STEP_S) }, () => null);
  const waiting = [...each], inFlight = [...each];
  for (const one of queue) {
    const at = Math.floor((one.at - oldest - 1) / STEP_S);
    if (at >= 0 && at < each.length) { waiting[at] = Math.max(waiting[at] ?? 0, one.waiting); inFlight[at] = Math.max(inFlight[at] ?? 0, one.inFlight); }
  }
  charts.push(chart("Queue, since this page was opened", "", [
    { name: "waiting", values: waiting, style: "s4" }, { name: "in flight", values: inFlight, style: "s1 dash" }], data.span_s));
  document.getElementById("charts").replaceChildren(...charts);
  document.getElementById("models").replaceChildren(...data.models.map((model) => row(model, of)));
}

function row(model, of) {
  const line = element("tr"), sums = zero();
  for (const [name, all] of of)
    if (name === model.name || name === `${model.name} · ${model.release}`) all.forEach((one) => add(sums, one, name));
  const cell = (text, kind = "") => line.append(element("td", kind ? { class: kind } : {}, text));
  cell(model.name);
  cell(model.release);
  cell(`${model.engine} ${model.ready ? "ready" : "not ready"}`.trim(), model.ready ? "good" : "bad");
  cell(`${model.in_flight} of ${model.slots}`, "n");
  cell(shown(model.waiting), "n");
  cell(shown(sums.requests), "n");
  cell(shown(sums.errors), sums.errors ? "n bad" : "n");
  cell(shown(sums.requests ? sums.latency_s / sums.requests : null, "s"), "n");
  cell(shown(sums.tokens_out), "n");
  return line;
}

async function look() {
  const state = document.getElementById("state");
  try {
    // From the origin: if the page was opened with a password in its address, a relative one would carry it, and be refused.
    const response = await fetch(new URL("/status/data", location.origin), { cache: "no-store" });
    if (!response.ok) throw new Error(`the server answers ${response.status}`);
    const data = await response.json();
    queue.push({ at: data.now, waiting: sum(data.models, "waiting"), inFlight: sum(data.models, "in_flight") });
    while (queue.length && queue[0].at <= data.now - data.span_s) queue.shift();
    document.getElementById("up").textContent = `up ${lasted(data.up_s)}`;
    const failing = data.beside.filter((one) => !one.ok).map((one) => `${one.name} failing (the log says why)`);
    const wrong = data.models.every((model) => model.ready) ? failing : ["not every engine is ready", ...failing];
    const well = wrong.length === 0;
    state.textContent = well ? `all ready · ${new Date(data.now * 1000).toLocaleTimeString()}` : wrong.join(" · ");
    state.className = well ? "" : "bad";
    draw(data);
  } catch (error) {
    state.textContent = `nothing new is known: ${error.message}`;
    state.className = "bad";
  }
  setTimeout(look, EVERY_MS);
}

function sum(list, key) { return list.reduce((all, one) => all + one[key], 0); }

look();
