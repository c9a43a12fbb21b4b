// Keys. `g o` goes to a place, `/` searches, `?` lists all keys, `j` `k` move in [data-list], Enter opens the row,
// `x` selects it. A button or link with data-key="c" is pressed by that key; its words name it in the list.
import { isTyping, make } from "./page.js";

const FOLLOW_MS = 1200;
const OFF = "handrail.keys.off";
let waitsForPlace = 0;

const off = () => {
  try {
    return localStorage.getItem(OFF) === "1";
  } catch {
    return false;
  }
};
const seen = (element) => element.checkVisibility?.() ?? element.offsetParent !== null;
const first = (selector) => [...document.querySelectorAll(selector)].find(seen);
const wordsOf = (element) => {
  if (element.dataset.keyWords) return element.dataset.keyWords;
  const copy = element.cloneNode(true);
  for (const part of copy.querySelectorAll(".key, svg, .nav-count")) part.remove();
  return (copy.textContent.trim() || element.getAttribute("aria-label") || "").replace(/\s+/g, " ");
};

function rowsOf(list) {
  return [...list.querySelectorAll("[data-row]")].filter(seen);
}

function choose(row) {
  for (const other of row.closest("[data-list]").querySelectorAll("[data-row].is-selected")) {
    other.classList.remove("is-selected");
  }
  row.classList.add("is-selected");
  row.scrollIntoView({ block: "nearest" });
  const target = row.matches("a, button") ? row : row.querySelector("a[href], button");
  target?.focus({ preventScroll: true });
  row.dispatchEvent(new CustomEvent("row:selected", { bubbles: true, detail: { id: row.dataset.row } }));
}

function move(step) {
  const list = document.activeElement.closest("[data-list]") ?? first("[data-list]");
  if (!list) return false;
  const rows = rowsOf(list);
  const at = rows.findIndex((row) => row.matches(".is-selected, [aria-current]") || row.contains(document.activeElement));
  const next = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step))];
  if (next) choose(next);
  return Boolean(next);
}

function selectedRow() {
  return document.activeElement.closest("[data-row]") ?? first("[data-row].is-selected");
}

function openRow() {
  const row = selectedRow();
  const link = row?.matches("a[href]") ? row : row?.querySelector("[data-open], a[href]");
  link?.click();
  return Boolean(link);
}

function markRow() {
  const box = selectedRow()?.querySelector("input[type=checkbox]");
  box?.click();
  return Boolean(box);
}

function entries(pairs) {
  return pairs.map(([keys, words]) => {
    const row = make("li", {}, make("span", {}, words), make("span", { class: "line" }));
    for (const key of keys.split(" ")) row.lastChild.append(make("kbd", { class: "key" }, key));
    return row;
  });
}

export function listKeys() {
  document.getElementById("keys-dialog")?.remove();
  const groups = [
    ["Go to", [...document.querySelectorAll("[data-go]")].map((link) => [`g ${link.dataset.go}`, wordsOf(link)])],
    [
      "On this page",
      [...document.querySelectorAll("[data-key]")].filter(seen).map((element) => [element.dataset.key, wordsOf(element)]),
    ],
    ["In lists", first("[data-list]") ? [["j", "next"], ["k", "previous"], ["Enter", "open"], ["x", "select"]] : []],
    ["Everywhere", [["/", "search"], ["?", "these keys"], ["Esc", "close"]]],
  ];
  const body = make("div", { class: "dialog-body" });
  for (const [title, pairs] of groups) {
    if (!pairs.length) continue;
    body.append(make("h3", { class: "group" }, title), make("ul", { class: "key-list" }, ...entries(pairs)));
  }
  const toggle = make("input", { class: "check", type: "checkbox", id: "keys-on", checked: !off() });
  toggle.addEventListener("change", () => {
    try {
      localStorage.setItem(OFF, toggle.checked ? "0" : "1");
    } catch {
      // Without storage the keys stay on.
    }
  });
  body.append(
    make("p", { class: "line second" }, toggle, make("label", { for: "keys-on" }, "Single keys act on this browser")),
  );
  const dialog = make("dialog", { class: "dialog", id: "keys-dialog", "aria-labelledby": "keys-title" });
  const shut = make("button", { class: "btn btn-ghost", type: "button" }, "Close");
  shut.addEventListener("click", () => dialog.close());
  dialog.append(
    make("div", { class: "dialog-head" }, make("h2", { class: "title", id: "keys-title" }, "Keys"), shut),
    body,
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}

function press(event) {
  const { key } = event;
  if (key === "?") return listKeys(), true;
  if (off()) return false;
  if (waitsForPlace && Date.now() - waitsForPlace < FOLLOW_MS) {
    waitsForPlace = 0;
    const place = document.querySelector(`[data-go="${CSS.escape(key)}"]`);
    place?.click();
    return Boolean(place);
  }
  if (key === "g") return (waitsForPlace = Date.now()), true;
  if (key === "/") return first("[data-search]")?.focus(), true;
  const own = first(`[data-key="${CSS.escape(key)}"]:not(:disabled, [aria-disabled="true"])`);
  // What a menu opens is reached from its button by Tab.
  if (own?.matches("summary")) own.focus();
  if (own) return own.click(), true;
  if (key === "j" || key === "k") return move(key === "j" ? 1 : -1);
  if (key === "x") return markRow();
  if (key === "Enter" && !document.activeElement.closest("a, button, summary, [role=treegrid]")) return openRow();
  return false;
}

export function start() {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && isTyping(event.target)) event.target.blur();
    if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
    if (press(event)) event.preventDefault();
  });
  document.addEventListener("click", (event) => event.target.closest("[data-keys]") && listKeys());
}
