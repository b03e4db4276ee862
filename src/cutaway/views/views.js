// What pages do when scripts run: pointing, keys, pinning and choosing across views, sorting, copying, colours.
// Views are complete without it. Text only ever becomes text or an attribute; nothing is fetched.
(() => {
"use strict";

// -- elements ---------------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const SPECIAL = String.raw`^(<\|[^|<>]+\|>|</?s>|<(pad|unk|bos|eos|cls|sep|mask|start_of_turn|end_of_turn|(unused|extra_id_|reserved_)\d+)>|\[(CLS|SEP|PAD|UNK|MASK|BOS|EOS|INST|/INST)\])$`; // as tokens.py
const PLACES = ["prompt", "layer", "head", "neuron", "component", "position", "query", "key", "token", "term"];

/** An element with attributes and children; a function as an attribute listens. Null attributes are left out. */
function make(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}
function draw(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return element;
}

/** The element of a tree [tag, attributes, child, ...], as the library sends it. */
const TAGS = new Set(("svg g text tspan title desc line rect circle polyline polygon path figure figcaption div span p " +
  "h2 h3 h4 ul ol li dl dt dd pre code kbd strong em details summary table caption thead tbody tfoot tr th td colgroup " +
  "col button label input select option output canvas").split(" "));
function build(tree, inside) {
  const [tag, attributes, ...children] = tree;
  if (!TAGS.has(tag)) throw new Error(`views have no <${tag}>`);
  const space = tag === "svg" ? SVG : inside || "http://www.w3.org/1999/xhtml";
  const element = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (/^on|^style$|^src|href$/i.test(name)) throw new Error(`views have no attribute ${name}`);
    if (name !== "xmlns") element.setAttribute(name, value);
  }
  for (const child of children) element.append(typeof child === "string" ? child : build(child, space));
  return element;
}

const once = new Map(); // of each view kind: what makes it work
const short = (x, digits = 3) => {
  if (x === null || x === undefined || Number.isNaN(x)) return "—";
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size < 1e-3 || size >= 1e5 ? x.toExponential(digits - 1) : String(Number(x.toPrecision(digits)));
};
const percent = (x) => (x === null || x === undefined || Number.isNaN(x) ? "—" : x >= 0.0995 || x === 0 ? `${(100 * x).toFixed(0)} %`
  : x >= 5e-4 ? `${(100 * x).toFixed(1)} %` : `${(100 * x).toExponential(0)} %`);
/** Numbers that the library packed: `f4:` or `f8:`, then little-endian floats in base64. */
function numbers(text) {
  const raw = atob(text.slice(3)), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return text.startsWith("f4") ? new Float32Array(bytes.buffer) : new Float64Array(bytes.buffer);
}
/** The same as rows of a table. */
function grid(text, rows) {
  const all = numbers(text), wide = all.length / rows;
  return Array.from({ length: rows }, (_, k) => all.subarray(k * wide, (k + 1) * wide));
}
/** A number to copy: nine digits of one that came from float32, else all of them. */
const digits = (x) => (!Number.isFinite(x) ? "" : Math.fround(x) === x ? Number(x.toPrecision(9)) : x);
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// -- what is pointed at: a tip beside it, the same words for a screen reader --------------------------------------------

const tip = make("div", { class: "tip", hidden: "", "aria-hidden": "true" });
const spoken = make("div", { class: "spoken", role: "status", "aria-live": "polite" });
let pointed = null;

function point(mark, say) {
  if (pointed && pointed !== mark) pointed.classList.remove("pointed");
  pointed = mark;
  if (!mark) { tip.hidden = true; return; }
  mark.classList.add("pointed");
  showTip(mark.dataset.told || "", mark.getBoundingClientRect());
  if (say) spoken.textContent = mark.dataset.told || "";
}
function showTip(words, box) {
  tip.replaceChildren(...words.split("\n").map((line) => make("div", {}, line)));
  tip.hidden = !words;
  const mine = tip.getBoundingClientRect(), wide = document.documentElement.clientWidth;
  const left = Math.max(4, Math.min(box.left + box.width / 2 - mine.width / 2, wide - mine.width - 4));
  const above = box.top - mine.height - 8;
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${(above > 0 ? above : box.bottom + 8) + scrollY}px`;
}

// -- choosing: a place chosen in one view is chosen in every view that shows it ------------------------------------------

let chosen = null; // {layer: "3", head: "2"}
const listeners = [];

function placesOf(element) {
  const found = {};
  for (let at = element; at && at !== document.body; at = at.parentElement) {
    if (at.dataset) for (const name of PLACES) if (at.dataset[name] !== undefined && !(name in found)) found[name] = at.dataset[name];
    if (at.matches("figure.view")) break;
  }
  return found;
}
/** Whether one names the other or something in it: what both say agrees, and only one of them says more. */
function same(a, b) {
  const own = (x) => Object.keys(x).filter((k) => k !== "prompt" && k !== "term");
  const mine = own(a), other = own(b), shared = mine.filter((k) => k in b);
  if (!mine.length || !other.length) return a.term !== undefined && a.term === b.term;
  if (!shared.length || shared.some((k) => a[k] !== b[k])) return false;
  const local = shared.some((k) => k === "position" || k === "query" || k === "key");
  if (local && a.prompt !== undefined && b.prompt !== undefined && a.prompt !== b.prompt) return false;
  return shared.length === mine.length || shared.length === other.length;
}
function choose(places, from) {
  chosen = places && Object.keys(places).some((k) => k !== "prompt") ? places : null;
  for (const mark of document.querySelectorAll("[data-mark], tr[data-layer], tr[data-position]")) {
    const on = chosen !== null && (mark === from || same(chosen, placesOf(mark)));
    mark.classList.toggle("chosen", on);
    if (mark.getAttribute("role") === "option" || mark.getAttribute("role") === "gridcell") mark.setAttribute("aria-selected", String(on));
  }
  for (const listen of listeners) if (listen.figure?.isConnected !== false) listen(chosen, from);
  for (const figure of document.querySelectorAll("figure.view")) noteChoice(figure, from);
  const words = [...new URLSearchParams(location.hash.slice(1))].filter(([k]) => !PLACES.includes(k)).concat(Object.entries(chosen || {}))
    .map(([k, v]) => `${k}=${encodeURIComponent(v)}`).join("&");
  try { history.replaceState(null, "", words ? `#${words}` : location.pathname + location.search); } catch { /* in a frame */ }
  document.dispatchEvent(new CustomEvent("cutaway:chosen", { detail: { places: chosen, from } }));
}
/** Under the figure where something was chosen: what it was, and where else on the page it is. */
function noteChoice(figure, from) {
  figure.querySelector(":scope > .choice")?.remove();
  if (!from || !figure.contains(from) || !chosen) return;
  const others = [...document.querySelectorAll("figure.view")].filter((f) => f !== figure &&
    f.querySelector(".chosen") && f.offsetParent !== null)
    .sort((a, b) => (b.dataset.view === "attention") - (a.dataset.view === "attention")).slice(0, 6);
  const links = others.map((f) => make("button", { type: "button", click: () => {
    f.scrollIntoView({ block: "center", behavior: still() ? "auto" : "smooth" });
    (f.querySelector(".chosen[tabindex], [tabindex='0']") || f).focus({ preventScroll: true });
  } }, nameOf(f)));
  const clear = make("button", { type: "button", click: () => { choose(null); } }, "Clear");
  const told = from.dataset.told || "";
  figure.append(make("div", { class: "choice" }, make("strong", {}, "Pinned"), make("span", {}, told.length > 180 ? `${told.slice(0, 178)}…` : told),
    links.length ? make("span", { class: "soft" }, "Also in: ") : null, links, clear));
}
/** The section a figure stands in, with its number there if it is one of several. */
function nameOf(figure) {
  const section = figure.closest("section, details:not(.twin)"), heading = section?.querySelector("h2")?.textContent || "another view";
  const all = section ? [...section.querySelectorAll("figure.view:not(.verbatim)")] : [];
  return all.length > 1 ? `${heading}, figure ${all.indexOf(figure) + 1}` : heading;
}

// -- marks: one tab stop a view, arrows inside, Enter pins, Escape lets go ------------------------------------------------

function marksOf(figure) {
  return [...figure.querySelectorAll("svg :is(rect, circle, path, line, polygon, polyline, g, text), [data-at], [title], .splitting .term:not(.sum)")]
    .filter((e) => (e.closest(".splitting") ? e.matches(".term") : e.dataset.at !== undefined || e.hasAttribute("title") || [...e.children].some((c) => c.tagName === "title")))
    .filter((e) => !e.closest("details.twin"));
}
/** What a row of a sum says: its name and number, to four digits, and its interval. */
function termTold(term) {
  const name = term.querySelector(".name"), of = exact(term.querySelector(".number")), sign = (v) => `${v > 0 ? "+" : ""}${short(Number(v), 4)}`;
  const ends = of.has("low") ? ` [${sign(of.get("low"))}, ${sign(of.get("high"))}]` : "";
  return `${name.title || name.textContent}: ${sign(of.get(""))}${ends} ${term.closest(".splitting").dataset.unit}${term.tagName === "SUMMARY" ? "; opens" : ""}`;
}
function enhanceMarks(figure) {
  const marks = marksOf(figure);
  for (const mark of marks) {
    if (mark.dataset.mark !== undefined) continue;
    const title = [...mark.children].find((c) => c.tagName === "title");
    mark.dataset.told = title ? title.textContent : mark.matches(".term") ? termTold(mark) : mark.getAttribute("title") || mark.textContent;
    title?.remove();
    mark.removeAttribute("title");
    mark.dataset.mark = "";
    mark.setAttribute("tabindex", "-1");
    if (mark.tagName !== "SUMMARY" && mark.tagName !== "TD" && mark.tagName !== "BUTTON") {
      mark.setAttribute("role", mark.closest("svg") ? "option" : "img");
      mark.setAttribute("aria-label", mark.dataset.told);
      if (mark.closest("svg")) mark.setAttribute("aria-selected", "false");
    }
  }
  if (!marks.length) return;
  for (const svg of figure.querySelectorAll("svg[role=img]")) if (svg.querySelector("[data-mark]")) {
    svg.setAttribute("role", "listbox");
    svg.setAttribute("aria-label", `${svg.getAttribute("aria-label")}. Arrow keys move, Enter pins.`);
    svg.querySelector(":scope > title")?.remove(); // its name is its label; a title would be a second tip
    for (const e of svg.querySelectorAll("text")) e.setAttribute("aria-hidden", "true");
  }
  const table = figure.querySelector("table.lens");
  if (table) { table.setAttribute("role", "grid"); }
  const scroller = figure.querySelector(":scope > .scroll");
  if (scroller) scroller.removeAttribute("tabindex"); // its marks are the tab stop now
  stop(marks);
}
/** See to it that one of the marks that can be seen is the tab stop. */
function stop(marks) {
  const now = marks.find((m) => m.getAttribute("tabindex") === "0");
  if (now && (visible(now) || !marks.some(visible))) return;
  now?.setAttribute("tabindex", "-1");
  (marks.find(visible) || marks[0]).setAttribute("tabindex", "0");
}
function visible(mark) { return mark.getClientRects().length > 0; }
function reach(figure, mark) {
  for (const other of figure.querySelectorAll("[data-mark][tabindex='0']")) other.setAttribute("tabindex", "-1");
  mark.setAttribute("tabindex", "0");
  mark.focus({ preventScroll: true });
  mark.scrollIntoView({ block: "nearest", inline: "nearest" });
  point(mark, true);
}
function moved(figure, mark, key, control) {
  const marks = [...figure.querySelectorAll("[data-mark]")].filter(visible);
  const at = (m) => m.dataset.at.split(" ").map(Number);
  if (!mark.dataset.at) {
    const i = marks.indexOf(mark), step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[key];
    return key === "Home" ? marks[0] : key === "End" ? marks[marks.length - 1] : marks[i + step];
  }
  const [r, c] = at(mark);
  const same = marks.filter((m) => m.dataset.at && m.closest("svg, table") === mark.closest("svg, table"));
  if (key === "Home" || key === "End") {
    const row = control ? same : same.filter((m) => at(m)[0] === r);
    return key === "Home" ? row[0] : row[row.length - 1];
  }
  const [dr, dc] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[key];
  let best = null, least = Infinity;
  for (const m of same) {
    const [y, x] = at(m), along = (y - r) * dr + (x - c) * dc, aside = Math.abs((y - r) * dc) + Math.abs((x - c) * dr);
    if (along > 0 && along + 1000 * aside < least) { least = along + 1000 * aside; best = m; }
  }
  return best;
}
function onKey(event) {
  const mark = event.target.closest?.("[data-mark]");
  if (event.key === "Escape") { point(null); if (chosen) { choose(null); spoken.textContent = "Nothing is pinned."; } return; }
  if (!mark) return;
  const figure = mark.closest("figure.view");
  if (mark.tagName === "SUMMARY" || mark.closest(".splitting")) {
    const details = mark.tagName === "SUMMARY" ? mark.parentElement : null;
    const outer = (details ? details.parentElement : mark.parentElement).closest("details");
    if (event.key === "ArrowRight" && details && !details.open) { details.open = true; event.preventDefault(); return; }
    if (event.key === "ArrowLeft" && details && details.open) { details.open = false; event.preventDefault(); return; }
    if (event.key === "ArrowLeft" && outer && figure.contains(outer) && outer.querySelector(":scope > summary[data-mark]")) {
      event.preventDefault(); reach(figure, outer.querySelector(":scope > summary")); return;
    }
  }
  if (/^(Arrow(Up|Down|Left|Right)|Home|End)$/.test(event.key)) {
    const next = moved(figure, mark, event.key, event.ctrlKey || event.metaKey);
    event.preventDefault();
    if (next) reach(figure, next);
  } else if (event.key === "Enter" || event.key === " ") {
    if (mark.tagName !== "SUMMARY") { event.preventDefault(); pin(mark); }
  }
}
function pin(mark) {
  const again = mark.classList.contains("pinned");
  for (const other of document.querySelectorAll(".pinned")) other.classList.remove("pinned");
  if (!again) mark.classList.add("pinned");
  choose(again ? null : placesOf(mark), again ? null : mark);
  spoken.textContent = again ? "Nothing is pinned." : `Pinned: ${mark.dataset.told}`;
}
/** The mark under the pointer, or in a drawing the nearest within 12 px: small dots are 24 px wide to the hand. */
function under(event) {
  const direct = event.target.closest?.("[data-mark]");
  if (direct) return direct;
  const svg = event.target.closest?.("svg[role=listbox]");
  if (!svg) return null;
  let best = null, least = 12;
  for (const mark of svg.querySelectorAll("circle[data-mark]")) {
    const box = mark.getBoundingClientRect();
    const far = Math.hypot(event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
    if (far < least) { least = far; best = mark; }
  }
  return best;
}

// -- copying ----------------------------------------------------------------------------------------------------------

async function copy(text, button) {
  let done = false;
  try { await navigator.clipboard.writeText(text); done = true; } catch { /* not allowed here */ }
  if (!done) {
    const area = make("textarea", { class: "spoken", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  say(button, done ? "Copied" : "Not allowed here");
}
function say(button, words) {
  const before = button.dataset.words || button.textContent;
  button.dataset.words = before;
  button.textContent = words;
  spoken.textContent = words;
  setTimeout(() => { button.textContent = before; }, 1500);
}
/** The numbers behind a cell's text, by name, its own under "": `0.5 low=0.25 high=0.75`. */
const exact = (cell) => new Map((cell?.dataset.exact || "").split(" ").filter(Boolean).map((part) => {
  const at = part.indexOf("=");
  return at < 0 ? ["", part] : [part.slice(0, at), part.slice(at + 1)];
}));
/** A table as rows of text. Numbers are given in full; a cell with several numbers, such as an interval, is several columns. */
function tableRows(table) {
  const plain = (cell) => {
    const part = cell.querySelector(".sort") || cell, under = part.querySelector(".under");
    return (under ? part.textContent.slice(0, -under.textContent.length) : part.textContent).trim().replace(/[\t\n]/g, " ");
  };
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.querySelectorAll("tbody tr, tfoot tr")].map((row) => [...row.cells].map((cell) => [cell, exact(cell)]));
  const names = heads.map((_, j) => [...new Set(["", ...rows.flatMap((row) => [...(row[j]?.[1].keys() || [])])])]);
  const more = heads.map((_, j) => rows.some((row) => row[j]?.[0].querySelector(".token + .under"))); // a token's second line is text of its own
  const counts = heads.map((_, j) => rows.some((row) => row[j]?.[1].size));
  const told = ([cell, numbers], name, j) => numbers.get(name) ?? (name || (counts[j] && plain(cell) === "—") ? "" : plain(cell));
  const below = (cell) => cell.querySelector(".under")?.textContent.trim() ?? "";
  return [heads.flatMap((head, j) => [...names[j].map((name) => `${plain(head)} ${name.replace(/_/g, " ")}`.trim()), ...(more[j] ? [`${plain(head)} below`] : [])]),
    ...rows.map((row) => row.flatMap((cell, j) => [...(names[j] || [""]).map((name) => told(cell, name, j)), ...(more[j] ? [below(cell[0])] : [])]))];
}
function rowsOf(figure) {
  const custom = once.get(figure)?.rows?.();
  if (custom) return custom;
  const table = figure.querySelector("details.twin table, table");
  return table ? tableRows(table) : [];
}
const asTsv = (rows) => rows.map((row) => row.join("\t")).join("\n") + "\n";
const asJson = (rows) => JSON.stringify(rows.slice(1).map((row) => Object.fromEntries(row.map((value, i) =>
  [rows[0][i] || String(i), value !== "" && Number.isFinite(Number(value)) ? Number(value) : value]))), null, 1);

/** Paint what is seen of an element: boxes, borders, drawings and text, at the size and in the colours on the screen. */
async function painted(element) {
  const box = element.getBoundingClientRect(), scale = 2;
  const width = Math.max(box.width, element.scrollWidth), height = Math.max(box.height, element.scrollHeight);
  const canvas = make("canvas", { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
  const to = canvas.getContext("2d");
  to.scale(scale, scale);
  to.fillStyle = getComputedStyle(document.documentElement).backgroundColor;
  to.fillRect(0, 0, width, height);
  const x0 = box.left - element.scrollLeft, y0 = box.top - element.scrollTop;
  for (const one of [element, ...element.querySelectorAll("*")]) {
    const r = one.getBoundingClientRect(), style = getComputedStyle(one);
    if (!r.width || style.visibility === "hidden" || (one.ownerSVGElement && one.tagName !== "svg")) continue;
    const [x, y] = [r.left - x0, r.top - y0];
    if (one.tagName === "svg") { to.drawImage(await imageOf(one), x, y, r.width, r.height); continue; }
    if (one.tagName === "CANVAS") { to.drawImage(one, x, y, r.width, r.height); continue; }
    to.fillStyle = style.backgroundColor;
    to.fillRect(x, y, r.width, r.height);
    if (parseFloat(style.borderBottomWidth)) {
      to.fillStyle = style.borderBottomColor;
      to.fillRect(x, y + r.height - 1, r.width, 1);
    }
    for (const node of one.childNodes) {
      if (node.nodeType !== Node.TEXT_NODE || !node.data.trim()) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      const [line] = range.getClientRects();
      if (!line) continue;
      to.fillStyle = style.color;
      to.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
      to.textBaseline = "middle";
      to.fillText(node.data.trim().replace(/\s+/g, " "), line.left - x0, line.top - y0 + line.height / 2);
    }
  }
  return canvas;
}
/** A drawing as an image: a copy in which every colour is written out. */
async function imageOf(svg) {
  const twin = svg.cloneNode(true), box = svg.getBoundingClientRect();
  const from = [svg, ...svg.querySelectorAll("*")], to = [twin, ...twin.querySelectorAll("*")];
  const props = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "fill-opacity", "font-size", "font-family",
    "font-weight", "text-anchor", "display", "stroke-opacity"];
  from.forEach((one, i) => {
    const style = getComputedStyle(one);
    for (const name of props) to[i].setAttribute(name, style.getPropertyValue(name));
    if (one.matches(".stuck")) to[i].removeAttribute("transform");
    to[i].removeAttribute("class");
  });
  twin.setAttribute("width", box.width);
  twin.setAttribute("height", box.height);
  twin.setAttribute("xmlns", SVG);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(twin))}`;
  await image.decode();
  return image;
}
async function copyImage(figure, button) {
  const part = figure.querySelector(":scope > .stage > .large, :scope > .scroll, :scope > .splitting, :scope > pre");
  const canvas = await painted(part.matches(".scroll") && part.children.length === 1 ? part.firstElementChild : part);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
    say(button, "Copied");
  } catch {
    make("a", { href: canvas.toDataURL("image/png"), download: "figure.png" }).click();
    say(button, "Saved");
  }
}
function tools(figure) {
  const bar = make("div", { class: "tools" });
  const button = (words, act) => make("button", { type: "button", click: (e) => act(e.currentTarget) }, words);
  if (figure.dataset.view === "verbatim") bar.append(button("Copy", (b) => copy(figure.querySelector("pre").textContent, b)));
  else {
    if (rowsOf(figure).length) bar.append(button("Copy data", (b) => copy(asTsv(rowsOf(figure)), b)),
      button("Copy JSON", (b) => copy(asJson(rowsOf(figure)), b)));
    bar.append(button("Copy image", (b) => copyImage(figure, b)));
    const code = figure.querySelector("details.twin code");
    if (code) bar.append(button("Copy Python", (b) => copy(code.textContent, b)));
  }
  if (figure.querySelector(".each")) bar.append(check("single lines", (on) => figure.classList.toggle("hides-each", !on), true));
  figure.querySelector("figcaption")?.before(bar);
}
function check(words, act, on) {
  return make("label", {}, make("input", { type: "checkbox", checked: on ? "" : null, change: (e) => act(e.target.checked) }), ` ${words}`);
}
function choice(words, options, act, value) {
  const select = make("select", { change: (e) => act(e.target.value) },
    options.map(([v, text]) => make("option", { value: v, selected: v === value ? "" : null }, text)));
  return make("label", {}, `${words} `, select);
}

// -- tables: sorted by any column, filtered by a word, changed rows only ---------------------------------------------------

const amount = (cell) => {
  if (cell.dataset.exact) return Number(exact(cell).get("") ?? NaN);
  const found = /^[-+−]?\d[\d.]*(e[-+]?\d+)?/i.exec(cell.textContent.trim().replace("−", "-"));
  return found ? Number(found[0]) : NaN;
};
function sorts(table) {
  const body = table.tBodies[0], rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, j) => {
    const button = make("button", { type: "button", class: "sort", click: () => {
      const was = head.getAttribute("aria-sort");
      const way = was === "descending" ? "ascending" : was === "ascending" ? null : "descending";
      for (const h of heads) h.removeAttribute("aria-sort");
      if (way) head.setAttribute("aria-sort", way);
      const turn = way === "descending" ? -1 : 1;
      const sorted = !way ? rows : [...rows].sort((a, b) => {
        const x = amount(a.cells[j]), y = amount(b.cells[j]);
        if (Number.isNaN(x) || Number.isNaN(y)) {
          if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
          return turn * a.cells[j].textContent.localeCompare(b.cells[j].textContent);
        }
        return turn * (x - y);
      });
      body.append(...sorted);
    } }, ...head.childNodes);
    head.replaceChildren(button);
  });
  const about = [];
  const state = { word: "", changed: false };
  const apply = () => rows.forEach((row) => {
    row.hidden = !row.textContent.toLowerCase().includes(state.word) || (state.changed && row.dataset.changed === "no");
  });
  if (rows.length > 12) about.push(make("label", {}, "Filter ", make("input", { type: "search", size: "16",
    input: (e) => { state.word = e.target.value.toLowerCase(); apply(); } })));
  if (rows.some((row) => row.dataset.changed)) about.push(check("changed rows only", (on) => { state.changed = on; apply(); }));
  if (!table.closest("figure")) about.push(make("button", { type: "button",
    click: (e) => copy(asTsv(tableRows(table)), e.currentTarget) }, "Copy data"));
  if (about.length) table.closest(".scroll").before(make("div", { class: "tools" }, about));
}

// -- the lens table -----------------------------------------------------------------------------------------------------

/** A token; a special one in a border, as the library draws it. */
const special = new RegExp(SPECIAL, "i");
const tokenSpan = (text) => make("span", { class: `token${special.test(text) ? " special" : ""}`, dir: "auto" }, text);
const shade = (strength) => (strength === null || Number.isNaN(strength) ? "none" : `p${Math.round(10 * Math.min(Math.max(strength, 0), 1))}`);

once.set("lens", (figure, data) => {
  const table = figure.querySelector("table.lens"), scroll = table.closest(".scroll");
  const depth = data.layers.length, wide = data.tokens.length;
  for (const name of ["entropy", "kl", "chance"]) data[name] = grid(data[name], depth);
  for (const one of data.followed) one.probability = grid(one.probability, depth);
  const chances = grid(data.probability, depth * wide);
  data.cells = data.best.map((row, k) => row.map((best, p) => best.flatMap((token, i) => [token, chances[k * wide + p][i]])));
  const cell = new Map([...table.querySelectorAll("td[data-at]")].map((td) => [td.dataset.at, td]));
  const top = (rows) => rows.reduce((most, row) => row.reduce((a, x) => (x > a ? x : a), most), 1e-9);
  const most = { entropy: top(data.entropy), kl: top(data.kl) };
  const rankShade = (r) => (r < 0 ? null : 1 - Math.log10(1 + r) / 4);
  const modes = {
    probability: ["probability of the first choice", (k, p) => data.cells[k][p][1], (x) => x, percent, "0 to 1"],
    rank: ["rank of the token that follows", (k, p) => data.rank[k][p], rankShade, (r) => (r < 0 ? "—" : `#${r}`), "#0 dark, #10000 white"],
    chance: ["probability of the token that follows", (k, p) => data.chance[k][p], (x) => x, percent, "0 to 1"],
    entropy: ["entropy", (k, p) => data.entropy[k][p], (x) => x / most.entropy, (x) => short(x), `0 to ${short(most.entropy)} nats`],
    kl: ["KL from the model's output", (k, p) => data.kl[k][p], (x) => x / most.kl, (x) => short(x), `0 to ${short(most.kl)} nats`],
  };
  data.followed.forEach((one, i) => {
    const name = data.texts[one.token];
    modes[`p${i}`] = [`probability of ${name}`, (k, p) => one.probability[k][p], (x) => x, percent, "0 to 1"];
    modes[`r${i}`] = [`rank of ${name}`, (k, p) => one.rank[k][p], rankShade, (r) => (r < 0 ? "—" : `#${r}`), "#0 dark, #10000 white"];
  });
  const legend = make("span", { class: "shades" });
  function colour(mode) {
    const [name, value, strength, form, range] = modes[mode];
    for (const [at, td] of cell) {
      const [k, p] = at.split(" ").map(Number), x = value(k, p);
      td.classList.remove(...[...td.classList].filter((c) => /^(p\d+|none)$/.test(c)));
      td.classList.add(shade(x === null ? null : strength(x)));
      td.querySelector(".value").textContent = form(x);
    }
    legend.replaceChildren(make("span", { class: "swatch p0" }), make("span", { class: "swatch p3" }), make("span", { class: "swatch p6" }),
      make("span", { class: "swatch p8" }), make("span", { class: "swatch p10" }), ` ${name}, ${range}`);
  }
  const rows = [...table.tBodies[0].rows], n = rows.length;
  function stride(step) {
    rows.forEach((row, k) => { row.hidden = (n - 1 - k) % step !== 0; });
    if (figure.querySelector("[data-mark]")) stop([...cell.values()]);
  }
  const steps = [1, 2, 4, 8].filter((s) => s === 1 || n / s >= 4);
  const first = n > 24 ? (steps.find((s) => n / s <= 24) || steps[steps.length - 1]) : 1;
  const bar = make("div", { class: "tools" }, choice("Colour by", Object.entries(modes).map(([k, m]) => [k, m[0]]), colour, "probability"),
    steps.length > 1 ? choice("Layers", steps.map((s) => [String(s), s === 1 ? "every" : `every ${s}${s === 2 ? "nd" : "th"}`]), (s) => stride(Number(s)), String(first)) : null, legend);
  scroll.before(bar);
  colour("probability");
  stride(first);
  // what a pinned position says: choices of the cell, and its tokens through the layers
  const panel = make("div", { class: "panel", hidden: "" });
  scroll.after(panel);
  const kept = new Set(data.followed.map((one) => one.token));
  let shown = null, log = false;
  function series(token, p) {
    const one = data.followed.find((f) => f.token === token);
    return data.cells.map((row, k) => {
      if (one) return { y: one.probability[k][p], least: false };
      const best = row[p];
      for (let i = 0; i < best.length; i += 2) if (best[i] === token) return { y: best[i + 1], least: false };
      return { y: best[best.length - 1], least: true };
    });
  }
  function open(k, p) {
    shown = [k, p];
    const best = data.cells[k][p], last = data.cells[data.cells.length - 1][p], list = [];
    for (let i = 0; i < best.length; i += 2) list.push([best[i], best[i + 1]]);
    const drawn = [...new Set([last[0], ...kept])].slice(0, 6);
    const body = list.map(([token, x], i) => make("tr", {}, make("th", { scope: "row", class: "text" },
      make("button", { type: "button", "aria-pressed": String(drawn.includes(token)), click: () => {
        if (kept.has(token)) kept.delete(token); else kept.add(token);
        open(k, p);
        panel.querySelectorAll("tbody button")[i]?.focus();
      } }, tokenSpan(data.texts[token]))), make("td", { class: shade(x) }, percent(x))));
    const about = [`entropy ${short(data.entropy[k][p])} nats`, `KL ${short(data.kl[k][p])} nats`];
    if (data.follows[p] >= 0) about.push(`${data.texts[data.follows[p]]} follows: rank ${data.rank[k][p]}, ${percent(data.chance[k][p])}`);
    panel.replaceChildren(
      make("div", { class: "choices" }, make("table", {}, make("caption", {}, `L${data.layers[k]}, position ${p} ${data.texts[data.tokens[p]]}`),
        make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "text" }, "token (press to follow)"), make("th", { scope: "col" }, "probability"))),
        make("tbody", {}, body)), make("p", { class: "soft" }, about.join(" · "))),
      make("div", {}, trajectories(drawn.map((t) => [data.texts[t], series(t, p)]), data.layers, `Probability at position ${p} ${data.texts[data.tokens[p]]}, layer by layer`, k, log),
      make("div", { class: "tools" }, check("logarithmic", (on) => { log = on; open(k, p); panel.querySelector("input").focus(); }, log))));
    panel.hidden = false;
  }
  listeners.push((places, from) => {
    if (from && figure.contains(from) && from.dataset.at) { const [k, p] = from.dataset.at.split(" ").map(Number); open(k, p); return; }
    if (!places) { panel.hidden = true; shown = null; return; }
    const p = Number(places.position ?? places.query), other = placesOf(figure).prompt;
    if (!Number.isInteger(p) || !data.tokens[p] || (places.prompt !== undefined && other !== undefined && places.prompt !== other)) return;
    const k = places.layer === undefined ? n - 1 : data.layers.indexOf(Number(places.layer));
    if (k >= 0 && p < data.tokens.length) open(k, p);
  });
  return { rows: () => {
    const made = [["layer", "position", "input", "rank", "token", "probability", "entropy", "kl"]];
    data.cells.forEach((row, k) => row.forEach((best, p) => {
      for (let i = 0; i < best.length; i += 2) made.push([data.layers[k], p, data.texts[data.tokens[p]], i / 2, data.texts[best[i]], digits(best[i + 1]), digits(data.entropy[k][p]), digits(data.kl[k][p])]);
    }));
    return made;
  } };
});

