// The explorer's page: prompts in, views out; a place chosen in any view can be changed. Text only ever becomes text.
import { ask, get, giveUp, Refused } from "/ask.js";
import { entryAt, placeOf, spell } from "/place.js";

const $ = (id) => document.getElementById(id);
const shown = []; // {question, element, python}: what a report would hold
const running = new Set(); // what can be stopped; the latest is done when what was asked before it is
let model = {}, looked = {}, tokens = { A: [], B: [] }, chosenAt = null, before = Promise.resolve();
let waitsFor = null; // the question whose answer waits for the model

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return element;
}

// -- what is said ---------------------------------------------------------------------------------------------------

function say(words) { $("status").textContent = words; }
function trouble(error) {
  if (error?.name === "AbortError") { say("Stopped."); return; }
  const { what, why, do: next } = error instanceof Refused ? error.parts : { what: "The explorer does not answer.", why: String(error?.message || error), do: "See whether it still runs, and ask again." };
  $("trouble").replaceChildren(make("strong", {}, what), why ? ` ${why}` : "", next ? ` ${next}` : "");
  $("trouble").hidden = false;
  say("");
}
function told(what, unit = "cells") {
  const start = performance.now();
  return (event, data) => {
    if (event === "started") {
      waitsFor = data.state === "ready" ? null : data.job;
      say(data.state === "ready" ? `${what} …` : "Loading the model …");
      if (waitsFor) watch();
      return;
    }
    if (event === "note") { say(data.words); return; }
    const { done, total } = data;
    $("progress").hidden = false;
    if (done === 0) $("progress").removeAttribute("value"); else $("progress").value = done / Math.max(1, total);
    const left = done ? (performance.now() - start) / done * (total - done) / 1000 : 0;
    say(total > 1 ? `${what}: ${done} of ${total} ${unit}${left > 2 ? `, about ${Math.ceil(left)} s left` : ""}` : `${what} …`);
  };
}
/** Run something that can be stopped, after what runs already, or `instead` of it. */
function work(act, instead) {
  if (instead) stop();
  const mine = new AbortController(), begin = before;
  running.add(mine);
  $("stop").hidden = false;
  return before = (async () => {
    await begin;
    if (!mine.signal.aborted) $("trouble").hidden = true;
    try { mine.signal.throwIfAborted(); return await act(mine.signal); } catch (error) {
      if (running.size === 1 || error?.name !== "AbortError") trouble(error);
      return null;
    } finally {
      running.delete(mine);
      if (!running.size) { $("stop").hidden = true; $("progress").hidden = true; }
      if (model.state !== "ready") watch();
    }
  })();
}
function stop() { for (const one of running) one.abort(); }

// -- answers ----------------------------------------------------------------------------------------------------------

