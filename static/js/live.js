// Keeps the page true. An element says what it shows and where its fragment is:
//   <section id="needs" data-live="queue alerts" data-live-url="/fragments/needs"> … </section>
// With data-live-rest="15" it is fetched at most every 15 s, however much there is to hear.
// The fragment is the element itself, with the same id. With data-live-hold a list does not gain or move rows
// while somebody points at it, selects in it or has scrolled it; known rows are updated in place meanwhile.
// Ticked boxes of rows stay ticked.
// With data-live-merge only the children (each with data-row) that differ are exchanged, and who stands at the end
// stays there. With data-live-ids="a b" news of other ids are not for it. Elements with one address share one request.
import { each, isTyping, settings } from "./page.js";
import { clock, now } from "./times.js";

const SETTLE_MS = 200;
const POLL_MS = 15_000;
const LEFT_MS = 1500;
const STALE_MS = 25_000;

const TOGETHER_MS = 50;

const waiting = new Map();
const asked = new Map();
const shown = new Map();
let requests = 0;
const fetchedAt = new Map();
// What somebody has just acted in is shown as it became, held or not; by the number of the requests sent before.
const actedAt = new Map();
let connection = "waiting";
let lastAt = now();

function show(state) {
  for (const element of document.querySelectorAll("[data-live-state]")) {
    element.dataset.liveState = state;
    const label = element.querySelector("b");
    const time = element.querySelector(".live-time");
    const at = clock(lastAt);
    if (state === "stale") [label.textContent, time.textContent] = ["Live paused, reconnecting.", `Last update ${at}`];
    else if (state === "signed-out") [label.textContent, time.textContent] = ["Signed out.", ""];
    else if (state === "polling") [label.textContent, time.textContent] = ["Every 15 s", at];
    else [label.textContent, time.textContent] = ["Live", at];
    const link = element.querySelector("[data-live-sign-in]");
    if (link) link.hidden = state !== "signed-out";
  }
}

function heardNow() {
  lastAt = now();
  if (connection === "live" || connection === "polling") show(connection);
}

const pointsAt = (element) => element.matches(":hover") && matchMedia("(hover: hover)").matches;

function isHeld(element) {
  if (!element.hasAttribute("data-live-hold")) return false;
  const selection = getSelection();
  const selects = selection && !selection.isCollapsed && element.contains(selection.anchorNode);
  const typing = element !== document.activeElement && element.contains(document.activeElement);
  return pointsAt(element) || selects || typing || element.scrollTop > 0;
}

const cellsOf = (root) => new Map([...root.querySelectorAll("[data-row]")].map((row) => [row.dataset.row, row]));

function markChanges(before, after) {
  for (const [id, row] of cellsOf(after)) {
    const old = before.get(id);
    if (!old) continue;
    [...row.children].forEach((cell, index) => {
      if (old[index] !== undefined && old[index] !== sayingOf(cell)) cell.classList.add("changed");
    });
  }
}

/** What a cell says; times and countdowns that keep themselves fresh say their moment: ticking is no change. */
function sayingOf(cell) {
  const ticking = [...cell.querySelectorAll("time[data-time], [data-countdown]")];
  return ticking.length ? ticking.map((each) => each.dateTime ?? each.dataset.due).join() : cell.textContent.trim();
}

const textsOf = (root) =>
  new Map([...cellsOf(root)].map(([id, row]) => [id, [...row.children].map(sayingOf)]));

const markedIn = (root) => [...root.querySelectorAll("[data-row] input[type=checkbox]:checked")].map((box) => box.value);

function markAgain(root, marked) {
  for (const box of root.querySelectorAll("[data-row] input[type=checkbox]")) if (marked.includes(box.value)) box.checked = true;
}

/** Where a part stands in an element: the place of each of its ancestors among its siblings. */
function pathTo(element, part) {
  const path = [];
  for (let at = part; at !== element; at = at.parentElement) path.unshift([...at.parentElement.children].indexOf(at));
  return path;
}

/** What stands at that place and is of the same kind. */
function partAt(element, path, part) {
  const found = path.reduce((at, place) => at?.children[place], element);
  return found?.localName === part.localName && found.className === part.className ? found : undefined;
}

/** What moves sideways in it, and how far somebody has moved it. */
const movedIn = (element) =>
  [...element.querySelectorAll("[tabindex], .tabs, .table-wrap")]
    .filter((part) => part.scrollWidth > part.clientWidth)
    .map((part) => ({ part, path: pathTo(element, part), left: part.scrollLeft }));

