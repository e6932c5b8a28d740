// Curves against env steps. A chart is a figure with a caption that has its newest values, or those under the pointer.

/* global uPlot */

const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = new Set();
dark.addEventListener("change", () => charts.forEach((chart) => chart.redraw()));

export function figure(value, percent = false) {
  if (value === null || value === undefined) return "–";
  if (percent) return `${Math.round(100 * value)} %`;
  const size = Math.abs(value);
  return size >= 1e6 || (size > 0 && size < 1e-3) ? short_or_small(value) : number.format(value);
}

function short_or_small(value) {
  return Math.abs(value) >= 1 ? short.format(value) : value.toExponential(1);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// The scale around what is shown; a curve that is flat lies in the middle, or on the ground where that is 0.
function around(low, high, fromZero) {
  if (low === null || high === null) return [0, 1];
  const pad = 0.08 * (high - low) || 0.1 * Math.abs(high) || 1;
  return fromZero && low >= 0 ? [0, high + pad] : [low - pad, high + pad];
}

export class Chart {
  // `series`: [{label, dashed?, dots?}]; `fromZero`, `percent`: how its scale is.
  constructor(parent, title, series, { fromZero = false, percent = false } = {}) {
    this.series = series;
    this.fromZero = fromZero;
    this.percent = percent;
    this.data = [[], ...series.map(() => [])];
    const box = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = title;
    this.at = document.createElement("span");
    this.at.className = "dim";
    this.keys = series.map((one, index) => {
      const key = document.createElement("span");
      key.className = `key key${index + 1}`;
      return key;
    });
    caption.append(name, this.at, ...this.keys);
    this.plot = document.createElement("div");
    this.plot.className = "plot";
    box.append(caption, this.plot);
    parent.append(box);
    this.redraw();
    this.caption(null);
    new ResizeObserver(() => this.fit()).observe(this.plot);
    charts.add(this);
  }

  fit() {
    const { width, height } = this.size();
    if (width > 0 && (width !== this.u.width || height !== this.u.height)) this.u.setSize({ width, height });
  }

  size() {
    return { width: this.plot.clientWidth, height: this.plot.clientHeight };
  }

  // Anew, in the colours of now.
  redraw() {
    this.u?.destroy();
    const axis = { stroke: colour("--dim"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const tick = this.percent ? (value) => `${Math.round(100 * value)} %` : (value) => (Math.abs(value) >= 1000 ? short.format(value) : figure(value));
    const options = {
      ...this.size(),
      padding: [10, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: "run" }, points: { size: 6 } },
      scales: { x: { time: false }, y: { range: (u, low, high) => (this.percent ? [0, 1] : around(low, high, this.fromZero)) } },
      axes: [
        { ...axis, size: 26, gap: 4, space: 64, values: (u, ticks) => ticks.map((value) => short.format(value)) },
        { ...axis, size: 46, gap: 4, space: 28, values: (u, ticks) => ticks.map(tick) },
      ],
      series: [{}, ...this.series.map((one, index) => this.line(one, index))],
      hooks: { setCursor: [(u) => this.caption(u.cursor.idx)] },
    };
    this.u = new uPlot(options, this.data, this.plot);
  }

  line(one, index) {
    const stroke = colour(`--c${index + 1}`);
    return {
      stroke,
      width: one.dashed ? 1 : 1.75,
      dash: one.dashed ? [5, 5] : undefined,
      spanGaps: true, // a line of progress without the figure is no break
      points: { show: one.dots ? true : undefined, size: 5, fill: stroke, stroke },
    };
  }

  // `data`: env steps and a list for each series; undefined is no value of its own, null a gap.
  update(data) {
    this.data = data;
    this.u.setData(data);
    this.caption(this.u.cursor.left >= 0 ? this.u.cursor.idx : null);
  }

  caption(index) {
    const hovered = index !== null && index !== undefined && this.data[0].length > 0;
    this.at.textContent = hovered ? `at ${short.format(this.data[0][index])}` : "";
    this.series.forEach((one, i) => {
      const values = this.data[i + 1];
      const value = hovered ? values[index] : values.findLast((v) => v !== null && v !== undefined);
      this.keys[i].textContent = one.label ? `${one.label} ${figure(value, this.percent)}` : figure(value, this.percent);
      this.keys[i].hidden = value === undefined && !hovered;
    });
  }
}

// Two tables of columns with different env steps as one: [env steps, ...columns of the first, ...of the second].
export function joined(first, second) {
  const filled = [first, second].filter((table) => table[0].length > 0);
  if (filled.length === 2) return uPlot.join(filled);
  const empty = (table, xs) => table.slice(1).map(() => xs.map(() => undefined));
  const xs = filled.length ? filled[0][0] : [];
  return [xs, ...(first[0].length ? first.slice(1) : empty(first, xs)), ...(second[0].length ? second.slice(1) : empty(second, xs))];
}