const paragraphs = (texts) => texts.map((text) => make("p", {}, text));
/** Sentences under a sub-heading: the first one, and details to be opened. */
function group({ heading, lead, details }) {
  const words = details.length === 1 ? "One detail" : `${details.length} details`;
  return [heading ? make("h3", {}, heading) : null, make("p", {}, lead),
    details.length ? make("details", { class: "more" }, make("summary", {}, words), paragraphs(details)) : null];
}
function sections(found, extra) {
  return found.sections.map((one) => {
    const body = [...paragraphs(one.sentences), ...one.groups.flatMap(group),
      make("div", { class: "parts" }, one.parts.map((tree) => make("div", { class: "part" }, cutaway.build(tree))))];
    const heading = make("h2", { tabindex: "-1" }, one.heading);
    return one.folded ? make("details", {}, make("summary", {}, heading), body) : make("section", {}, heading, extra, body);
  });
}
function ways(found, buttons) {
  const copies = [["Copy Python", found.python], ["Copy command line", found.shell]].filter(([, text]) => text);
  if (!copies.length) return null;
  return make("div", { class: "tools ways" }, buttons,
    copies.map(([name, text]) => make("button", { type: "button", click: (e) => copy(text, e.currentTarget) }, name)),
    make("details", { class: "twin" }, make("summary", {}, "Show"), copies.map(([, text]) => make("pre", { tabindex: "0" }, make("code", {}, text)))));
}
async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); say("Copied."); } catch {
    const area = make("textarea", { class: "spoken", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    say(document.execCommand("copy") ? "Copied." : "Copying is not allowed here: open Show, and select the text.");
    area.remove();
    button.focus();
  }
}
/** Several programs as one, which imports and loads the model once. */
function together(programs) {
  const once = new Set();
  const fresh = (line) => !/^(import cutaway|m = cutaway\.load\(.*\))$/.test(line) || (!once.has(line) && once.add(line));
  return programs.map((text) => text.split("\n").filter(fresh).join("\n").trimStart()).join("\n");
}
/** Put an answer where it belongs: into `host`, which holds it alone, or before everything else there. */
function put(host, question, found, buttons = []) {
  const [element] = sections(found, ways(found, buttons));
  const entry = { question, element, python: found.python };
  if (host === $("changes")) { host.prepend(element); shown.unshift(entry); } else { host.append(element); shown.push(entry); }
  cutaway.enhance(element);
  $("keep").hidden = false;
  $("intro").hidden = true;
  contents();
  return element;
}
/** What there is to go to on the page, in its order. */
function contents() {
  const names = { tokens: "Tokens", compare: "A | B", lens: "Lens", attention: "Heads", attribution: "Contributions" };
  const views = shown.filter(({ question }) => question.kind in names);
  const links = views.map(({ question: { kind, prompt }, element }) => [names[kind] + (prompt === "B" ? " of B" : ""), element]);
  const changes = $("changes").firstElementChild, grid = $("grid");
  if (grid) links.splice(views.findIndex(({ question }) => question.kind === "compare") + 1, 0, ["Grid", grid]);
  if (changes) links.unshift(["Changes", changes]);
  $("contents").hidden = !links.length;
  $("contents").replaceChildren(...links.map(([name, element]) => make("button", { type: "button", click: () => goTo(element) }, name)));
}
function goTo(element) {
  const heading = element.querySelector("h2");
  heading.setAttribute("tabindex", "-1");
  heading.focus({ preventScroll: true });
  heading.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}
/** Put the whole answer in the place of what was there early; the heading, which is being read, and the buttons stay. */
function renew(element, found) {
  const [fresh] = sections(found, null), held = document.activeElement;
  for (const old of element.querySelectorAll(":scope > :not(h2, .ways)")) old.remove();
  element.append(...[...fresh.children].filter((one) => one.tagName !== "H2"));
  cutaway.enhance(element);
  if (!held.isConnected) element.querySelector("h2").focus({ preventScroll: true });
}
/** Say in an early answer that what was to follow will not. */
function unfinished(element) {
  const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode;
    if (/being drawn …$/.test(node.data)) node.data = node.data.replace(/being drawn …$/, "not drawn, it was stopped.");
    else if (node.data === "…") node.data = "—";
  }
}
function take(element) {
  const at = shown.findIndex((one) => one.element === element);
  if (at >= 0) shown.splice(at, 1);
  element.remove();
  contents();
}
function clear() {
  shown.length = 0;
  $("answers").replaceChildren();
  $("changes").replaceChildren();
  $("keep").hidden = true;
  $("change").hidden = true;
  contents();
}

// -- asking -----------------------------------------------------------------------------------------------------------

const fields = { a: "text", b: "other", answer: "answer", foil: "foil" };
const asked = () => Object.fromEntries(Object.values(fields).map((id) => [id, $(id).value]).filter(([, value]) => value));
/** What is asked about a prompt (or a pair), in the order in which it is shown: what is quick first. */
function views(base) {
  const pair = base.other ? [["Comparing", { kind: "compare", ...base }]] : [];
  const b = ({ answer, foil }) => ({ kind: "lens", text: base.other, answer, foil, prompt: "B" }); // what A's lens follows
  return [["Reading the prompt", { kind: "tokens", ...base }], ...pair, ["Reading every layer", { kind: "lens", ...base }],
    ...(base.other ? [["Reading every layer of B", b]] : []), ["Looking where heads look", { kind: "attention", ...base }],
    ["Adding up what was written", { kind: "attribution", ...base }]];
}

