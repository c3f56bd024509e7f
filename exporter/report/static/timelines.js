// A timeline for each order group: which state it had when, with what the exchange told about it.

const ABSENT = -1; // below it: as many states as it is below, not listed one by one
const LISTED = 500; // rows of a group's table
const PRINTED = 60; // groups
const AHEAD = 6; // rows made before they come into view
const FILTERS = {
  all: ["All", () => true],
  standing: ["Standing now", (group) => group.now !== ABSENT],
  triggered: ["Triggered", (group) => group.count > 0 || group.triggers.length > 0],
  changed: ["Changed", (group) => group.changes > 0],
};
const SORTS = {
  last: ["Last change", (group) => group.last],
  triggers: ["Triggers", (group) => group.count],
  changes: ["Changes", (group) => group.changes],
};

// From the flat lists of the page to instants; the last state is the present one.
function groupOf(account, [id, changes, triggered, states = [], events = [], triggers = []]) {
  const unfold = (flat, size) => {
    const found = [];
    let at = data.since;
    for (let place = 0; place < flat.length; place += size) {
      at += flat[place] / 1000;
      found.push([at, ...flat.slice(place + 1, place + size)]);
    }
    return found;
  };
  const group = { id, changes, count: triggered, states: unfold(states, 2), events: unfold(events, 2), triggers: unfold(triggers, 3) };
  group.now = group.states.at(-1)?.[1] ?? ABSENT;
  group.last = Math.max(...[group.states, group.events, group.triggers].map((each) => each.at(-1)?.[0] ?? 0));
  const open = group.triggers.at(-1)?.[1] === -1;
  group.triggered = group.now !== ABSENT && (open || Boolean(account.states[group.now]?.[0]));
  return group;
}

