// What the page is built from. Whatever came from the exchange becomes text, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const KIND_OF = new Map(Object.entries(data.kinds).flatMap(([kind, causes]) => causes.map((cause) => [cause, kind])));
const KINDS = {
  off: "exporter not running or listening",
  exchange: "exchange or network failed",
  refused: "exchange refused",
  lost: "received, but not valid or not kept",
  before: "recording had not begun",
};

// Lines of JSON, packed to take less room.
async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (each) => each.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const text = await new Response(stream).text();
  return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

// An element with properties, ARIA and other attributes, and children: elements or texts.
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key in made && !key.startsWith("aria")) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Invisible characters, which change how others are shown, become their numbers.
function visible(text) {
  const hidden = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
  return String(text).replace(hidden, (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function foreign(text) {
  return element("bdi", { className: "foreign" }, visible(text));
}

function count(number) {
  return number === null ? "–" : number.toLocaleString("en-US");
}

function counted(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

// 100 % only if nothing is missing.
function percent(share) {
  if (share === null) return "–";
  return share >= 1 ? "100 %" : `${Math.min(100 * share, 99.99).toFixed(2)} %`;
}

function causeText(name) {
  return data.causes[name] || visible(name);
}

function swatch(look) {
  return svg("svg", { class: "swatch", "aria-hidden": "true" }, svg("rect", { class: look, width: "100%", height: "100%" }));
}

function markShape(kind, attributes) {
  const known = document.getElementById(`mark-${kind}`) ? kind : "other";
  return svg("use", { href: `#mark-${known}`, class: `mark ${known}`, ...attributes });
}

function legend(entries) {
  return element("ul", { className: "legend" }, ...entries.map(([shape, text]) => element("li", {}, shape, text)));
}

// The kinds of causes that occur, in one order everywhere.
function kindsOf(causes) {
  const found = new Set(causes.map((cause) => KIND_OF.get(cause) || "lost"));
  return Object.keys(KINDS).filter((kind) => found.has(kind));
}

// Cells are texts or elements. A narrow screen scrolls the table sideways.
function table(caption, columns, rows) {
  const head = columns.map((column) => element("th", { scope: "col" }, column));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell ?? ""))));
  return element(
    "div",
    { className: "scroll", tabIndex: 0, role: "region", "aria-label": caption },
    element("table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)),
  );
}

// Content that is made only when somebody opens it.
function folded(title, make) {
  const details = element("details", {}, element("summary", {}, title));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(...[make()].flat());
  });
  return details;
}

function showTip(event, lines) {
  tip.replaceChildren(...lines.map((line) => element("div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const beside = (at, size, most) => (at + 14 + size > most ? Math.max(at - 14 - size, 4) : at + 14);
  tip.style.left = `${beside(event.clientX, width, innerWidth)}px`;
  tip.style.top = `${beside(event.clientY, height, innerHeight)}px`;
}

function hideTip() {
  tip.hidden = true;
}
