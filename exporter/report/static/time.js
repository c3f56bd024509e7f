// Instants, all of them UTC seconds since 1970, and the window of time that every picture shows.

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY = 86400;
const STEPS = [
  0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200,
  DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY, 91 * DAY, 182 * DAY, 364 * DAY, 1820 * DAY,
];

function instant(seconds) {
  return new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ");
}

// With milliseconds where the window is so short that they can be seen.
function exact(seconds) {
  const text = new Date(seconds * 1000).toISOString().slice(0, 23).replace("T", " ");
  return view.to - view.from < 600 ? text : text.slice(0, 19);
}

function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const whole = Math.round(seconds);
  const units = [[DAY, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
  for (const [size, name, smaller, smallerName] of units) {
    if (whole < size) continue;
    const rest = Math.floor((whole % size) / smaller);
    return `${Math.floor(whole / size)} ${name}${rest ? ` ${rest} ${smallerName}` : ""}`;
  }
  return `${whole} s`;
}

// Round instants between two others, at most so many, and how far they are apart.
function ticks(from, to, most) {
  const step = STEPS.find((each) => (to - from) / each <= most) || (to - from) / most;
  const found = [];
  for (let number = Math.ceil(from / step); number * step <= to; number++) found.push(number * step);
  return { step, found };
}

function tickLabel(seconds, step) {
  const date = new Date(seconds * 1000);
  const day = `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
  if (step >= 28 * DAY) return `${MONTHS[date.getUTCMonth()]} ${date.getUTCFullYear()}`;
  if (step >= DAY || seconds % DAY === 0) return day;
  const text = date.toISOString();
  if (step < 1) return text.slice(14, 21);
  return step < 60 ? text.slice(11, 19) : text.slice(11, 16);
}

const view = { from: data.since, to: data.until, changed: [] };
const SHORTEST_VIEW = Math.min(1, data.until - data.since);

function setView(from, to) {
  const length = Math.min(Math.max(to - from, SHORTEST_VIEW), data.until - data.since);
  const start = Math.min(Math.max(from, data.since), data.until - length);
  view.from = start;
  view.to = start + length;
  hideTip();
  for (const redraw of view.changed) redraw();
}

// By a factor around the middle; below 1 shows less.
function zoom(factor) {
  const middle = (view.from + view.to) / 2;
  const half = ((view.to - view.from) / 2) * factor;
  setView(middle - half, middle + half);
}

function move(share) {
  const by = (view.to - view.from) * share;
  setView(view.from + by, view.to + by);
}

function toolbar() {
  const shown = element("output", { "aria-live": "polite" });
  const button = (label, text, action) =>
    element("button", { type: "button", title: label, "aria-label": label, onclick: action }, text);
  const redraw = () => {
    shown.textContent = `${instant(view.from)} to ${instant(view.to)}`;
  };
  view.changed.push(redraw);
  redraw();
  return element(
    "div",
    { className: "toolbar", role: "toolbar", "aria-label": "Time shown" },
    button("Show less time, larger", "+", () => zoom(0.5)),
    button("Show more time, smaller", "−", () => zoom(2)),
    button("Earlier", "←", () => move(-0.5)),
    button("Later", "→", () => move(0.5)),
    button("Show the whole time", "All", () => setView(data.since, data.until)),
    shown,
  );
}