// Exact, without zeros that say nothing.
function limitText(limit) {
  return visible(limit).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

function evidenceText(told) {
  return told ? "told by the exchange" : "shown by the flag alone";
}

function statedText(account, state) {
  if (state === ABSENT) return "absent";
  if (state < ABSENT) return `${counted(ABSENT - state, "state")}, not listed one by one here`;
  const [flag, limit, index, extra] = account.states[state];
  return [
    flag ? "probably triggered: auto-cancel flag true" : "active: auto-cancel flag false",
    limit === null ? "no limit sent" : `limit ${visible(limit)}`,
    ...(index === null ? [] : [`exchange index ${index}`]),
    ...(extra === null ? [] : [visible(extra)]),
  ].join(", ");
}

function eventText(account, kind) {
  const [name, limit] = account.kinds[kind];
  return `${visible(name).replaceAll("_", " ")}${limit === null ? "" : `, limit ${visible(limit)}`}`;
}

function untilOf(group, number) {
  return group.states[number + 1]?.[0] ?? data.until;
}

function drawGroup(account, group) {
  const found = [];
  group.states.forEach(([from, state], number) => {
    if (state === ABSENT || from > view.to) return;
    const until = untilOf(group, number);
    const look = state < ABSENT ? "many" : account.states[state][0] ? "triggered" : "active";
    found.push(...bar(from, until, 9, 20, `${look} least`));
  });
  for (const [from, lasting, told] of group.triggers) {
    const until = lasting < 0 ? Math.max(group.states.at(-1)?.[1] === ABSENT ? group.states.at(-1)[0] : data.until, from) : from + lasting / 1000;
    found.push(...bar(from, until, 9, 20, `${told ? "triggered" : "flag"} least`));
  }
  for (const [start, end, cause] of account.by_polls.segments) {
    if ((end - start) / (view.to - view.from) > 0.002) found.push(...bar(start, end, 9, 20, `unknown ${cause}`));
  }
  group.states.forEach(([from, state], number) => {
    if (state >= 0 && account.states[state][1] !== null) found.push(...limitLabel(account.states[state], from, untilOf(group, number)));
  });
  for (const [at, kind] of group.events) {
    if (at >= view.from && at <= view.to) found.push(markShape(account.kinds[kind][0], { x: `${shareOf(at).toFixed(3)}%`, y: 5 }));
  }
  return found;
}

// The limit, where its bar has room for it.
function limitLabel([flag, limit], from, until) {
  const left = Math.max(shareOf(from), 0);
  const room = ((Math.min(shareOf(until), 100) - left) / 100) * (document.querySelector(".picture")?.clientWidth || 600);
  const text = limitText(limit);
  if (room < text.length * 7 + 10) return [];
  return [svg("text", { x: `${left.toFixed(3)}%`, dx: 5, y: 23, class: flag ? "on-triggered" : "on-active" }, text)];
}

function tellGroup(account, group, seconds, near) {
  const marked = group.events.filter(([at]) => Math.abs(at - seconds) <= near).slice(-6);
  const lines = marked.map(([at, kind]) => `${exact(at)} ${eventText(account, kind)}`);
  const gap = account.by_polls.segments.find(([start, end]) => start <= seconds && seconds < end);
  if (gap) return [...lines, `not observed: ${causeText(gap[2])}`];
  const trigger = group.triggers.find(([from, lasting]) => from <= seconds && (lasting < 0 || seconds <= from + lasting / 1000));
  if (trigger) lines.push(`triggered at ${exact(trigger[0])}, ${evidenceText(trigger[2])}`);
  const state = group.states.findLast(([from]) => from <= seconds);
  return [...lines, statedText(account, state ? state[1] : ABSENT)];
}

function groupRow(account, group, number, total) {
  const state = group.now === ABSENT ? "gone" : group.triggered ? "triggered" : "active";
  const limit = account.states[group.now]?.[1];
  const facts = [
    ...(limit ? [`limit ${limitText(limit)}`] : []),
    ...(group.count ? [counted(group.count, "trigger")] : []),
    ...(group.changes ? [counted(group.changes, "change")] : []),
  ];
  const drawn = picture(`States of ${visible(group.id)} over time`, 32, () => drawGroup(account, group), (seconds, near) => tellGroup(account, group, seconds, near));
  const open = element("button", { type: "button", className: "open", onclick: () => go({ group: group.id }, { step: true }) }, foreign(group.id));
  const label = element("div", { className: "label" }, open, element("p", { className: "note" }, element("b", { className: state }, state), ...facts.map((fact) => ` · ${fact}`)));
  return element("div", { className: "row group", role: "listitem", "aria-posinset": number + 1, "aria-setsize": total }, label, drawn);
}

// The rows that are in view, and a few more: a hundred thousand are as smooth as ten.
function virtualList(makeRow) {
  const list = element("div", { className: "rows", role: "list" });
  const scroller = element("div", { className: "scroller", tabIndex: 0, role: "region", "aria-label": "Timelines of order groups" }, list);
  const made = new Map();
  let items = [];
  const rowHeight = () => Number.parseFloat(getComputedStyle(scroller).getPropertyValue("--row"));
  const drop = (number) => {
    redraws.delete(made.get(number).querySelector(".picture"));
    made.get(number).remove();
    made.delete(number);
  };
  const draw = () => {
    const height = rowHeight();
    const printing = matchMedia("print").matches;
    const total = printing ? Math.min(items.length, PRINTED) : items.length;
    const first = printing ? 0 : Math.max(Math.floor(scroller.scrollTop / height) - AHEAD, 0);
    const last = printing ? total : Math.min(first + Math.ceil(scroller.clientHeight / height) + 2 * AHEAD, total);
    list.style.height = `${total * height}px`;
    for (const number of [...made.keys()]) {
      if ((number < first || number >= last) && !made.get(number).contains(document.activeElement)) drop(number);
    }
    for (let number = first; number < last; number++) {
      if (made.has(number)) continue;
      const row = makeRow(items[number], number, items.length);
      row.style.top = `${number * height}px`;
      made.set(number, row);
      const next = [...made.keys()].filter((each) => each > number).sort((a, b) => a - b)[0];
      list.insertBefore(row, made.get(next) || null);
    }
  };
  const fill = (wanted) => {
    [...made.keys()].forEach(drop);
    items = wanted;
    scroller.hidden = !items.length;
    scroller.scrollTop = 0;
    draw();
  };
  scroller.addEventListener("scroll", () => requestAnimationFrame(draw));
  new ResizeObserver(() => fill(items)).observe(list);
  addEventListener("beforeprint", draw);
  addEventListener("afterprint", draw);
  matchMedia("print").addEventListener("change", draw);
  return { scroller, fill };
}

// As a shell takes it for one word.
function quoted(text) {
  const shown = visible(text);
  return /^[\w.-]+$/.test(shown) ? shown : `'${shown.replaceAll("'", "'\\''")}'`;
}

function exportCommand(account, id) {
  return element("code", {}, `kalshi-exporter export history --account ${quoted(account.name)} --group ${id ? quoted(id) : "ID"}`);
}

// What the search found, and where to look for what is not on this page.
function foundText(account, matching, find) {
  const left = account.all_groups - account.shown_groups;
  const place = left > 0 ? " on this page" : "";
  const said = [matching ? `${count(matching)} of ${counted(account.shown_groups, "order group")}${place}.` : `No order group${place} matches.`];
  if (left > 0) said.push(` ${count(left)} more, to which least happened, did not fit on it. Any group's states, by its whole id: `, exportCommand(account, find));
  return said;
}

function groupDialog(account, id) {
  const group = account.list.find((each) => each.id === id);
  const lines = group
    ? [
        ...group.states.map(([at, state], number) => [at, number + 1 < group.states.length ? exact(untilOf(group, number)) : "", statedText(account, state), "polls"]),
        ...group.events.map(([at, kind]) => [at, "", eventText(account, kind), "event"]),
        ...group.triggers.map(([at, lasting, told]) => [at, lasting < 0 ? "" : exact(at + lasting / 1000), "triggered", evidenceText(told)]),
      ].sort((a, b) => b[0] - a[0])
    : [];
  const rest = lines.length - LISTED;
  const rows = lines.slice(0, LISTED).map(([at, ...others]) => [exact(at), ...others]);
  const dialog = element(
    "dialog",
    { "aria-label": `Order group ${visible(id)}` },
    element("form", { method: "dialog" }, element("button", {}, "Close")),
    element("h2", {}, foreign(id)),
    ...(group ? [table("States and events, latest first", ["From", "To", "What", "Source"], rows)] : [element("p", {}, "This order group is not on this page.")]),
    ...(rest > 0 ? [note(`${count(rest)} earlier ones are not listed.`)] : []),
    element("p", { className: "note" }, "All of it: ", exportCommand(account, id)),
  );
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (read().group === id) go({ group: "" });
  });
  return dialog;
}