function replace(element, fresh) {
  const before = textsOf(element);
  const marked = markedIn(element);
  const chosen = element.querySelector("[data-row].is-selected")?.dataset.row;
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const focusedAt = focused && pathTo(element, focused);
  const moved = movedIn(element);
  const { scrollTop, scrollLeft } = element;
  element.replaceWith(fresh);
  htmx.process(fresh);
  document.dispatchEvent(new CustomEvent("htmx:load", { detail: { elt: fresh } }));
  markChanges(before, fresh);
  markAgain(fresh, marked);
  document.dispatchEvent(new CustomEvent("live:shown", { detail: { id: fresh.id } }));
  if (chosen) cellsOf(fresh).get(chosen)?.classList.add("is-selected");
  if (focused) {
    const again = focused.id ? document.getElementById(focused.id) : partAt(fresh, focusedAt, focused);
    again?.focus({ preventScroll: true });
  }
  for (const { part, path, left } of moved) partAt(fresh, path, part)?.scrollTo({ left });
  fresh.scrollTo(scrollLeft, scrollTop);
}

const within = (row) => (row.contains(document.activeElement) ? document.activeElement : null);

/** Updates the rows that are there; says how many wait above. */
function holdStill(element, fresh) {
  const old = cellsOf(element);
  const before = textsOf(element);
  const marked = markedIn(element);
  let added = 0;
  for (const [id, row] of cellsOf(fresh)) {
    if (!old.has(id)) added += 1;
    else if (!old.get(id).isEqualNode(row) && !isTyping(within(old.get(id)))) {
      const chosen = old.get(id).classList.contains("is-selected");
      const focused = within(old.get(id))?.id;
      old.get(id).replaceWith(row);
      row.classList.toggle("is-selected", chosen);
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
      htmx.process(row);
    }
  }
  markAgain(element, marked);
  markChanges(before, element);
  const there = cellsOf(fresh);
  for (const [id, row] of old) if (row.isConnected && !there.has(id)) row.classList.add("is-gone");
  const note = document.querySelector(`[data-live-held="${element.id}"]`);
  if (note) {
    note.hidden = added === 0;
    note.querySelector("[data-live-count]").textContent = `${added} new ${added === 1 ? "row" : "rows"} above,`;
  }
  element.heldFragment = fresh.cloneNode(true);
}

/** Exchanges the children that differ, adds and removes; what is equal is not touched, nor what is selected in it. */
function merge(element, fresh) {
  const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 48;
  const old = cellsOf(element);
  let at = element.firstElementChild;
  for (const next of [...fresh.children]) {
    const present = old.get(next.dataset.row);
    old.delete(next.dataset.row);
    if (present?.isEqualNode(next)) {
      if (present === at) at = at.nextElementSibling;
      else element.insertBefore(present, at);
      continue;
    }
    if (present && present === at) at = at.nextElementSibling;
    if (present) present.replaceWith(next);
    else element.insertBefore(next, at);
    htmx.process(next);
  }
  for (const gone of old.values()) gone.remove();
  if (atEnd) element.scrollTop = element.scrollHeight;
}

function release(element) {
  const note = document.querySelector(`[data-live-held="${element.id}"]`);
  if (note) note.hidden = true;
  if (element.isConnected) refresh(element, true);
}

/** Who stands for the element by now: a fetch may have replaced it. */
const presentOf = (element) => (element.isConnected || !element.id ? element : document.getElementById(element.id));

const nameOf = (element) => element.id || element;

/** One request for all who ask for the same address in the same moment; `number` is its place among all requests. */
function ask(url) {
  if (!asked.has(url)) {
    const number = (requests += 1);
    const request = fetch(url, { headers: { "HX-Request": "true", "X-Live": "1" }, credentials: "same-origin" });
    asked.set(url, request.then(async (answer) => ({ number, answer, text: answer.ok ? await answer.text() : "" })));
    setTimeout(() => asked.delete(url), TOGETHER_MS);
  }
  return asked.get(url);
}

async function refresh(asker, force = false) {
  const url = presentOf(asker)?.dataset.liveUrl;
  if (!presentOf(asker)?.isConnected || !url) return;
  let number, answer, text;
  try {
    ({ number, answer, text } = await ask(url));
  } catch {
    connection = "stale";
    show(connection);
    return;
  }
  if (answer.redirected || answer.status === 401) {
    connection = "signed-out";
    show(connection);
    return;
  }
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(text, "text/html");
  const fresh = asker.id ? page.getElementById(asker.id) : page.body.firstElementChild;
  const element = presentOf(asker);
  if (!fresh || !element?.isConnected || element.dataset.liveUrl !== url) return;
  if (connection === "stale") connection = "polling";
  heardNow();
  // The button that was pressed must be there when its answer comes: a toast is raised at it.
  if (element.querySelector(".htmx-request")) return soon(element);
  // On a slow server answers overtake each other: what was asked earlier must not cover what was asked later.
  if (number < (shown.get(nameOf(element)) ?? 0)) return;
  shown.set(nameOf(element), number);
  const adopted = document.importNode(fresh, true);
  if (number > (actedAt.get(nameOf(element)) ?? Infinity)) {
    actedAt.delete(nameOf(element));
    // What stands in the place of the pressed button may do the opposite: the keyboard waits beside it.
    const hadFocus = element.contains(document.activeElement);
    document.activeElement.blur();
    replace(element, adopted);
    adopted.tabIndex = -1;
    if (hadFocus) adopted.focus({ preventScroll: true });
    return;
  }
  if (element.hasAttribute("data-live-merge")) merge(element, adopted);
  else if (!force && isHeld(element)) holdStill(element, adopted);
  else replace(element, adopted);
}

