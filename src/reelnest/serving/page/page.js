// The search page. What is shown comes from the API and is put in as text, never as HTML. The address holds the search, so it can be sent.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("search"), words = byId("q"), compare = byId("compare"), play = byId("play"), count = byId("k");
const status = byId("status"), sidesBox = byId("sides");
const DEFAULT_COUNT = count.value;

let indexes = [];
let sides = [];
let video = null; // the file that is searched with, in place of words
let running = new AbortController();

class Side {
  constructor(number) {
    this.number = number;
    this.box = byId("side").content.firstElementChild.cloneNode(true);
    const find = (name) => this.box.querySelector(name);
    this.index = find(".index"), this.dim = find(".dim"), this.funnel = find(".funnel");
    this.timing = find(".timing"), this.error = find(".error"), this.list = find(".answers");
    find("h2").textContent = number ? "Right side" : "Left side";
    for (const one of indexes) this.index.add(new Option(`${one.name} (${one.videos.toLocaleString("en")} videos)`, one.name));
    find(".index-label").hidden = indexes.length < 2;
    this.index.addEventListener("change", () => { this.fillDims(Number(this.dim.value)); changed(); });
    this.dim.addEventListener("change", () => { this.fitFunnel(); changed(); });
    this.funnel.addEventListener("change", () => {
      const { dims } = this.facts();
      if (this.funnel.checked && Number(this.dim.value) === dims.at(-1)) this.dim.value = dims[0];
      changed();
    });
    this.hits = [];
  }

  facts() { return indexes.find((one) => one.name === this.index.value); }
  key(name) { return this.number ? `${name}2` : name; }

  fillDims(wanted) {
    const { dims } = this.facts(), width = dims.at(-1);
    const known = Number.isInteger(wanted) && wanted >= 1 && wanted <= width && !dims.includes(wanted) ? [...dims, wanted].sort((a, b) => a - b) : dims;
    this.dim.replaceChildren(...known.map((dim) => new Option(dims.includes(dim) ? (dim === width ? `${dim} (all)` : dim) : `${dim} (not trained for)`, dim)));
    this.dim.value = known.includes(wanted) ? wanted : width;
    this.fitFunnel();
  }

  // With all dims there is nothing to order anew.
  fitFunnel() {
    const { dims } = this.facts();
    if (Number(this.dim.value) === dims.at(-1)) this.funnel.checked = false;
    this.funnel.disabled = dims.length < 2;
  }

  read(address) {
    const name = address.get(this.key("index"));
    this.index.value = indexes.some((one) => one.name === name) ? name : indexes[Math.min(this.number, indexes.length - 1)].name;
    const asked = address.get(this.key("dim")), { dims } = this.facts();
    const otherwise = this.number && indexes.length === 1 ? dims[0] : dims.at(-1);
    this.fillDims(asked === null ? otherwise : Number(asked));
    this.funnel.checked = address.get(this.key("funnel")) === "true" && Number(this.dim.value) !== dims.at(-1);
  }

  write(address) {
    if (indexes.length > 1) address.set(this.key("index"), this.index.value);
    address.set(this.key("dim"), this.dim.value);
    if (this.funnel.checked) address.set(this.key("funnel"), "true");
  }

  async search(signal) {
    this.box.classList.add("waiting");
    const asked = new URLSearchParams({ index: this.index.value, dim: this.dim.value, funnel: this.funnel.checked, k: count.value });
    if (!video) asked.set("q", words.value);
    try {
      const answer = await fetch(`/api/search?${asked}`, video ? { method: "POST", body: video, signal } : { signal });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      this.show(found);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      this.fail(error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message);
    } finally {
      this.box.classList.remove("waiting");
    }
  }

  clear() {
    this.hits = [];
    this.list.replaceChildren();
    this.timing.textContent = "";
    this.error.hidden = true;
  }

  fail(text) {
    this.clear();
    this.error.textContent = text;
    this.error.hidden = false;
  }

  show(found) {
    this.clear();
    this.hits = found.hits;
    const score = document.createElement("b");
    score.textContent = `${(found.encode_ms + found.search_ms).toFixed(1)} ms`;
    const how = found.dims.length > 1 ? `shortlist by ${found.dims[0]} dims, ordered by ${found.dims.at(-1)}` : `${found.dims[0]} dims`;
    this.timing.append(score, `: query ${found.encode_ms.toFixed(1)}, search ${found.search_ms.toFixed(1)}. ${how}`);
    if (found.untrained.length) this.timing.append(" (not trained for)");
    this.list.replaceChildren(...found.hits.map((hit) => card(hit, found.index)));
  }
}

