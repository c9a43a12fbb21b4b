// data-copy="text" copies that text; data-copy-from="#id" copies what stands in that element.
import { toast } from "./toast.js";

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // Not a secure context, or forbidden.
  }
}

export function start() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy], [data-copy-from]");
    if (!button) return;
    event.preventDefault();
    const text = button.dataset.copy ?? document.querySelector(button.dataset.copyFrom)?.textContent ?? "";
    if (await copied(text.trim())) {
      button.setAttribute("data-copied", "");
      setTimeout(() => button.removeAttribute("data-copied"), 1500);
      toast("Copied.", text.length > 48 ? "" : text.trim());
    } else {
      toast("This browser does not let pages copy.", "Select the text instead.", { glyph: "info-circle", tone: "grey" });
    }
  });
}
