// Ctrl+Enter sends; sending says that it takes a while, and happens once.
const form = document.getElementById("arena");
let sent = false;
form.addEventListener("submit", (event) => {
  if (sent) { event.preventDefault(); return; }
  sent = true;
  document.getElementById("send").setAttribute("aria-disabled", "true");
  document.getElementById("status").textContent = "Both are writing their answers…";
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
});
addEventListener("pageshow", (event) => { if (event.persisted) sent = false; });