function card(hit, index) {
  const box = byId("answer").content.firstElementChild.cloneNode(true);
  const find = (name) => box.querySelector(name);
  box.dataset.id = hit.video_id;
  find(".rank").textContent = hit.rank;
  find(".score").textContent = hit.score.toFixed(3);
  find(".title").textContent = hit.title || hit.video_id;
  find(".id").textContent = hit.title ? hit.video_id : "";
  find(".title").title = Object.entries(hit.fields).map(([name, text]) => `${name}: ${text}`).join("\n").slice(0, 2000);
  const address = `/api/clip?${new URLSearchParams({ index, id: hit.video_id })}`;
  const label = `Clip of ${hit.title || hit.video_id}`.slice(0, 200);
  const clip = document.createElement(hit.images ? "img" : "video");
  if (hit.images) {
    clip.alt = label;
    clip.loading = "lazy";
  } else {
    Object.assign(clip, { muted: true, loop: true, playsInline: true, controls: true, preload: "metadata" });
    clip.setAttribute("aria-label", label);
    visible.observe(clip);
  }
  clip.addEventListener("error", () => {
    const lost = document.createElement("span");
    lost.className = "lost";
    lost.textContent = `${hit.path} cannot be shown here`;
    clip.replaceWith(lost);
  });
  clip.src = address;
  find(".clip").append(clip);
  return box;
}

// Only what is seen plays.
const visible = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.dataset.seen = isIntersecting ? "yes" : "";
    run(target);
  }
});

function run(clip) {
  if (play.checked && clip.dataset.seen) clip.play().catch(() => {});
  else clip.pause();
}

function used() { return compare.checked ? sides : sides.slice(0, 1); }

function layOut() {
  sidesBox.classList.toggle("two", compare.checked);
  sidesBox.replaceChildren(...used().map((side) => side.box));
}

function mark() {
  const [left, right] = sides;
  for (const [side, other, where] of [[left, right, "right"], [right, left, "left"]]) {
    const ranks = new Map(other.hits.map((hit) => [hit.video_id, hit.rank]));
    for (const box of side.list.children) {
      const note = box.querySelector(".other"), rank = ranks.get(box.dataset.id);
      note.classList.toggle("same", rank !== undefined);
      note.textContent = !compare.checked || !other.hits.length ? "" : rank === undefined ? `not on the ${where}` : `${rank} on the ${where}`;
    }
  }
}

function told() {
  const [left, right] = sides;
  if (!left.hits.length) return "";
  if (!compare.checked || !right.hits.length) return `${left.hits.length} of ${left.facts().videos.toLocaleString("en")} videos, best first.`;
  const ids = new Set(right.hits.map((hit) => hit.video_id));
  const both = left.hits.filter((hit) => ids.has(hit.video_id)).length;
  return `${both} of the ${left.hits.length} answers on the left are on the right too.`;
}

async function search() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  if (!video && !words.value.trim()) {
    sides.forEach((side) => side.clear());
    status.textContent = "";
    document.title = "reelnest search";
    return;
  }
  document.title = `${video ? video.name : words.value} · reelnest search`;
  status.textContent = "Searching…";
  try {
    for (const side of used()) await side.search(signal); // one after the other, so that neither's time is the other's
  } catch {
    return; // a newer search goes on
  }
  mark();
  status.textContent = told();
}

function address() {
  const found = new URLSearchParams();
  if (!video && words.value.trim()) found.set("q", words.value);
  if (count.value !== DEFAULT_COUNT) found.set("k", count.value);
  for (const side of used()) side.write(found);
  return `?${found}`;
}

function changed() {
  if (address() !== location.search) history.pushState(null, "", address());
  search();
}

function readAddress() {
  const found = new URLSearchParams(location.search);
  words.value = found.get("q") ?? "";
  count.value = [...count.options].some((one) => one.value === found.get("k")) ? found.get("k") : DEFAULT_COUNT;
  compare.checked = found.has("dim2") || found.has("index2");
  sides.forEach((side) => side.read(found));
  layOut();
}

function takeVideo(file) {
  video = file;
  if (byId("preview").src) URL.revokeObjectURL(byId("preview").src);
  byId("asked").hidden = !file;
  byId("file").value = "";
  if (file) {
    words.value = "";
    byId("asked-name").textContent = file.name;
    byId("preview").src = URL.createObjectURL(file);
    if (play.checked) byId("preview").play().catch(() => {});
  } else {
    byId("preview").removeAttribute("src");
  }
}

async function start() {
  play.checked = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  try {
    ({ indexes } = await (await fetch("/api/indexes")).json());
  } catch {
    status.textContent = "The server does not answer. Is it still running?";
    return;
  }
  sides = [new Side(0), new Side(1)];
  const typed = words.value; // by somebody who did not wait
  readAddress();
  words.value ||= typed;
  form.addEventListener("submit", (event) => { event.preventDefault(); if (words.value.trim()) takeVideo(null); changed(); });
  compare.addEventListener("change", () => { layOut(); changed(); });
  count.addEventListener("change", changed);
  play.addEventListener("change", () => document.querySelectorAll(".clip video").forEach(run));
  byId("choose").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", (event) => { if (event.target.files[0]) { takeVideo(event.target.files[0]); changed(); } });
  byId("clear").addEventListener("click", () => { takeVideo(null); changed(); words.focus(); });
  addEventListener("popstate", () => { takeVideo(null); readAddress(); search(); });
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { event.preventDefault(); words.select(); }
  });
  search();
}

start();
