// The figures are fetched anew while somebody looks at them.
const part = document.getElementById("live");
setInterval(async () => {
  if (document.hidden) return;
  try {
    const answer = await fetch(part.dataset.from);
    if (answer.ok && !answer.redirected) part.innerHTML = await answer.text();
  } catch { /* the next time */ }
}, 5000);