/** Lines of tokens over layers. Where a token was not among a cell's choices, the last choice bounds it: a hollow mark. */
function trajectories(lines, layers, title, at, log) {
  const wide = 520, high = 190, left = 44, right = 372, top = 26, bottom = 160;
  const x = (i) => left + (i + 0.5) * (right - left) / layers.length, least = 1e-6;
  const share = (v) => (log ? 1 - Math.log10(Math.max(v, least)) / Math.log10(least) : v), y = (v) => bottom - share(v) * (bottom - top);
  const dash = ["", "6 3", "2 3", "8 3 2 3", "1 2", "10 4"];
  const svg = draw("svg", { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high, role: "img", "aria-label": title });
  svg.append(draw("text", { x: 4, y: 14, class: "heading" }, title));
  for (const v of log ? [least, 1e-4, 1e-2, 1] : [0, 0.5, 1]) svg.append(draw("line", { x1: left, x2: right, y1: y(v), y2: y(v), class: v > least ? "grid" : "axis" }),
    draw("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end", class: "number" }, `${Number((100 * v).toPrecision(3))} %`));
  svg.append(draw("line", { x1: x(at), x2: x(at), y1: top, y2: bottom, class: "here" }));
  const every = Math.max(1, Math.ceil(layers.length / 12));
  layers.forEach((layer, i) => { if (i % every === 0) svg.append(draw("text", { x: x(i), y: bottom + 16, "text-anchor": "middle", class: "small" }, `L${layer}`)); });
  const ends = lines.map(([, line], i) => [y(line[line.length - 1].y || 0), i]).sort((a, b) => a[0] - b[0]);
  const placed = new Map();
  let before = -Infinity;
  for (const [where, i] of ends) { before = Math.max(where, before + 14); placed.set(i, before); }
  const over = Math.max(0, before - bottom);
  lines.forEach(([name, line], i) => {
    svg.append(draw("polyline", { points: line.map((v, j) => `${x(j)},${y(v.y || 0)}`).join(" "), class: `line line${i % 4}`, "stroke-dasharray": dash[i] || null }));
    line.forEach((v, j) => svg.append(draw("circle", { cx: x(j), cy: y(v.y || 0), r: v.least ? 3 : 2.5, class: v.least ? `dot line${i % 4} least` : `dot full line${i % 4}` })));
    const end = line[line.length - 1];
    svg.append(draw("text", { x: right + 8, y: placed.get(i) - over + 4, class: `name${i % 4}` }, `${name.slice(0, 12)} ${end.least ? "≤ " : ""}${percent(end.y)}`));
  });
  const bounded = lines.some(([, line]) => line.some((v) => v.least));
  if (bounded) svg.append(draw("text", { x: left, y: high - 2, class: "small" }, "hollow: not among the cell's choices, at most this"));
  return svg;
}

