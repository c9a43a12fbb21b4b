// Draws the compact specs of dashboard/charts.py with Plotly, in the theme's colours, and again when it changes.
//   {kind: "throughput" | "stacked" | "line" | "bars", t0, dt, unit, series: [{name, y, role?}], …}
// t0 is ISO, dt seconds; x may be given instead of them as a list of category names. See docs/frontend.md.
import { make, settings } from "./page.js";

const drawn = new Set();
let library = null;

function plotly() {
  library ??= new Promise((resolve, reject) => {
    const script = make("script", { src: settings.plotly });
    script.onload = () => resolve(globalThis.Plotly ?? globalThis.moduleName);
    script.onerror = () => reject(new Error("the chart library could not be loaded"));
    document.head.append(script);
  });
  return library;
}

const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const palette = () =>
  Object.fromEntries(
    ["ink", "ink-2", "ink-3", "line", "line-2", "grid", "surface", "raised", "bar", "accent-soft", "s1", "s2", "s3", "s4"]
      .concat(["s5", "red", "red-fill", "red-soft", "amber", "amber-fill", "amber-soft", "blue-fill", "sans"])
      .map((name) => [name, token(name)]),
  );
const faint = (hex, alpha) => `${hex}${Math.round(alpha * 255).toString(16).padStart(2, "0")}`;

const pointsOf = (spec, series, t0 = spec.t0, dt = spec.dt) =>
  spec.x ?? series.map((_, index) => new Date(Date.parse(t0) + index * dt * 1000).toISOString().slice(0, 19));

const levelOf = (level) => (level === "critical" ? "red" : level === "warning" ? "amber" : "ink-3");
const seriesColours = (c) => [c.s1, c.s2, c.s3, c.s4, c.s5, c["line-2"]];

function bars(spec, c) {
  const role = { failed: c["amber-fill"], finished: c.bar };
  return spec.series.map(({ name, y, role: is }, index) => {
    if (is === "past") {
      const line = { color: c.ink, width: 1.25, dash: "1.5px,2.5px", shape: "spline", smoothing: 1 };
      return { type: "scatter", mode: "lines", name, y, x: pointsOf(spec, y), line };
    }
    const color = spec.kind === "throughput" ? role[is] ?? c.bar : seriesColours(c)[Math.min(index, 5)];
    const edge = spec.kind === "stacked" ? { color: c.surface, width: 1 } : { width: 0 };
    return { type: "bar", name, y, x: pointsOf(spec, y), marker: { color, line: edge } };
  });
}

function forecast(spec, c) {
  if (!spec.forecast) return [];
  const { t0, dt, median, low, high } = spec.forecast;
  const x = pointsOf(spec, median, t0, dt);
  const edge = { type: "scatter", mode: "lines", line: { width: 0 }, x, hoverinfo: "skip", showlegend: false };
  return [
    { ...edge, y: low },
    { ...edge, y: high, fill: "tonexty", fillcolor: faint(c.s2, 0.16) },
    { type: "scatter", mode: "lines", name: "forecast", x, y: median, line: { color: c.s2, width: 1.5, dash: "3px,3px" } },
  ];
}

function lines(spec, c) {
  const several = spec.series.length > 1;
  return spec.series.flatMap(({ name, y, breach }, index) => {
    const x = pointsOf(spec, y);
    const color = several ? seriesColours(c)[Math.min(index, 5)] : c["ink-2"];
    // A value without neighbours makes no line.
    const size = y.map((value, at) => (value != null && y[at - 1] == null && y[at + 1] == null ? 5 : 0));
    const traces = [{ type: "scatter", mode: "lines+markers", name, x, y, line: { color, width: 1.75 }, marker: { size, opacity: 1 } }];
    if (breach == null) return traces;
    const first = y.findIndex((value, at) => value > breach && y.slice(at).every((later) => later == null || later > breach));
    if (first < 0) return traces;
    const hot = y.map((value, at) => (at >= first ? value : null));
    traces.push({ type: "scatter", mode: "lines", x, y: hot, hoverinfo: "skip", line: { color: c["red-fill"], width: 2 } });
    const last = y.length - 1;
    traces.push({
      ...{ type: "scatter", mode: "markers", x: [x[last]], y: [y[last]], hoverinfo: "skip" },
      marker: { color: c["red-fill"], size: 7 },
    });
    return traces;
  });
}

function marks(spec, c) {
  const shapes = [];
  const annotations = [];
  for (const { from, to, role, label } of spec.bands ?? []) {
    const tone = role === "firing" ? "red" : "amber";
    const box = { type: "rect", yref: "paper", y0: 0, y1: 1, x0: from, x1: to, layer: "below", line: { width: 0 } };
    shapes.push({ ...box, fillcolor: c[`${tone}-soft`] });
    const middle = new Date((Date.parse(from) + Date.parse(to)) / 2).toISOString().slice(0, 19);
    const text = { x: middle, yref: "paper", y: 0.02, yanchor: "bottom", showarrow: false, text: label ?? role };
    annotations.push({ ...text, font: { color: c[tone], size: 11 } });
  }
  for (const { y, label, level } of spec.thresholds ?? []) {
    const tone = levelOf(level);
    const color = c[`${tone}-fill`] ?? c[tone];
    shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color, width: 1, dash: "4px,3px" } });
    const text = { xref: "paper", x: 0, xanchor: "left", xshift: 3, y, yanchor: "bottom", showarrow: false, text: label };
    annotations.push({ ...text, font: { color: c[tone], size: 11 } });
  }
  const ending = spec.series.find(({ breach, y }) => breach != null && y.at(-1) > breach);
  if (ending && spec.ending) {
    const x = pointsOf(spec, ending.y).at(-1);
    const text = { x, y: ending.y.at(-1), xanchor: "left", xshift: 10, showarrow: false, text: spec.ending };
    annotations.push({ ...text, font: { color: c.red, size: 12, weight: 650 } });
  }
  return { shapes, annotations };
}

