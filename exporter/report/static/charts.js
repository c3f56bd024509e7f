// The charts over time, drawn by uPlot; each has its numbers as a table below it.

const CHART_HEIGHT = 150;
const WIDE_BAR = 7; // pixels

function partStarts() {
  const { start, width, parts } = data.grid;
  return Array.from({ length: parts }, (_, part) => start + part * width);
}

// A chart with a heading, a legend, and a table made when it is opened.
// `tell(index)` gives the lines of the tip; `rows()` those of the table.
function chart({ account, title, note, times, series, values, bands, tell, columns, rows, entries, least }) {
  const box = element("div", { className: "plot", role: "img", "aria-label": `${of(account, title)}; as a table below` });
  const figure = element(
    "figure",
    { "aria-label": of(account, title) },
    element("figcaption", {}, element("h3", {}, title), note ? element("p", { className: "note" }, note) : ""),
    box,
    legend(entries),
    folded("As a table", () => table(account, title, columns, rows())),
  );
  let plot = null;
  const axis = () => ({
    stroke: colour("--soft"),
    font: "12px system-ui, sans-serif",
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1, size: 4 },
  });
  const options = () => ({
    width: box.clientWidth || 600,
    height: CHART_HEIGHT + AXIS,
    padding: [8, MARGIN, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false, setScale: false } },
    scales: {
      x: { time: false, range: () => [view.from, view.to] },
      y: { range: (_, low, high) => range(low, high, least) },
    },
    axes: [
      {
        ...axis(),
        size: AXIS,
        gap: 2,
        splits: (self) => ticks(view.from, view.to, Math.max(Math.floor(self.width / 85), 2)).found,
        values: (self, splits) => {
          const { step } = ticks(view.from, view.to, Math.max(Math.floor(self.width / 85), 2));
          // At the right edge there is no room for more than half of it.
          const last = view.to - (20 / (self.bbox.width / devicePixelRatio)) * (view.to - view.from);
          return splits.map((seconds) => (seconds > last ? "" : tickLabel(seconds, step)));
        },
      },
      {
        ...axis(),
        size: GUTTER,
        gap: 2,
        space: 28,
        incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6, 1e7, 1e8],
        values: (_, splits) => splits.map(short),
      },
    ],
    series: [{}, ...series()],
    bands: bands ? bands() : [],
    hooks: {
      setCursor: [
        (self) => {
          const { idx, event } = self.cursor;
          if (idx == null || !event || self.cursor.left < 0) return hideTip();
          const lines = tell(idx);
          if (lines) showTip(event, lines);
          else hideTip();
        },
      ],
      setSelect: [
        (self) => {
          const { left, width } = self.select;
          if (width < 5) return;
          setView(self.posToVal(left, "x"), self.posToVal(left + width, "x"));
          self.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        },
      ],
      draw: [
        (self) => {
          self.ctx.save();
          self.ctx.translate(0, self.bbox.top);
          markVersions(self.ctx, account, (seconds) => self.valToPos(seconds, "x", true), self.bbox.height);
          self.ctx.restore();
        },
      ],
    },
  });
  const make = () => {
    if (plot) plot.destroy();
    plot = new uPlot(options(), [times, ...values], box);
    plot.over.addEventListener("dblclick", () => setView(data.since, data.until));
    plot.over.addEventListener("pointerleave", hideTip);
  };
  repaint.push(make);
  view.changed.push(() => plot.setScale("x", { min: view.from, max: view.to }));
  return { figure, make };
}

function range(low, high, least) {
  if (low == null) return [0, least || 1];
  if (low >= 0) return [0, Math.max(high * 1.08, least || 1)];
  const far = Math.max(Math.abs(low), Math.abs(high), least || 1) * 1.08;
  return [-far, far];
}

function short(value) {
  if (Math.abs(value) >= 1e6) return `${value / 1e6}M`;
  return Math.abs(value) >= 1e4 ? `${value / 1e3}k` : String(value);
}

function partText(start, width) {
  return `${instant(start)} to ${instant(start + width)}`;
}

// Bars on top of each other: `stacks` maps what to a number for each part.
function stacked({ width, times, stacks, ...rest }) {
  const names = [...stacks.keys()];
  const sums = [];
  names.forEach((name, number) => {
    sums.push(stacks.get(name).map((value, part) => value + (number ? sums[number - 1][part] : 0)));
  });
  const bars = uPlot.paths.bars({ size: [0.92, 60], align: 1 });
  const used = times.map((_, part) => part).filter((part) => sums.at(-1)[part]);
  return chart({
    ...rest,
    times,
    least: 4,
    // The highest first: the lower ones are drawn over it.
    values: [...sums].reverse().map((sum) => sum.map((value) => value || null)),
    series: () =>
      [...names].reverse().map((name) => ({
        paths: bars,
        points: { show: false },
        width: 0,
        // In a bar too narrow for it, a pattern would look like a broken line.
        fill: (self) =>
          self.bbox.width * width < WIDE_BAR * devicePixelRatio * (view.to - view.from)
            ? colour(LOOKS[name][0])
            : fill(self.ctx, name, false),
      })),
    tell: (part) => {
      const lines = names
        .filter((name) => stacks.get(name)[part])
        .map((name) => `${count(stacks.get(name)[part])} ${cause(name)}`);
      return lines.length ? [partText(times[part], width), ...lines] : null;
    },
    columns: ["Beginning", ...names.map(cause)],
    rows: () => used.map((part) => [instant(times[part]), ...names.map((name) => count(stacks.get(name)[part]))]),
  });
}