// -- attention ------------------------------------------------------------------------------------------------------------

function unpack(text, n) {
  const below = numbers(text), whole = new below.constructor(n * n);
  for (let i = 0, at = 0; i < n; at += ++i) whole.set(below.subarray(at, at + i + 1), i * n);
  return whole;
}
function colours() {
  const style = getComputedStyle(document.documentElement);
  const hex = (name) => { const v = style.getPropertyValue(name).trim(); return [1, 3, 5].map((i) => parseInt(v.slice(i, i + 2), 16)); };
  return { paper: hex("--paper"), full: style.getPropertyValue("--blue").split(",").map(Number), rule: hex("--rule") };
}
function paint(canvas, weights, n, masked) {
  canvas.width = canvas.height = n;
  const context = canvas.getContext("2d"), image = context.createImageData(n, n), { paper, full, rule } = colours();
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
    const w = Math.sqrt(weights[i * n + j]), at = 4 * (i * n + j), from = j > i ? rule : paper, s = j > i ? 0 : w;
    for (let c = 0; c < 3; c++) image.data[at + c] = from[c] + (full[c] - from[c]) * s;
    image.data[at + 3] = j > i && masked ? 90 : 255;
  }
  context.putImageData(image, 0, 0);
}

once.set("attention", (figure, data) => {
  const n = data.tokens.length, heads = data.heads, cache = new Map();
  const weights = (h) => { if (!cache.has(h)) cache.set(h, unpack(heads[h].weights, n)); return cache.get(h); };
  let head = data.first, token = n - 1, hovered = null, asSource = false, key = null;
  const gallery = make("div", { class: "gallery", role: "listbox", "aria-label": `Heads: ${data.title}. Arrow keys move, Enter chooses.` });
  const big = make("canvas", { class: "matrix", tabindex: "0", role: "application", "aria-label": "Attention matrix. Arrow keys move: up and down from token to token, left and right to where it looks." });
  const cross = make("div", { class: "cross", hidden: "" });
  const line = make("div", { class: "tokens", role: "listbox", "aria-label": "Tokens. Arrow keys move, Enter keeps one." });
  const heading = make("h4", { "aria-level": "3" }), read = make("p", { class: "soft read" });
  const chips = data.tokens.map((t, p) => make("span", { class: `chip p0${special.test(t) ? " special" : ""}`, role: "option", tabindex: p === token ? "0" : "-1", "data-p": p, "data-position": p,
    dir: "auto", "aria-selected": "false" }, t.length > 16 ? `${t.slice(0, 7)}…${t.slice(-7)}` : t));
  line.append(...chips);
  const thumbs = heads.map((one, h) => {
    const canvas = make("canvas", { "aria-hidden": "true" });
    return make("div", { class: "thumb", role: "option", tabindex: h ? "-1" : "0", "data-h": h, "data-layer": one.layer, "data-head": one.head, "data-mark": "",
      "aria-selected": "false", "data-told": one.name, "aria-label": one.name }, canvas, make("span", {}, one.name), make("span", { class: "score" }));
  });
  gallery.append(...thumbs);
  function row(p) { // the weights of one token with every other, as source or as destination
    const w = weights(head);
    return Array.from({ length: n }, (_, q) => (asSource ? w[q * n + p] : w[p * n + q]));
  }
  function lineUp() {
    const p = hovered ?? token, values = row(p);
    chips.forEach((chip, q) => {
      chip.className = `chip ${shade(Math.sqrt(values[q]))}${q === p ? " at" : ""}${q === token ? " kept" : ""}${special.test(data.tokens[q]) ? " special" : ""}`;
      chip.setAttribute("aria-selected", String(q === token));
      chip.setAttribute("aria-label", `${data.tokens[q]}, position ${q}: ${values[q].toFixed(2)}`);
    });
    const best = values.map((v, q) => [v, q]).sort((a, b) => b[0] - a[0]).slice(0, 5).filter(([v]) => v >= 0.005);
    read.textContent = `${heads[head].name}: ${data.tokens[p]} (position ${p}) ${asSource ? "is looked at by" : "looks at"} ` +
      (best.map(([v, q]) => `${data.tokens[q]} (${q}) ${v.toFixed(2)}`).join(", ") || "nothing above 0.005") + ".";
  }
  function place(i, j) {
    const side = big.clientWidth / n;
    cross.hidden = false;
    Object.assign(cross.style, { left: `${big.offsetLeft + j * side}px`, top: `${big.offsetTop + i * side}px`, width: `${side}px`, height: `${side}px` });
    const w = weights(head)[i * n + j], told = `${data.tokens[i]} (${i}) looks at ${data.tokens[j]} (${j}): ${w.toFixed(3)}`;
    const box = cross.getBoundingClientRect();
    showTip(told, box);
    return told;
  }
  function show(h) {
    head = h;
    heading.textContent = `${heads[h].name}`;
    paint(big, weights(h), n, true);
    thumbs.forEach((thumb, i) => { const on = Number(thumb.dataset.h) === h; thumb.classList.toggle("chooses", on); thumb.setAttribute("aria-selected", String(on)); thumb.setAttribute("tabindex", on ? "0" : "-1"); });
    lineUp();
  }
  function sort(by) {
    const order = heads.map((one, h) => [by === "" ? -h : by === "largest" ? strongest(h) : one.scores[by] ?? -Infinity, h]).sort((a, b) => b[0] - a[0]);
    gallery.append(...order.map(([value, h]) => {
      thumbs[h].querySelector(".score").textContent = by && Number.isFinite(value) ? ` ${short(value)}` : "";
      return thumbs[h];
    }));
  }
  const strongest = (h) => { const w = weights(h); let most = 0; for (let j = 1; j < n; j++) most = Math.max(most, w[(n - 1) * n + j]); return most; };
  const names = [...new Set(heads.flatMap((one) => Object.keys(one.scores)))];
  const bar = make("div", { class: "tools" },
    heads.length > 1 ? choice("Sort heads by", [["", "model order"], ["largest", "largest weight of the last token, first key aside"], ...names.map((k) => [k, k])], sort, "") : null,
    choice("Tokens show", [["no", "where the token looks"], ["yes", "who looks at the token"]], (v) => { asSource = v === "yes"; lineUp(); }, "no"));
  const wrap = make("div", { class: "matrixes" }, big, cross);
  if (n <= 40) { // tokens along both sides
    wrap.classList.add("labelled");
    const cut = (t) => (t.length > 11 ? `${t.slice(0, 5)}…${t.slice(-5)}` : t);
    data.tokens.forEach((t, i) => {
      const down = make("span", { class: "down", "aria-hidden": "true" }, cut(t)), across = make("span", { class: "across", "aria-hidden": "true" }, cut(t));
      down.style.top = across.style.left = `calc(var(--side) * ${(i + 0.5) / n})`;
      wrap.append(down, across);
    });
  }
  const stage = make("div", { class: "stage" }, bar, heads.length > 1 ? gallery : null,
    make("div", { class: "large" }, wrap, make("div", { class: "side" }, heading, line, read)));
  figure.querySelector(":scope > .scroll").replaceWith(stage);
  gallery.addEventListener("click", (e) => { const t = e.target.closest(".thumb"); if (t) { show(Number(t.dataset.h)); pin(t); e.stopPropagation(); } });
  gallery.addEventListener("keydown", (e) => {
    const t = e.target.closest(".thumb"), all = [...gallery.children];
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    const next = e.key === "Home" ? all[0] : e.key === "End" ? all[all.length - 1] : step ? all[all.indexOf(t) + step] : null;
    if (e.key === "Enter" || e.key === " ") { show(Number(t.dataset.h)); pin(t); } else if (next) { t.setAttribute("tabindex", "-1"); next.setAttribute("tabindex", "0"); next.focus(); } else return;
    e.preventDefault(); e.stopPropagation();
  });
  const chipAt = (e) => e.target.closest?.(".chip");
  line.addEventListener("pointerover", (e) => { const c = chipAt(e); if (c) { hovered = Number(c.dataset.p); lineUp(); } });
  line.addEventListener("pointerleave", () => { hovered = null; lineUp(); });
  line.addEventListener("focusin", (e) => { const c = chipAt(e); if (c) { hovered = Number(c.dataset.p); lineUp(); spoken.textContent = read.textContent; } });
  line.addEventListener("focusout", () => { hovered = null; lineUp(); });
  line.addEventListener("click", (e) => { const c = chipAt(e); if (c) { token = Number(c.dataset.p); lineUp(); choose({ ...placesOf(figure), position: String(token) }, c); } });
  line.addEventListener("keydown", (e) => {
    const p = Number(chipAt(e)?.dataset.p), step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    const next = e.key === "Home" ? 0 : e.key === "End" ? n - 1 : step ? p + step : null;
    if (e.key === "Enter" || e.key === " ") { token = p; lineUp(); choose({ ...placesOf(figure), position: String(p) }, chips[p]); } else if (next !== null && chips[next]) { chips[p].setAttribute("tabindex", "-1"); chips[next].setAttribute("tabindex", "0"); chips[next].focus(); } else return;
    e.preventDefault(); e.stopPropagation();
  });
  const cellAt = (e) => { const box = big.getBoundingClientRect(); return [Math.floor((e.clientY - box.top) / box.height * n), Math.floor((e.clientX - box.left) / box.width * n)].map((v) => Math.min(Math.max(v, 0), n - 1)); };
  big.addEventListener("pointermove", (e) => { const [i, j] = cellAt(e); hovered = asSource ? j : i; place(i, j); lineUp(); });
  big.addEventListener("pointerleave", () => { cross.hidden = true; tip.hidden = true; hovered = null; lineUp(); });
  big.addEventListener("click", (e) => { const [i, j] = cellAt(e); token = asSource ? j : i; lineUp(); });
  big.addEventListener("focus", () => { key = key || [token, token]; spoken.textContent = place(...key); });
  big.addEventListener("blur", () => { cross.hidden = true; tip.hidden = true; });
  big.addEventListener("keydown", (e) => {
    const step = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1], Home: [0, -n], End: [0, n] }[e.key];
    if (!step) return;
    e.preventDefault();
    key = [key[0] + step[0], key[1] + step[1]].map((v) => Math.min(Math.max(v, 0), n - 1));
    hovered = asSource ? key[1] : key[0];
    spoken.textContent = place(...key);
    lineUp();
  });
  listeners.push((places) => {
    for (const chip of chips) chip.classList.toggle("chosen", !!places && (places.position ?? places.query) === chip.dataset.p && sharesPrompt(places, figure));
    if (!places) return;
    if (places.layer !== undefined && places.head !== undefined) {
      const h = heads.findIndex((one) => String(one.layer) === places.layer && String(one.head) === places.head);
      if (h >= 0 && h !== head) show(h);
    }
    const p = Number(places.position ?? places.query);
    if (Number.isInteger(p) && p < n && sharesPrompt(places, figure) && (places.position ?? places.query) !== undefined) { token = p; lineUp(); }
  });
  const redraw = () => { paint(big, weights(head), n, true); thumbs.forEach((t, h) => { if (t.dataset.drawn) paint(t.querySelector("canvas"), thin(weights(h), n), Math.min(n, 64), false); }); };
  themed.push(redraw);
  const drawn = (thumb) => {
    if (thumb.dataset.drawn) return;
    thumb.dataset.drawn = "1";
    paint(thumb.querySelector("canvas"), thin(weights(Number(thumb.dataset.h)), n), Math.min(n, 64), false);
  };
  if (heads.length * n * n <= 2e6) thumbs.forEach(drawn);
  else { // many or large: when they come into view
    const seen = new IntersectionObserver((entries) => entries.forEach((e) => { if (e.isIntersecting) drawn(e.target); }));
    thumbs.forEach((t) => seen.observe(t));
  }
  show(data.first);
  return { rows: () => {
    const w = weights(head), made = [["head", "query", "from", "key", "to", "weight"]];
    for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) made.push([heads[head].name, i, data.tokens[i], j, data.tokens[j], digits(w[i * n + j])]);
    return made;
  } };
});
const sharesPrompt = (places, figure) => { const mine = placesOf(figure).prompt; return places.prompt === undefined || mine === undefined || places.prompt === mine; };
/** At most 64 x 64: the largest weight of each patch, so that nothing bright is lost in a thumbnail. */
function thin(w, n) {
  if (n <= 64) return w;
  const small = new Float32Array(64 * 64);
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) { const at = Math.floor(i * 64 / n) * 64 + Math.floor(j * 64 / n); if (w[i * n + j] > small[at]) small[at] = w[i * n + j]; }
  return small;
}

