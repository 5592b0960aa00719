// The search page. It inserts data from the API as text, never as HTML. The address contains the search, so that it can be shared.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("search"), words = byId("q"), compare = byId("compare"), play = byId("play"), count = byId("k");
const filters = byId("filters"), where = byId("where");
const status = byId("status"), sidesBox = byId("sides");
const DEFAULT_COUNT = count.value;
const EMPTY = "The search is empty. Type what the video shows, or choose an example.";
const NO_RESPONSE = "The server does not respond. Check that it is running.";

let indexes = [];
let sides = [];
let video = null; // the query video, if the search is not a text
let running = new AbortController();
let session = null; // a random number for the click log, if the server has one

// The content of a response of the API. Throws an error with a message to show.
async function ask(address, options) {
  let response, content;
  try {
    response = await fetch(address, options);
    content = await response.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(NO_RESPONSE);
  }
  if (!response.ok) throw new Error(content.error);
  return content;
}

class Side {
  constructor(number) {
    this.number = number;
    this.box = byId("side").content.firstElementChild.cloneNode(true);
    const find = (name) => this.box.querySelector(name);
    this.index = find(".index"), this.dim = find(".dim"), this.funnel = find(".funnel");
    this.about = find(".about"), this.funnelNote = find(".funnel-note");
    this.timing = find(".timing"), this.error = find(".error"), this.list = find(".results");
    find("h2").textContent = number ? "Right side" : "Left side";
    for (const index of indexes) this.index.add(new Option(`${index.name} (${index.videos.toLocaleString("en")} videos)`, index.name));
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

  facts() { return indexes.find((index) => index.name === this.index.value); }
  key(name) { return this.number ? `${name}2` : name; }

  fillDims(requested) {
    const { dims } = this.facts(), width = dims.at(-1);
    const isOther = Number.isInteger(requested) && requested >= 1 && requested <= width && !dims.includes(requested);
    const options = isOther ? [...dims, requested].sort((a, b) => a - b) : dims;
    this.dim.replaceChildren(...options.map((dim) => new Option(dims.includes(dim) ? (dim === width ? `${dim} (all)` : dim) : `${dim} (not trained for)`, dim)));
    this.dim.value = options.includes(requested) ? requested : width;
    this.fitFunnel();
  }

  // With all dims there is nothing to rerank.
  fitFunnel() {
    const { dims } = this.facts();
    if (Number(this.dim.value) === dims.at(-1)) this.funnel.checked = false;
    this.funnel.disabled = dims.length < 2;
    this.describe();
  }

  describe() {
    const { name, dims, model_name, base, videos, shortlist } = this.facts(), width = dims.at(-1);
    const first = Number(this.dim.value) === width ? dims[0] : Number(this.dim.value);
    this.about.textContent = `Index: ${name}. Model: ${model_name} (base: ${base}). ${videos.toLocaleString("en")} videos.`;
    this.funnelNote.textContent = dims.length < 2 ? "" :
      `Funnel: finds the best ${shortlist.toLocaleString("en")} videos with ${first} dimensions, then ranks those with all ${width}.`;
  }

  read(address) {
    const name = address.get(this.key("index"));
    this.index.value = indexes.some((index) => index.name === name) ? name : indexes[Math.min(this.number, indexes.length - 1)].name;
    const dim = address.get(this.key("dim")), { dims } = this.facts();
    const defaultDim = this.number && indexes.length === 1 ? dims[0] : dims.at(-1);
    this.fillDims(dim === null ? defaultDim : Number(dim));
    this.funnel.checked = address.get(this.key("funnel")) === "true" && Number(this.dim.value) !== dims.at(-1);
  }

  write(address) {
    if (indexes.length > 1) address.set(this.key("index"), this.index.value);
    address.set(this.key("dim"), this.dim.value);
    if (this.funnel.checked) address.set(this.key("funnel"), "true");
  }

  async search(signal) {
    this.box.classList.add("waiting");
    const parameters = new URLSearchParams({ index: this.index.value, dim: this.dim.value, funnel: this.funnel.checked, k: count.value });
    if (!video) parameters.set("q", words.value);
    if (condition()) parameters.set("where", condition());
    if (session) parameters.set("session", session);
    try {
      this.show(await ask(`/api/search?${parameters}`, video ? { method: "POST", body: video, signal } : { signal }));
    } catch (error) {
      if (error.name === "AbortError") throw error;
      this.fail(error.message);
    } finally {
      this.box.classList.remove("waiting");
    }
  }

  clear() {
    this.hits = [];
    this.failed = false;
    this.list.replaceChildren();
    this.timing.textContent = "";
    this.error.hidden = true;
  }

  fail(text) {
    this.clear();
    this.failed = true;
    this.error.textContent = text;
    this.error.hidden = false;
  }

  show(results) {
    this.clear();
    const { hits, dims, encode_ms, search_ms } = results;
    this.hits = hits;
    const total = document.createElement("b");
    total.textContent = `${(encode_ms + search_ms).toFixed(1)} ms`;
    const method = dims.length > 1 ? `shortlist with ${dims[0]} dimensions, reranked with ${dims.at(-1)}` : `${dims[0]} dimensions`;
    this.timing.append(total, `: query ${encode_ms.toFixed(1)}, search ${search_ms.toFixed(1)}. ${method}`);
    if (results.untrained.length) this.timing.append(" (not trained for)");
    this.timing.append(". Scores: cosine similarity, at most 1");
    this.list.replaceChildren(...hits.map((hit) => card(hit, results)));
  }
}

function card(hit, { index, search }) {
  const box = byId("result").content.firstElementChild.cloneNode(true);
  const find = (name) => box.querySelector(name);
  box.dataset.id = hit.id;
  find(".rank").textContent = hit.rank;
  find(".score").textContent = hit.score.toFixed(3);
  find(".title").textContent = hit.title || hit.video_id;
  find(".id").textContent = [hit.title ? hit.video_id : "", moment(hit)].filter(Boolean).join(" · ");
  find(".tags").textContent = Object.entries(hit.tags).map(([name, text]) => `${name}: ${text}`).join(" · ").slice(0, 300);
  find(".title").title = Object.entries(hit.fields).map(([name, text]) => `${name}: ${text}`).join("\n").slice(0, 2000);
  const address = `/api/clip?${new URLSearchParams({ index, id: hit.id })}`;
  const label = `Clip of ${hit.title || hit.video_id}`.slice(0, 200);
  const clip = document.createElement(hit.images ? "img" : "video");
  if (hit.images) {
    clip.alt = label;
    clip.loading = "lazy";
  } else {
    Object.assign(clip, { muted: true, loop: true, playsInline: true, controls: true, preload: "metadata" });
    clip.setAttribute("aria-label", label);
    if (hit.start !== null) playMoment(clip, hit.start, hit.end ?? Infinity);
    visible.observe(clip);
  }
  clip.addEventListener("error", () => {
    const message = document.createElement("span");
    message.className = "missing";
    message.textContent = `${hit.path} cannot be shown`;
    clip.replaceWith(message);
  });
  clip.src = hit.start === null ? address : `${address}#t=${hit.start}${hit.end === null ? "" : `,${hit.end}`}`;
  find(".clip").append(clip);
  if (search) logFeedback(box, clip, search, hit.rank, hit.title || hit.video_id);
  return box;
}

function send(search, rank, kind) {
  fetch("/api/events", { method: "POST", body: JSON.stringify({ search, rank, kind }), keepalive: true }).catch(() => {});
}

// A result counts as clicked when a person clicks its clip or picture, starts it, changes its volume, or controls it by a key. Clips that play by themselves do not.
function logFeedback(box, clip, search, rank, title) {
  let clicked = false;
  const click = () => { if (!clicked) send(search, rank, "click"); clicked = true; };
  box.querySelector(".clip").addEventListener("click", click, { capture: true });
  clip.addEventListener("play", () => { if (clip.dataset.byItself) delete clip.dataset.byItself; else click(); }); // the player's buttons pass no clicks on
  clip.addEventListener("volumechange", click);
  box.querySelector(".clip").addEventListener("keydown", (event) => { if (/^( |Enter|k|m|Arrow.*)$/.test(event.key)) click(); });
  if (clip.tagName === "IMG") clip.tabIndex = 0;
  const thumbs = box.querySelector(".thumbs"), buttons = [...thumbs.children];
  thumbs.hidden = false;
  thumbs.setAttribute("aria-label", `Is ${title} relevant?`.slice(0, 200));
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const isPressed = button.getAttribute("aria-pressed") === "true";
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button && !isPressed));
      send(search, rank, isPressed ? "none" : button.className);
    });
  }
}