function soon(element) {
  if (waiting.has(nameOf(element))) return;
  const rests = (fetchedAt.get(element.id) ?? 0) + (element.dataset.liveRest ?? 0) * 1000 - performance.now();
  waiting.set(
    nameOf(element),
    setTimeout(() => {
      waiting.delete(nameOf(element));
      fetchedAt.set(element.id, performance.now());
      refresh(element);
    }, Math.max(SETTLE_MS, rests)),
  );
}

function changed(topic, id = "") {
  heardNow();
  for (const element of document.querySelectorAll("[data-live]")) {
    const topics = element.dataset.live.split(/\s+/);
    const ids = element.dataset.liveIds?.split(/\s+/);
    if (id && ids && !ids.includes(id)) continue;
    if (topic === "*" || topics.includes(topic)) soon(element);
  }
  document.dispatchEvent(new CustomEvent("live:change", { detail: { topic } }));
}

function hear(message) {
  if (message.kind === "change") changed(message.topic, message.id);
  else if (message.kind === "beat") heardNow();
  else if (message.kind === "state") {
    const was = connection;
    if (connection === "signed-out") return;
    connection = message.state === "live" ? "live" : message.state === "lost" ? "stale" : "polling";
    if (connection === "live") {
      lastAt = now();
      // What happened while nothing was heard is unknown: look at everything once.
      if (was === "stale" || was === "polling") changed("*");
    }
    show(connection);
  }
}

// How long this page has been on its way: what was told meanwhile is told again.
const ageMs = () => Math.ceil(performance.now());

function connect(url) {
  try {
    const worker = new SharedWorker(settings.liveWorker, { name: `handrail-live ${settings.liveAs ?? ""}` });
    worker.onerror = () => connectAlone(url);
    worker.port.onmessage = ({ data }) => hear(data);
    worker.port.start();
    worker.port.postMessage({ kind: "hello", url, ageMs: ageMs() });
    addEventListener("pagehide", () => worker.port.postMessage({ kind: "bye" }));
    addEventListener("pageshow", (event) => event.persisted && worker.port.postMessage({ kind: "hello", url, ageMs: ageMs() }));
  } catch {
    connectAlone(url); // No SharedWorker here.
  }
}

function connectAlone(url) {
  const source = new EventSource(`${url}&ago_ms=${ageMs()}`);
  source.onopen = () => hear({ kind: "state", state: "live" });
  source.onerror = () => hear({ kind: "state", state: source.readyState === EventSource.CLOSED ? "closed" : "lost" });
  source.addEventListener("beat", () => hear({ kind: "beat" }));
  source.onmessage = ({ data }) => hear({ kind: "change", ...JSON.parse(data) });
  addEventListener("pagehide", () => source.close());
}

export function start() {
  const url = settings.liveStream;
  if (!url) return;
  connect(new URL(url, location.href).href);
  setInterval(() => {
    if (document.hidden || connection === "live" || connection === "signed-out") return;
    changed("*");
    if (connection === "stale" && now() - lastAt < STALE_MS) show("stale");
  }, POLL_MS);
  document.addEventListener("click", (event) => {
    const note = event.target.closest("[data-live-held]");
    if (note && event.target.closest("button")) release(document.getElementById(note.dataset.liveHeld));
  });
  // A command has moved something: the server's answer says which topic to look at again.
  document.addEventListener("live:look", ({ detail, target }) => {
    const own = target.closest?.("[data-live-hold]");
    if (own) actedAt.set(nameOf(own), requests);
    changed(detail.topic);
  });
  // Heartbeats are no news; what shows them looks by itself: data-live-every="10" (seconds).
  each("[data-live-every]", (element) => {
    // Each fetch brings a new element, and that one its own clock.
    const next = () => setTimeout(look, Number(element.dataset.liveEvery) * 1000);
    const look = async () => {
      if (element.isConnected && !document.hidden && connection !== "signed-out") await refresh(element);
      if (element.isConnected) next();
    };
    next();
  });
  each("[data-live-hold]", (element) =>
    // Not at once: whoever goes to press "show" must find it where it was.
    element.addEventListener("pointerleave", () =>
      setTimeout(() => {
        const note = document.querySelector(`[data-live-held="${element.id}"]`);
        if (element.heldFragment && !isHeld(element) && !(note && pointsAt(note))) release(element);
      }, LEFT_MS),
    ),
  );
}