// -- square tables side by side --------------------------------------------------------------------------------------------

once.set("matrices", (figure, data) => {
  const svg = figure.querySelector("svg"), names = Object.keys(data.panels), n = data.labels.length;
  for (const name of names) data.panels[name] = grid(data.panels[name], n);
  const boxes = [...svg.querySelectorAll("[data-panel]")];
  const number = (box, name) => Number(box.getAttribute(name));
  let at = [0, 0, 0];
  const told = ([k, i, j]) => `${names[k]}: ${data.ids[i]} ${data.labels[i]}, ${data.ids[j]} ${data.labels[j]}: ${short(data.panels[names[k]][i][j])}` +
    names.filter((_, other) => other !== k).map((name) => `; ${name} ${short(data.panels[name][i]?.[j])}`).join("");
  const cross = draw("rect", { class: "at", "aria-hidden": "true" });
  const lines = boxes.map(() => [draw("rect", { class: "strip" }), draw("rect", { class: "strip" })]);
  boxes.forEach((box, k) => box.after(...lines[k]));
  boxes[0].parentNode.append(cross);
  const side = (box) => number(box, "width") / n;
  function set(element, k, i, j, rows, columns) {
    const box = boxes[k], s = side(box);
    for (const [name, value] of [["x", number(box, "x") + j * s], ["y", number(box, "y") + i * s], ["width", columns * s], ["height", rows * s]]) element.setAttribute(name, value);
  }
  function show(say) {
    set(cross, ...at, 1, 1);
    cross.classList.add("on");
    const words = told(at);
    showTip(words, cross.getBoundingClientRect());
    if (say) spoken.textContent = words;
  }
  function hide() { cross.classList.remove("on"); tip.hidden = true; }
  function keep() {
    const places = { ...placesOf(figure), [data.axis]: String(data.ids[at[1]]) };
    cross.dataset.told = told(at);
    choose(places, cross);
    spoken.textContent = `Pinned: ${cross.dataset.told}`;
  }
  const cellAt = (event) => {
    for (const [k, box] of boxes.entries()) {
      const r = box.getBoundingClientRect(), i = Math.floor((event.clientY - r.top) / r.height * n), j = Math.floor((event.clientX - r.left) / r.width * n);
      if (i >= 0 && i < n && j >= 0 && j < n) return [k, i, j];
    }
    return null;
  };
  for (const [name, value] of [["tabindex", "0"], ["role", "application"], ["aria-label", `${data.title}. Arrow keys move from cell to cell, Page Up and Page Down from panel to panel, Enter keeps one.`]]) svg.setAttribute(name, value);
  figure.querySelector(":scope > .scroll")?.removeAttribute("tabindex");
  svg.querySelector(":scope > title")?.remove();
  svg.addEventListener("pointermove", (e) => { const cell = cellAt(e); if (cell) { at = cell; show(false); e.stopPropagation(); } else hide(); });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("click", (e) => { const cell = cellAt(e); if (cell) { at = cell; keep(); } });
  svg.addEventListener("focus", () => show(true));
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (e) => {
    const step = { ArrowDown: [0, 1, 0], ArrowUp: [0, -1, 0], ArrowRight: [0, 0, 1], ArrowLeft: [0, 0, -1], Home: [0, 0, -n], End: [0, 0, n], PageDown: [1, 0, 0], PageUp: [-1, 0, 0] }[e.key];
    if (e.key === "Enter" || e.key === " ") keep();
    else if (step) at = at.map((v, d) => Math.min(Math.max(v + step[d], 0), (d ? n : names.length) - 1));
    else return;
    e.preventDefault();
    e.stopPropagation();
    show(step !== undefined);
  });
  listeners.push((places) => {
    const value = places && sharesPrompt(places, figure) ? places[data.axis] ?? (data.axis === "position" ? places.query : undefined) : undefined;
    const on = value !== undefined && data.ids.includes(Number(value)) ? data.ids.indexOf(Number(value)) : -1;
    lines.forEach(([row, column], k) => {
      for (const line of [row, column]) line.classList.toggle("chosen", on >= 0);
      if (on >= 0) { set(row, k, on, 0, 1, n); set(column, k, 0, on, n, 1); }
    });
  });
  return { rows: () => [["panel", "row", "row label", "column", "column label", "value"], ...names.flatMap((name) => data.panels[name].flatMap((row, i) =>
    Array.from(row, (value, j) => [name, data.ids[i], data.labels[i], data.ids[j], data.labels[j], digits(value)])))] };
});