// One number for a tab, so that a second visit is another session.
function newSession() {
  const known = sessionStorage.getItem("session");
  const made = known ?? [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  sessionStorage.setItem("session", made);
  return made;
}

function clock(seconds) {
  const rounded = Math.round(seconds), minutes = Math.floor(rounded / 60);
  const parts = [...(minutes < 60 ? [minutes] : [Math.floor(minutes / 60), minutes % 60]), rounded % 60];
  return parts.map((part, at) => (at ? String(part).padStart(2, "0") : part)).join(":");
}

function moment({ start, end }) {
  return start === null ? "" : `${clock(start)}–${end === null ? "end" : clock(end)}`;
}

// Plays the clip from `start` to `end`, where it stops. Playing it again begins at `start`. Each frame is checked: events of time are rare.
function playMoment(clip, start, end) {
  clip.loop = false;
  const follow = () => {
    if (clip.currentTime >= end) clip.pause();
    else if (!clip.paused) requestAnimationFrame(follow);
  };
  clip.addEventListener("play", () => {
    if (clip.currentTime >= end || clip.currentTime < start) clip.currentTime = start;
    follow();
  });
}

// Only visible clips play.
const visible = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.dataset.seen = isIntersecting ? "yes" : "";
    run(target);
  }
});

function run(clip) {
  if (play.checked && clip.dataset.seen) {
    if (clip.paused) clip.dataset.byItself = "yes";
    clip.play().catch(() => {});
  } else clip.pause();
}

