"use strict";
// Draws each kind of chart from the page's data. `draw(scope, name)` may be called again at any time.
let data = {}; // by scope: a study, or the page
const dark = matchMedia("(prefers-color-scheme: dark)");
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const faded = (hex) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},${dark.matches ? 0.2 : 0.14})`;
const toned = (colors) => colors[dark.matches ? 1 : 0];
const whole = (n) => n.toLocaleString("en");

// A title on as many lines as a narrow screen needs.
const folded = (text) => text.replace(/(.{24,36}?) /g, "$1<br>");

const axis = (title, extra) => ({
  title: { text: title, standoff: 12 }, gridcolor: variable("--grid"), linecolor: variable("--line"),
  zeroline: false, automargin: true, ...extra,
});
const layout = (x, y, extra) => ({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("--line"), activecolor: variable("--mark") },
  font: { family: "system-ui, -apple-system, 'Segoe UI', sans-serif", size: 13, color: variable("--ink") },
  margin: { l: 62, r: 16, t: 30, b: 50 }, xaxis: x, yaxis: y, hovermode: "closest", height: 480,
  legend: { orientation: "h", y: 0, yref: "container", yanchor: "bottom", font: { size: 12 } },
  hoverlabel: { font: { size: 13 }, align: "left" }, ...extra,
});
const band = (name, color, x, low, high) => ({
  type: "scatter", mode: "lines", legendgroup: name, showlegend: false, hoverinfo: "skip",
  x: [...x, ...[...x].reverse()], y: [...high, ...[...low].reverse()],
  fill: "toself", fillcolor: faded(color), line: { width: 0 },
});
// Ticks of a log axis, all of them written out.
const ticks = (values) => {
  const low = Math.floor(Math.log10(Math.min(...values))), high = Math.ceil(Math.log10(Math.max(...values)));
  const steps = high - low > 3 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = low; power <= high; power += 1) steps.forEach((step) => found.push(step * 10 ** power));
  return { type: "log", tickvals: found, ticktext: found.map((v) => String(Number(v.toPrecision(1)))) };
};
// Limits that keep lines readable beside intervals that are much wider.
const framed = (series) => {
  const lines = series.flatMap((s) => s.y), bounds = series.flatMap((s) => (s.band === false ? [] : [...s.low, ...s.high]));
  const low = Math.min(...lines), high = Math.max(...lines), margin = 1.5 * (high - low);
  const least = Math.min(low, ...bounds), most = Math.max(high, ...bounds);
  if (!(margin > 0) || (least >= low - margin && most <= high + margin)) return {};
  return { range: [Math.max(low - margin, least), Math.min(high + margin, most)] };
};
const bars = (s) => ({
  type: "data", symmetric: false, thickness: 1, width: 3,
  array: s.y.map((y, k) => s.high[k] - y), arrayminus: s.y.map((y, k) => y - s.low[k]),
});

// Intervals of more curves would hide each other and the curves.
const MOST_BANDS = 6;
// On how few candidates of a prompt a point may rest before it is marked: at one it is the best of the whole pool.
const FEW = 1.5;
const AXES = {
  n: ["n (log)", (scope) => axis("n, candidates to pick from", {
    type: "log", tickvals: scope.ticks, ticktext: scope.ticks.map(whole),
  })],
  kl: ["KL", () => axis("KL from the policy, nats", { rangemode: "tozero" })],
  root: ["√KL", () => axis("square root of KL from the policy, nats", { rangemode: "tozero" })],
};

const curves = (scope, chart, state) => {
  const visible = chart.views[state.view].series.filter((s) => state.visible.has(s.key));
  const crowded = visible.filter((s) => s.band).length > MOST_BANDS;
  const shown = crowded ? visible.map((s) => ({ ...s, band: false })) : visible;
  const at = (s) => {
    if (state.axis === "n") return scope.n;
    const kl = s.level || !s.kl ? scope.kl : s.kl;
    return state.axis === "kl" ? kl : kl.map(Math.sqrt);
  };
  const label = (s, i) => {
    const lines = [`<b>${s.name}</b>`];
    if (!s.level) {
      const kl = scope.kl && `KL ${(s.kl || scope.kl)[i].toFixed(2)}${s.kl ? "" : " (of best-of-n)"}`;
      lines.push([`n = ${whole(scope.n[i])}`, kl].filter(Boolean).join(", "));
    }
    lines.push(`${s.y[i]} [${s.low[i]}, ${s.high[i]}]`);
    if (s.error) lines.push(`Monte Carlo error ${s.error[i]}`);
    if (s.size) lines.push(s.size[i] < FEW ? "the best of the whole pool, nearly" : `rests on ${s.size[i]} candidates a prompt`);
    return lines.join("<br>");
  };
  const traces = shown.flatMap((s) => {
    const color = toned(s.colors), x = at(s);
    const ring = scope.n.map((_, i) => !s.level && s.size !== null && s.size[i] < FEW);
    const line = {
      type: "scatter", mode: "lines+markers", name: s.name, x, y: s.y, line: { color, dash: s.dash, width: s.width },
      marker: {
        color, size: ring.map((few) => (few ? 9 : s.marker ? (s.marker === "circle" ? 5 : 7) : 3)), opacity: 1,
        symbol: ring.map((few) => `${s.marker || "circle"}${few ? "-open" : ""}`), line: { width: ring.map((few) => (few ? 1.6 : 0)) },
      },
      text: scope.n.map((_, i) => label(s, i)), hovertemplate: "%{text}<extra></extra>",
    };
    if (s.level) Object.assign(line, { mode: "lines", x: [Math.min(...x), Math.max(...x)], y: [s.y[0], s.y[0]] });
    return s.band ? [band(s.name, color, x, s.low, s.high), line] : [line];
  });
  return [traces, layout(
    AXES[state.axis][1](scope), axis(chart.views[state.view].y, chart.log ? ticks(shown.length ? shown.flatMap((s) => s.y) : [1]) : framed(shown)),
    { uirevision: state.axis, showlegend: false },
  )];
};

const reliability = (scope, chart) => [[{
  type: "scatter", mode: "lines", x: [0.5, 1], y: [0.5, 1], name: "as sure as right", hoverinfo: "skip",
  line: { color: variable("--soft"), dash: "dash", width: 1.5 },
}, ...chart.series.map((s) => ({
  type: "scatter", mode: "lines+markers", name: s.name, x: s.x, y: s.y, customdata: s.count,
  line: { color: toned(s.colors), width: 2 }, marker: { size: 8, symbol: s.marker }, error_y: bars(s),
  hovertemplate: `<b>${s.name}</b><br>stated %{x:.3f}, right %{y:.3f}<br>%{customdata:,} pairs<extra></extra>`,
}))], layout(axis("stated confidence, max(P, 1 − P)", { range: [0.49, 1.01] }), axis(chart.y))];

const risk = (scope, chart) => [chart.series.flatMap((s) => {
  const color = toned(s.colors);
  const line = {
    type: "scatter", mode: "lines", name: s.name, legendgroup: s.name, x: s.x, y: s.y,
    line: { color, width: s.dashed ? 1.6 : 2.4, dash: s.dashed ? "dash" : "solid" },
    customdata: s.y.map((_, k) => [s.low[k], s.high[k]]),
    hovertemplate: `<b>${s.name}</b><br>kept %{x:.0%}, wrong %{y:.3f} [%{customdata[0]}, %{customdata[1]}]<extra></extra>`,
  };
  return s.band ? [band(s.name, color, s.x, s.low, s.high), line] : [line];
}), layout(
  axis("coverage: share of the pairs kept, the surest first", { range: [0, 1.01], tickformat: ".0%" }),
  axis(chart.y, { rangemode: "tozero" }),
)];

const plane = (scope, chart) => {
  const [px, py] = chart.points;
  const traces = [{
    type: "scatter", mode: "markers", x: px, y: py, name: "responses", hoverinfo: "skip",
    marker: { size: 4, color: variable("--soft"), opacity: 0.35 },
  }];
  chart.series.forEach((s) => {
    const color = toned(s.colors), shared = { type: "scatter", legendgroup: s.name };
    s.levels.forEach(([x, y]) => traces.push({
      ...shared, mode: "lines", x, y, showlegend: false, hoverinfo: "skip", line: { color, width: 1.6, dash: s.dash },
    }));
    traces.push({
      ...shared, mode: "markers", x: s.picks[0], y: s.picks[1], showlegend: false, name: s.name,
      marker: { size: 6, color, opacity: 0.5 }, hovertemplate: `<b>${s.name}</b><br>picks %{x}, %{y}<extra></extra>`,
    }, {
      ...shared, mode: "markers", x: [s.average[0]], y: [s.average[1]], name: s.name,
      marker: { size: 13, color, symbol: s.marker, line: { color: variable("--card"), width: 1.5 } },
      hovertemplate: `<b>${s.name}</b><br>on average %{x}, %{y}<extra></extra>`,
    });
  });
  const zero = { zeroline: true, zerolinecolor: variable("--line") };
  return [traces, layout(
    axis(chart.x, { range: chart.range[0], ...zero }), axis(chart.y, { range: chart.range[1], ...zero }), { height: 560 },
  )];
};

const laws = (scope, chart, state) => {
  const s = chart.views[state.view];
  const ink = variable("--ink"), peak = s.lines.map((law) => law.peak).find(Boolean);
  const shapes = peak ? [
    { type: "rect", yref: "paper", x0: peak[1], x1: peak[2], y0: 0, y1: 1, fillcolor: variable("--grid"), line: { width: 0 }, layer: "below" },
    { type: "line", yref: "paper", x0: peak[0], x1: peak[0], y0: 0, y1: 1, line: { color: variable("--soft"), width: 1 }, layer: "below" },
  ] : [];
  return [[
    ...s.lines.map((law) => ({
      type: "scatter", mode: "lines", name: law.name, x: law.points[0], y: law.points[1], hoverinfo: "skip",
      line: { color: ink, width: 1.6, dash: law.dash },
    })),
    {
      type: "scatter", mode: "markers", name: s.name, x: s.x, y: s.y, error_y: bars(s),
      marker: { color: toned(s.colors), size: 7 },
      text: s.x.map((d, i) => `<b>${s.name}</b><br>n = ${whole(scope.n[i])}, KL ${(d * d).toFixed(2)}<br>${s.y[i]} [${s.low[i]}, ${s.high[i]}]`),
      hovertemplate: "%{text}<extra></extra>",
    },
  ], layout(axis("d, square root of KL from the policy, nats", { rangemode: "tozero" }), axis(chart.y, framed([s])), { shapes })];
};

const strengths = (scope, chart, state) => {
  const { series, x } = chart.views[state.view];
  const alone = series.length === 1;
  const traces = series.flatMap((s) => {
    const color = toned(s.colors);
    const line = {
      type: "scatter", mode: "lines+markers", name: s.name, legendgroup: s.name, x: s.x, y: s.y,
      line: { color, width: 2 },
      marker: { color, symbol: s.marker, size: s.chosen.map((share) => 6 + 10 * Math.sqrt(share)), line: { width: 0 } },
      text: s.x.map((_, i) => [
        `<b>${s.text[i]}</b>`, `${s.y[i]} [${s.low[i]}, ${s.high[i]}]`,
        `chosen in ${Math.round(100 * s.chosen[i])} % of the draws`,
      ].join("<br>")),
      hovertemplate: "%{text}<extra></extra>",
    };
    return alone ? [band(s.name, color, s.x, s.low, s.high), line] : [line]; // many bands hide each other
  });
  const ends = [Math.min(...series.flatMap((s) => s.x)), Math.max(...series.flatMap((s) => s.x))];
  chart.levels.forEach(([name, y], i) => traces.push({
    type: "scatter", mode: "lines", name, x: ends, y: [y, y], hoverinfo: "skip",
    line: { color: variable("--soft"), width: 1.4, dash: i ? "dot" : "dash" },
  }));
  const shapes = alone ? [] : [{ type: "line", yref: "paper", x0: 1, x1: 1, y0: 0, y1: 1, line: { color: variable("--soft"), width: 1 }, layer: "below" }];
  return [traces, layout(axis(x, ticks(ends)), axis(chart.y, alone ? framed(series) : {}), { shapes, height: 520 })];
};

const KINDS = { curves, reliability, risk, plane, laws, strengths };
const states = {};

const draw = (scope, name) => {
  const chart = data[scope].charts[name], state = states[`${scope}-${name}`];
  const target = document.querySelector(`#chart-${scope}-${name} .plot`);
  const [traces, look] = KINDS[chart.kind](data[scope], chart, state);
  if (target.clientWidth < 480) [look.xaxis, look.yaxis].forEach(({ title }) => { title.text = folded(title.text); });
  return Plotly.react(target, traces, look, {
    responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
  });
};
