// The task page works without this file; with it, it is quicker: keys, drafts, drag and drop, time and the lease.

const form = document.getElementById("judgment");
const kind = form.dataset.kind;
const writes = kind === "demonstrate" || kind === "edit";
const status = document.getElementById("status");
const cards = () => [...form.querySelectorAll(".candidate[data-place]")];
const draft = `plaudit-draft-${form.dataset.assignment}`;

// Time: only while the page is looked at.
let watched = 0;
let since = document.hidden ? null : performance.now();
document.addEventListener("visibilitychange", () => {
  if (document.hidden && since !== null) watched += performance.now() - since;
  since = document.hidden ? null : performance.now();
});
const seconds = () => (watched + (since === null ? 0 : performance.now() - since)) / 1000;

// What was written is kept in this browser until it has been handed in.
const written = () => [...form.querySelectorAll("textarea")];
const beginning = JSON.stringify(written().map((area) => area.value));
const hasText = () => JSON.stringify(written().map((area) => area.value)) !== beginning;

function keepDraft() {
  try {
    localStorage.setItem(draft, JSON.stringify(Object.fromEntries(written().map((area) => [area.name, area.value]))));
  } catch { /* a browser that keeps nothing */ }
}

function restoreDraft() {
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(draft));
  } catch { /* as above */ }
  if (!kept) return;
  for (const area of written()) if (typeof kept[area.name] === "string") area.value = kept[area.name];
  if (kept.comment) document.getElementById("more").open = true;
  if (hasText()) status.textContent = "What you had begun to write is here again.";
}

form.addEventListener("input", (event) => { if (event.target.matches("textarea")) keepDraft(); });

// One submission, however often the key is pressed; a page that comes back from the browser's memory can send again.
let sent = false;
form.addEventListener("submit", (event) => {
  if (sent) { event.preventDefault(); return; }
  const skips = event.submitter?.name === "reason";
  if (skips && hasText() && !confirm("Skip this task and throw away what you wrote?")) { event.preventDefault(); return; }
  form.elements.seconds.value = seconds().toFixed(1);
  sent = true;
  try { sessionStorage.setItem("plaudit-sent", draft); } catch { /* as above */ }
});
addEventListener("pageshow", (event) => { if (event.persisted) sent = false; });

function forgetDraftOfTheLastTask() {
  try {
    const last = sessionStorage.getItem("plaudit-sent");
    if (last && last !== draft) { localStorage.removeItem(last); sessionStorage.removeItem("plaudit-sent"); }
  } catch { /* as above */ }
}

// The marked answer, for ranks, ratings and safety.
const marked = () => cards().find((card) => card.contains(document.activeElement)) ?? cards()[0];
function mark(step) {
  const all = cards();
  const next = all[Math.min(all.length - 1, Math.max(0, all.indexOf(marked()) + step))];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function choose(value) {
  const card = marked();
  const input = card.querySelector(`input[type=radio][value="${CSS.escape(value)}"]`);
  if (!input) return false;
  input.checked = true;
  card.focus();
  const next = cards()[cards().indexOf(card) + 1];
  if (next) mark(1); else document.getElementById("submit").focus();
  return true;
}

function pressed(key) {
  if (kind === "compare") {
    const input = form.querySelector(`input[name=verdict][data-key="${CSS.escape(key)}"]`);
    if (input) { input.checked = true; input.focus(); }
    return Boolean(input);
  }
  if (key === "arrowdown" || key === "arrowup") { if (!cards().length) return false; mark(key === "arrowdown" ? 1 : -1); return true; }
  if (kind === "safety" && (key === "y" || key === "n")) return choose(key === "y" ? "yes" : "no");
  if ((kind === "rank" || kind === "rate") && /^\d$/.test(key)) return choose(key);
  return false;
}

const named = {
  s: () => { const skip = document.getElementById("skip"); if (skip) { skip.open = true; skip.querySelector("button").focus(); } },
  c: () => { document.getElementById("more").open = true; form.elements.comment.focus(); },
  f: () => { document.getElementById("more").open = true; form.querySelector("input[name=flags]").focus(); },
  g: () => { const guideline = document.querySelector(".guideline"); guideline.open = !guideline.open; },
  u: () => document.querySelector("button[data-key=u]:not([disabled])")?.click(),
  "?": () => document.getElementById("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  const inText = event.target.closest("textarea, input[type=text], input[type=number]");
  if (event.key === "Escape" && inText) { inText.blur(); return; }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || inText || document.querySelector("dialog[open]")) return;
  const key = event.key.toLowerCase();
  if (key === "enter" && !writes && !event.target.closest("button, summary, a")) {
    event.preventDefault();
    if (!event.repeat) form.requestSubmit(document.getElementById("submit"));
    return;
  }
  if (event.repeat) return;
  if (pressed(key)) event.preventDefault();
  else if (named[key]) { event.preventDefault(); named[key](); }
});

// Dragging an answer puts all of them in the order in which they then stand.
let dragged = null;
if (kind === "rank") {
  const list = document.getElementById("ranking");
  list.addEventListener("dragstart", (event) => {
    dragged = event.target.closest(".candidate");
    dragged?.classList.add("dragged");
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", "");
  });
  list.addEventListener("dragover", (event) => {
    const over = event.target.closest(".candidate");
    if (!dragged || !over) return;
    event.preventDefault();
    if (over === dragged) return;
    const box = over.getBoundingClientRect();
    list.insertBefore(dragged, event.clientY < box.top + box.height / 2 ? over : over.nextSibling);
  });
  list.addEventListener("dragend", () => {
    dragged?.classList.remove("dragged");
    dragged = null;
    cards().forEach((card, place) => { card.querySelector(`input[value="${place + 1}"]`).checked = true; });
    status.textContent = "Ranked in the order in which they stand.";
  });
}

// Hold the task while the page is open and looked at.
setInterval(async () => {
  if (document.hidden) return;
  const body = new URLSearchParams({ form_token: form.elements.form_token.value });
  try {
    const answer = await fetch(`/task/${form.dataset.assignment}/renew`, { method: "POST", body });
    if (answer.status === 410 && !form.querySelector("#submit").textContent.startsWith("Replace")) {
      status.textContent = "This task was held for too long. Hand it in: it is kept if nobody else has taken it.";
    }
  } catch {
    status.textContent = "The server does not answer. What you write is kept in this browser.";
  }
}, Math.max(20, (form.dataset.lease * 60) / 3) * 1000);

document.getElementById("help-button").hidden = false;
document.getElementById("help-button").addEventListener("click", named["?"]);
forgetDraftOfTheLastTask();
restoreDraft();
if (cards().length) cards()[0].focus({ preventScroll: true });
else if (writes) form.elements.text.focus();