function allowPatch() {
  $("patch").disabled = !looked.other;
  $("patch").textContent = looked.other ? "Patch from other prompt" : "Patch (needs a prompt B)";
  $("patch").title = looked.other ? "Put there what the other prompt has there" : "Type a prompt B to patch from, and press Look.";
}
function look() {
  if (!$("text").value) { $("text").focus(); trouble(new Refused({ what: "There is no prompt.", why: "", do: "Type one, or press an example." })); return; }
  remember();
  return work(async (signal) => {
    const start = performance.now(), base = asked(), refused = new Set();
    let first = true, targets = base;
    for (const [words, given] of views(base)) {
      const question = typeof given === "function" ? given(targets) : given;
      let found = null;
      try { found = await ask("/api/ask", question, told(words), signal); } catch (error) {
        if (first || !(error instanceof Refused)) throw error; // without its tokens there is nothing to show of a prompt
        if (!refused.has(error.parts.what)) trouble(error);
        refused.add(error.parts.what);
        continue; // one part that cannot be had keeps none of the others back
      }
      if (first) { clear(); closeResults(); looked = base; allowPatch(); tokens = { A: [], B: [] }; first = false; }
      if (question.kind === "tokens") tokens.A = found.facts.tokens;
      const element = put($("answers"), question, found);
      if (question.kind === "compare") { targets = found.facts; tokens.B = [...element.querySelectorAll("figure.prompt .chip")].map((chip) => chip.textContent); $("answers").append(gridForm(base, found.facts.aligned)); contents(); }
    }
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    say(refused.size ? `The rest took ${seconds} s; what could not be answered is said here.` : `Done in ${seconds} s. Choose a cell, a head or a token to change it.`);
  }, true);
}
/** The grid of a pair: what of A restores its answer in B. */
function gridForm(base, aligned) {
  const names = { resid_pre: "the stream, layer x position", attn_out: "attention, layer x position", mlp_out: "MLPs, layer x position", z: "heads, layer x head" };
  const site = make("select", { id: "site" }, (model.grids || Object.keys(names)).map((name) => make("option", { value: name }, names[name] || name)));
  const host = make("div", {});
  const run = make("button", { type: "submit", class: "primary", disabled: !aligned }, "Run");
  const why = aligned ? null : make("span", { class: "soft" }, "A and B differ in length, so their positions do not correspond. Choose prompts of equal length in tokens.");
  const form = make("form", { class: "bar", submit: (event) => {
    event.preventDefault();
    work(async (signal) => {
      const question = { kind: "grid", ...base, site: site.value };
      const found = await ask("/api/ask", question, told("Patching"), signal);
      for (const old of [...host.children]) take(old);
      const element = put(host, question, found);
      say("Patched.");
      element.querySelector("h2").focus();
    });
  } }, make("label", {}, "Put what A has into B, place by place: ", site), run, why);
  return make("section", { id: "grid" }, make("h2", {}, "What restores A’s answer in B"), form, host);
}
function change(edit) {
  const b = $("which").value === "B", { answer, foil } = asked(), base = { ...looked, answer, foil }; // the prompts that are shown
  const question = { kind: "edit", edit, place: $("place").value.trim(), metric: $("metric").value, ...base, prompt: b ? "B" : "A" };
  if (b) [question.text, question.other] = [base.other || "", base.text];
  if (edit === "add" || edit === "remove") Object.assign(question, { toward: $("toward").value, against: $("against").value, scale: Number($("scale").value) });
  for (const [name, value] of Object.entries(question)) if (value === "" || value === undefined) delete question[name];
  if (!("text" in question)) { trouble(new Refused({ what: `There is no prompt${b ? " B" : ""}.`, why: "", do: "Type one and press Look." })); return; }
  if (!question.place) { $("place").focus(); trouble(new Refused({ what: "No place is chosen.", why: "", do: "Choose a cell, a head or a token, or type a place such as L3.resid_post@-1." })); return; }
  const from = chosenAt;
  work(async (signal) => {
    const back = make("button", { type: "button", click: () => { (from?.isConnected ? from : $("place")).focus(); from?.scrollIntoView?.({ block: "center" }); } }, "Back to the place");
    const gone = make("button", { type: "button", click: () => { take(element); $("place").focus(); } }, "Remove this");
    let element = null, hear = told("Changing");
    const show = (found) => {
      element = put($("changes"), question, found, [back, gone]);
      goTo(element);
    };
    try {
      const found = await ask("/api/ask", question, (event, data) => {
        if (event !== "early") { hear(event, data); return; }
        show(data);
        hear = told(`${data.facts.said}. Drawing the control`, "draws");
        hear("progress", { done: 0, total: 1 });
      }, signal);
      if (element) renew(element, found); else show(found);
      const chances = Object.entries(found.facts.p).map(([name, p]) => `p = ${p.toPrecision(2)} (${name})`).join(", ");
      say(`${found.facts.said}.${chances ? ` Against the control: ${chances}.` : ""}`);
    } catch (error) { if (element) unfinished(element); throw error; }
  });
}

