"use strict";
// Replaces the still pictures by charts that can be explored. Where anything fails, the pictures stay.
(async () => {
  const read = (id) => document.getElementById(id).textContent;
  const data = JSON.parse(read("charts"));
  const packed = Uint8Array.from(atob(read("plotly").trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const library = document.createElement("script");
  library.textContent = await new Response(stream).text();
  document.head.append(library);

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const faded = (hex) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},${dark.matches ? 0.2 : 0.14})`;
  const state = {};

  const axis = (title, extra) => ({
    title: { text: title, standoff: 12 }, gridcolor: variable("--grid"), linecolor: variable("--line"),
    zeroline: false, automargin: true, ...extra,
  });
  const layout = (x, y, extra) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("--line"), activecolor: variable("--mark") },
    font: { family: "system-ui, -apple-system, 'Segoe UI', sans-serif", size: 13, color: variable("--ink") },
    margin: { l: 62, r: 16, t: 30, b: 50 }, xaxis: x, yaxis: y, hovermode: "closest",
    legend: { orientation: "h", y: 0, yref: "container", yanchor: "bottom", font: { size: 12 } },
    hoverlabel: { font: { size: 13 } }, ...extra,
  });

  const band = (name, color, x, low, high) => ({
    type: "scatter", mode: "lines", legendgroup: name, showlegend: false, hoverinfo: "skip",
    x: [...x, ...[...x].reverse()], y: [...high, ...[...low].reverse()],
    fill: "toself", fillcolor: faded(color), line: { width: 0 },
  });

  const curveTraces = (series, byKl) => series.flatMap((s) => {
    const color = s.colors[dark.matches ? 1 : 0];
    const last = Math.max(...series.flatMap((other) => (other.kl && !other.level ? other.kl : [0])));
    const x = !byKl ? data.n : s.level ? s.kl.map((_, i) => (last * i) / Math.max(1, data.n.length - 1)) : s.kl;
    const shared = { legendgroup: s.name, visible: s.shown ? true : "legendonly" };
    const line = {
      ...shared, type: "scatter", mode: "lines", name: s.name, x, y: s.y,
      line: { color, dash: s.dash, width: s.width },
      customdata: data.n.map((n, i) => [
        s.level ? "" : `n = ${n.toLocaleString("en")}${s.kl ? `, KL ${s.kl[i].toFixed(2)}` : ""}`,
        s.band ? ` [${s.band[0][i]}, ${s.band[1][i]}]` : "",
      ]),
      hovertemplate: `<b>${s.name}</b><br>%{customdata[0]}<br>%{y}%{customdata[1]}<extra></extra>`,
    };
    return s.band ? [{ ...band(s.name, color, x, ...s.band), ...shared }, line] : [line];
  });

  const draw = (name) => {
    const chart = data.charts[name];
    const target = document.getElementById(`chart-${name}`);
    const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
    if (chart.kind === "reliability") {
      const traces = [{
        type: "scatter", mode: "lines", x: [0.5, 1], y: [0.5, 1], name: "as sure as right", hoverinfo: "skip",
        line: { color: variable("--soft"), dash: "dash", width: 1.5 },
      }, ...chart.series.map((s) => ({
        type: "scatter", mode: "lines+markers", name: s.name, x: s.x, y: s.y, customdata: s.count,
        line: { color: s.colors[dark.matches ? 1 : 0], width: 2 },
        marker: { size: 8, symbol: s.marker },
        error_y: {
          type: "data", symmetric: false, thickness: 1, width: 3,
          array: s.y.map((y, k) => s.high[k] - y), arrayminus: s.y.map((y, k) => y - s.low[k]),
        },
        hovertemplate: `<b>${s.name}</b><br>stated %{x:.3f}, right %{y:.3f}<br>%{customdata:,} pairs<extra></extra>`,
      }))];
      Plotly.react(target, traces, layout(
        axis("stated confidence, max(P, 1 − P)", { range: [0.49, 1.01] }), axis(chart.y), { height: 500 },
      ), options);
      return;
    }
    if (chart.kind === "risk") {
      const traces = chart.series.flatMap((s) => {
        const color = s.colors[dark.matches ? 1 : 0];
        const line = {
          type: "scatter", mode: "lines", name: s.name, legendgroup: s.name, x: s.x, y: s.y,
          line: { color, width: s.dashed ? 1.6 : 2.4, dash: s.dashed ? "dash" : "solid" },
          customdata: s.y.map((_, k) => [s.low[k], s.high[k]]),
          hovertemplate: `<b>${s.name}</b><br>kept %{x:.0%}, wrong %{y:.3f} [%{customdata[0]}, %{customdata[1]}]<extra></extra>`,
        };
        return s.band ? [band(s.name, color, s.x, s.low, s.high), line] : [line];
      });
      Plotly.react(target, traces, layout(
        axis("coverage: share of the pairs kept, the surest first", { range: [0, 1.01], tickformat: ".0%" }),
        axis(chart.y, { rangemode: "tozero" }), { height: 500 },
      ), options);
      return;
    }
    if (chart.kind === "plane") {
      const [px, py] = chart.points;
      const traces = [{
        type: "scatter", mode: "markers", x: px, y: py, name: "responses", hoverinfo: "skip",
        marker: { size: 4, color: variable("--soft"), opacity: 0.35 },
      }];
      chart.series.forEach((s) => {
        const color = s.colors[dark.matches ? 1 : 0];
        const shared = { type: "scatter", legendgroup: s.name };
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
      Plotly.react(target, traces, layout(
        axis(chart.x, { range: chart.range[0], zeroline: true, zerolinecolor: variable("--line") }),
        axis(chart.y, { range: chart.range[1], zeroline: true, zerolinecolor: variable("--line") }), { height: 560 },
      ), options);
      return;
    }
    const { view, byKl } = state[name];
    const x = byKl
      ? axis("KL from the policy, nats (best of n)", { rangemode: "tozero" })
      : axis("n, candidates to pick from", { type: "log", tickvals: data.ticks, ticktext: data.ticks.map((n) => n.toLocaleString("en")) });
    const shown = chart.views[view];
    const narrow = target.clientWidth < 600;
    Plotly.react(target, curveTraces(shown.series, byKl), layout(
      x, axis(shown.y, chart.log ? { type: "log", dtick: "D2" } : {}), { uirevision: `${name}${byKl}`, height: narrow || target.closest(".pair") ? 520 : 500 },
    ), options);
  };
  const choose = (name, labels, picked, change) => {
    if (labels.length < 2) return;
    const row = document.createElement("div");
    row.className = "choices";
    labels.forEach((label, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.setAttribute("aria-pressed", String(i === picked));
      button.addEventListener("click", () => {
        [...row.children].forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        change(i);
        draw(name);
      });
      row.append(button);
    });
    document.getElementById(`chart-${name}`).before(row);
  };

  for (const [name, chart] of Object.entries(data.charts)) {
    const target = document.getElementById(`chart-${name}`);
    if (!target) continue;
    target.replaceChildren();
    if (chart.kind === "curves") {
      state[name] = { view: 0, byKl: data.onePolicy };
      choose(name, chart.views.map((v) => v.label), 0, (i) => { state[name].view = i; });
      if (data.onePolicy) choose(name, ["against KL", "against n"], 0, (i) => { state[name].byKl = i === 0; });
    }
    draw(name);
  }
  dark.addEventListener("change", () => Object.keys(data.charts).forEach(draw));
})().catch((error) => console.warn("the charts stay still pictures:", error));
