// Tabs (WAI-ARIA pattern): <div role="tablist" data-tabs><button role="tab" aria-controls="pane-a" aria-selected="true">…
// Arrow keys move, the chosen pane is shown, the others are hidden.
import { each } from "./page.js";

/** Moves what scrolls sideways so that the part is seen; nothing else moves. */
function show(part) {
  const around = part.parentElement;
  const [inner, outer] = [part.getBoundingClientRect(), around.getBoundingClientRect()];
  if (inner.left < outer.left || inner.right > outer.right) {
    around.scrollLeft += inner.left - outer.left - (around.clientWidth - inner.width) / 2;
  }
}

export function start() {
  each("[data-tabs]", (list) => {
    const tabs = [...list.querySelectorAll('[role="tab"]')];
    const choose = (chosen) => {
      for (const tab of tabs) {
        tab.setAttribute("aria-selected", String(tab === chosen));
        tab.tabIndex = tab === chosen ? 0 : -1;
        document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
      }
    };
    list.addEventListener("click", (event) => {
      const tab = event.target.closest('[role="tab"]');
      if (tab) choose(tab);
    });
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const at = tabs.indexOf(document.activeElement);
      const next = tabs[(at + step + tabs.length) % tabs.length];
      choose(next);
      next.focus();
      event.preventDefault();
    });
    choose(tabs.find((tab) => tab.getAttribute("aria-selected") === "true") ?? tabs[0]);
  });
  // On a narrow screen the chosen tab, and the present among the steps of a plan, may stand out of sight.
  each(".tabs > [aria-current], .plan-across > .is-now", show);
  // A fragment that has nothing more to say than where to go on.
  each("[data-leads-to]", (element) => location.assign(element.dataset.leadsTo));
}