function showExamples() {
  const texts = used().flatMap((side) => side.facts().examples);
  byId("examples").hidden = Boolean(video || words.value.trim() || !texts.length);
  byId("examples").querySelector("ul").replaceChildren(...[...new Set(texts)].map(example));
}

function example(text) {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", () => { words.value = text; changed(); });
  item.append(button);
  return item;
}

// A select for each tag, with its values; the field takes any other condition.
function fillFilters() {
  const values = Object.create(null); // `{}` would have "constructor", which may be a tag or its value
  for (const { tags } of indexes)
    for (const [name, counts] of Object.entries(tags))
      for (const [value, videos] of Object.entries(counts)) ((values[name] ??= Object.create(null))[value] ??= []).push(videos);
  for (const [name, counts] of Object.entries(values)) {
    const label = document.createElement("label"), select = document.createElement("select");
    select.dataset.tag = name;
    select.add(new Option("any", ""));
    for (const [value, videos] of Object.entries(counts))
      select.add(new Option(`${value} (${Math.max(...videos).toLocaleString("en")})`, JSON.stringify(value)));
    select.addEventListener("change", changed);
    label.append(name, select);
    where.parentElement.before(label);
  }
  const first = Object.keys(values)[0] ?? "title";
  where.placeholder = `${/^[A-Za-z_]\w*$/.test(first) ? first : `tags[${JSON.stringify(first)}]`} != "…"`;
  filters.hidden = !Object.keys(values).length;
}

function facets() { return [...filters.querySelectorAll("select")]; }

function condition() {
  const chosen = facets().filter((select) => select.value).map((select) => `tags[${JSON.stringify(select.dataset.tag)}] == ${select.value}`);
  return (where.value.trim() ? [...chosen, chosen.length ? `(${where.value})` : where.value] : chosen).join(" and ");
}

function used() { return compare.checked ? sides : sides.slice(0, 1); }

function layOut() {
  sidesBox.classList.toggle("two", compare.checked);
  sidesBox.replaceChildren(...used().map((side) => side.box));
}

