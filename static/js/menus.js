// Menus made of <details class="menu">: one open at a time, closed by Escape, a click elsewhere, or leaving by Tab.
import { each } from "./page.js";

export function start() {
  const close = (except) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (menu !== except) menu.open = false;
  };
  document.addEventListener("click", (event) => close(event.target.closest("details.menu")));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const open = document.querySelector("details.menu[open]");
    if (!open) return;
    open.open = false;
    open.querySelector("summary").focus();
    event.stopImmediatePropagation();
  });
  each("details.menu", (menu) => {
    menu.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
    });
    menu.addEventListener("toggle", () => menu.open && menu.querySelector("[data-menu-focus]")?.focus());
  });
  // Tabs that show one pane of several columns on narrow screens: <button data-show-pane="right" aria-controls="cols">.
  document.addEventListener("click", (event) => {
    const tab = event.target.closest("[data-show-pane]");
    if (!tab) return;
    document.getElementById(tab.getAttribute("aria-controls")).dataset.pane = tab.dataset.showPane;
    for (const other of tab.parentElement.querySelectorAll("[data-show-pane]")) {
      other.setAttribute("aria-current", String(other === tab));
      if (other !== tab) other.removeAttribute("aria-current");
    }
  });
  document.addEventListener("click", (event) => event.target.closest("[data-reload]") && location.reload());
  // Filters that submit themselves.
  document.addEventListener("change", (event) => event.target.closest("[data-submit-on-change]")?.requestSubmit());
}
