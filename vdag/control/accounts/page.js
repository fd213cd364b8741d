"use strict";
(() => {
  const { begin, stretch, charts } = JSON.parse(document.getElementById("data").textContent);
  const plots = [...document.querySelectorAll("svg[data-key]")];
  const outputs = new Map([...document.querySelectorAll("output")].map((o) => [o.dataset.for, o]));
  const at = {};

  const number = (value, unit) =>
    value === null ? "none" : `${+value.toFixed(2)}${unit ? " " + unit : ""}`;

  function told(chart, index) {
    const where = chart.axis === "time"
      ? new Date((begin + index * stretch) * 1000).toISOString().slice(11, 23)
      : `${+(index * chart.width).toFixed(1)} to ${+((index + 1) * chart.width).toFixed(1)} ms`;
    const what = chart.names.map(
      (name, n) => `${name} ${number(chart.values[n][index], name === "frames" ? "" : chart.unit)}`);
    return `${where}: ${what.join(", ")}`;
  }

  function show(axis, index) {
    at[axis] = index;
    for (const plot of plots) {
      const chart = charts[plot.dataset.key];
      if (chart.axis !== axis) continue;
      const x = ((index + 0.5) * 1000) / plot.dataset.count;
      plot.querySelector(".cursor").setAttribute("d", index < 0 ? "" : `M${x} 0V100`);
      outputs.get(plot.dataset.key).textContent = index < 0 ? "" : told(chart, index);
    }
  }

  for (const plot of plots) {
    const { axis } = charts[plot.dataset.key];
    const last = plot.dataset.count - 1;
    const bound = (index) => Math.min(Math.max(index, 0), last);
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      show(axis, bound(Math.floor(((event.clientX - box.left) / box.width) * (last + 1))));
    });
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) show(axis, bound((at[axis] ?? -step) + step));
      else if (event.key === "Escape") show(axis, -1);
      else return;
      event.preventDefault();
    });
  }

  for (const button of document.querySelectorAll("button[data-part]")) {
    button.addEventListener("click", () => {
      const part = button.dataset.part;
      const isOn = document.body.dataset.only === part;
      document.body.dataset.only = isOn ? "" : part;
      for (const each of document.querySelectorAll("button[data-part]"))
        each.setAttribute("aria-pressed", String(!isOn && each === button));
    });
  }
})();
