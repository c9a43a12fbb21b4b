// The spans of a trace as rows, of which only those in sight exist: 10,000 spans cost as much as 40.
//   <div data-waterfall="script-id" data-span-url="/executions/x/spans/" data-span-target="#span">
// The script holds {spans: [[id, parent, kind, name, start_ms, took_ms, cost, tokens, status, note], …],
// gaps: [[start_ms, end_ms, reason], …], ends_ms, axis_from_ms?}; parent is an index or -1, took_ms null while it runs, cost a
// string such as "0.0148", "unknown" or null, kind agent | model | tool | other, status ok | error | running.
// Time in which nothing ran is folded away: the axis counts only time at work. With axis_from_ms the axis begins
// there, and what ended before is one closed row with its note in place of a bar.
import { icon, make, svg } from "./page.js";
import { took } from "./times.js";

const ROW = 28;
const GAP = 24;
const SPARE = 8;
const FOLD_MS = 3000;
const LETTER = 6.2;
// What the words of a mark of time need, in pixels.
const MARK = 56;
const STEPS_S = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400];
const DAY = 86_400_000;
const GLYPH = { agent: "robot", model: "brain", tool: "tool", other: "circle-half-2" };

function read(data) {
  const spans = data.spans.map(([id, parent, kind, name, start, tookMs, cost, tokens, status, note], at) => {
    const end = tookMs == null ? data.ends_ms ?? start : start + tookMs;
    return { at, id, parent, kind, name, start, end, tookMs, cost, tokens, status, note, children: [], level: 0 };
  });
  const roots = [];
  for (const span of spans) (spans[span.parent]?.children ?? roots).push(span);
  const order = (list, level) => {
    list.sort((a, b) => a.start - b.start || a.at - b.at);
    for (const span of list) span.level = level;
    for (const span of list) order(span.children, level + 1);
  };
  order(roots, 0);
  return { spans, roots, open: new Set(spans.filter((span) => span.children.length).map((span) => span.at)) };
}

/** Stretches in which no span without children ran, at least 3 s and a twentieth of the whole. */
function idle(spans, reasons, begin) {
  const leaves = spans.filter((span) => !span.children.length).sort((a, b) => a.start - b.start);
  const found = [];
  let busyUntil = leaves[0]?.start ?? 0;
  const first = spans.reduce((least, span) => Math.min(least, span.start), Infinity);
  const whole = spans.reduce((most, span) => Math.max(most, span.end), 0) - first;
  for (const leaf of leaves) {
    // What waited across the beginning of the axis counts from there.
    const from = leaf.start > begin ? Math.max(busyUntil, begin) : busyUntil;
    const length = leaf.start - from;
    if (length >= FOLD_MS && length >= whole / 20) found.push({ gap: true, from, to: leaf.start });
    busyUntil = Math.max(busyUntil, leaf.end);
  }
  for (const gap of found) {
    const reason = reasons.find(([from, to]) => from < gap.to && to > gap.from)?.[2];
    gap.words = reason ? `Waited ${seconds(gap.to - gap.from)} ${reason}` : `Nothing ran for ${seconds(gap.to - gap.from)}`;
  }
  return found;
}

const seconds = (ms) => (ms < 100_000 ? `${(ms / 1000).toFixed(1)}\u00a0s` : took(ms / 1000));
const tokensOf = (count) =>
  count == null ? "" : count < 1000 ? String(count) : `${(count / 1000).toFixed(1)}\u00a0k`;

class Waterfall {
  constructor(element, data) {
    this.element = element;
    Object.assign(this, read(data));
    this.begin = data.axis_from_ms ?? this.spans.reduce((least, span) => Math.min(least, span.start), Infinity);
    this.gaps = idle(this.spans, data.gaps ?? [], this.begin);
    for (const span of this.roots) if (span.end <= this.begin) this.open.delete(span.at);
    const end = this.spans.reduce((most, span) => Math.max(most, span.end), -Infinity);
    this.length = Math.max(1, this.worked(end));
    this.chosen = null;
    this.build();
    this.lay();
  }

  /** Milliseconds at work between the beginning and `moment`. */
  worked(moment) {
    let folded = 0;
    for (const gap of this.gaps) folded += Math.max(0, Math.min(moment, gap.to) - Math.max(this.begin, gap.from));
    return moment - this.begin - Math.max(0, folded);
  }

