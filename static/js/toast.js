// One line at the bottom left for 6 seconds. toast("Acknowledged.", "The SMS is called off.", { undo }) or, from the
// server, the response header HX-Trigger: {"toast": {"strong": …, "text": …, "icon": …, "undo_url": …}}.
import { icon, make } from "./page.js";

const LASTS_MS = 6000;

export function toast(strong, text = "", { glyph = "check", tone = "green", undo = null } = {}) {
  const region = document.getElementById("toasts");
  const line = make("div", { class: `toast is-${tone}`, role: "status" }, icon(glyph));
  line.append(make("span", {}, make("strong", {}, strong), ` ${text}`));
  const leave = () => line.remove();
  let timer = setTimeout(leave, LASTS_MS);
  if (undo) {
    const button = make("button", { class: "link", type: "button" }, "Undo");
    button.addEventListener("click", () => {
      leave();
      undo();
    });
    line.append(button);
  }
  line.addEventListener("pointerenter", () => clearTimeout(timer));
  line.addEventListener("pointerleave", () => {
    timer = setTimeout(leave, LASTS_MS / 2);
  });
  region.append(line);
  return line;
}

export function start() {
  document.addEventListener("toast", ({ detail }) => {
    const { strong, text, icon: glyph, tone, undo_url: url } = detail;
    const undo = url ? () => htmx.ajax("POST", url, { swap: "none" }) : null;
    toast(strong, text, { glyph, tone, undo });
  });
  document.addEventListener("htmx:responseError", ({ detail }) => {
    if (detail.requestConfig?.verb === "get") return; // Fragments show their own error.
    const why = detail.xhr.status === 403 ? "You may not do this here." : `The server answered ${detail.xhr.status}.`;
    toast("That did not happen.", why, { glyph: "alert-triangle", tone: "amber" });
  });
  document.addEventListener("htmx:sendError", () =>
    toast("That did not happen.", "The server could not be reached.", { glyph: "cloud-off", tone: "amber" }),
  );
}
