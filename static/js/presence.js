// Who has a page of ours before their eyes is not away: the server hears so twice a minute.
import { settings } from "./page.js";

const EVERY_MS = 30_000;
const IDLE_MS = 10 * 60_000;

export function start() {
  if (!settings.seen) return;
  let last = Date.now();
  for (const name of ["pointermove", "keydown", "scroll"]) {
    document.addEventListener(name, () => (last = Date.now()), { passive: true, capture: true });
  }
  const tell = () => {
    if (document.hidden || Date.now() - last > IDLE_MS) return;
    const { "X-CSRFToken": token } = JSON.parse(document.body.getAttribute("hx-headers") ?? "{}");
    fetch(settings.seen, { method: "POST", headers: { "X-CSRFToken": token, "HX-Request": "true" } }).catch(() => {});
  };
  tell();
  setInterval(tell, EVERY_MS);
  document.addEventListener("visibilitychange", tell);
}
