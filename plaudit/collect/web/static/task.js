// The task page works without this file; with it, it is quicker: keys, drafts, drag and drop, time and the lease.
import { draftOf, inText } from "./keys.js";

const form = document.getElementById("judgment");
const kind = form.dataset.kind;
const writes = kind === "demonstrate" || kind === "edit";
const status = document.getElementById("status");
const button = document.getElementById("submit");
const skipping = document.getElementById("skip");
const draft = draftOf(form.dataset.assignment);
const opened = performance.now();
let touched = false;

// Time: only while the page is looked at; what a draft brings along counts too.
let watched = 0;
let since = document.hidden ? null : opened;
document.addEventListener("visibilitychange", () => {
  if (document.hidden && since !== null) watched += performance.now() - since;
  since = document.hidden ? null : performance.now();
});
const seconds = () => (watched + (since === null ? 0 : performance.now() - since)) / 1000;

// What was said is kept in this browser until it has been submitted.
const OURS = ["form_token", "submission", "seconds"];
const written = () => JSON.stringify([...form.querySelectorAll("textarea")].map((area) => area.value));
const beginning = written();

function said() {
  const kept = {};
  for (const [name, value] of new FormData(form)) if (!OURS.includes(name)) (kept[name] ??= []).push(value);
  return kept;
}

function keepDraft() {
  try {
    localStorage.setItem(draft, JSON.stringify({ said: said(), seconds: seconds(), at: Date.now() }));
  } catch { /* a browser that keeps nothing */ }
}

function restoreDraft() {
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(draft));
  } catch { /* as above */ }
  if (!kept) return;
  watched += 1000 * kept.seconds;
  if (JSON.stringify(kept.said) === JSON.stringify(said())) return;
  for (const input of form.querySelectorAll("input, textarea")) {
    if (OURS.includes(input.name)) continue;
    const values = kept.said[input.name] ?? [];
    if (input.type === "radio" || input.type === "checkbox") input.checked = values.includes(input.value);
    else input.value = values[0] ?? input.value;
  }
  if (kept.said.comment?.[0] || kept.said.flags) document.getElementById("more").open = true;
  status.textContent = "Your draft was restored.";
}

function changed() {
  touched = true;
  keepDraft();
}

form.addEventListener("input", changed);

// One submission, however often the key is pressed; a page that comes back from the browser's memory can send again.
let sent = false;
form.addEventListener("submit", (event) => {
  const skips = event.submitter?.name === "reason";
  // A second click or key press meant for the page before must not submit what this one was filled with.
  const isMeant = skips || touched || performance.now() - opened > 1000;
  const isLost = skips && written() !== beginning;
  if (sent || !isMeant || (isLost && !confirm("Skip this task and throw away what you wrote?"))) {
    event.preventDefault();
    return;
  }
  keepDraft();
  form.elements.seconds.value = seconds().toFixed(1);
  sent = true;
  try { sessionStorage.setItem("plaudit-sent", form.dataset.assignment); } catch { /* as above */ }
});
addEventListener("pageshow", (event) => { if (event.persisted) sent = false; });
addEventListener("pagehide", () => { if (!sent) keepDraft(); });

// The marked answer, for ranks, ratings and safety.
const cards = () => [...form.querySelectorAll(".candidate[data-place]")];
const nameOf = (card) => card.querySelector("h2").textContent.trim();
let marked = null;

function mark(card) {
  marked?.removeAttribute("aria-current");
  marked = card;
  marked.setAttribute("aria-current", "true");
}

// Scroll only as far as it takes; what sticks to the window's lower edge hides what is under it.
function show(part) {
  const dock = document.querySelector(".dock").getBoundingClientRect();
  const { top, bottom } = part.getBoundingClientRect();
  const end = part.closest(".dock") ? innerHeight : Math.min(innerHeight, dock.top);
  if (bottom > end) scrollBy(0, bottom - end + 16);
  else if (top < 0) scrollBy(0, top - 16);
}

function go(card) {
  mark(card);
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
}

function choose(key) {
  const input = marked?.querySelector(`input[data-key="${CSS.escape(key)}"]`);
  if (!input) {
    // The digit that is being pressed is typed into the field.
    if (/^\d$/.test(key)) marked?.querySelector("input[type=number]")?.select();
    return false;
  }
  input.checked = true;
  changed();
  const next = cards()[cards().indexOf(marked) + 1];
  status.textContent = `${nameOf(marked)}: ${input.dataset.said}. ${next ? `Now ${nameOf(next)}.` : "Enter hands in."}`;
  if (next) {
    go(next);
  } else {
    button.focus({ preventScroll: true });
    show(input);
  }
  return true;
}

