// Instants, all of them UTC seconds since 1970; the time that is shown; and the address, whose
// fragment holds what is shown, so that a link to a moment can be sent.

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY = 86400;
const STEPS = [
  0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200,
  10800, 21600, 43200, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY, 91 * DAY, 182 * DAY, 364 * DAY, 1820 * DAY,
];
const SHORTEST_VIEW = 0.02;

function exact(seconds) {
  return new Date(Math.round(seconds * 1000)).toISOString().slice(0, 23).replace("T", " ");
}

function instant(seconds) {
  return exact(seconds).slice(0, 19);
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

// Round instants between two others, at most so many, and how far apart they are.
function ticks(from, to, most) {
  const step = STEPS.find((each) => (to - from) / each <= most) || (to - from) / most;
  const found = [];
  for (let number = Math.ceil(from / step); number * step <= to; number++) found.push(number * step);
  return { step, found };
}

function tickLabel(seconds, step) {
  const text = new Date(Math.round(seconds * 1000)).toISOString();
  const month = MONTHS[Number(text.slice(5, 7)) - 1];
  if (step >= 28 * DAY) return `${month} ${text.slice(0, 4)}`;
  if (step >= DAY || seconds % DAY === 0) return `${Number(text.slice(8, 10))} ${month}`;
  if (step < 1) return text.slice(17, 23);
  return step < 60 ? text.slice(11, 19) : text.slice(11, 16);
}

function read() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

function addressOf(wanted) {
  const set = Object.entries(wanted).filter(([, value]) => value !== undefined && value !== "");
  return `#${new URLSearchParams(set)}`;
}

// Change what the address says; `show` follows. A new view is a step back for the browser's button.
function go(changes, { step = false } = {}) {
  const address = addressOf({ ...read(), ...changes });
  if (step) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  show();
}

const view = { from: data.since, to: data.until };

function readView({ from, to }) {
  const [start, end] = [from, to].map((text) => Date.parse(text) / 1000);
  const valid = start < end && start < data.until && end > data.since;
  view.from = valid ? Math.max(start, data.since) : data.since;
  view.to = valid ? Math.min(end, data.until) : data.until;
}

function setView(from, to) {
  const whole = data.until - data.since;
  const length = Math.min(Math.max(to - from, SHORTEST_VIEW), whole);
  const start = Math.min(Math.max((from + to - length) / 2, data.since), data.until - length);
  const text = (seconds) => `${exact(seconds).replace(" ", "T")}Z`;
  go(length >= whole ? { from: "", to: "" } : { from: text(start), to: text(start + length) });
}

// Show more or less time by a factor, around a middle that is moved by a share of what is shown.
function zoom(factor, moved = 0) {
  const length = view.to - view.from;
  const middle = (view.from + view.to) / 2 + moved * length;
  setView(middle - (length * factor) / 2, middle + (length * factor) / 2);
}
