// Keeps relative times and countdowns true. The words are the same as in dashboard/words.py.

const GAP = "\u00a0";
const zone = document.documentElement.dataset.zone || "UTC";
const two = (number) => String(number).padStart(2, "0");
const inZone = (moment, options) => new Intl.DateTimeFormat("en-GB", { timeZone: zone, ...options }).format(moment);
const dayOf = (moment) => inZone(moment, { year: "numeric", month: "2-digit", day: "2-digit" });

export function took(total) {
  if (total > 0 && total < 1) return `${total.toFixed(1)}${GAP}s`;
  const s = Math.max(0, Math.floor(total));
  if (s < 60) return `${s}${GAP}s`;
  if (s < 3600) return `${Math.floor(s / 60)}${GAP}min${GAP}${two(s % 60)}${GAP}s`;
  if (s < 86400) {
    const minutes = Math.floor((s % 3600) / 60);
    return `${Math.floor(s / 3600)}${GAP}h${minutes ? `${GAP}${two(minutes)}${GAP}min` : ""}`;
  }
  const hours = Math.floor((s % 86400) / 3600);
  return `${Math.floor(s / 86400)}${GAP}d${hours ? `${GAP}${hours}${GAP}h` : ""}`;
}

const rough = (s) => (s < 120 || s >= 3600 ? took(Math.floor(s)) : `${Math.floor(s / 60)}${GAP}min`);

export function ago(moment, now) {
  const s = (now - moment) / 1000;
  if (Math.abs(s) < 1) return "now";
  if (s > 0 && s < 3600) return `${rough(s)} ago`;
  if (s < 0 && s > -3600) return `in ${rough(-s)}`;
  if (dayOf(moment) === dayOf(now)) return inZone(moment, { hour: "2-digit", minute: "2-digit" });
  const year = inZone(moment, { year: "numeric" });
  const day = inZone(moment, { day: "numeric", month: "short" }).replace(" ", GAP);
  return year === inZone(now, { year: "numeric" }) ? day : `${day} ${year}`;
}

export const clock = (moment) => inZone(moment, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export function remaining(left) {
  const s = Math.floor(Math.abs(left));
  const hours = Math.floor(s / 3600);
  return hours ? `${hours}:${two(Math.floor((s % 3600) / 60))}:${two(s % 60)}` : `${Math.floor(s / 60)}:${two(s % 60)}`;
}

function sayTime(element, now) {
  const moment = new Date(element.dateTime);
  const kind = element.dataset.time;
  const passed = (now - moment) / 1000;
  const text = { ago: () => ago(moment, now), since: () => took(passed), age: () => rough(passed) }[kind]?.() ?? null;
  if (text !== null && element.textContent !== text) element.textContent = text;
}

function sayCountdown(element, now) {
  const { due, from, verb, after } = element.dataset;
  const left = (new Date(due) - now) / 1000;
  const share = left / Math.max(1, (new Date(due) - new Date(from)) / 1000);
  const tone = left < 0 ? "is-red" : share <= 0.2 ? "is-amber" : "is-grey";
  if (!element.classList.contains(tone)) {
    element.classList.remove("is-grey", "is-amber", "is-red");
    element.classList.add(tone);
  }
  const text = left < 0 ? `${remaining(left)} late` : [verb, remaining(left), after].filter(Boolean).join(" ");
  const label = element.querySelector(".count-text");
  if (label.textContent !== text) label.textContent = text;
  const arc = left < 0 ? 100 : Math.min(100, share * 100);
  element.querySelector(".ring-arc")?.setAttribute("stroke-dasharray", `${arc.toFixed(1)} 100`);
}

// The server's clock counts, not this machine's: a person's laptop may be minutes off.
const served = Date.parse(document.documentElement.dataset.now || "");
const offset = Number.isNaN(served) ? 0 : served - Date.now();
export const now = () => new Date(Date.now() + offset);

export function start() {
  const frozen = document.documentElement.hasAttribute("data-frozen");
  const tick = () => {
    if (document.hidden || frozen) return;
    const moment = now();
    for (const element of document.querySelectorAll("time[data-time]")) sayTime(element, moment);
    for (const element of document.querySelectorAll("[data-countdown]")) sayCountdown(element, moment);
  };
  setInterval(tick, 1000);
  document.addEventListener("visibilitychange", tick);
}