// -- sums that open: the numbers are those beside the bars ------------------------------------------------------------------

const depthOf = (name) => { // how many terms it is inside of
  let depth = name.closest("summary") ? -1 : 0;
  for (let at = name.closest("details"); at; at = at.parentElement.closest(".rows details")) depth++;
  return String(depth);
};
once.set("splitting", (figure) => ({ rows: () => {
  const terms = [...figure.querySelectorAll("div.splitting .term")].map((term) => [term.querySelector(".name"), exact(term.querySelector(".number"))]);
  const ends = terms.some(([, of]) => of.has("low")) ? ["low", "high"] : [];
  return [["term", "depth", "contribution", ...ends], ...terms.map(([name, of]) =>
    [name.textContent, depthOf(name), of.get(""), ...ends.map((end) => of.get(end) ?? "")])];
} }));

// -- light, dark, or as the system has it -----------------------------------------------------------------------------------

const themed = [];
function theme() {
  const names = ["system", "light", "dark"];
  let now = document.documentElement.dataset.theme || "system";
  try { now = localStorage.getItem("cutaway-theme") || now; } catch { /* in a frame */ }
  const button = make("button", { type: "button", class: "theme" });
  const set = (name) => {
    now = names.includes(name) ? name : "system";
    if (now === "system") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = now;
    button.textContent = `Colours: ${now}`;
    for (const again of themed) again();
  };
  button.addEventListener("click", () => {
    set(names[(names.indexOf(now) + 1) % 3]);
    try { localStorage.setItem("cutaway-theme", now); } catch { /* in a frame */ }
  });
  set(now);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => themed.forEach((again) => again()));
  document.querySelector("header")?.prepend(button);
  const paint = (name) => { // paper is light, and so is what is drawn on canvas
    if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
    for (const again of themed) again();
  };
  addEventListener("beforeprint", () => paint("light"));
  addEventListener("afterprint", () => paint(now === "system" ? "" : now));
  if (window.parent === window) return;
  // in a notebook: its page says whether it is dark, and nothing else is heard
  addEventListener("message", (event) => {
    const told = event.source === window.parent ? event.data?.cutawayTheme : undefined;
    if (typeof told === "string") set(told);
  });
  window.parent.postMessage("cutaway-theme?", "*");
}

