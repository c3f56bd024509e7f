"use strict";
// The page's data, and its elements. Whatever comes from the exchange becomes text, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");

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

// Characters that are not seen themselves, but change how others are shown, as their numbers.
function visible(text) {
  const hidden = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
  return String(text).replace(
    hidden,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

function foreign(text) {
  return element("bdi", { className: "foreign" }, visible(text));
}

// What something is called where it is not seen in which account's section it stands.
function of(account, title) {
  return `${title}, account ${visible(account.name)}`;
}

function count(number) {
  return number.toLocaleString("en-US");
}

function cause(name) {
  return data.causes[name] || visible(name);
}

// A table of an account that a narrow screen can scroll sideways. Cells are texts or elements.
function table(account, caption, columns, rows) {
  return element(
    "div",
    { className: "scroll", tabIndex: 0, role: "region", "aria-label": of(account, caption) },
    element(
      "table",
      {},
      element("caption", {}, caption),
      element(
        "thead",
        {},
        element("tr", {}, ...columns.map((column) => element("th", { scope: "col" }, column))),
      ),
      element(
        "tbody",
        {},
        ...rows.map((row) =>
          element("tr", {}, ...row.map((cell) => element("td", {}, cell ?? ""))),
        ),
      ),
    ),
  );
}

// What is made only when somebody opens it.
function folded(summary, make) {
  const details = element("details", {}, element("summary", {}, summary));
  const open = () => {
    if (details.open && details.children.length === 1) details.append(make());
  };
  details.addEventListener("toggle", open);
  return details;
}

function showTip(event, lines) {
  tip.replaceChildren(...lines.map((line) => element("div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
  const top = event.clientY + 14 + height > innerHeight ? event.clientY - 14 - height : event.clientY + 14;
  tip.style.left = `${Math.max(left, 4)}px`;
  tip.style.top = `${Math.max(top, 4)}px`;
}

function hideTip() {
  tip.hidden = true;
}