// -- choosing ---------------------------------------------------------------------------------------------------------

document.addEventListener("cutaway:chosen", (event) => {
  const { places, from } = event.detail, figure = from?.closest?.("figure.view");
  if (!places || !shown.length) return;
  offer(places, from, figure);
});
function offer(places, from, figure) {
  const place = placeOf(places, figure);
  if (!place) return;
  chosenAt = from;
  $("place").value = place;
  $("which").value = places.prompt === "B" ? "B" : "A";
  placed();
  $("change").hidden = false;
}
/** An entry of an attention map: the view itself offers heads and tokens; here a single weight can be changed too. */
function offerEntry(canvas, at) {
  const figure = canvas.closest("figure.view"), head = figure?.querySelector(".thumb.chooses");
  if (!head || !at || !shown.length) return;
  offer({ layer: head.dataset.layer, head: head.dataset.head, query: at[0], key: at[1], prompt: figure.dataset.prompt }, canvas, figure);
}
document.addEventListener("click", (event) => { if (event.target.matches?.("canvas.matrix")) offerEntry(event.target, entryAt(event.target, event)); });
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.matches?.("canvas.matrix")) return;
  event.preventDefault();
  offerEntry(event.target, entryAt(event.target, null));
});
function placed() {
  const words = spell($("place").value, tokens[$("which").value]);
  $("placed").textContent = words || ($("place").value ? "not a place" : "choose a cell, a head or a token");
}

// -- the address keeps what is asked, so that it can be a bookmark ------------------------------------------------------

function remember() {
  const words = new URLSearchParams();
  for (const [key, id] of Object.entries(fields)) if ($(id).value) words.set(key, $(id).value);
  history.replaceState(null, "", `#${words}`);
}
function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  if (words.get("result") !== null) return openResult(words.get("result"));
  if (!words.get("a")) return null;
  for (const [key, id] of Object.entries(fields)) $(id).value = words.get(key) || "";
  return look();
}

// -- saved results ------------------------------------------------------------------------------------------------------

function listResults(list) {
  $("results").hidden = !list.length;
  $("results").replaceChildren(make("span", { class: "soft" }, "Saved: "),
    ...list.map(({ id, title }) => make("button", { type: "button", "data-result": id, click: () => openResult(id) }, title)));
}
function closeResults() { for (const one of $("results").querySelectorAll("button")) one.removeAttribute("aria-pressed"); }
function openResult(id) {
  return work(async () => {
    const found = await get(`/api/results/${encodeURIComponent(id)}`);
    clear();
    closeResults();
    $("results").querySelector(`[data-result="${CSS.escape(id)}"]`)?.setAttribute("aria-pressed", "true");
    const title = make("h2", { class: "title", tabindex: "-1" }, found.title);
    const page = make("a", { href: `/results/${encodeURIComponent(id)}`, target: "_blank", rel: "noopener" }, "Open as a page");
    const made = sections(found, null);
    $("answers").append(title, make("p", { class: "subtitle" }, `${found.subtitle} · `, page), ...made);
    cutaway.enhance($("answers"));
    history.replaceState(null, "", `#result=${encodeURIComponent(id)}`);
    say("Opened. No model was needed.");
    title.focus();
  }, true);
}