function mark() {
  const [left, right] = sides;
  for (const [side, opposite, where] of [[left, right, "right"], [right, left, "left"]]) {
    const ranks = new Map(opposite.hits.map((hit) => [hit.id, hit.rank]));
    const comparing = compare.checked && opposite.hits.length;
    for (const box of side.list.children) {
      const note = box.querySelector(".comparison"), rank = ranks.get(box.dataset.id);
      note.classList.toggle("same", rank !== undefined);
      note.textContent = !comparing ? "" : rank === undefined ? `not on the ${where}` : `rank ${rank} on the ${where}`;
    }
  }
}

function summary() {
  const [left, right] = sides;
  if (!left.hits.length) return condition() && !left.failed ? "No video satisfies the filter." : "";
  if (!compare.checked || !right.hits.length) return `${left.hits.length} of ${left.facts().videos.toLocaleString("en")} videos, best first.`;
  const ids = new Set(right.hits.map((hit) => hit.id));
  const both = left.hits.filter((hit) => ids.has(hit.id)).length;
  return `${both} of the ${left.hits.length} results on the left are on the right too.`;
}

async function search() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  showExamples();
  if (!video && !words.value.trim()) {
    sides.forEach((side) => side.clear());
    status.textContent = "";
    document.title = "reelnest search";
    return;
  }
  document.title = `${video ? video.name : words.value} · reelnest search`;
  status.textContent = "Searching…";
  try {
    for (const side of used()) await side.search(signal); // one after the other, so that their timings are independent
  } catch {
    return; // a newer search has started
  }
  mark();
  status.textContent = summary();
}

function address() {
  const parameters = new URLSearchParams();
  if (!video && words.value.trim()) parameters.set("q", words.value);
  if (count.value !== DEFAULT_COUNT) parameters.set("k", count.value);
  for (const select of facets()) if (select.value) parameters.set(`tag.${select.dataset.tag}`, JSON.parse(select.value));
  if (where.value.trim()) parameters.set("where", where.value);
  for (const side of used()) side.write(parameters);
  return `?${parameters}`;
}

function changed() {
  if (address() !== location.search) history.pushState(null, "", address());
  search();
}

function readAddress() {
  const parameters = new URLSearchParams(location.search);
  words.value = parameters.get("q") ?? "";
  count.value = [...count.options].some((option) => option.value === parameters.get("k")) ? parameters.get("k") : DEFAULT_COUNT;
  for (const select of facets()) {
    select.value = JSON.stringify(parameters.get(`tag.${select.dataset.tag}`) ?? "");
    if (select.selectedIndex < 0) select.value = "";
  }
  where.value = parameters.get("where") ?? "";
  compare.checked = parameters.has("dim2") || parameters.has("index2");
  sides.forEach((side) => side.read(parameters));
  layOut();
}

function takeVideo(file) {
  video = file;
  if (byId("preview").src) URL.revokeObjectURL(byId("preview").src);
  byId("query-video").hidden = !file;
  byId("file").value = "";
  if (file) {
    words.value = "";
    byId("query-video-name").textContent = file.name;
    byId("preview").src = URL.createObjectURL(file);
    if (play.checked) byId("preview").play().catch(() => {});
  } else {
    byId("preview").removeAttribute("src");
  }
}

async function start() {
  play.checked = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  try {
    const about = await ask("/api/indexes");
    indexes = about.indexes;
    session = about.click_log ? newSession() : null;
    byId("click-log").hidden = !session;
  } catch (error) {
    status.textContent = error.message;
    return;
  }
  sides = [new Side(0), new Side(1)];
  fillFilters();
  const typed = words.value; // the user may type before the page is ready
  readAddress();
  words.value ||= typed;
  form.addEventListener("submit", (event) => { event.preventDefault(); if (words.value.trim()) takeVideo(null); changed(); if (!video && !words.value.trim()) status.textContent = EMPTY; });
  compare.addEventListener("change", () => { layOut(); changed(); });
  count.addEventListener("change", changed);
  where.addEventListener("change", changed);
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