function groupList(account) {
  const list = virtualList((group, number, total) => groupRow(account, group, number, total));
  const found = element("p", { className: "note", role: "status" });
  const search = element("input", { type: "search", autocomplete: "off", spellcheck: false, maxLength: 300, oninput: () => go({ find: search.value }) });
  const radios = Object.entries(FILTERS).map(([key, [text]]) => {
    const input = element("input", { type: "radio", name: "show", value: key, onchange: () => go({ show: key === "all" ? "" : key }) });
    return element("label", {}, input, ` ${text}`);
  });
  const sorts = element("select", { onchange: () => go({ sort: sorts.value }) });
  sorts.append(...Object.entries(SORTS).map(([key, [text]]) => element("option", { value: key }, text)));
  let before = null;
  let dialog = null;
  const update = ({ show = "all", sort = "last", find = "", group = "" }) => {
    const wanted = find.trim().toLowerCase();
    if (before !== JSON.stringify([show, sort, wanted])) {
      before = JSON.stringify([show, sort, wanted]);
      const [, matches] = FILTERS[show] || FILTERS.all;
      const [, value] = SORTS[sort] || SORTS.last;
      const matching = account.list.filter((each) => matches(each) && (visible(each.id).toLowerCase().includes(wanted) || each.id.toLowerCase().includes(wanted)));
      matching.sort((a, b) => value(b) - value(a));
      for (const { firstChild: input } of radios) input.checked = input.value === (FILTERS[show] ? show : "all");
      sorts.value = SORTS[sort] ? sort : "last";
      if (search.value.trim() !== find.trim()) search.value = find;
      found.replaceChildren(...foundText(account, matching.length, find.trim()));
      list.fill(matching);
    }
    if (dialog?.isConnected && dialog.dataset.group !== group) dialog.close();
    if (group && !(dialog?.isConnected && dialog.dataset.group === group)) {
      dialog = groupDialog(account, group);
      dialog.dataset.group = group;
      document.body.append(dialog);
      dialog.showModal();
    }
  };
  const marks = ["created", "triggered", "reset", "limit_updated", "deleted"];
  const markLegend = marks.map((kind) => [svg("svg", { class: "swatch mark", viewBox: "-6 -6 12 12", "aria-hidden": "true" }, markShape(kind, {})), kind.replace("_", " ")]);
  const section = element(
    "section",
    { className: "timelines" },
    element("h2", {}, "Order groups one by one"),
    element("div", { className: "controls" },
      element("fieldset", {}, element("legend", {}, "Show"), ...radios),
      element("label", {}, "Sort by ", sorts),
      element("label", {}, "Find by id ", search)),
    legend([[swatch("active"), "active, with its limit"], [swatch("triggered"), "triggered"], [swatch("flag"), "triggered, shown by the flag alone"], [swatch("many"), "many states"], [swatch("unknown"), "not observed"], ...markLegend]),
    found,
    list.scroller,
  );
  return { section, update };
}
