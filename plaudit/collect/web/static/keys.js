// On every page of the work: a key presses the button that bears it, and drafts of what was submitted are forgotten.

export const inText = (target) => Boolean(target.closest?.("textarea, select, input:not([type=radio], [type=checkbox])"));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  if (inText(event.target) || document.querySelector("dialog[open]")) return;
  document.querySelector(`button[data-key="${CSS.escape(event.key.toLowerCase())}"]`)?.click();
});

const task = location.pathname.match(/^\/task\/([^/]+)/)?.[1];
export const draftOf = (assignment) => `plaudit-draft-${assignment}`;

try {
  // The page that follows on a task came from it; after a login or an error another page lies between, and the draft stays.
  const sent = sessionStorage.getItem("plaudit-sent");
  if (sent && sent !== task && document.referrer.includes(`/task/${sent}`)) {
    localStorage.removeItem(draftOf(sent));
    sessionStorage.removeItem("plaudit-sent");
  }
  for (const key of Object.keys(localStorage).filter((name) => name.startsWith(draftOf("")))) {
    if (Date.now() - (JSON.parse(localStorage.getItem(key)).at ?? 0) > 30 * 86_400_000) localStorage.removeItem(key);
  }
} catch { /* a browser that keeps nothing */ }