// -- what is wider than its place: it says on which side there is more, and the names of its rows stay in view ----------------

function scrolls(scroller) {
  const svg = scroller.querySelector(":scope > svg"), stuck = svg?.querySelector(".stuck");
  const look = () => {
    const left = scroller.scrollLeft, rest = scroller.scrollWidth - scroller.clientWidth - left;
    scroller.dataset.more = `${left > 1 ? "left" : ""} ${rest > 1 ? "right" : ""}`.trim();
    const scale = svg ? svg.viewBox.baseVal.width / (svg.clientWidth || 1) : 1;
    const few = stuck && stuck.getBBox().width < scroller.clientWidth * scale / 2; // else they would hide what they name
    stuck?.setAttribute("transform", `translate(${few ? left * scale : 0} 0)`);
  };
  scroller.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(scroller);
}

// -- all together -----------------------------------------------------------------------------------------------------------

function enhance(root) {
  const gone = (one) => one.figure && !one.figure.isConnected; // a page that shows ever new figures forgets the old ones
  listeners.splice(0, listeners.length, ...listeners.filter((one) => !gone(one)));
  for (const key of once.keys()) if (typeof key !== "string" && !key.isConnected) once.delete(key);
  const figures = [...root.querySelectorAll("figure.view")].concat(root.matches?.("figure.view") ? [root] : []);
  for (const figure of figures) {
    if (figure.dataset.live !== undefined) continue;
    figure.dataset.live = "";
    const kind = once.get(figure.dataset.view);
    const before = listeners.length;
    if (kind) once.set(figure, kind(figure, figure.dataset.json ? JSON.parse(figure.dataset.json) : null));
    for (const listen of listeners.slice(before)) listen.figure = figure;
    enhanceMarks(figure);
    tools(figure);
  }
  for (const scroller of root.querySelectorAll(".scroll")) if (scroller.dataset.more === undefined) { scroller.dataset.more = ""; scrolls(scroller); }
  for (const table of root.querySelectorAll("table.sorts")) if (!table.dataset.live) { table.dataset.live = "1"; sorts(table); }
}
function start() {
  document.body.append(tip, spoken);
  document.documentElement.classList.add("scripted");
  theme();
  enhance(document);
  document.addEventListener("pointermove", (e) => {
    if (e.target.closest?.(".matrixes, .tip")) return;
    const mark = under(e);
    if (mark !== pointed) point(mark, false);
  });
  document.addEventListener("focusin", (e) => { if (e.target.closest?.(".matrix, svg[role=application]")) return; const mark = e.target.closest?.("[data-mark]"); point(mark && e.target === mark ? mark : null, true); });
  document.addEventListener("focusout", () => point(null));
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", (e) => {
    const mark = under(e);
    if (!mark || !mark.closest("figure.view")) return;
    const figure = mark.closest("figure.view");
    for (const other of figure.querySelectorAll("[data-mark][tabindex='0']")) other.setAttribute("tabindex", "-1");
    mark.setAttribute("tabindex", "0");
    if (mark.tagName !== "SUMMARY") pin(mark);
    else choose(placesOf(mark), mark);
  });
  const wanted = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (Object.keys(wanted).length && Object.keys(wanted).every((k) => PLACES.includes(k))) choose(wanted);
}
window.cutaway = { build, enhance, choose, rows: (view) => (view.matches("table") ? tableRows(view) : rowsOf(view)) };
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
})();
