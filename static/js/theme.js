// Runs in the head, before anything is painted: the theme that this browser chose, else the system's.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => {
    try {
      return localStorage.getItem("handrail.theme");
    } catch {
      return null; // Storage may be forbidden; the system's theme still holds.
    }
  };
  const show = () => {
    root.dataset.bsTheme = remembered() ?? (system.matches ? "dark" : "light");
  };
  show();
  system.addEventListener("change", show);
  addEventListener("storage", show);
  addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-theme-toggle]")) return;
    const next = root.dataset.bsTheme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("handrail.theme", next);
    } catch {
      // Then it holds for this page only.
    }
    root.dataset.bsTheme = next;
  });
})();
