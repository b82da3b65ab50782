// Before the first paint, and therefore no module: the theme that was chosen last.
(() => {
  const chosen = localStorage.getItem("rag-owl-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