function line(stroke, more) {
  return { stroke: colour(stroke), width: 2, points: { size: 4 }, spanGaps: false, ...more };
}

function groupsChart(account) {
  const stepped = uPlot.paths.stepped({ align: 1 });
  const starts = partStarts();
  const lasting = (values) => [...values, values.at(-1)];
  return chart({
    account,
    title: "Order groups over time",
    note: "How many stood, and how many of them had auto-cancel on. Where nobody looked there is no line.",
    times: [...starts, starts.at(-1) + data.grid.width],
    values: [lasting(account.standing), lasting(account.on)],
    least: 4,
    series: () => [line("--text", { paths: stepped, points: { show: false } }), line("--on", { paths: stepped, points: { show: false }, fill: `${colour("--on")}33` })],
    entries: [["standing", "all (line)"], ["on", "with auto-cancel on (area)"]],
    tell: (part) => {
      const at = Math.min(part, starts.length - 1);
      const standing = account.standing[at];
      return standing === null
        ? [partText(starts[at], data.grid.width), "not observed"]
        : [partText(starts[at], data.grid.width), `${count(standing)} groups`, `${count(account.on[at])} with auto-cancel on`];
    },
    columns: ["From", "Groups", "With auto-cancel on"],
    rows: () =>
      starts
        .map((start, part) => [start, account.standing[part], account.on[part]])
        .filter(([, all, on], part, every) => !part || all !== every[part - 1][1] || on !== every[part - 1][2])
        .map(([start, all, on]) => [instant(start), all === null ? "not observed" : count(all), all === null ? "" : count(on)]),
  });
}

function changesChart(account) {
  const starts = partStarts();
  const names = ["appeared", "changed", "disappeared"];
  const stacks = new Map(names.map((name) => [name, starts.map(() => 0)]));
  for (const [part, ...numbers] of account.changes) {
    names.forEach((name, number) => (stacks.get(name)[part] = numbers[number]));
  }
  return stacked({
    account,
    title: "Changes of order groups",
    note: `Per ${duration(data.grid.width)}.`,
    width: data.grid.width,
    times: starts,
    stacks,
    entries: names.map((name) => [name, name]),
  });
}

function failuresChart(account) {
  const width = account.failed_width;
  const first = Math.floor(data.grid.start / width) * width;
  const parts = Math.floor((data.until - first) / width) + 1;
  const starts = Array.from({ length: parts }, (_, part) => first + part * width);
  const names = Object.keys(data.causes).filter((name) => account.failed.some((each) => each[1] === name));
  const stacks = new Map(names.map((name) => [name, starts.map(() => 0)]));
  for (const [start, name, number] of account.failed) {
    const part = Math.round((start - first) / width);
    if (stacks.has(name) && part < parts) stacks.get(name)[part] += number;
  }
  return stacked({
    account,
    title: "Failed polls and why",
    note: `Per ${duration(width)}.`,
    width,
    times: starts,
    stacks,
    entries: names.map((name) => [name, cause(name)]),
  });
}

function latencyChart(account) {
  const starts = partStarts();
  const of = (number) => account.taken.map((part) => (part ? part[number] : null));
  return chart({
    account,
    title: "How long polls took, in milliseconds",
    note: `Polls that succeeded, from first request to last byte: mean and slowest of each ${duration(data.grid.width)}.`,
    times: starts,
    values: [of(1), of(0)],
    least: 100,
    series: () => [line("--vermilion", { width: 1, dash: [4, 3] }), line("--blue")],
    entries: [["mean", "mean (solid line)"], ["slowest", "slowest (dashed line)"]],
    tell: (part) =>
      account.taken[part] && [
        partText(starts[part], data.grid.width),
        `mean ${count(account.taken[part][0])} ms`,
        `slowest ${count(account.taken[part][1])} ms`,
      ],
    columns: ["Beginning", "Mean, ms", "Slowest, ms"],
    rows: () =>
      starts.flatMap((start, part) =>
        account.taken[part] ? [[instant(start), ...account.taken[part].map(count)]] : [],
      ),
  });
}

function skewChart(account) {
  const starts = partStarts();
  const of = (number) => account.skew.map((part) => (part ? part[number] : null));
  return chart({
    account,
    title: "This machine's clock against the exchange's, in milliseconds",
    note: "Above zero: this machine is ahead. Known to about half a second; the exchange refuses keys from 30 s on.",
    times: starts,
    values: [of(2), of(0), of(1)],
    least: 1000,
    series: () => [
      line("--purple", { width: 1, dash: [4, 3] }),
      line("--purple", { width: 1, dash: [4, 3] }),
      line("--purple"),
    ],
    bands: () => [{ series: [1, 2], fill: `${colour("--purple")}33` }],
    entries: [["skew", "mean (solid line), least and greatest (dashed lines)"]],
    tell: (part) =>
      account.skew[part] && [
        partText(starts[part], data.grid.width),
        `mean ${count(account.skew[part][1])} ms`,
        `from ${count(account.skew[part][0])} to ${count(account.skew[part][2])} ms`,
      ],
    columns: ["Beginning", "Least, ms", "Mean, ms", "Greatest, ms"],
    rows: () =>
      starts.flatMap((start, part) =>
        account.skew[part] ? [[instant(start), ...account.skew[part].map(count)]] : [],
      ),
  });
}