// -- keeping ------------------------------------------------------------------------------------------------------------

function save() {
  const most = 24, questions = shown.slice(0, most).map((one) => one.question);
  work(async (signal) => {
    const found = await ask("/api/report", { questions }, told("Writing the report"), signal);
    const link = make("a", { href: URL.createObjectURL(new Blob([found.html], { type: "text/html" })), download: found.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say(`Saved ${found.name}${shown.length > most ? `: the first ${most} of ${shown.length} answers; remove some changes for the others` : ""}.`);
  });
}

// -- the model, and starting --------------------------------------------------------------------------------------------

const EXAMPLES = [
  ["Capitals", "The capital of Poland is", "The capital of Peru is"],
  ["Who receives", "When Mary and John got to the park, John gave a ball to", "When Mary and John got to the park, Mary gave a ball to"],
];
let next = 0;
async function watch() {
  const again = (ms) => { clearTimeout(next); next = setTimeout(watch, ms); };
  try {
    model = await get("/api/state");
  } catch (error) { $("model").textContent = "The explorer does not answer. See whether it still runs."; again(3000); return; }
  const about = model.layers ? ` · ${model.layers} layers · d_model ${model.width} · ${model.dtype}${model.certified ? " · certified" : ""}` : "";
  const asleep = model.trouble ? "is not loaded: loading it was stopped. It is loaded when you next ask" : "is loaded when you first ask";
  const words = { asleep, loading: "is loading …", stopping: "is loading; that is being stopped …", ready: "is ready", failed: `could not be loaded. ${model.trouble}` };
  $("model").textContent = `${model.model} ${words[model.state]}${about}`;
  if (!$("results").dataset.listed) { $("results").dataset.listed = "1"; listResults(model.results); }
  if (["asleep", "loading", "stopping"].includes(model.state)) again(model.state === "asleep" ? 1500 : 400);
}
$("ask").addEventListener("submit", (event) => { event.preventDefault(); look(); });
for (const id of ["text", "other"]) $(id).addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); look(); }
});
$("swap").addEventListener("click", () => {
  [$("text").value, $("other").value] = [$("other").value, $("text").value];
  [$("answer").value, $("foil").value] = [$("foil").value, $("answer").value];
  if ($("text").value) look();
});
$("stop").addEventListener("click", () => { if (waitsFor) giveUp(waitsFor); waitsFor = null; stop(); });
$("edit").addEventListener("submit", (event) => { event.preventDefault(); change(event.submitter?.value || "zero"); });
$("place").addEventListener("input", placed);
$("which").addEventListener("change", placed);
$("away").addEventListener("click", () => { $("change").hidden = true; (chosenAt?.isConnected ? chosenAt : $("text")).focus(); });
$("open").addEventListener("click", () => { $("change").hidden = false; $("place").focus(); });
$("more").addEventListener("click", () => $("more").setAttribute("aria-expanded", String($("change").classList.toggle("more"))));
$("save").addEventListener("click", save);
$("python").addEventListener("click", (event) => copy(together(shown.map((one) => one.python).filter(Boolean)), event.currentTarget));
$("examples").append(make("span", { class: "soft" }, "Try: "), ...EXAMPLES.map(([name, a, b]) => make("button", { type: "button", click: () => {
  $("text").value = a; $("other").value = b; $("answer").value = $("foil").value = ""; look();
} }, name)));
window.addEventListener("hashchange", recall);
placed();
watch();
recall();
