// Puts charts that can be explored in place of the still pictures, with their buttons, and shows one study at a time.
// Where anything fails, the pictures stay.
(async () => {
  const unpacked = (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  data = JSON.parse(await unpacked("charts"));
  const library = document.createElement("script");
  library.textContent = await unpacked("plotly");
  document.head.append(library);

  const element = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const pressed = (button, on) => button.setAttribute("aria-pressed", String(on));
  const button = (on, change, ...children) => {
    const made = element("button", { type: "button" }, ...children);
    pressed(made, on);
    made.addEventListener("click", change);
    return made;
  };
  const row = (label, ...children) => {
    const made = element("div", { className: "choices" }, element("span", { className: "what" }, label), ...children);
    made.setAttribute("role", "group");
    made.setAttribute("aria-label", label);
    return made;
  };
  // one of several: a row of buttons of which exactly one is pressed
  const choice = (label, names, picked, change) => {
    const buttons = names.map((name, i) => button(i === picked, () => {
      buttons.forEach((other, j) => pressed(other, i === j));
      change(i);
    }, name));
    return row(label, ...buttons);
  };
  const swatch = (s) => {
    const made = (tag, attributes, ...children) => {
      const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
      Object.entries(attributes).forEach(([name, value]) => one.setAttribute(name, value));
      one.append(...children);
      return one;
    };
    return made(
      "svg", { width: 26, height: 10, "aria-hidden": "true", style: `--light:${s.colors[0]};--dark:${s.colors[1]}` },
      made("path", { class: "stroke", d: "M0 5h26", "stroke-dasharray": s.stroke }),
      made("path", { class: "mark", d: s.mark }),
    );
  };

  const GROUPS = { utility: "utilities", baseline: "baselines", control: "controls" };
  // The legend of curves: a button for each curve, and one for all of a kind. The charts of a study share what is shown,
  // so that only the first of them needs to list what is not.
  const legend = (scope, name, visible, refresh) => {
    const series = data[scope].charts[name].views[0].series;
    const updates = [];
    const groups = Object.entries(GROUPS).flatMap(([kind, label]) => {
      const members = series.filter((s) => s.kind === kind);
      if (!members.length) return [];
      const toggle = (keys, on) => {
        keys.forEach((key) => (on ? visible.add(key) : visible.delete(key)));
        refresh();
      };
      const keys = members.map((s) => s.key);
      const all = button(false, () => toggle(keys, !keys.every((key) => visible.has(key))), `all ${label}`);
      all.classList.add("kind");
      const single = members.map((s) => {
        const made = button(false, () => toggle([s.key], !visible.has(s.key)), swatch(s), s.label);
        made.classList.add("curve");
        updates.push(() => pressed(made, visible.has(s.key)));
        return made;
      });
      updates.push(() => pressed(all, keys.every((key) => visible.has(key))));
      const made = row(label, all, ...single);
      made.classList.add("legend", kind);
      return [made];
    });
    return [groups, () => updates.forEach((update) => update())];
  };

  // Charts are drawn when their study is first shown.
  const prepared = new Set();
  const prepare = (scope) => {
    if (prepared.has(scope)) return;
    prepared.add(scope);
    const visible = new Set(), again = [];
    const refresh = () => again.forEach((update) => update());
    for (const [name, chart] of Object.entries(data[scope].charts)) {
      const target = document.getElementById(`chart-${scope}-${name}`);
      if (!target) continue;
      const plot = element("div", { className: "plot" });
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", target.dataset.alt);
      target.append(plot);
      target.classList.add("live");
      const state = states[`${scope}-${name}`] = { view: 0, axis: data[scope].kl ? "kl" : "n", visible };
      const above = [];
      if (chart.views && chart.views.length > 1) {
        const what = { laws: "picked by", strengths: "family" }[chart.kind] || (name === "gold" ? "scale" : "reward");
        above.push(choice(what, chart.views.map((v) => v.label), 0, (i) => { state.view = i; draw(scope, name); }));
      }
      if (chart.kind === "curves") {
        chart.views[0].series.forEach((s) => { if (s.shown) visible.add(s.key); });
        if (data[scope].kl) {
          const names = Object.keys(AXES);
          const change = (i) => { state.axis = names[i]; draw(scope, name); };
          above.push(choice("against", names.map((one) => AXES[one][0]), names.indexOf(state.axis), change));
        }
        const [groups, update] = legend(scope, name, visible, refresh);
        if (again.length) groups.forEach((group) => group.classList.add("second"));
        target.after(...groups);
        again.push(() => { update(); draw(scope, name); });
      } else {
        draw(scope, name);
      }
      target.before(...above);
    }
    refresh();
  };

  const sections = [...document.querySelectorAll("section.study")];
  if (sections.length > 1) {
    const select = element("select", { id: "study" }, ...sections.map((one) => new Option(one.dataset.name, one.id)));
    const bar = element("nav", { className: "switch" }, element("label", { htmlFor: "study" }, "Reward model "), select);
    sections[0].before(bar);
    const show = (id) => {
      sections.forEach((one) => one.classList.toggle("away", one.id !== id));
      select.value = id;
      prepare(id);
    };
    select.addEventListener("change", () => show(select.value));
    const follow = () => {
      const found = sections.find((one) => `#${one.id}` === location.hash);
      if (found) { show(found.id); found.scrollIntoView(); }
    };
    addEventListener("hashchange", follow);
    document.querySelectorAll(".overview a").forEach((link) => {
      link.addEventListener("click", () => show(link.hash.slice(1))); // also where the address names it already
    });
    show(sections[0].id);
    follow();
  } else {
    prepare(sections[0].id);
  }
  if (data.page) prepare("page");
  dark.addEventListener("change", () => prepared.forEach((scope) => Object.keys(data[scope].charts).forEach((name) => {
    if (states[`${scope}-${name}`]) draw(scope, name);
  })));
})().catch((error) => {
  document.querySelectorAll(".chart.live").forEach((chart) => chart.classList.remove("live"));
  console.warn("the charts stay still pictures:", error);
});