  share(moment) {
    return (100 * this.worked(moment)) / this.length;
  }

  build() {
    const { element } = this;
    element.classList.add("wf");
    element.tabIndex = 0;
    element.setAttribute("role", "treegrid");
    element.setAttribute("aria-readonly", "true");
    this.head = make("div", { class: "wf-head", role: "row" });
    for (const [words, name] of [["Span", "name"], ["Cost", "cost"], ["Tokens", "tokens"]]) {
      this.head.append(make("span", { class: `wf-${name}`, role: "columnheader" }, words));
    }
    this.axis = make("span", { class: "wf-axis", role: "columnheader", "aria-label": "When" });
    this.head.append(
      this.axis,
      make("span", { class: "wf-took", role: "columnheader" }, "Took"),
    );
    this.body = make("div", { role: "rowgroup", class: "wf-body" });
    element.replaceChildren(this.head, this.body);
    this.scale();
    const scroller = element.closest("[data-scroller], .page, .pane-body") ?? document.scrollingElement;
    this.scroller = scroller;
    scroller.addEventListener("scroll", () => this.paint(), { passive: true });
    new ResizeObserver(() => {
      this.scale();
      this.paint();
    }).observe(scroller);
    element.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => this.press(event));
  }

  /** As many marks of time as have room beside each other: two at least, five at most. */
  scale() {
    const most = Math.min(5, Math.max(2, Math.floor(this.axis.clientWidth / MARK)));
    if (this.marks === most) return;
    this.marks = most;
    const step = STEPS_S.find((s) => s * 1000 * most >= this.length) ?? Math.ceil(this.length / most / DAY) * (DAY / 1000);
    const [unit, word] = step >= 3600 ? [3600, "h"] : step >= 60 ? [60, "min"] : [1, "s"];
    const axis = svg("svg", { "aria-hidden": "true" });
    for (let s = 0; s * 1000 < this.length * 0.98; s += step) {
      axis.append(svg("text", { x: `${(s * 100_000) / this.length}%`, y: 18 }, `${s / unit} ${word}`));
    }
    this.axis.replaceChildren(axis);
  }

  /** The rows in order, with their places from the top. */
  lay() {
    const rows = [];
    let gapAt = 0;
    const walk = (span) => {
      while (gapAt < this.gaps.length && span.start >= this.gaps[gapAt].to) {
        rows.push({ gap: this.gaps[gapAt], level: span.level });
        gapAt += 1;
      }
      rows.push({ span });
      if (this.open.has(span.at)) span.children.forEach(walk);
      else while (this.gaps[gapAt]?.to <= span.end) gapAt += 1; // Folded away with the span that holds it.
    };
    this.roots.forEach(walk);
    let top = 0;
    for (const row of rows) {
      row.top = top;
      top += row.gap ? GAP : ROW;
    }
    this.rows = rows;
    this.body.replaceChildren();
    this.element.setAttribute("aria-rowcount", rows.length + 1);
    this.body.style.height = `${top}px`;
    this.body.style.position = "relative";
    this.shown = null;
    this.paint();
  }

  paint() {
    const box = this.body.getBoundingClientRect();
    const view = this.scroller === document.scrollingElement ? { top: 0, bottom: innerHeight } : this.scroller.getBoundingClientRect();
    const from = Math.max(0, this.at(view.top - box.top) - SPARE);
    const to = Math.min(this.rows.length, this.at(view.bottom - box.top) + SPARE);
    if (this.shown && this.shown[0] === from && this.shown[1] === to) return;
    this.shown = [from, to];
    const kept = new Map([...this.body.children].map((line) => [line.dataset.index, line]));
    const lines = [];
    for (let index = from; index < to; index += 1) {
      lines.push(kept.get(String(index)) ?? this.draw(this.rows[index], index));
      kept.delete(String(index));
    }
    for (const line of kept.values()) line.remove();
    lines.forEach((line, at) => {
      if (this.body.children[at] !== line) this.body.insertBefore(line, this.body.children[at] ?? null);
    });
    this.mark();
  }

  /** Names the chosen row to those who listen, as long as it is in sight: others do not exist. */
  mark() {
    const name = `wf-${this.chosen?.at}`;
    if ([...this.body.children].some((line) => line.id === name)) this.element.setAttribute("aria-activedescendant", name);
    else this.element.removeAttribute("aria-activedescendant");
  }

  /** The index of the row at a height. */
  at(height) {
    let low = 0;
    let high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].top < height) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  draw(row, index) {
    const line = row.gap ? this.drawGap(row) : this.drawSpan(row.span);
    line.style.top = `${row.top}px`;
    line.setAttribute("aria-rowindex", index + 2);
    line.dataset.index = index;
    return line;
  }

  drawGap({ gap, level }) {
    const hatch = svg("svg", { "aria-hidden": "true" }, svg("rect", { width: "100%", height: "100%", fill: "url(#wait)" }));
    const words = make("span", { class: "wf-name", role: "gridcell" }, icon("fold", 14), gap.words);
    words.style.paddingInlineStart = `${level * 20}px`;
    return make("div", { class: "wf-row wf-gap", role: "row" }, hatch, words);
  }

  drawSpan(span) {
    const running = span.status === "running" || span.tookMs == null;
    const line = make("div", { class: "wf-row", role: "row", id: `wf-${span.at}`, "aria-level": span.level + 1 });
    line.classList.toggle("wf-error", span.status === "error" && !span.children.length);
    line.classList.toggle("wf-running", running);
    line.setAttribute("aria-selected", String(this.chosen === span));
    const name = make("span", { class: "wf-name", role: "gridcell" });
    name.style.paddingInlineStart = `${span.level * 20}px`;
    if (span.children.length) {
      const open = this.open.has(span.at);
      line.setAttribute("aria-expanded", String(open));
      name.append(make("span", { class: "wf-twist" }, icon(open ? "chevron-down" : "chevron-right", 14)));
    } else name.append(icon(GLYPH[span.kind] ?? GLYPH.other, 14));
    const mono = span.kind === "tool" ? "cut mono" : "cut";
    name.append(make("span", { class: mono, title: span.name }, span.name));
    if (span.status === "error" && !span.children.length) {
      const cross = icon("circle-x", 14);
      cross.classList.add("wf-note");
      name.append(cross, make("span", { class: "unseen" }, "failed"));
    }
    const cost = span.cost == null ? "" : /^\d/.test(span.cost) ? `$${span.cost}` : span.cost;
    line.append(
      name,
      make("span", { class: "wf-cost", role: "gridcell" }, cost),
      make("span", { class: "wf-tokens", role: "gridcell" }, tokensOf(span.tokens)),
      this.drawBar(span, running),
    );
    const length = span.tookMs ?? span.end - span.start;
    const [number, unit] = seconds(length).split("\u00a0");
    const tookCell = make("span", { class: "wf-took", role: "gridcell" });
    tookCell.append(...(unit === "s" ? [number, make("span", { class: "unit" }, "s")] : [seconds(length)]));
    line.append(tookCell);
    return line;
  }

  drawBar(span, running) {
    const from = this.share(span.start);
    const to = this.share(span.end);
    const wide = Math.max(0, to - from);
    const tall = span.children.length ? 10 : 9;
    if (span.end <= this.begin && span.level === 0) {
      const told = svg("svg", { "aria-hidden": "true" }, svg("text", { x: 0, y: 18 }, span.note ?? ""));
      return make("span", { class: "wf-bars", role: "gridcell" }, told);
    }
    const kind = span.status === "error" && !span.children.length ? "wf-bad" : `wf-${span.kind}`;
    const box = { x: `${from}%`, y: (ROW - tall) / 2, height: tall, rx: 2, class: kind };
    const rect = svg("rect", { ...box, width: `${Math.max(wide, 0.6)}%` });
    if (running) {
      rect.removeAttribute("class");
      rect.style.fill = "url(#run)";
    }
    const picture = svg("svg", { "aria-hidden": "true" }, rect);
    if (span.note && !this.open.has(span.at)) {
      const after = to < 55 || span.children.length;
      // Text in SVG is cut at its edges without a sign, so it is shortened here.
      const room = ((after ? 100 - to : from) / 100) * this.axis.clientWidth - 12;
      const most = Math.max(0, Math.floor(room / LETTER));
      const told = span.note.length <= most ? span.note : most > 3 ? `${span.note.slice(0, most - 1)}…` : "";
      const at = after ? { x: `${to}%`, dx: 8 } : { x: `${from}%`, dx: -8, "text-anchor": "end" };
      if (told) picture.append(svg("text", { ...at, y: 18 }, told));
    }
    return make("span", { class: "wf-bars", role: "gridcell", title: span.note ?? "" }, picture);
  }

  choose(index, opens = false) {
    const row = this.rows[index];
    if (!row?.span) return;
    this.chosen = row.span;
    for (const line of this.body.children) {
      if (line.hasAttribute("aria-selected")) line.setAttribute("aria-selected", String(line.id === `wf-${row.span.at}`));
    }
    this.reveal(row);
    this.paint();
    this.mark();
    if (opens) this.show(row.span);
  }

  /** Chooses the span of an address (`#span-<id>`) and shows what went in and out; what holds it is opened. */
  find(id) {
    const span = this.spans.find((one) => one.id === id);
    if (!span) return;
    for (let above = this.spans[span.parent]; above; above = this.spans[above.parent]) this.open.add(above.at);
    this.lay();
    this.choose(this.rows.findIndex((row) => row.span === span), true);
  }

  reveal(row) {
    const box = this.body.getBoundingClientRect();
    const view = this.scroller === document.scrollingElement ? { top: 0, bottom: innerHeight } : this.scroller.getBoundingClientRect();
    const top = box.top + row.top;
    if (top < view.top + ROW) this.scroller.scrollBy(0, top - view.top - ROW);
    else if (top + ROW > view.bottom) this.scroller.scrollBy(0, top + ROW - view.bottom);
  }

  show(span) {
    const { spanUrl, spanTarget } = this.element.dataset;
    this.element.dispatchEvent(new CustomEvent("span:open", { bubbles: true, detail: { id: span.id } }));
    if (!spanUrl) return;
    const panel = document.querySelector(spanTarget);
    htmx.ajax("GET", spanUrl + encodeURIComponent(span.id), { target: spanTarget, swap: "innerHTML" }).then(() => {
      // On narrow pages the panel stands below the trace.
      if (panel && panel.getBoundingClientRect().top > innerHeight - 80) panel.scrollIntoView({ block: "start" });
    });
  }

  toggle(span, open = !this.open.has(span.at)) {
    if (!span.children.length) return;
    if (open) this.open.add(span.at);
    else this.open.delete(span.at);
    this.lay();
  }

  press(event) {
    const line = event.target.closest(".wf-row");
    const row = line && this.rows[Number(line.dataset.index)];
    if (!row?.span) return;
    if (event.target.closest(".wf-twist")) this.toggle(row.span);
    else this.choose(Number(line.dataset.index), true);
  }

  key(event) {
    const here = this.rows.findIndex((row) => row.span && row.span === this.chosen);
    const step = (by) => {
      let index = here + by;
      while (this.rows[index]?.gap) index += Math.sign(by);
      this.choose(Math.min(this.rows.length - 1, Math.max(0, index)));
    };
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 2);
    const acts = {
      ArrowDown: () => step(1),
      ArrowUp: () => step(-1),
      j: () => step(1),
      k: () => step(-1),
      PageDown: () => step(page),
      PageUp: () => step(-page),
      Home: () => this.choose(0),
      End: () => this.choose(this.rows.length - 1),
      ArrowRight: () => this.chosen && this.toggle(this.chosen, true),
      ArrowLeft: () => {
        if (!this.chosen) return;
        if (this.open.has(this.chosen.at)) this.toggle(this.chosen, false);
        else this.choose(this.rows.findIndex((row) => row.span === this.spans[this.chosen.parent]));
      },
      Enter: () => this.chosen && this.show(this.chosen),
    };
    const act = acts[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }
}

export function draw(element) {
  const data = JSON.parse(document.getElementById(element.dataset.waterfall).textContent);
  if (!data.spans.length) return;
  element.waterfall = new Waterfall(element, data);
  const follow = () => element.isConnected && location.hash.startsWith("#span-") && element.waterfall.find(location.hash.slice(6));
  follow();
  addEventListener("hashchange", follow);
}