/** Round ticks from zero; the unit stands on the top one, or before each where it is a currency. */
export function ticks(spec) {
  let top = 0;
  const length = Math.max(...spec.series.map(({ y }) => y.length));
  for (let at = 0; at < length; at += 1) {
    const values = spec.series.filter(({ role }) => role !== "past").map(({ y }) => y[at] ?? 0);
    const height = spec.kind === "line" || spec.kind === "bars" ? Math.max(...values) : values.reduce((a, b) => a + b, 0);
    top = Math.max(top, height);
  }
  for (const { role, y } of spec.series) if (role === "past") top = Math.max(top, ...y.map((value) => value ?? 0));
  top = Math.max(top, ...(spec.forecast?.high ?? []), ...(spec.thresholds ?? []).map(({ y }) => y)) || 1;
  const rough = top / 3.2;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const values = [];
  for (let value = 0; value <= top * 1.02; value += step) values.push(Number(value.toPrecision(10)));
  const money = spec.unit === "$";
  const last = values.length - 1;
  const texts = values.map((value, at) => {
    const number = value.toLocaleString("en-GB", { maximumFractionDigits: 4 });
    return money ? `$${number}` : at === last && spec.unit ? `${number} ${spec.unit}` : number;
  });
  return { tickvals: values, ticktext: texts, range: [0, top * 1.08] };
}

const daysOf = (spec) => spec.series[0].y.length + (spec.forecast?.median.length ?? 0);
const daysBetweenTicks = (days) => {
  const most = matchMedia("(width < 600px)").matches ? 6 : 11;
  return [3, 7, 14, 30, 90].find((step) => days / step <= most) ?? 180;
};

function layoutOf(spec, c) {
  const scale = ticks(spec);
  const left = Math.max(36, 12 + 6.5 * Math.max(...scale.ticktext.map((text) => text.length)));
  return {
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: c.sans, size: 11, color: c["ink-3"] },
    margin: { l: left, r: spec.ending ? 44 : 4, t: 8, b: 22, pad: 0 },
    showlegend: false,
    barmode: "stack",
    barcornerradius: spec.kind === "throughput" ? 1.5 : 0,
    bargap: spec.kind === "throughput" ? 0.28 : 0.34,
    hovermode: "x unified",
    hoverlabel: { bgcolor: c.raised, bordercolor: c["line-2"], font: { family: c.sans, size: 12, color: c.ink } },
    dragmode: false,
    xaxis: {
      showgrid: false,
      spikecolor: c["line-2"],
      spikethickness: 1,
      spikedash: "solid",
      ...(spec.dt === 86400 && daysOf(spec) > 9 ? { dtick: daysBetweenTicks(daysOf(spec)) * 86_400_000 } : {}),
      showline: true,
      linecolor: c["line-2"],
      ticks: "",
      nticks: 9,
      fixedrange: true,
      type: spec.x ? "category" : "date",
      tickformatstops: [
        { dtickrange: [null, 86_399_999], value: "%H:%M" },
        { dtickrange: [86_400_000, null], value: "%-d %b" },
      ],
      hoverformat: spec.dt >= 86400 ? "%-d %b" : "%-d %b %H:%M",
    },
    yaxis: {
      gridcolor: c.grid,
      zeroline: false,
      showline: spec.kind !== "bars",
      linecolor: c["line-2"],
      rangemode: "tozero",
      tickmode: "array",
      fixedrange: true,
      ...scale,
    },
    ...marks(spec, c),
  };
}

function tableOf(spec) {
  const rows = pointsOf(spec, spec.series[0].y);
  const head = make("tr", {}, make("th", { scope: "col" }, spec.x ? "" : "Time, UTC"));
  for (const { name } of spec.series) head.append(make("th", { scope: "col", class: "num" }, name));
  const body = make("tbody");
  rows.forEach((x, at) => {
    const row = make("tr", {}, make("th", { scope: "row" }, x.replace("T", " ")));
    for (const { y } of spec.series) row.append(make("td", { class: "num" }, String(y[at] ?? "–")));
    body.append(row);
  });
  return make("table", { class: "table table-dense table-flush" }, make("thead", {}, head), body);
}

async function paint(figure, spec) {
  const library = await plotly();
  const c = palette();
  const traces = [...forecast(spec, c), ...(spec.kind === "line" ? lines(spec, c) : bars(spec, c))];
  const money = spec.unit === "$";
  for (const trace of traces) {
    const form = money ? "$%{y:,.2f}" : `%{y:,}${spec.unit ? ` ${spec.unit}` : ""}`;
    if (!trace.hoverinfo) trace.hovertemplate = form;
  }
  await library.react(figure.querySelector(".chart-plot"), traces, layoutOf(spec, c), {
    displayModeBar: false,
    responsive: true,
    doubleClick: false,
  });
}

export async function draw(figure) {
  const spec = JSON.parse(document.getElementById(figure.dataset.chart).textContent);
  figure.spec = spec;
  const table = figure.querySelector(".chart-table");
  table?.addEventListener("toggle", () => table.open && table.lastElementChild.replaceChildren(tableOf(spec)));
  try {
    await paint(figure, spec);
    drawn.add(figure);
  } catch (error) {
    table.open = true;
    throw error;
  }
}

new MutationObserver(() => {
  for (const figure of drawn) figure.isConnected ? paint(figure, figure.spec) : drawn.delete(figure);
}).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
