// A list of alerts with one of them beside it. A row that j and k choose, or a click, is shown there without leaving the
// page; until it has come the buttons rest, so that no key acts on the one that was there before.
import { make } from "./page.js";

const detail = () => document.getElementById("alert");
const list = () => document.getElementById("alert-list");
const isBeside = () => matchMedia("(width >= 600px)").matches;
let asked = "";

/** The row of the alert that is shown is the selected one, whoever drew the list. */
function mark() {
  const shown = asked || detail()?.dataset.alert;
  for (const row of list()?.querySelectorAll("[data-row]") ?? []) {
    const here = row.dataset.row === shown;
    row.classList.toggle("is-selected", here);
    if (here) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

function rest() {
  for (const button of detail().querySelectorAll("button")) button.disabled = true;
  for (const menu of detail().querySelectorAll("summary")) menu.setAttribute("aria-disabled", "true");
}

async function show(row, push) {
  const link = row.querySelector("a[href]");
  if (asked === row.dataset.row || (!asked && detail().dataset.alert === row.dataset.row)) return;
  asked = row.dataset.row;
  mark();
  rest();
  const url = new URL(link.href);
  history[push ? "pushState" : "replaceState"](null, "", url);
  url.searchParams.set("part", "alert");
  try {
    const answer = await fetch(url, { headers: { "HX-Request": "true" }, credentials: "same-origin" });
    if (asked !== row.dataset.row) return; // Another row was chosen meanwhile.
    if (!answer.ok || answer.redirected) return location.reload();
    const holder = make("template");
    holder.innerHTML = await answer.text();
    if (asked !== row.dataset.row) return;
    const fresh = holder.content.querySelector("#alert");
    detail().replaceWith(fresh);
    htmx.process(fresh);
    document.dispatchEvent(new CustomEvent("htmx:load", { detail: { elt: fresh } }));
    asked = "";
  } catch {
    location.reload();
  }
}

document.addEventListener("row:selected", ({ target }) => {
  if (list()?.contains(target) && isBeside()) show(target, false);
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("#alert-list [data-row] a[href]");
  if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || !isBeside()) return;
  event.preventDefault();
  show(link.closest("[data-row]"), true);
});
document.addEventListener("htmx:load", mark);
addEventListener("popstate", () => location.reload());
mark();
list()?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