function compare(key) {
  const input = form.querySelector(`input[name=verdict][data-key="${CSS.escape(key)}"]`);
  if (!input) return false;
  input.checked = true;
  input.focus({ preventScroll: true });
  show(input.closest("fieldset"));
  changed();
  return true;
}

function move(step) {
  const all = cards();
  if (all.length) go(all[Math.min(all.length - 1, Math.max(0, all.indexOf(marked) + step))]);
  return all.length > 0;
}

function pressed(key, target) {
  if (kind === "compare") return compare(key);
  if (key === "arrowdown" || key === "arrowup") return target.type !== "radio" && move(key === "arrowdown" ? 1 : -1);
  return choose(key);
}

function openMore(selector) {
  document.getElementById("more").open = true;
  form.querySelector(selector).focus();
}

let beforeSkipping = null;
function openSkip() {
  if (!skipping) return;
  beforeSkipping = document.activeElement;
  skipping.open = true;
  show(skipping);
  skipping.querySelector("button").focus({ preventScroll: true });
}

function closeSkip() {
  skipping.open = false;
  document.activeElement.blur();
  beforeSkipping?.focus({ preventScroll: true });
}

const named = {
  s: openSkip,
  c: () => openMore("[name=comment]"),
  f: () => openMore("[name=flags]"),
  g: () => { const guideline = document.querySelector(".guideline"); guideline.open = !guideline.open; },
  "?": () => document.getElementById("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
  const isWriting = inText(event.target);
  if (event.key === "Escape") {
    if (isWriting) event.target.blur();
    else if (skipping?.open) closeSkip();
    return;
  }
  if (event.key === "Enter") {
    const isElsewhere = isWriting || writes || event.target.closest("button, summary, a");
    if (isPlain && isElsewhere) return;
    event.preventDefault();
    if (!event.repeat) form.requestSubmit(button);
    return;
  }
  if (!isPlain || isWriting || event.repeat) return;
  const key = event.key.toLowerCase();
  if (pressed(key, event.target)) event.preventDefault();
  else if (named[key]) { event.preventDefault(); named[key](); }
});

form.addEventListener("focusin", (event) => {
  const card = event.target.closest(".candidate[data-place]");
  if (card) mark(card);
});

// Dragging an answer by its heading puts all of them in the order in which they then stand.
const list = document.getElementById("ranking");
if (list) {
  const order = () => cards().map((card) => card.dataset.place).join();
  let dragged = null;
  let before = "";
  list.querySelectorAll("h2").forEach((heading) => { heading.draggable = true; });
  list.addEventListener("dragstart", (event) => {
    if (!event.target.matches?.(".candidate > h2")) return;
    dragged = event.target.closest(".candidate");
    before = order();
    dragged.classList.add("dragged");
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", "");
    event.dataTransfer.setDragImage(dragged, 20, 20);
  });
  list.addEventListener("dragover", (event) => {
    const over = event.target.closest(".candidate");
    if (!dragged) return;
    event.preventDefault();
    if (!over || over === dragged) return;
    const box = over.getBoundingClientRect();
    list.insertBefore(dragged, event.clientY < box.top + box.height / 2 ? over : over.nextSibling);
  });
  list.addEventListener("drop", (event) => { if (dragged) event.preventDefault(); });
  list.addEventListener("dragend", () => {
    dragged?.classList.remove("dragged");
    dragged = null;
    if (order() === before) return;
    cards().forEach((card, place) => { card.querySelector(`input[value="${place + 1}"]`).checked = true; });
    changed();
    status.textContent = `Ranked as they stand: ${cards().map(nameOf).join(", ")}.`;
  });
}

// Hold the task while the page is open and looked at.
async function renew() {
  if (document.hidden) return;
  const body = new URLSearchParams({ form_token: form.elements.form_token.value });
  try {
    const answer = await fetch(`/task/${form.dataset.assignment}/renew`, { method: "POST", body });
    if (answer.redirected || answer.status === 403) {
      status.textContent = "You are no longer logged in. What you wrote is kept in this browser. Log in again.";
    } else if (answer.status === 410) {
      status.textContent = "This task was held for too long. Submit it: it is kept unless somebody else has taken the task.";
    }
  } catch {
    status.textContent = "The server is not answering. What you write is kept in this browser.";
  }
}
if (!("again" in form.dataset)) setInterval(renew, Math.max(20, (form.dataset.lease * 60) / 3) * 1000);

const help = document.getElementById("help-button");
help.hidden = false;
help.addEventListener("click", named["?"]);
restoreDraft();
if (cards().length) mark(cards()[0]);
// Where there is a keyboard, one writes at once; on a phone its keyboard would hide the question.
if (writes && matchMedia("(hover: hover)").matches) form.elements.text.focus({ preventScroll: true });
